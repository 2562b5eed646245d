//! The results that other threads and tasks send to the loop.

use crate::master::listeners::hang_watch::Look;
use crate::master::load_watch::Seen;
use crate::master::output::Printed;
use crate::master::releases::prepare::Prepared;
use crate::master::status::accepting::Accepting;
use crate::master::tasks::TaskId;
use crate::master::workers::reports::{DiscardProgress, OrphanedProcess};
use crate::pool::{CommandVerdict, GenerationId, Reason, RecycleReason, WorkerId};
use crate::status::kernel::Queue;
use crate::status::kernel::accepting::Observation;
use crate::status::tree::Request;

/// A result.
pub(in crate::master) enum TaskResult {
    /// A release is prepared, or refused.
    Prepared(TaskId, GenerationId, Result<Prepared, Reason>),
    /// `hooks.before_shutdown` has run.
    ReadyToStop(TaskId, Result<(), Reason>),
    /// The first and last lines that a failed worker printed, and the requests that it was serving.
    Tail(WorkerId, Printed, (Vec<Request>, u64)),
    /// Files of a release have changed since it was pinned; looked for after a failure of one of its workers.
    ReleaseChanged(GenerationId, String),
    /// systemd has addresses for which it passed no socket.
    SocketsMissing(String),
    /// The orphaned processes of a worker.
    Orphaned(WorkerId, Vec<OrphanedProcess>),
    /// News from the process that drops descriptors of workers.
    Discarded(WorkerId, DiscardProgress),
    /// More orphans have exited than one turn reaps.
    Orphans,
    /// A worker has reached a recycle limit.
    RecycleDue(WorkerId, RecycleReason),
    /// An observation of a starting worker from outside showed something new.
    Readiness(WorkerId, Observation),
    /// Whether the ready workers accept was looked at.
    Accepting(Accepting),
    /// No thread could be started for that look.
    AcceptLookFailed,
    /// The accept queues of the sockets that no worker serves.
    Queues(Vec<Option<Queue>>),
    /// Whether workers are used, where `worker.min` is 0.
    Activity {
        /// Connections that are open or wait; `None` if the kernel does not list them.
        open: Option<u64>,
        /// CPU time of the workers so far, microseconds; `None` if it was not looked at, or is not known.
        cpu: Option<u64>,
    },
    /// The figures of the load of an elastic pool.
    Load(Seen),
    /// A look at the workers that have queues of their own has ended; see [`HangWatch`](crate::master::listeners::hang_watch::HangWatch).
    Hangs(Look),
    /// A status document is composed, and requesters wait for the next one.
    Composed,
    /// The probed worker has answered as it must, or not and why.
    Probed(WorkerId, Result<(), Reason>),
    /// The command that was asked for a verdict on this step of a canary has answered.
    Judged(GenerationId, usize, CommandVerdict),
    /// The next program could go on from here, or why it can't.
    Checked(TaskId, Result<(), String>),
}

/// Where threads and tasks send their results.
pub(in crate::master) type TaskResults = tokio::sync::mpsc::UnboundedSender<TaskResult>;
