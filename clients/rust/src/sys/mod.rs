//! The `unsafe` code of this crate: inherited descriptors and shared memory, as safe and typed values.
#![allow(unsafe_code)]

pub mod fd;
#[cfg(feature = "preload")]
pub mod fork;
pub mod map;
