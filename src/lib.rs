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
//! | `sys` | the only `unsafe` of this crate: descriptors, processes, signals, credentials |
//! | `cli` | the command line, a verb a file |
//! | `stored_name` | names of descriptors in systemd's store |
//! | `table` | a map that wastes little memory |
//!
//! The library for workers written in Rust, the layout of their status pages and the types of the status document are the crate
//! `ratoon_worker` (`clients/rust`), which knows nothing of this one.

#![deny(unsafe_code)]

pub mod api;
pub mod cli;
pub mod config;
pub mod control;
pub mod master;
pub mod pool;
pub mod status;
pub mod stored_name;
pub mod sys;
pub mod table;
