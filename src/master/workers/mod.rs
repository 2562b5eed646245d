//! Worker processes: started, heard, looked at, reaped, with what is left of them.
//!
//! | module | owns |
//! |---|---|
//! | `processes` | the processes by worker, and what is held for each |
//! | `spawn` | starts a worker |
//! | `start_failure` | why a worker could not be started, in words |
//! | `exit` | a worker ends: how, and what it leaves |
//! | `orphaned` | processes that outlive the main process of their worker |
//! | `runtime_dir` | the control socket and the workers' notify sockets |
//! | `notify_reader` | reads notifications, a bounded number a turn |
//! | `sd_notify` | parses them (sd_notify(3)) |
//! | `senders` | which processes may speak for a worker |
//! | `discarder` | descriptors that workers send, closed by another process |
//! | `readiness` | looks at starting workers from outside: whether they accept |
//! | `recycle_limits` | workers that have reached an age, a size or a number of requests |
//! | `cgroup` | control groups |

pub mod cgroup;
pub(in crate::master) mod discarder;
pub(in crate::master) mod exit;
pub(in crate::master) mod notify_reader;
pub(in crate::master) mod orphaned;
pub(in crate::master) mod processes;
pub(in crate::master) mod readiness;
pub(in crate::master) mod recycle_limits;
pub(in crate::master) mod runtime_dir;
pub mod sd_notify;
pub(in crate::master) mod senders;
pub(in crate::master) mod spawn;
pub(in crate::master) mod start_failure;
