//! What is known: the status document ([`tree`]) and where its figures come from.
#![forbid(unsafe_code)]

pub mod tree;
