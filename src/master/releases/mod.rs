//! Releases: read, checked, pinned; hooks, and the memory that a second generation needs.
//!
//! | module | owns |
//! |---|---|
//! | `preparing` | the tasks that prepare releases and run hooks, with their results |
//! | `prepare` | makes a release of the configuration |
//! | `release` | opens the program and the directory of a release |
//! | `script` | how a script of a release that moved or changed starts again |
//! | `command` | looks up and runs commands: checks and hooks |
//! | `account` | as whom workers, checks and hooks run |
//! | `hooks` | which hooks a master that runs as root refuses |
//! | `expand` | `$RATOON_SLOT` and the like in arguments and variables |
//! | `memory` | the memory that a second generation needs, and what is free |
//! | `warnings` | what is dangerous about a release, and reloads that change nothing |

pub mod account;
pub(in crate::master) mod command;
pub(in crate::master) mod expand;
pub mod hooks;
pub(in crate::master) mod memory;
pub(in crate::master) mod prepare;
pub(in crate::master) mod preparing;
pub mod release;
pub(in crate::master) mod script;
pub(in crate::master) mod warnings;
