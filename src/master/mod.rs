//! The world: one loop that turns it into events for the pool, and carries out the pool's actions. Nothing else.
//!
//! Law: the loop never waits, for nobody. What may block has a thread or a queue that drops and says so. The master
//! does not die of an error: what it cannot do it says, and goes on with what it has.
//!
//! | module | owns |
//! |---|---|
//! | `start` | from the command line to a turning loop |
//! | `turn` | the loop: what is served, in which order, and how much of it a turn |
//! | `actions` | carries out what the pool decides |
//! | `requests`, `stop_signals`, `terminal` | what the front ends and the signals ask |
//! | `request_table` | requesters that wait for an answer |
//! | `workers` | worker processes: spawn, notifications, readiness, exit, control groups |
//! | `releases` | a release: read, checked, pinned; hooks, memory |
//! | `listeners` | listening sockets: inherited, bound, one for each slot |
//! | `status` | the summary, changes, the status document |
//! | `service_manager` | what systemd is told, and what its version and the unit allow |
//! | `log`, `output` | the master's log; what workers print |
//! | `handover` | the upgrade in place, and the way back after a death of the master |
//! | `fronts` | starts the front ends: the control socket, the status address, D-Bus |
//! | `tasks` | work on other threads that may block for ever, with its deadlines |
//! | `absence` | times in which the loop did not run, by which no deadline is judged |
//! | `pool_clock` | the pool's time |
//! | `idle_trim` | gives memory back to the kernel when nothing happens |
#![forbid(unsafe_code)]

mod absence;
mod actions;
mod fronts;
mod handover;
mod idle_trim;
pub mod listeners;
pub mod log;
mod output;
mod pool_clock;
pub mod releases;
mod request_table;
mod requests;
pub mod service_manager;
mod start;
pub mod status;
mod stop_signals;
mod tasks;
mod terminal;
#[cfg(test)]
pub(crate) mod testing;
mod turn;
pub mod workers;

pub use handover::check::{VERB as HANDOVER_CHECK, answer as handover_check};
pub use start::{Options, run};
