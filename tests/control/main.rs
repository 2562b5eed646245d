//! The control front, its client and the client's verbs, against a loop that the test plays itself.
//!
//! The sockets, the connections and the `ratoon` program are real; only the pool is not.

mod canary;
mod client;
mod fake;
mod front;
mod hostile;
mod init;
mod looks;
mod page;
mod pty;
mod top;
mod varlink;
mod verbs;
