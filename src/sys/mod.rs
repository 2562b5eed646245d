//! All `unsafe` code of this crate: descriptors, processes, signals and credentials, as safe and typed values.
//!
//! Law: every value that leaves this module owns or borrows its descriptor; nothing here depends on pools or configuration.
//! All code is for 64-bit Linux. System calls are made by number where libc has no function that is safe after a fork.
#![allow(unsafe_code)]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("ratoon is for 64-bit Linux");

pub mod access;
pub mod accounts;
pub mod awaited;
pub mod credentials;
pub mod descendants;
pub mod discard;
pub mod drops;
pub mod environ;
pub mod errno;
pub mod exec;
pub mod fd;
pub mod heap;
pub mod map;
pub mod notify;
pub mod poll;
pub mod process;
pub mod program;
pub mod reuseport;
pub mod signals;
pub mod spawn;
pub mod stream;
#[cfg(test)]
pub(crate) mod testing;
pub mod thread;
pub mod trim;
pub mod trust;
pub mod unix_socket;
