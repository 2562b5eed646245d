//! Reads from `/proc/PID/fdinfo` whether a ring of io_uring(7) waits for a descriptor.
//!
//! libuv from 1.45 on (Node.js 20, uvloop) makes a ring for each event loop, but waits for sockets by epoll. A ring in which no
//! request waits for a descriptor hides nothing.

/// Whether a request of the ring may wait for a descriptor. `fdinfo` lists such requests between "PollList:" and the next heading, as
/// "  op=13, task_works=0". If the kernel writes no list, a request may wait.
pub fn may_wait(fdinfo: &str) -> bool {
    let Some((_, list)) = fdinfo.split_once("PollList:\n") else { return true };
    list.lines().next().is_none_or(|line| line.trim_start().starts_with("op="))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux 6.18, shortened.
    const IDLE: &str = "pos:\t0\nSQEs:\t0\nCQEs:\t0\nUserFiles:\t0\nPollList:\nCqOverflowList:\nNAPI:\tdisabled\n";

    #[test]
    fn idle_ring_waits_for_nothing() {
        assert!(!may_wait(IDLE));
    }

    #[test]
    fn ring_with_a_request_may_wait() {
        assert!(may_wait(&IDLE.replace("PollList:\n", "PollList:\n  op=13, task_works=0\n")));
    }

    #[test]
    fn ring_without_a_list_may_wait() {
        assert!(may_wait("pos:\t0\nSqMask:\t0x7\n"));
        assert!(may_wait("PollList:\n"));
    }
}
