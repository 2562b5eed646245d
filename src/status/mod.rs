//! What is known: the status document ([`tree`]) and where its figures come from ([`kernel`]).
#![forbid(unsafe_code)]

pub mod kernel;
pub mod tree;
