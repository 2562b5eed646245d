//! Worker processes: spawn, notifications, readiness, exit, and orphaned processes.
//!
//! | module | owns |
//! |---|---|
//! | `processes` | the table of worker processes, with the resources of each |
//! | `spawn` | starts a worker |
//! | `start_failure` | the text of a failed start |
//! | `exit` | the exit of a worker: its cause, and processes and resources that are left |
//! | `orphaned` | processes that outlive the main process of their worker |
//! | `runtime_dir` | the control socket and the workers' notify sockets |
//! | `notify_reader` | reads notifications, a bounded number per loop iteration |
//! | `sd_notify` | parses notifications (sd_notify(3)) |
//! | `senders` | which processes may send notifications for a worker |
//! | `discarder` | descriptors that workers send, closed by another process |
//! | `readiness` | observes whether starting workers accept connections |
//! | `recycle_limits` | workers that have reached a memory size or a number of requests |
//! | `cgroup` | control groups |
//! | `missing_limits` | limits that cannot be applied |

pub mod cgroup;
pub(in crate::master) mod discarder;
pub(in crate::master) mod exit;
pub(in crate::master) mod missing_limits;
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
