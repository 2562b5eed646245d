//! All `unsafe` code of this crate: descriptors, processes, signals and credentials, as safe and typed values.
//!
//! Law: every value that leaves this module owns or borrows its descriptor; nothing here depends on pools or configuration.
//! All code is for 64-bit Linux. System calls are made by number where libc has no function that is safe after a fork.
#![allow(unsafe_code)]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("ratoon is for 64-bit Linux");

#[cfg(feature = "master")]
pub mod access;
#[cfg(feature = "master")]
pub mod accounts;
#[cfg(feature = "master")]
pub mod awaited;
#[cfg(feature = "master")]
pub mod credentials;
#[cfg(feature = "master")]
pub mod descendants;
#[cfg(feature = "master")]
pub mod discard;
#[cfg(feature = "master")]
pub mod drops;
#[cfg(feature = "master")]
pub mod environ;
#[cfg(feature = "master")]
pub mod errno;
#[cfg(feature = "master")]
pub mod exec;
pub mod fd;
#[cfg(feature = "master")]
pub mod heap;
pub mod map;
#[cfg(feature = "master")]
pub mod notify;
#[cfg(feature = "master")]
pub mod poll;
#[cfg(feature = "master")]
pub mod process;
#[cfg(feature = "master")]
pub mod program;
#[cfg(feature = "master")]
pub mod reuseport;
#[cfg(feature = "master")]
pub mod signals;
#[cfg(feature = "master")]
pub mod spawn;
#[cfg(feature = "master")]
pub mod stream;
#[cfg(all(test, feature = "master"))]
pub(crate) mod testing;
#[cfg(feature = "master")]
pub mod thread;
#[cfg(feature = "master")]
pub mod trim;
#[cfg(feature = "master")]
pub mod trust;
#[cfg(feature = "master")]
pub mod unix_socket;
