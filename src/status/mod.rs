//! What is known: the status document ([`tree`]) and where its figures come from (`kernel`, `scoreboard`);
//! what looks like the error in a program's output (`error_line`), what helps against usual mistakes (`hint`); how long what was learned may be told again (`keep`), a document that is
//! told to several (`finished`), and one without details (`redact`).
#![forbid(unsafe_code)]

#[cfg(feature = "master")]
pub mod error_line;
#[cfg(feature = "master")]
pub mod hint;
#[cfg(feature = "master")]
pub mod keep;
#[cfg(feature = "master")]
pub mod kernel;
#[cfg(feature = "master")]
pub mod redact;
#[cfg(feature = "master")]
pub mod rendered;
#[cfg(feature = "master")]
pub mod scoreboard;
pub mod tree;
