//! What can go wrong, with the real program: hostile workers, a machine that is out of something, and a table of faults in
//! every phase of an instance's life. It serves, it tells the truth, and it leaves nothing behind.
//!
//! | file | owns |
//! |---|---|
//! | `hostile.rs` | workers that lie, shout and forge |
//! | `limits.rs` | no descriptor, no process, no disk left |
//! | `mass.rs` | hundreds of workers, a thousand signals |
//! | `matrix.rs` | fault × phase, under load |
//! | `preload.rs` | a preload process that is killed, hangs or exits, in each of its phases |
//! | `privilege.rs` | what a root master runs and changes for others |
//! | `check.rs` | what `ratoon check` finds on a machine where something is missing or closed |
//! | `clock.rs` | a wall clock that is set |
//! | `hung.rs` | files that never answer |
//! | `scripts.rs` | workers that are scripts, after their release moved or changed |
//! | `steps.rs` | each step of a reload that can fail |
//! | `told.rs` | what an operator must be told |
//! | `absence.rs` | a master that is stopped for a while |
//! | `terminal.rs` | a terminal that closes under a master |
//! | `order.rs` | what is told in which order |
//! | `wrapper.rs` | workers whose main process is not their server |
//! | `signals.rs` | stop signals that come twice; inherited dispositions and masks |
//! | `orphans.rs` | children that nobody waits for |
//! | `container.rs` | the first process of a PID namespace |
//! | `bodies.rs` | requests with bodies that mean nothing |
//! | `reload_keys.rs` | every key of the configuration, changed by a reload |
//! | `readers.rs` | readers that may not change the pool, and web pages |
//! | `store.rs` | systemd's store of descriptors |
//! | `fuzz.rs` | bytes of every kind for all that reads from outside |
//! | `descriptors.rs` | descriptors that a worker sends and whose close hangs |
//! | `stacks.rs` | stack sizes of all threads |
//! | `puppet.rs`, `meter.rs` | a worker that does what the test says; what a process costs |

#![allow(dead_code)]

mod absence;
mod bodies;
mod check;
mod clock;
mod container;
mod descriptors;
#[path = "../support/dice.rs"]
mod dice;
mod fuzz;
#[path = "../master/harness/mod.rs"]
mod harness;
mod hostile;
mod hung;
mod limits;
mod mass;
mod matrix;
mod meter;
mod not_accepting;
mod order;
mod orphans;
mod preload;
mod privilege;
mod puppet;
mod readers;
mod reload_keys;
mod scripts;
mod signals;
mod stacks;
mod steps;
mod store;
mod terminal;
mod told;
mod wrapper;
