//! Reports of other threads to the loop about workers.

use crate::sys::process::PidFd;

/// A process that outlived the main process of its worker.
#[derive(Debug)]
pub struct OrphanedProcess {
    pub pid: u32,
    /// Start time, clock ticks since boot. Together with `pid` it identifies the process.
    pub start: u64,
    pub name: String,
    pub pidfd: PidFd,
    /// Whether the process holds a listening socket or an accepted connection.
    pub serves: bool,
}

/// A report of the helpers' thread to the loop.
#[derive(Debug, PartialEq, Eq)]
pub enum DiscardProgress {
    /// The datagram is out of the socket.
    Done,
    /// The helper has not answered for its time limit.
    Hangs,
    /// An abandoned helper has answered.
    Returned,
    /// No helper could be started, with the reason; the thread does the helper's work.
    Unstarted(String),
    /// As many helpers hang as may.
    Full,
}
