//! placeholder
#![forbid(unsafe_code)]

pub mod release;
pub mod sockets;
pub mod words;
