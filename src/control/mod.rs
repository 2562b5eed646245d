//! The front ends for control and status: HTTP on a Unix socket, its client, and D-Bus. They reach the master through [`crate::api`]
//! alone.
#![forbid(unsafe_code)]

mod access;
pub mod bound;
pub mod client;
pub mod dbus;
pub mod http;
pub mod listen;
pub mod messages;
pub mod paths;
pub mod varlink;
