//! **Ratoon** supervises a pool of worker processes on one set of listening sockets, and replaces a whole generation
//! of them without losing a request.
//!
//! This is the map of the house. An arrow never points up: `sys` and `pool` know nothing of the others; `master` uses
//! `pool`, `sys`, `status` and `config`; `control` and `master` meet in `api`; `cli` talks to `control` only.
//!
//! | module | owns |
//! |---|---|
//! | `pool` | what should happen: pure, no I/O, no clock |
//! | `api` | what front ends and the master say to each other |
//! | `master` | the world: one loop that turns it into events and carries out actions |
//! | `status` | what is known: the status document, the scoreboard, the kernel's own figures |
//! | `control` | how it is asked: HTTP on a Unix socket, D-Bus, and the client of the first |
//! | `config` | the file: types, defaults, errors with line and column |
//! | `sys` | the only `unsafe`: descriptors, processes, signals, credentials |
//! | `cli` | the command line, a verb a file |
//! | `stored_name` | names of descriptors in systemd's store |
//! | `table` | a map that wastes little memory |
//! | `scoreboard` | the page on which a worker shows what it does: layout, and the writer's side |
//! | `worker` | the library for workers written in Rust (feature `worker`) |

#![deny(unsafe_code)]

#[cfg(feature = "master")]
pub mod api;
#[cfg(feature = "master")]
pub mod cli;
#[cfg(feature = "master")]
pub mod config;
#[cfg(feature = "master")]
pub mod control;
#[cfg(feature = "master")]
pub mod master;
#[cfg(feature = "master")]
pub mod pool;
#[cfg(any(feature = "master", feature = "worker"))]
pub mod scoreboard;
#[cfg(any(feature = "master", feature = "worker"))]
pub mod status;
#[cfg(feature = "master")]
pub mod stored_name;
#[cfg(any(feature = "master", feature = "worker"))]
pub mod sys;
#[cfg(feature = "master")]
pub mod table;
#[cfg(feature = "worker")]
pub mod worker;
