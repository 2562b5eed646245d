//! The master's state on its way to another program, in the same process: the upgrade in place.
//!
//! Law: nothing is given up before it is certain that the next program goes on. It is asked first ([`check`]); what is under
//! way is settled; then execve(2), after which there is no way back, so the next program never ends because of what it
//! finds: a state that it cannot read costs a generation ([`orphans`]), not the pool. A program that reads another format of the
//! state is not taken; a restart brings it.
//!
//! | file | owns |
//! |---|---|
//! | `upgrade.rs` | from the request to the moment when all is settled |
//! | `check.rs` | asking the next program, and being asked |
//! | `state.rs`, `fds.rs` | what is carried: the document, and the descriptors by name |
//! | `save.rs`, `restore.rs` | from a master to the state, and back |
//! | `replace.rs` | execve(2), and the other end of it |
//! | `resume.rs` | the beginning of a master that goes on |
//! | `store.rs` | the same in systemd's store of descriptors, for a master that follows a dead one |
//! | `ledger.rs` | what that store holds, and what systemd is still to be told |
//! | `listeners.rs` | the listening sockets of a master that follows a dead one |
//! | `orphans.rs` | workers of which nothing is known but that they live |

pub(super) mod check;
pub(super) mod fds;
mod ledger;
pub(super) mod listeners;
pub(super) mod orphans;
pub(super) mod replace;
pub(super) mod restore;
pub(super) mod resume;
mod save;
pub(super) mod state;
pub(super) mod store;
pub(super) mod upgrade;

#[cfg(test)]
mod tests;

/// The name of a slot's socket is this, the place of its listener, and the slot: `slot-0-3`.
pub(super) const SLOT_PREFIX: &str = "slot-";
