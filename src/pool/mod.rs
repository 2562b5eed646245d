//! The pool decides which workers start, drain and are replaced. Pure: no I/O, no async, no clock, no `unsafe`.
//!
//! Law: every event is legal in every state. An action's outcome comes back as an event, and the pool relies on events only.
//! The caller carries out every action of one [`Pool::step`] before the next, and keeps one timer, for [`Pool::deadline`].
//!
//! ```text
//!                    Start                      Reload                        all ready (and probation over)
//!   (nothing) ───────────────▶ current   ┌───────────────▶ candidate ─────────────────▶ current
//!                                 │      │                     │ a worker fails             │ the former current
//!                                 └──────┘                     ▼ or abort                   ▼
//!                                                           retired ◀──────────────────  retired ──last worker gone──▶ released
//! ```
#![forbid(unsafe_code)]

mod answer_times;
mod canary;
mod elastic;
mod ending;
mod exit_cause;
mod fallback;
mod first_start;
mod generation;
mod hang;
mod hang_signs;
mod history;
mod idle;
mod ids;
mod judge_command;
mod orphaned;
mod pause;
mod preload;
mod probe;
mod readiness;
mod reason;
mod recycle;
mod reload;
mod reload_state;
mod report;
mod requesters;
mod restart;
mod scaling;
mod serving;
mod settings;
mod snapshot;
mod start;
mod stop;
#[cfg(test)]
mod tests;
mod time;
mod timers;
mod verdict;
mod vocabulary;
mod watch;
mod worker;
mod worker_states;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use answer_times::AnswerTimes;
pub use canary::{CanaryView, Sides};
pub use exit_cause::{ExitCause, Span};
pub use hang_signs::{READS, Sighting};
pub use history::{Committed, Succession};
pub use ids::{GenerationId, RequesterId, Slot, WorkerId};
pub use judge_command::JUDGE_COMMAND_LIMIT;
pub use preload::{PreloadView, StartMode};
pub use readiness::UNPROVEN_PROBATION;
pub use reason::{Cause, Reason, RecycleReason};
pub use report::{PoolState, workers};
pub use scaling::{Busy, Ceiling, Load, Measure, Room, Scaled};
pub use serving::{CanaryPart, Queue};
pub use settings::{Accepting, Elastic, Readiness, Restart, Settings, Steps, Surge, WatchFor};
pub use time::Time;
pub use verdict::{Comparison, Figures, Judgement, Limits};
pub use vocabulary::{Action, Answer, CommandVerdict, Ended, Event, Kind, Log, Notification, Outcome, Purpose};
pub use watch::{WatchState, WatchView};
pub use worker::{Hang, Phase, Worker};

use crate::table::Table;
use fallback::Fallback;
use first_start::Stopping;
use generation::Generation;
use hang::Avoided;
use idle::Idling;
use pause::Pause;
use probe::Probe;
use recycle::Recycling;
use reload_state::Reload;
use requesters::Requesters;
use scaling::Controller;
use timers::{Key, Timers};
use watch::Watch;

/// Capacity of the action list, in actions, that is kept between steps.
const ACTIONS: usize = 16;

/// The pool of one instance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pool {
    /// The time of the current step.
    now: Time,
    /// The actions that the current step has decided so far; empty between steps.
    #[serde(skip)]
    actions: Vec<Action>,
    workers: Table<WorkerId, Box<Worker>>,
    generations: BTreeMap<GenerationId, Generation>,
    /// The committed generations whose releases are kept, oldest first.
    history: VecDeque<Committed>,
    /// The committed generation, or the first one while it starts; 0 before the start.
    current: GenerationId,
    last_worker: WorkerId,
    last_number: GenerationId,
    /// The wanted number of workers (`worker.count`, or the last `scale`).
    target: u32,
    /// `worker.count` in the configuration of the current generation.
    configured: u32,
    /// An operator has set the number of workers, so that the load does not change it.
    #[serde(default)]
    is_fixed: bool,
    /// Decides on the number of workers of an elastic pool. The next master begins with new figures.
    #[serde(skip)]
    controller: Controller,
    reload: Option<Reload>,
    waiting: Option<Requesters>,
    /// The watch after the last commit.
    #[serde(default)]
    watch: Option<Watch>,
    /// The last good release runs, or starts, in place of the one on disk.
    #[serde(default)]
    fallback: Option<Fallback>,
    /// The probe of the candidate, or of the first generation.
    probe: Option<Probe>,
    /// The pause that is under way.
    #[serde(default)]
    pause: Option<Pause>,
    /// The way to zero workers and back (`worker.min = 0`).
    #[serde(default)]
    idling: Idling,
    recycling: Recycling,
    /// The ready workers that hang.
    #[serde(default)]
    avoided: BTreeMap<WorkerId, Avoided>,
    /// A slot failed more often than `restart.limit` allows, and the pool has not recovered since.
    degraded: bool,
    /// Why the last reload failed, until the next one begins; or why the instance ends by itself. For the status text.
    failure_text: Option<String>,
    timers: Timers,
    stopping: Option<Stopping>,
    /// No worker of this pool was ever ready.
    unproven: bool,
    /// [`Action::Ready`] was returned: all workers were ready once.
    announced: bool,
    crashes: u64,
    /// State of the random number generator (xorshift64) for the jitter; never 0.
    random: u64,
}

impl Pool {
    /// An empty pool; `seed` initialises the random numbers for the jitter.
    pub fn new(now: Time, seed: u64) -> Pool {
        Pool {
            now,
            actions: Vec::new(),
            workers: Table::new(),
            generations: BTreeMap::new(),
            history: VecDeque::new(),
            current: 0,
            last_worker: 0,
            last_number: 0,
            target: 0,
            configured: 0,
            is_fixed: false,
            controller: Controller::default(),
            reload: None,
            waiting: None,
            watch: None,
            fallback: None,
            probe: None,
            pause: None,
            idling: Idling::default(),
            recycling: Recycling::default(),
            avoided: BTreeMap::new(),
            degraded: false,
            failure_text: None,
            timers: Timers::default(),
            stopping: None,
            unproven: true,
            announced: false,
            crashes: 0,
            random: seed | 1,
        }
    }

    /// The same pool, whose worker ids begin after `last`: workers of an earlier master may still live and keep their ids.
    #[must_use]
    pub fn with_workers_after(mut self, last: WorkerId) -> Pool {
        self.last_worker = self.last_worker.max(last);
        self
    }

    /// Handles one event and appends the resulting actions to `out`, in the order in which they must be carried out.
    pub fn step(&mut self, now: Time, event: Event, out: &mut Vec<Action>) {
        self.now = self.now.max(now);
        match event {
            Event::Start(settings) => self.start(settings),
            Event::ProbeOnce(settings) => self.probe_once(settings),
            Event::Due => self.due(),
            Event::Absent(span) => {
                self.timers.shift(span);
                self.controller = Controller::default();
            }
            Event::Spawned(id, pid) => self.spawned(id, pid),
            Event::SpawnFailed(id, why) => self.exited(id, ExitCause::NotStarted(why), false),
            Event::MainPid(id, pid) => self.main_pid(id, pid),
            Event::Notification(id, said) => self.said(id, said),
            Event::PreloadLost(id, why) => self.preload_lost(id, &why),
            Event::PreloadOutlived(id) => self.preload_outlived(id),
            Event::Seen(id, seen) => self.seen_accepting(id, seen),
            Event::Exited { worker, how, left } => self.exited(worker, how, left),
            Event::Cleared(id) => self.cleared(id),
            Event::Orphaned { worker, serving } => self.orphans_seen(worker, serving),
            Event::QueueDrained(id) => self.queue_drained(id),
            Event::Hangs(id, why) => self.hangs(id, why),
            Event::Well(id) => self.well(id),
            Event::HungQueueWaits(id) => self.hung_queue_waits(id),
            Event::RecycleDue(id, why) => self.recycle_due(id, why),
            Event::Reload(requester) => self.ask_reload(requester),
            Event::Undo(wanted, requester) => self.ask_undo(wanted, requester),
            Event::Probe(requester) => self.ask_probe(requester),
            Event::Probed(id, result) => self.probed(id, result),
            Event::Prepared(number, settings) => self.prepared(number, settings),
            Event::Refused(number, reason) => self.refused(number, reason),
            Event::Promote(requester) => self.promote(requester),
            Event::Compared(number, figures) => self.compared(number, figures),
            Event::Judged(number, step, verdict) => self.judged_by_command(number, step, verdict),
            Event::Abort(requester) => self.abort(requester),
            Event::MasterDied => self.master_died(),
            Event::RequesterGone(requester) => {
                self.reload_requester_gone(requester);
                self.pause_requester_gone(requester);
            }
            Event::Scale(count, requester) => self.scale(count, requester),
            Event::ScaleAuto(requester) => self.scale_auto(requester),
            Event::Load(generation, load) => self.take_load(generation, load),
            Event::Recycle(which, requester) => self.recycle(which, requester),
            Event::Pause(length, requester) => self.ask_pause(length, requester),
            Event::Resume(requester) => self.ask_resume(requester),
            Event::Looked { active } => self.looked(active),
            Event::Connected => self.connected(),
            Event::Stop { now } => self.stop(now, 0),
        }
        self.after_step();
        // A start comes before records of the same step: the new worker serves earlier.
        self.actions.sort_by_key(|action| !matches!(action, Action::Spawn { .. }));
        out.append(&mut self.actions);
        // Frees the memory that a step with many actions needed, such as a start of a thousand workers.
        self.actions.shrink_to(ACTIONS);
    }

    /// The time at which the pool needs [`Event::Due`]; `None` when no deadline is set.
    pub fn deadline(&self) -> Option<Time> {
        self.timers.next()
    }

    /// The current generation: the committed one, or the first one while it starts. Its failed workers are replaced.
    pub fn generation(&self) -> GenerationId {
        self.current
    }

    /// The committed generation; 0 before the first commit.
    pub fn committed(&self) -> GenerationId {
        if self.announced { self.current } else { 0 }
    }

    /// The generation that the running reload starts; `None` without a reload.
    pub fn candidate(&self) -> Option<GenerationId> {
        self.reload.as_ref().map(|reload| reload.number)
    }

    /// The wanted number of workers.
    pub fn target(&self) -> u32 {
        self.target
    }

    /// Whether all workers of the current generation were ready at the same time once: the start is complete.
    pub fn announced(&self) -> bool {
        self.announced
    }

    /// The number of failures so far of workers that were not asked to end.
    pub fn crashes(&self) -> u64 {
        self.crashes
    }

    /// All workers in the table, with their ids. A worker stays in it until its last process is gone.
    pub fn workers(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.workers.iter().map(|(id, worker)| (*id, &**worker))
    }

    /// The worker with this id, if it is in the table.
    pub fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id).map(|worker| &**worker)
    }

    fn due(&mut self) {
        while let Some(key) = self.timers.pop(self.now) {
            match key {
                Key::Start(id) => self.start_timeout(id),
                Key::Settle(id) => self.settled(id),
                Key::Watchdog(id) => self.watchdog(id),
                Key::Hang(id) => self.tell_hang(id),
                Key::Age(id) => self.recycle_due(id, RecycleReason::Age),
                Key::Stop(id) => self.stop_timeout(id),
                Key::Orphaned(id) => self.look_at_orphaned(id),
                Key::KillOrphaned(id) => self.kill_orphaned(id),
                Key::Restart(generation, slot) => self.restart_due(generation, slot),
                Key::Probation => self.probation_over(),
                Key::Step => self.step_over(),
                Key::Watch => self.watch_over(),
                Key::ProbeAgain => self.probe_again(),
                Key::GiveUp => self.give_up(),
                Key::Resume => self.pause_over(),
                // `after_step` calls `recover` after every step. At the end of the quiet time the next look decides.
                Key::Recover | Key::Quiet => {}
            }
        }
    }

    /// Checks that follow every step: readiness, recovery, giving up, the end of the instance.
    fn after_step(&mut self) {
        self.end_unstarted();
        let all_ready = self.current != 0 && self.ready() == self.target;
        if all_ready && !self.announced && self.stopping.is_none() {
            self.announced = true;
            self.note_commit(false);
            self.act(Action::Ready);
        }
        self.check_watch();
        self.check_fallback();
        self.recover();
        self.watch_give_up();
        self.end_hopeless_start();
        self.limit_outage();
        self.check_pause();
        self.check_idle();
        if self.workers.is_empty()
            && let Some(stopping) = self.stopping.as_mut().filter(|stopping| !stopping.exited)
        {
            stopping.exited = true;
            let code = stopping.code;
            self.act(Action::Exit(code));
        }
    }

    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn answer(&mut self, requester: Option<RequesterId>, answer: Answer) {
        if let Some(requester) = requester {
            self.act(Action::Answer(requester, answer));
        }
    }

    fn log(&mut self, kind: Kind, message: String, generation: Option<GenerationId>, worker: Option<(WorkerId, Slot)>) {
        let (worker, slot) = worker.unzip();
        self.act(Action::Log(Log { kind, message, generation, worker, slot }));
    }

    /// Logs an event that has no meaning in the present state, at debug level. Such an event is never fatal.
    fn ignore_event(&mut self, what: &str, worker: Option<WorkerId>) {
        self.act(Action::Log(Log {
            kind: Kind::Debug,
            message: format!("ignored: {what}"),
            generation: None,
            worker,
            slot: None,
        }));
    }

    fn after(&self, span: Duration) -> Time {
        self.now + span
    }

    /// A random number from 0 up to, but not including, 1 (xorshift64).
    fn chance(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }
}
