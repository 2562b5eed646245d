//! The world: one loop that turns it into events and carries out actions.
#![forbid(unsafe_code)]

pub mod catalog;
pub mod cgroup;
pub mod journal;
pub mod output;
pub mod release;
pub mod sockets;
#[cfg(test)]
pub(crate) mod testing;
pub mod text;
pub mod words;
