//! What is known: the status document ([`tree`]) and where its figures come from (`kernel`, `scoreboard`);
//! what helps against usual mistakes (`cure`).
#![forbid(unsafe_code)]

#[cfg(feature = "master")]
pub mod cure;
#[cfg(feature = "master")]
pub mod kernel;
#[cfg(feature = "master")]
pub mod scoreboard;
pub mod tree;
