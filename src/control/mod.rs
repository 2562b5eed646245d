//! How the pool is asked and watched from outside: HTTP on a Unix socket, D-Bus, and the client of the first. They know the master by
//! [`crate::api`] alone.
#![forbid(unsafe_code)]

pub mod client;
pub mod dbus;
pub mod http;
pub mod listen;
pub mod messages;
pub mod paths;
