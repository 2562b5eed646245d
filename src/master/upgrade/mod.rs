//! The upgrade in place: passes the master's state to another program in the same process.
//!
//! Law: the master gives up nothing before it is certain that the next program goes on. It finishes the requests under way, asks the
//! next program ([`check`]), and then calls execve(2). After execve(2) there is no way back, so the next program never exits because
//! of a state that it cannot read: it starts a new generation ([`unknown_workers`]) and the pool serves on. The master does not exec a program
//! that reads another format of the state; such a program takes a restart.
//!
//! | file | owns |
//! |---|---|
//! | `upgrader.rs` | the upgrade from the request until nothing is under way any more |
//! | `leave.rs` | the last turns of a master before execve(2) |
//! | `check.rs` | asks the next program, and answers as the next program |
//! | `save.rs`, `restore.rs` | make a state from a master, and a master from a state |
//! | `replace.rs` | execve(2), and the start of the program after it |
//! | `resume.rs` | the start of a master that goes on from a state |
//! | `store.rs` | the state in systemd's descriptor store, for the master after one that died |
//! | `store_index.rs` | the names that the descriptor store holds, and the messages still to be sent to it |
//! | `listeners.rs` | the listening sockets of a master that starts after another one died |
//! | `lost_sockets.rs` | listening sockets that only workers of the earlier program hold |
//! | `unknown_workers.rs` | live workers of which the state says nothing |

pub(super) mod check;
mod leave;
pub(super) mod listeners;
mod lost_sockets;
pub(super) mod replace;
pub(super) mod restore;
pub(super) mod resume;
mod save;
pub(super) mod store;
mod store_index;
pub(super) mod unknown_workers;
pub(super) mod upgrader;

#[cfg(test)]
mod tests;
