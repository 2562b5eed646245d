//! A simulated master without processes: it carries out the pool's actions, owns the clock, and checks the laws after every step.

mod laws;
mod queues;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::pool::{
    Accepting, Action, Answer, CommandVerdict, Ended, Event, ExitCause, GenerationId, Kind, Notification, Outcome, Phase, Pool,
    PoolState, Purpose, RequesterId, Settings, Slot, StartMode, Time, Worker, WorkerId,
};

/// The simulated main process of a worker.
#[derive(Clone, Debug)]
pub struct Process {
    pub slot: Slot,
    pub generation: GenerationId,
    /// The worker's accept queue is watched, and the worker stops when the queue is empty.
    pub draining_queue: bool,
    /// The process got the stop signal, or SIGABRT.
    pub stopped: bool,
    pub killed: bool,
    /// The main process has ended; other processes of the worker may be left.
    pub gone: bool,
}

/// A request, and its answer.
#[derive(Clone, Debug)]
pub struct Asked {
    pub what: What,
    /// The number of reloads that had begun before the request.
    pub begun: usize,
    pub answer: Option<Answer>,
    pub left: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Reload,
    Probe,
    Other,
}

/// The simulated master and its pool.
pub struct World {
    pub pool: Pool,
    pub now: Time,
    pub processes: BTreeMap<WorkerId, Process>,
    pub asked: BTreeMap<RequesterId, Asked>,
    /// Generations in preparation, for which the pool waits for an answer.
    pub preparing: Vec<GenerationId>,
    /// Steps of canaries on which the command is asked.
    pub asked_judge: Vec<(GenerationId, usize)>,
    /// Workers to which the probe's request was sent and that have not answered.
    pub asked_probes: Vec<WorkerId>,
    /// The settings of the next generations that are prepared.
    pub next: Settings,
    /// The number of next forks that fail.
    pub forks_fail: u32,
    /// Preload processes do not answer.
    pub forks_hang: bool,
    /// Whether orphaned processes hold a listening socket or an accepted connection.
    pub orphans_serve: bool,
    pub ended: Vec<Ended>,
    pub finished: Vec<(GenerationId, Outcome, String)>,
    /// Generations that the watch has undone, and why.
    pub undone: Vec<(GenerationId, String)>,
    /// Changes of the number of workers.
    pub scaled: Vec<(u32, u32)>,
    /// The log lines.
    pub logs: Vec<(Kind, String)>,
    pub spawns: Vec<(WorkerId, Slot, GenerationId, Time)>,
    pub ready_told: bool,
    pub exit: Option<u8>,
    begun: Vec<GenerationId>,
    /// Generations that are only probed.
    probe_only: BTreeSet<GenerationId>,
    released: BTreeSet<GenerationId>,
    committed: BTreeMap<GenerationId, Settings>,
    prepared: BTreeMap<GenerationId, Settings>,
    said_stopping: BTreeSet<WorkerId>,
    stopping: bool,
    /// The time of the last look that saw activity.
    active_at: Time,
    /// Workers that get SIGABRT later in the same step, and so still served when the present action was decided.
    fail_next: BTreeSet<WorkerId>,
    last_pid: u32,
}

fn failing(actions: &[Action]) -> BTreeSet<WorkerId> {
    actions.iter().filter_map(|action| if let Action::Abort(worker) = action { Some(*worker) } else { None }).collect()
}

impl World {
    pub fn new(settings: Settings) -> World {
        World::started(settings.clone(), Event::Start(settings))
    }

    /// A world whose instance is started for one probe alone.
    pub fn once(settings: Settings) -> World {
        World::started(settings.clone(), Event::ProbeOnce(settings))
    }

    fn started(settings: Settings, first: Event) -> World {
        let start = Time::since_boot(Duration::from_secs(1_000));
        let mut world = World {
            pool: Pool::new(start, 7),
            now: start,
            processes: BTreeMap::new(),
            asked: BTreeMap::new(),
            preparing: Vec::new(),
            asked_judge: Vec::new(),
            asked_probes: Vec::new(),
            next: settings.clone(),
            forks_fail: 0,
            forks_hang: false,
            orphans_serve: false,
            ended: Vec::new(),
            finished: Vec::new(),
            undone: Vec::new(),
            scaled: Vec::new(),
            logs: Vec::new(),
            spawns: Vec::new(),
            ready_told: false,
            exit: None,
            begun: Vec::new(),
            probe_only: BTreeSet::new(),
            released: BTreeSet::new(),
            committed: BTreeMap::from([(1, settings.clone())]),
            prepared: BTreeMap::new(),
            said_stopping: BTreeSet::new(),
            stopping: false,
            active_at: start,
            fail_next: BTreeSet::new(),
            last_pid: 100,
        };
        world.step(first);
        world
    }

    /// Gives one event to the pool, carries out the actions and checks the laws; then the same for the events that the actions caused.
    pub fn step(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let generation = self.pool.generation();
            let before = self.serving(Some(generation));
            let was_without_workers = self.pool.wants_no_workers();
            let mut actions = Vec::new();
            self.note(&event);
            self.pool.step(self.now, event.clone(), &mut actions);
            let mut follow = Vec::new();
            for (index, action) in actions.iter().enumerate() {
                self.fail_next = failing(&actions[index + 1..]);
                self.carry_out(action, generation, &mut follow);
            }
            self.laws(&event, before);
            self.becomes_idle_when_quiet(&event, was_without_workers);
            // Reversed, because `pop` takes the last event first.
            follow.reverse();
            events.extend(follow);
        }
    }

    /// Lets time pass, with an [`Event::Due`] at each deadline.
    pub fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(at) = self.pool.deadline().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.step(Event::Due);
            assert!(self.pool.deadline().is_none_or(|next| next > self.now), "the deadline does not move on: a busy loop");
        }
        self.now = until;
    }

    /// A connection waits, if nobody serves it.
    pub fn connect(&mut self) {
        if self.pool.wants_no_workers() {
            self.step(Event::Connected);
        }
    }

    /// Lets `scale.idle` pass without a connection, if the master looks for some.
    pub fn be_quiet(&mut self) {
        for _ in 0..5 {
            let Some(period) = self.pool.look_period() else { return };
            self.pass(period);
            if self.pool.look_period().is_some() {
                self.step(Event::Looked { active: false });
            }
        }
    }

    /// Replaces the master: the pool is written as text and read again, and must be the same afterwards.
    pub fn hand_over(&mut self) {
        let text = serde_json::to_string(&self.pool).expect("plain data");
        let read: Pool = serde_json::from_str(&text).expect("what was just written");
        let restored = read.resume(self.now).unwrap_or_else(|why| panic!("{why}: {text}"));
        // `resume` replaces the time of the last step, and the load is measured anew; everything else is the same.
        let former = Pool { now: self.now, controller: Default::default(), ..std::mem::replace(&mut self.pool, restored) };
        if format!("{:?}", self.pool) != format!("{former:?}") {
            assert_eq!(format!("{:#?}", self.pool), format!("{former:#?}"), "{text}");
        }
    }

    /// The worker sends READY=1. Where an observation counts, the worker is first observed to accept on both sockets of the tests.
    pub fn ready(&mut self, worker: WorkerId) {
        if self.pool.wants_a_look(worker) {
            self.see(worker, 0b11);
        }
        self.step(Event::Notification(worker, Notification::Ready));
    }

    /// The worker is observed to accept on these sockets (one bit each).
    pub fn see(&mut self, worker: WorkerId, sockets: u32) {
        self.step(Event::Seen(worker, Accepting { sockets, hidden: false }));
    }

    /// All starting workers send READY=1, also those that start because of it.
    pub fn all_ready(&mut self) {
        loop {
            let starting = self.pool.workers().find(|(_, worker)| worker.phase == Phase::Starting).map(|(id, _)| id);
            let Some(worker) = starting else { return };
            self.ready(worker);
        }
    }

    pub fn exit(&mut self, worker: WorkerId, how: ExitCause) {
        self.leave(worker, how, false);
    }

    pub fn leave(&mut self, worker: WorkerId, how: ExitCause, left: bool) {
        let Some(process) = self.processes.get_mut(&worker) else { return };
        if process.gone {
            return;
        }
        process.gone = true;
        if !left {
            self.processes.remove(&worker);
        }
        self.step(Event::Exited { worker, how, left });
    }

    pub fn clear(&mut self, worker: WorkerId) {
        if self.processes.get(&worker).is_some_and(|process| process.gone) {
            self.processes.remove(&worker);
            self.step(Event::Cleared(worker));
        }
    }

    /// The worker's accept queue becomes empty.
    pub fn drain_queue(&mut self, worker: WorkerId) {
        if self.processes.get(&worker).is_some_and(|process| process.draining_queue && !process.gone) {
            self.step(Event::QueueDrained(worker));
        }
    }

    pub fn prepare(&mut self) {
        if let Some(number) = self.preparing.pop() {
            let settings = self.next.clone();
            self.prepared.insert(number, settings.clone());
            self.step(Event::Prepared(number, settings));
        }
    }

    /// The probed worker has answered; `Some`: not as it must.
    pub fn answer_probe(&mut self, worker: WorkerId, failure: Option<&str>) {
        if let Some(index) = self.asked_probes.iter().position(|asked| *asked == worker) {
            self.asked_probes.remove(index);
            self.step(Event::Probed(worker, failure.map_or(Ok(()), |why| Err(why.into()))));
        }
    }

    /// The command has answered.
    pub fn answer_judge(&mut self, verdict: CommandVerdict) {
        if let Some((number, step)) = self.asked_judge.pop() {
            self.step(Event::Judged(number, step, verdict));
        }
    }

    pub fn refuse(&mut self) {
        if let Some(number) = self.preparing.pop() {
            self.step(Event::Refused(number, "reload.check said no".into()));
        }
    }

    pub fn ask(&mut self, what: What, event: impl FnOnce(RequesterId) -> Event) -> RequesterId {
        let requester = self.asked.len() as RequesterId + 1;
        self.asked.insert(requester, Asked { what, begun: self.begun.len(), answer: None, left: false });
        self.step(event(requester));
        requester
    }

    pub fn reload(&mut self) -> RequesterId {
        self.ask(What::Reload, |requester| Event::Reload(Some(requester)))
    }

    pub fn gone(&mut self, requester: RequesterId) {
        if let Some(asked) = self.asked.get_mut(&requester).filter(|asked| !asked.left && asked.answer.is_none()) {
            asked.left = true;
            self.step(Event::RequesterGone(requester));
        }
    }

    pub fn answer(&self, requester: RequesterId) -> Option<&Answer> {
        self.asked[&requester].answer.as_ref()
    }

    /// The number of ready workers with a live process, of one generation or of all.
    pub fn serving(&self, generation: Option<GenerationId>) -> u32 {
        let serves = |id, worker: &Worker| {
            worker.phase == Phase::Ready
                && worker.has_sockets()
                && self.alive(id)
                && generation.is_none_or(|number| worker.generation == number)
        };
        self.pool.workers().filter(|(id, worker)| serves(*id, worker)).count() as u32
    }

    /// The workers of a generation in the pool's table, ordered by slot and id.
    pub fn of(&self, generation: GenerationId) -> Vec<WorkerId> {
        let mut workers: Vec<_> = self.pool.workers().filter(|(_, worker)| worker.generation == generation).collect();
        workers.sort_by_key(|(id, worker)| (worker.slot, *id));
        workers.into_iter().map(|(id, _)| id).collect()
    }

    pub fn phase(&self, worker: WorkerId) -> Option<Phase> {
        self.pool.worker(worker).map(|worker| worker.phase)
    }

    /// Runs without further faults until nothing is left to do: stopped workers end, starting workers become ready, time passes.
    pub fn be_kind(&mut self) {
        self.forks_fail = 0;
        for _ in 0..10_000 {
            if self.exit.is_some() {
                return;
            }
            if !self.preparing.is_empty() {
                self.prepare();
                continue;
            }
            if let Some(worker) = self.asked_probes.first().copied() {
                self.answer_probe(worker, None);
                continue;
            }
            if !self.asked_judge.is_empty() {
                self.answer_judge(CommandVerdict::GoOn);
                continue;
            }
            let ending = self.processes.iter().find(|(_, process)| process.gone || process.stopped || process.killed);
            if let Some((worker, process)) = ending.map(|(worker, process)| (*worker, process.clone())) {
                if process.gone {
                    self.clear(worker);
                } else {
                    self.exit(worker, ExitCause::Exit(0));
                }
                continue;
            }
            let draining_queue = self.processes.iter().find(|(_, process)| process.draining_queue).map(|(worker, _)| *worker);
            if let Some(worker) = draining_queue {
                self.drain_queue(worker);
                continue;
            }
            let starting = self.pool.workers().find(|(id, worker)| worker.phase == Phase::Starting && self.alive(*id));
            if let Some(worker) = starting.map(|(id, _)| id) {
                self.ready(worker);
                continue;
            }
            // Workers that sent STOPPING=1 end.
            let leaving = self.pool.workers().find(|(id, worker)| worker.phase == Phase::Draining && self.alive(*id));
            if let Some(worker) = leaving.map(|(id, _)| id) {
                self.exit(worker, ExitCause::Exit(0));
                continue;
            }
            // No worker hangs any more: watchdogs are turned off.
            let watched = self.pool.workers().find(|(_, worker)| worker.phase == Phase::Ready && worker.watchdog.is_some());
            if let Some(worker) = watched.map(|(id, _)| id) {
                self.step(Event::Notification(worker, Notification::WatchdogEvery(Duration::ZERO)));
                continue;
            }
            let waits = self.pool.state() == PoolState::Reloading
                || self.pool.ready() < self.pool.target() && !self.pool.wants_no_workers()
                || self.asked.values().any(|asked| asked.answer.is_none() && !asked.left);
            match self.pool.deadline() {
                Some(at) if waits && self.exit.is_none() => self.pass(at - self.now),
                _ => return,
            }
        }
        panic!("a kind world does not come to rest");
    }

    /// Checks that the pool has the wanted state; then stops the instance and checks that no process, timer or request is left.
    pub fn check_rest_and_stop(&mut self) {
        if self.exit.is_none() && !self.stopping {
            self.resume_and_rest();
            self.wake_and_rest();
            assert_eq!(self.pool.state(), PoolState::Running);
            assert_eq!(self.pool.ready(), self.pool.target(), "not all places are filled: {}", self.pool.status_text());
            let wanted = self.pool.workers().filter(|(_, worker)| worker.has_slot()).count();
            let preloads = self.pool.workers().count() - wanted;
            assert!(preloads <= usize::from(self.pool.preload().is_some()), "preload processes that nobody wants");
            assert_eq!(wanted as u32, self.pool.target(), "workers that nobody wants");
            self.step(Event::Stop { now: false });
        }
        self.be_kind();
        assert!(self.exit.is_some(), "the instance does not end");
        assert!(self.processes.is_empty(), "processes are left");
        assert_eq!(self.pool.deadline(), None, "a timer is left");
        for (requester, asked) in &self.asked {
            assert!(asked.answer.is_some() || asked.left, "requester {requester} was never answered");
        }
        assert!(self.pool.history().len() <= 3, "more releases are kept than configured");
        let kept = |number: &u64| self.pool.history().iter().any(|committed| committed.generation == *number);
        for number in self.prepared.keys().filter(|number| !kept(number) && **number != self.pool.generation()) {
            assert!(self.released.contains(number), "generation {number} was never released");
        }
        assert_eq!(self.begun.len(), self.finished.len(), "a reload has no end");
    }

    /// Resumes a paused instance: no worker is left, and the same generation serves again.
    fn resume_and_rest(&mut self) {
        if !self.pool.is_paused() {
            return;
        }
        let generation = self.pool.generation();
        assert_eq!(self.pool.workers().count(), 0, "workers are left in a pause");
        assert!(self.asked.values().all(|asked| asked.answer.is_some() || asked.left), "a requester waits in a pause");
        self.ask(What::Other, |requester| Event::Resume(Some(requester)));
        self.be_kind();
        assert_eq!(self.pool.generation(), generation, "another generation after a pause");
    }

    /// Wakes an idle instance: no worker is left, and the same generation serves again.
    fn wake_and_rest(&mut self) {
        if !self.pool.wants_no_workers() {
            return;
        }
        let generation = self.pool.generation();
        assert_eq!(self.pool.workers().count(), 0, "workers are left in an idle instance");
        assert_eq!(self.pool.deadline(), None, "an idle instance has a tick");
        assert!(self.asked.values().all(|asked| asked.answer.is_some() || asked.left), "a requester waits for an idle instance");
        self.step(Event::Connected);
        self.be_kind();
        assert_eq!(self.pool.generation(), generation, "another generation after a wake");
    }

    fn alive(&self, worker: WorkerId) -> bool {
        self.processes.get(&worker).is_some_and(|process| !process.gone)
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Notification(worker, Notification::Stopping) => {
                self.said_stopping.insert(*worker);
            }
            Event::Stop { .. } => self.stopping = true,
            Event::Looked { active: true } => self.active_at = self.now,
            Event::Absent(span) => self.active_at += *span,
            _ => {}
        }
    }

    fn carry_out(&mut self, action: &Action, before: GenerationId, follow: &mut Vec<Event>) {
        assert!(self.exit.is_none(), "{action:?} after the exit");
        match action {
            Action::Prepare(number, purpose) => {
                self.preparing.push(*number);
                match purpose {
                    Purpose::Probe => _ = self.probe_only.insert(*number),
                    Purpose::Undo { target, .. } => {
                        assert!(self.committed.contains_key(target), "an undo to a release that never served");
                        assert!(!self.released.contains(target), "an undo to a release that is gone");
                    }
                    Purpose::LastGood => assert!(!self.ready_told, "a fallback after the start"),
                    Purpose::Reload => {}
                }
            }
            Action::Judge(number, step) => {
                assert_eq!(self.begun.last(), Some(number), "a verdict on a canary that does not run");
                self.asked_judge.push((*number, *step));
            }
            Action::Probe(worker) => {
                assert!(self.alive(*worker), "a request to a worker that is gone");
                self.asked_probes.push(*worker);
            }
            Action::Spawn { worker, slot, generation } => {
                assert!(!self.stopping, "a fork while stopping");
                assert!(!self.pool.is_paused(), "a fork in a pause");
                self.may_start_in_idleness(*worker);
                assert!(!self.released.contains(generation), "a fork of a released generation");
                assert!(self.spawns.iter().all(|(id, ..)| id != worker), "a worker id used twice");
                let candidate = self.begun.last().filter(|_| self.begun.len() > self.finished.len());
                let own = [Some(&before), Some(&self.pool.generation()), candidate].contains(&Some(generation))
                    || self.probe_only.contains(generation);
                assert!(own, "a fork of generation {generation}, which is neither current nor candidate");
                assert!(self.pool.may_spawn(*worker), "worker {worker} starts before the preload process is ready");
                self.spawns.push((*worker, *slot, *generation, self.now));
                let cannot = self.pool.start_mode(*worker) == StartMode::Fork(None);
                if self.forks_hang && matches!(self.pool.start_mode(*worker), StartMode::Fork(_)) {
                    return;
                }
                if self.forks_fail > 0 || cannot {
                    self.forks_fail -= u32::from(!cannot);
                    follow.push(Event::SpawnFailed(*worker, "fork: Resource temporarily unavailable".to_owned()));
                } else {
                    self.last_pid += 1;
                    let process = Process {
                        slot: *slot,
                        generation: *generation,
                        draining_queue: false,
                        stopped: false,
                        killed: false,
                        gone: false,
                    };
                    self.processes.insert(*worker, process);
                    follow.push(Event::Spawned(*worker, self.last_pid));
                }
            }
            Action::Stop(worker) | Action::Abort(worker) => {
                if self.processes.get(worker).is_none_or(|process| !process.draining_queue) {
                    self.may_be_stopped(*worker, matches!(action, Action::Abort(_)));
                }
                if matches!(action, Action::Stop(_)) {
                    self.leaves_no_queue(*worker);
                }
                if let Some(process) = self.processes.get_mut(worker) {
                    assert!(!process.gone, "a signal to a process that is gone");
                    process.stopped = true;
                    process.draining_queue = false;
                }
            }
            Action::DrainQueue(worker) => {
                self.may_be_stopped(*worker, false);
                let process = self.processes.get_mut(worker).expect("the queue of a worker without a process");
                assert!(!process.gone && !process.stopped && !process.draining_queue, "a queue watched for nothing");
                process.draining_queue = true;
                let queue = self.pool.queue(self.pool.worker(*worker).expect("a worker"));
                assert!(!self.is_served_well(queue), "who is not the last waits for its queue");
                // `serving` shows the end of the step, when the other workers may have failed.
                let nobody_else = !self.pool.workers().any(|(id, worker)| worker.serves() && self.alive(id));
                let all_hang = self.hung_queues().contains(&queue);
                let gets_some = self.pool.serving().contains(&queue);
                assert!(nobody_else || all_hang || !gets_some, "a queue that shall get empty gets connections");
            }
            Action::Kill(worker) => {
                let is_preload = self.pool.worker(*worker).is_some_and(|worker| worker.is_preload());
                if let Some(process) = self.processes.get_mut(worker) {
                    let may =
                        is_preload || process.stopped || process.gone || self.stopping || self.said_stopping.contains(worker);
                    assert!(may, "SIGKILL to a worker that was not asked to stop");
                    process.killed = true;
                }
            }
            Action::DrainOrphaned(worker) => {
                let process = self.processes.get(worker).expect("orphaned processes of a forgotten worker");
                assert!(process.gone, "a second stop signal for a worker whose main process lives");
                follow.push(Event::Orphaned { worker: *worker, serving: self.orphans_serve });
            }
            Action::Changed(worker) => assert!(self.pool.worker(*worker).is_some() || !self.processes.contains_key(worker)),
            Action::Ended(ended) => self.ended.push(ended.clone()),
            Action::Recycled(_) => {}
            Action::Scaled(scaled) => {
                assert!(scaled.from != scaled.to && !scaled.reason.is_empty(), "{scaled:?}");
                self.scaled.push((scaled.from, scaled.to));
            }
            Action::Forget(worker) => assert!(!self.alive(*worker), "a living worker is forgotten"),
            // The answer to the false `Prepared(u64::MAX, …)` of `Move::Lie`.
            Action::Release(u64::MAX) => {}
            Action::Release(number) => {
                assert!(self.released.insert(*number), "generation {number} released twice");
                assert!(self.processes.values().all(|process| process.generation != *number), "released in use");
            }
            Action::ReloadStarted(number, _) => {
                assert_eq!(self.begun.len(), self.finished.len(), "two reloads at once");
                self.begun.push(*number);
            }
            Action::ReloadFinished(number, outcome, reason) => {
                assert_eq!(self.begun.last(), Some(number), "the end of a reload that does not run");
                self.finished.push((*number, *outcome, reason.cause.clone()));
                assert_eq!(self.begun.len(), self.finished.len(), "a reload ended twice");
                if *outcome == Outcome::Committed {
                    self.committed.insert(*number, self.prepared[number].clone());
                } else {
                    assert!(!reason.cause.is_empty(), "a failed reload without a reason");
                }
            }
            Action::Undone { generation: number, release, reason } => {
                assert!(self.committed.contains_key(number), "generation {number}, which is undone, never served");
                assert!(self.undone.iter().all(|(undone, _)| undone != number), "two undos of generation {number}");
                let (last, outcome, _) = self.finished.last().expect("an undo is a reload");
                assert!(last > number && *outcome == Outcome::Committed, "undone before the former release serves");
                assert_eq!(*release, self.pool.release_of(*last), "another release than the one that serves");
                self.undone.push((*number, reason.cause.clone()));
            }
            Action::Answer(requester, answer) => self.answered(*requester, answer),
            Action::Ready => assert!(!std::mem::replace(&mut self.ready_told, true), "READY=1 twice"),
            Action::Stopping => self.stopping = true,
            Action::Exit(code) => {
                let gave_up = self.logs.iter().any(|(kind, _)| *kind == Kind::GaveUp);
                let hopeless = !self.ready_told && self.logs.iter().any(|(kind, _)| *kind == Kind::CannotStart);
                let at_once = self.pool.stopping.is_some_and(|stopping| stopping.now);
                assert_eq!(*code == 1, gave_up || hopeless || at_once, "status {code}");
                self.exit = Some(*code);
            }
            Action::Log(log) => self.logs.push((log.kind, log.message.clone())),
        }
    }

    fn answered(&mut self, requester: RequesterId, answer: &Answer) {
        let asked = self.asked.get_mut(&requester).expect("an answer to somebody unknown");
        assert!(asked.answer.is_none(), "requester {requester} was answered twice");
        assert_eq!(asked.what == What::Reload, matches!(answer, Answer::Reload(..)), "the wrong kind of answer");
        assert!(asked.what == What::Probe || !matches!(answer, Answer::Probed(..)), "the wrong kind of answer");
        if let Answer::Reload(number, outcome, reason) = answer
            && reason.cause != "the instance is stopping"
            && *number != 0
        {
            let index = self.begun.iter().rposition(|begun| begun == number).expect("the outcome of a reload that never was");
            assert!(index >= asked.begun, "the outcome of a reload that had begun before it was asked for");
            let (.., finished, _) = &self.finished[index];
            assert_eq!(finished, outcome, "an answer that is not the outcome");
        }
        asked.answer = Some(answer.clone());
    }
}
