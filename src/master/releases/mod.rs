//! Releases: configuration, checks, pinning, hooks, and the memory for a second generation.
//!
//! | module | owns |
//! |---|---|
//! | `preparing` | the tasks that prepare releases and run hooks, and their results |
//! | `prepare` | makes a release from the configuration |
//! | `probe` | the private sockets and the request of `reload.probe` |
//! | `probing` | the probed worker: its sockets, its request, its answer |
//! | `release` | opens the program and the directory of a release |
//! | `rollback_hook` | `reload.on_rollback` |
//! | `script` | starts of a script after its release was moved or changed |
//! | `commits` | when each release was committed, and who asked for it |
//! | `command` | runs checks and hooks |
//! | `adapter` | what makes an unmodified server a worker (`worker.adapter`) |
//! | `account` | the users as which workers, checks and hooks run |
//! | `hooks` | hooks and checks, and those that a root master refuses |
//! | `expand` | `$RATOON_SLOT` and similar names in arguments and variables |
//! | `judge_command` | `reload.judge_command` |
//! | `kept` | the releases that are kept, as front ends show them |
//! | `last_good` | the record of releases, from which a start that fails falls back |
//! | `memory` | the memory that a second generation needs, and the memory that is free |
//! | `warnings` | dangerous releases, and reloads that change nothing |

pub mod account;
pub(in crate::master) mod adapter;
pub(in crate::master) mod command;
pub(in crate::master) mod commits;
pub(in crate::master) mod expand;
pub mod hooks;
pub(in crate::master) mod judge_command;
pub(in crate::master) mod kept;
pub mod last_good;
pub(in crate::master) mod memory;
pub(in crate::master) mod prepare;
pub(in crate::master) mod preparing;
pub(in crate::master) mod probe;
pub(in crate::master) mod probing;
pub mod release;
pub(in crate::master) mod rollback_hook;
pub(in crate::master) mod script;
pub(in crate::master) mod warnings;
