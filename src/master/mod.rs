//! The master process: one loop that turns what happens outside into events for the pool, and carries out the pool's actions.
//! Nothing else.
//!
//! Law: the loop never blocks. Work that may block has a thread, or a queue that drops entries and reports that. An error does not
//! end the master: it reports what it cannot do, and goes on with what it has.
//!
//! | module | owns |
//! |---|---|
//! | `start` | startup, from the command line to the running loop |
//! | `turn` | the loop: what it serves, in which order, and how much per turn |
//! | `effects` | carries out the pool's actions, in order |
//! | `event_queue` | events for the pool |
//! | `requests`, `stop_signals`, `terminal` | requests of the front ends and by signals |
//! | `results` | results of other threads and tasks |
//! | `request_table` | requesters that wait for an answer |
//! | `workers` | worker processes: spawn, notifications, readiness, exit, control groups |
//! | `releases` | a release: read, checked, pinned; hooks, memory |
//! | `listeners` | listening sockets: inherited, bound, one for each slot |
//! | `status` | the summary, changes, the status document |
//! | `service_manager` | messages to systemd, and what its version and the unit allow |
//! | `log`, `output` | the master's log; the workers' output |
//! | `handover` | the upgrade in place, and the recovery after a death of the master |
//! | `fronts` | starts the front ends beside the control socket: the status address, D-Bus |
//! | `tasks` | work on other threads that may block for ever, with deadlines |
//! | `sources` | what wakes the loop: descriptors, requests, results, the time |
//! | `recycle` | workers that have reached a memory size or a number of requests |
//! | `absence` | times in which the loop did not run; they move every deadline |
//! | `pool_clock` | converts between instants and the pool's time |
//! | `idle_trim` | gives memory back to the kernel when the master is idle |
#![forbid(unsafe_code)]

mod absence;
mod effects;
mod event_queue;
mod fronts;
mod handover;
mod idle_trim;
pub mod listeners;
pub mod log;
mod output;
mod pool_clock;
mod recycle;
pub mod releases;
mod request_table;
mod requests;
mod results;
pub mod service_manager;
mod sources;
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
