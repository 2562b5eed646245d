//! The loop: what is served, in which order, and how much of it a turn.
//!
//! Law: signals and ends before words, words before requests; of everything a bounded amount a turn, so that nobody's
//! noise keeps another waiting. With nothing to do it sleeps without a tick.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::api::Backend;
use crate::control::http::ConnectionRegistry;
use crate::master::absence::{self, Absence};
use crate::master::handover::orphans::Orphans;
use crate::master::handover::store::Store;
use crate::master::handover::upgrade::Upgrade;
use crate::master::idle_trim::IdleTrim;
use crate::master::listeners::accept_queue_drain::AcceptQueueDrain;
use crate::master::listeners::sockets::{Nonblocking, Slots};
use crate::master::log::journal::Journal;
use crate::master::output::{Outputs, Printed};
use crate::master::pool_clock;
use crate::master::releases::prepare::{InstanceContext, Release, Source};
use crate::master::request_table::RequestTable;
use crate::master::service_manager::systemd::Systemd;
use crate::master::status::conditions::Conditions;
use crate::master::status::pending_changes::PendingChanges;
use crate::master::status::publish::{Ended, Published};
use crate::master::status::status_cache::StatusCache;
use crate::master::status::status_listener::StatusListener;
use crate::master::status::troubles::Troubles;
use crate::master::stop_signals::StopSignals;
use crate::master::tasks::{Task, TaskId, Tasks};
use crate::master::terminal::Terminal;
use crate::master::workers::cgroup::Cgroups;
use crate::master::workers::discarder::{self, Discarder};
use crate::master::workers::orphaned::{Orphaned, OrphanedProcess};
use crate::master::workers::processes::{Processes, Token};
use crate::master::workers::readiness::ReadinessWatch;
use crate::master::workers::runtime_dir::RuntimeDir;
use crate::master::workers::spawn::Pages;
use crate::pool::{Action, Event, GenerationId, Pool, Reason, RecycleReason, Settings, Slot, WorkerId};
use crate::status::kernel::Surveyor;
use crate::status::kernel::accepting::Observation;
use crate::status::tree::{Failure, Request};
use crate::sys::poll::Poll;
use crate::sys::process::PidFd;
use crate::sys::signals::SignalFd;
use crate::sys::spawn::{ErrorPipe, SpawnError};
use crate::table::Table;

/// At most so many descriptors are served a turn …
const DESCRIPTORS: usize = 64;
/// … so many requests heard …
const REQUESTS: usize = 32;
/// … and so many workers started: with a thousand to start, the loop is never deaf for long.
const SPAWNS_PER_TURN: usize = 8;

/// What does not hasten a start waits so long for its end, if nothing else happens.
const LATER: Duration = Duration::from_millis(2);

/// What other threads and tasks bring back to the loop.
pub enum TaskResult {
    /// A release is made, or refused.
    Prepared(TaskId, GenerationId, Result<(Settings, Box<Release>), Reason>),
    /// `hooks.before_shutdown` has run.
    ReadyToStop(TaskId, Result<(), Reason>),
    /// The first and last lines that a failed worker printed, and what it was serving.
    Tail(WorkerId, Printed, (Vec<Request>, u64)),
    /// A release of which a worker failed has changed since it was pinned.
    ReleaseChanged(GenerationId, String),
    /// systemd has addresses for which it passed no socket.
    SocketsMissing(String),
    /// The orphaned processes of a worker.
    Orphaned(WorkerId, Vec<OrphanedProcess>),
    /// The process that drops descriptors of workers has news.
    Discarded(WorkerId, discarder::Progress),
    /// There are more ended orphans than one turn reaps.
    Orphans,
    /// A worker has used up what it may.
    RecycleDue(WorkerId, RecycleReason),
    /// A look at a starting worker from outside showed something new.
    Readiness(WorkerId, Observation),
    /// A document is composed, and others wait for the next.
    Composed,
    /// The program that is to come could go on, or why it can't.
    Checked(TaskId, Result<(), String>),
}

/// Why the loop came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All is over; the exit status.
    Exit(u8),
    /// Another program shall go on from here ([`Master::replace`]).
    Replace,
    /// The workers stay, for the master that follows.
    Leave,
}

/// The master.
pub struct Master {
    pub(super) now: Instant,
    pub(super) pool: Pool,
    /// Events that are to be taken in, oldest first.
    pub(super) events: VecDeque<Event>,
    pub(super) poll: AsyncFd<Poll>,
    pub(super) signals: SignalFd,
    pub(super) errors: ErrorPipe,
    /// Why processes could not become workers; read before their end is.
    pub(super) spawn_errors: HashMap<WorkerId, SpawnError>,
    pub(super) processes: Processes,
    /// Main processes by number, to know whose words are whose.
    pub(super) pids: Table<u32, WorkerId>,
    /// What is carried out later, for nobody waits for it: at the next event, or at `later_at`.
    pub(super) later: Vec<Action>,
    /// A start is under way, and shall have the CPUs for itself until then.
    pub(super) later_at: Option<Instant>,
    pub(super) pages: Pages,
    /// Workers that are still to be started.
    pub(super) spawns: VecDeque<(WorkerId, Slot, GenerationId)>,
    /// Workers that ended and of which it will be known in a moment how; until when that is waited for.
    pub(super) awaiting_status: HashMap<WorkerId, Instant>,
    /// Workers that talk too much, by when they are heard again.
    pub(super) paused: BTreeSet<(Instant, WorkerId)>,
    pub(super) releases: HashMap<GenerationId, Arc<Release>>,
    /// The release in the making.
    pub(super) preparing: Option<(GenerationId, Task)>,
    /// The hook before the end, while it runs.
    pub(super) ending: Option<Task>,
    pub(super) tasks: Tasks,
    pub(super) context: InstanceContext,
    pub(super) source: Source,
    /// The sockets of the slots, where each has its own.
    pub(super) slots: Slots,
    pub(super) nonblocking: Nonblocking,
    /// Whether the loop runs when it is to.
    pub(super) absence: Absence,
    pub(super) terminal: Terminal,
    pub(super) stop_signals: StopSignals,
    /// Processes that outlived the main process of their worker.
    pub(super) orphaned: Orphaned,
    /// Drops the descriptors that workers send.
    pub(super) discarder: Discarder,
    /// Workers that are to stop when their queue is empty.
    pub(super) vacating: AcceptQueueDrain,
    pub(super) runtime_dir: RuntimeDir,
    pub(super) cgroups: Option<Cgroups>,
    pub(super) outputs: Outputs,
    pub(super) journal: Journal,
    pub(super) systemd: Systemd,
    pub(super) ends: Backend,
    pub(super) results: mpsc::UnboundedReceiver<TaskResult>,
    pub(super) result_sender: mpsc::UnboundedSender<TaskResult>,
    /// Looks at starting workers.
    pub(super) readiness: ReadinessWatch,
    /// Requesters that wait for an answer.
    pub(super) requests: RequestTable,
    pub(super) published: Published,
    pub(super) changes: PendingChanges,
    pub(super) failures: VecDeque<Failure>,
    pub(super) past: Ended,
    /// Asks the kernel, and remembers which connection is whose.
    pub(super) surveyor: Surveyor,
    /// Where the status document is asked for.
    pub(super) status_cache: StatusCache,
    /// Lets go of what nobody needs any more.
    pub(super) idle_trim: IdleTrim,
    pub(super) started_at: SystemTime,
    /// A child has ended; whether it was an orphan is looked at when there is nothing more urgent.
    pub(super) child_ended: bool,
    /// Processes that we have started, have no use for, and have not reaped yet.
    pub(super) dismissed: Vec<PidFd>,
    /// When the workers' wear is looked at next.
    pub(super) recycle_check_at: Instant,
    /// Workers that an earlier program left and that nothing else is known of.
    pub(super) orphans: Orphans,
    /// Where the program of this process is found.
    pub(super) program: PathBuf,
    /// The upgrade that is under way.
    pub(super) upgrade: Option<Upgrade>,
    /// The connections of the control socket and of `status.listen`.
    pub(super) registry: Arc<ConnectionRegistry>,
    pub(super) status: StatusListener,
    pub(super) conditions: Conditions,
    /// What is kept for the master after this one, should it die.
    pub(super) store: Option<Store>,
    /// What degrades the instance although its workers are well.
    pub(super) troubles: Troubles,
    /// It is to end, the workers are not.
    pub(super) leaves: bool,
    pub(super) exit: Option<u8>,
}

/// Why the loop woke.
enum Woken {
    Descriptors(Vec<u64>),
    Request(Option<crate::api::Command>),
    TaskResult(Option<TaskResult>),
    Time,
}

impl Master {
    /// Turns until the pool says that all is over, or another program is to go on.
    pub async fn turn(&mut self) -> End {
        loop {
            self.decide();
            // Whoever is answered finds everything done, and nothing is left undone at the end.
            if self.later_at.is_none() || self.requests.has_answers() || self.leaves || self.exit.is_some() {
                self.do_later();
            }
            // Whoever is told of something may rely on it, also if the master dies now.
            self.keep_current();
            self.publish();
            if self.leaves {
                return End::Leave;
            }
            if let Some(code) = self.exit {
                return End::Exit(code);
            }
            if self.is_to_be_replaced() {
                return End::Replace;
            }
            let woken = self.wait().await;
            self.is_awake();
            // What is results asks for nothing, and may be what a start has waited for.
            if !matches!(woken, Woken::TaskResult(_)) {
                self.do_later();
            }
            crate::sys::spawn::sweep();
            match woken {
                Woken::Descriptors(tokens) => self.serve(tokens),
                Woken::Request(Some(request)) => self.request(request),
                Woken::TaskResult(Some(results)) => self.take_result(results),
                Woken::Request(None) | Woken::TaskResult(None) => {}
                Woken::Time => self.absence.has_served(false, 0),
            }
            self.run_due();
            // The front ends run on this thread too.
            tokio::task::yield_now().await;
        }
    }

    async fn wait(&mut self) -> Woken {
        if !self.spawns.is_empty() {
            self.plan_to_wake(Some(self.now));
            return match self.ready() {
                tokens if tokens.is_empty() => Woken::Time,
                tokens => Woken::Descriptors(tokens),
            };
        }
        let deadlines = [
            self.pool.deadline().map(|deadline| absence::step(self.now, pool_clock::instant(deadline))),
            self.systemd.deadline(),
            self.paused.first().map(|(at, _)| *at),
            self.awaiting_status.values().min().copied(),
            self.recycle_deadline(),
            self.upgrade_deadline(),
            self.tasks_deadline(),
            self.orphans.deadline(),
            self.store.as_ref().and_then(Store::deadline),
            self.vacating.deadline(),
            self.status_cache.deadline(),
            self.later_at,
        ];
        let deadline = deadlines.into_iter().flatten().min();
        if self.plan_to_wake(deadline) {
            return Woken::Time;
        }
        loop {
            tokio::select! {
                biased;
                guard = self.poll.readable() => {
                    let Ok(mut guard) = guard else { return Woken::Time };
                    let mut tokens = Vec::new();
                    let _ = guard.get_inner().ready(&mut tokens, DESCRIPTORS);
                    if tokens.is_empty() {
                        // Only now: tokio hears of changes, and what was left unserved is none.
                        guard.clear_ready();
                        continue;
                    }
                    return Woken::Descriptors(tokens);
                }
                request = self.ends.commands.recv() => return Woken::Request(request),
                results = self.results.recv() => return Woken::TaskResult(results),
                () = time_of(deadline) => return Woken::Time,
            }
        }
    }

    fn ready(&self) -> Vec<u64> {
        let mut tokens = Vec::new();
        let _ = self.poll.get_ref().ready(&mut tokens, DESCRIPTORS);
        tokens
    }

    fn serve(&mut self, tokens: Vec<u64>) {
        self.status_cache.touch();
        self.absence.has_served(tokens.len() == DESCRIPTORS, self.processes.len() / DESCRIPTORS);
        let mut tokens: Vec<Token> = tokens.into_iter().map(Token::from_u64).collect();
        tokens.sort_unstable();
        let mut ended = Vec::new();
        for token in tokens {
            match token {
                Token::Signal => self.signals(),
                Token::Exit(worker) => ended.push(worker),
                Token::Cgroups => self.groups_emptied(),
                Token::Notify(worker) => self.read_notifications(worker),
                Token::Former(worker) => self.former_ended(worker),
                Token::Directory => self.directory_changed(),
            }
        }
        self.ended(&ended);
    }

    /// What there may be beside that for which the loop woke.
    fn run_due(&mut self) {
        for _ in 0..REQUESTS {
            let Ok(request) = self.ends.commands.try_recv() else { break };
            self.request(request);
        }
        for _ in 0..REQUESTS {
            let Ok(results) = self.results.try_recv() else { break };
            self.take_result(results);
        }
        self.systemd.due(self.now);
        self.resume_paused();
        self.check_awaiting_status();
        self.check_recycle_limits();
        self.look_at_orphans();
        self.look_at_queues();
        self.warn_of_unanswered();
        self.look_at_tasks();
        self.forget_documents();
        if !self.absence.reads_first() && self.pool.deadline().is_some_and(|at| at <= pool_clock::time(self.now)) {
            self.events.push_back(Event::Due);
        }
        self.decide();
        let to_start = self.spawns.len();
        for _ in 0..SPAWNS_PER_TURN {
            let Some((worker, slot, generation)) = self.spawns.pop_front() else { break };
            self.spawn_worker(worker, slot, generation);
        }
        if self.spawns.len() < to_start {
            self.hasten();
        }
        if self.spawns.is_empty() {
            self.spawns.shrink_to(SPAWNS_PER_TURN);
        }
        // A replacement is waited for, an orphan is not; and to look takes the longer the more workers there are.
        if self.spawns.is_empty() && std::mem::take(&mut self.child_ended) {
            self.children();
        }
    }

    /// Gives the pool every event, and carries out every action, until it is quiet.
    pub(super) fn take_in(&mut self) {
        self.decide();
        self.do_later();
    }

    /// A start is under way: threads that are woken now would take a CPU from it.
    pub(super) fn hasten(&mut self) {
        self.later_at = Some(self.now + LATER);
    }

    /// Does what nobody waits for.
    fn do_later(&mut self) {
        self.later_at = None;
        for action in std::mem::take(&mut self.later) {
            self.carry_out(action);
        }
        self.outputs.begin();
        self.journal.wake();
        self.fill_pages();
    }

    /// [`Self::take_in`] without [`Self::do_later`].
    fn decide(&mut self) {
        let mut actions: Vec<Action> = Vec::new();
        while let Some(event) = self.events.pop_front() {
            self.status_cache.touch();
            if let Some(store) = &mut self.store {
                store.touch(&event, self.now);
            }
            self.pool.step(pool_clock::time(self.now), event, &mut actions);
            // Before anybody is stopped.
            if actions
                .iter()
                .any(|action| matches!(action, Action::Changed(_) | Action::Ended(_) | Action::Spawn { .. } | Action::Stopping))
            {
                self.steer();
            }
            // A decision that workers feel is written down first: the next master must not decide otherwise.
            if actions.iter().any(|action| matches!(action, Action::Stop(_) | Action::Abort(_) | Action::Kill(_))) {
                self.do_later();
                self.keep_current();
            }
            for action in actions.drain(..) {
                match action {
                    // A dead worker's record, and what was held for it: the longer part of a death. The end itself is told in its order.
                    Action::Ended(ended) => {
                        self.tell_end(&ended);
                        self.later.push(Action::Ended(ended));
                    }
                    Action::Forget(_) => self.later.push(action),
                    action => self.carry_out(action),
                }
            }
        }
    }
}

/// Sleeps until then; for ever without a deadline.
async fn time_of(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
