//! The HTTP front against bytes of every kind (`control/fuzz.rs`), in a process of its own: it takes what CPU there is, and the tests
//! of `tests/control/` play with a clock that is paused.
#![allow(dead_code, reason = "the front's tests need more of the played loop")]

#[path = "support/dice.rs"]
mod dice;
#[path = "control/fake.rs"]
mod fake;
#[path = "control/fuzz.rs"]
mod http;
