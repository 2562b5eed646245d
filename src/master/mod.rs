//! The world: one loop that turns it into events for the pool, and carries out the pool's actions. Nothing else.
//!
//! Law: the loop never waits, for nobody. What may block has a thread or a queue that drops and says so. The master
//! does not die of an error: what it cannot do it says, and goes on with what it has.
//!
//! | file | owns |
//! |---|---|
//! | `start.rs` | from the command line to a turning loop |
//! | `turn.rs` | the loop: what is served, in which order, and how much of it a turn |
//! | `absence.rs` | times in which the loop did not run, by which nobody is judged |
//! | `actions.rs` | carrying out what the pool decides |
//! | `request_table.rs` | requesters that wait for an answer |
//! | `requests.rs`, `stop_signals.rs`, `terminal.rs` | what the front ends and the signals ask |
//! | `pool_clock.rs` | the pool's time |
//! | `prepare.rs`, `release.rs`, `command.rs` | a release: read, checked, pinned |
//! | `account.rs`, `hooks.rs` | as whom workers, checks and hooks run; which hooks are refused |
//! | `warnings.rs` | what is dangerous about a release that runs, and reloads that change nothing |
//! | `start_failure.rs` | why a worker could not be started, in words |
//! | `preparing.rs` | the tasks that the loop waits for: started, watched, their results |
//! | `script.rs` | how a script of a release that moved or changed starts again |
//! | `tasks.rs` | work on other threads that may block for ever, with its deadlines |
//! | `memory.rs` | the memory that a second generation needs, and the memory that is left |
//! | `processes.rs`, `spawn.rs`, `exit.rs` | the workers' processes, their beginning and their end |
//! | `orphaned.rs` | processes that outlive the main process of their worker: their drain, and the names of those that are killed |
//! | `notify_reader.rs`, `sd_notify.rs` | what workers say |
//! | `senders.rs` | the processes that may speak for a worker |
//! | `discarder.rs` | descriptors that workers send, dropped outside the loop |
//! | `runtime_dir.rs` | the runtime directory: the control socket and the workers' notify sockets |
//! | `accept_queue_drain.rs` | a queue for each slot: who gets new connections, and whose queue is to get empty |
//! | `recycle_limits.rs` | workers that are used up |
//! | `handover/` | another program goes on in this process: the upgrade in place |
//! | `fronts.rs` | the status address and D-Bus |
//! | `systemd.rs`, `systemd_version.rs` | what systemd is told; whether it is too old |
//! | `publish.rs`, `document.rs`, `status_cache.rs` | what everybody may know |
//! | `reader_rules.rs` | what the configuration says of readers |
//! | `conditions.rs` | parts of the configuration that a reload could not apply |
//! | `status_listener.rs`, `socket_unit.rs` | the socket of `status.listen`; sockets that systemd did not pass |
//! | `readiness.rs` | looks at starting workers from outside: whether they accept |
//! | `idle_trim.rs` | letting go of memory when there is nothing to do |
//! | `sockets.rs`, `cgroup.rs`, `output.rs`, `journal.rs`, `catalog.rs` | sockets, control groups, workers' output, the master's log |
#![forbid(unsafe_code)]

mod absence;
mod accept_queue_drain;
pub mod account;
mod actions;
pub mod catalog;
pub mod cgroup;
mod command;
mod conditions;
mod discarder;
mod document;
mod exit;
mod expand;
mod fronts;
mod handover;
pub mod hooks;
mod idle_trim;
pub mod journal;
mod memory;
mod notify_reader;
mod orphaned;
mod output;
pub mod pending_changes;
mod pool_clock;
mod prepare;
mod preparing;
mod processes;
mod publish;
mod reader_rules;
mod readiness;
mod recycle_limits;
pub mod release;
mod request_table;
mod requests;
mod runtime_dir;
mod script;
pub mod sd_notify;
mod senders;
mod socket_unit;
pub mod sockets;
mod spawn;
mod start;
mod start_advice;
mod start_failure;
mod status_cache;
mod status_listener;
mod stop_signals;
mod systemd;
pub mod systemd_version;
mod tasks;
mod terminal;
#[cfg(test)]
pub(crate) mod testing;
pub mod text;
mod troubles;
mod turn;
mod unit_type;
mod warnings;

pub use handover::check::{VERB as HANDOVER_CHECK, answer as handover_check};
pub use start::{Options, run};
