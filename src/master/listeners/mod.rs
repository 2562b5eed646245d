//! Listening sockets: inherited or bound, one for all workers or one for each slot.
//!
//! | module | owns |
//! |---|---|
//! | `sockets` | inherits and binds sockets; the sockets of the slots |
//! | `accept_queue_drain` | steers new connections to slots, and empties a worker's accept queue before its stop |
//! | `socket_unit` | finds addresses of the socket unit for which systemd passed no socket |

pub(in crate::master) mod accept_queue_drain;
pub(in crate::master) mod socket_unit;
pub mod sockets;
