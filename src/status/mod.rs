//! The status document ([`tree`]) and the sources of its figures: the kernel (`kernel`) and the workers' pages (`scoreboard`).
//!
//! `rendered` writes a document out once for several readers, `redact` removes its details, and `keep` says how long figures are
//! reused. `error_line` finds the error in a program's output, and `hint` has advice against usual mistakes.
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
