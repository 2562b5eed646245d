//! The command line, one verb a file.
#![forbid(unsafe_code)]

pub mod check;
