//! Listening sockets: inherited or bound, one for all workers or one for each slot.
//!
//! | module | owns |
//! |---|---|
//! | `sockets` | inherits and binds sockets; the sockets of the slots |
//! | `accept_queue_drain` | a queue for each slot: who gets new connections, and whose queue is to become empty |
//! | `socket_unit` | sockets of the socket unit that systemd did not pass |

pub(in crate::master) mod accept_queue_drain;
pub(in crate::master) mod socket_unit;
pub mod sockets;
