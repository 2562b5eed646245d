//! What is known: the status document ([`tree`]) and where its figures come from ([`kernel`], [`scoreboard`]).
#![forbid(unsafe_code)]

pub mod kernel;
pub mod scoreboard;
pub mod tree;
