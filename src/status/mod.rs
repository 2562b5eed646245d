//! The status document ([`tree`], types of the crate `ratoon_worker`) and the sources of its figures: the kernel (`kernel`) and the workers' pages (`scoreboard`).
//!
//! `rendered` writes a document out once for several readers, `redact` removes its details, and `keep` says how long figures are
//! reused. `down` says whether nobody serves. `error_line` finds the error in a program's output, and `hint` has advice against usual mistakes.
#![forbid(unsafe_code)]

pub mod down;
pub mod error_line;
pub mod hint;
pub mod keep;
pub mod kernel;
pub mod redact;
pub mod rendered;
pub mod scoreboard;
pub use ratoon_worker::document as tree;
