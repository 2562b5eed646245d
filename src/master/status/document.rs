//! The status document: the loop copies what it holds; another thread asks the kernel and reads the workers' status pages.
//!
//! Law: the loop's part is a copy of what it has in memory: it reads no file and asks no worker. (A worker's status page is memory,
//! too.)

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::api::Summary;
use crate::config::Config;
use crate::master::listeners::sockets::{Kind, Listener};
use crate::master::releases::prepare::Release;
use crate::master::status::StatusPublisher;
use crate::master::status::accept_watch::Look;
use crate::master::status::history::{LastReload, time};
use crate::master::status::release_path::{PathLook, Paths};
use crate::master::status::scale::{self, ScaleFacts};
use crate::master::status::status_cache::{Job, PAGES, Pages, Requester};
use crate::master::task_result::TaskResult;
use crate::master::workers::processes::figures;
use crate::master::workers::views::{PreloadFacts, WorkerFacts};
use crate::pool::{CanaryView, Figures, Phase, Scaled, Slot, WatchView, WorkerId};
use crate::status::kernel::{self, Claims, Queue, Survey, Surveyor};
use crate::status::rendered::{Lists, RenderedStatus};
use crate::status::scoreboard::Totals;
use crate::status::tree::{self, Document};
use crate::sys::drops::drops;

/// A copy of what the loop knows.
struct Facts {
    summary: Summary,
    last_reload: Option<LastReload>,
    reloads: BTreeMap<String, tree::Reloads>,
    failures_by_cause: BTreeMap<String, u64>,
    recycled_by_reason: BTreeMap<String, u64>,
    committed_at: Option<SystemTime>,
    releases: Vec<tree::Release>,
    canary: Option<CanaryView>,
    watch: Option<WatchView>,
    pause_left: Option<Duration>,
    scale: ScaleFacts,
    last_scaled: Option<(Scaled, SystemTime)>,
    preload: Option<PreloadFacts>,
    paths: Option<Paths>,
    path_look: PathLook,
    limits: tree::Limits,
    workers: Vec<WorkerFacts>,
    /// Each listener with its queues; it has several where each slot has its own socket.
    listeners: Vec<(Listener, Vec<Arc<OwnedFd>>)>,
    /// All these sockets, as the kernel knows them.
    watched: Vec<kernel::Watched>,
    /// The slot of each of a listener's queues.
    slots: Vec<Slot>,
    failures: Vec<tree::Failure>,
    past: Totals,
    surveyor: Surveyor,
    /// Whether each ready worker accepts.
    accepting: BTreeMap<WorkerId, bool>,
}

/// Facts of the loop's components for a document.
#[derive(Default)]
pub(in crate::master) struct LoopFacts<'a> {
    pub workers: Vec<WorkerFacts>,
    /// Each listener with its queues; it has several where each slot has its own socket.
    pub listeners: Vec<(Listener, Vec<Arc<OwnedFd>>)>,
    /// All these sockets, as the kernel knows them.
    pub watched: Vec<kernel::Watched>,
    /// The slot of each of a listener's queues, where it has several.
    pub slots: Vec<Slot>,
    /// The release of the present generation, and the paths from which a reload would read it.
    pub release: Option<&'a Release>,
    pub paths: Option<Paths>,
    /// Whether the ready workers accept, where that is to be looked at.
    pub look: Option<Look>,
    /// The committed releases that are kept, newest first.
    pub releases: Vec<tree::Release>,
    /// The canary that is under way.
    pub canary: Option<CanaryView>,
    /// The watch after the last commit.
    pub watch: Option<WatchView>,
    /// The time until a paused instance resumes by itself.
    pub pause_left: Option<Duration>,
    /// The number of workers, and the load that decides on it.
    pub scale: ScaleFacts,
    /// The preload process of the present generation.
    pub preload: Option<PreloadFacts>,
}

impl StatusPublisher {
    /// Answers the requester from the cache, or lets it wait. Returns `Some` when a document has to be composed: see [`Self::compose`].
    pub(in crate::master) fn ask(&mut self, requester: Requester) -> Option<Job> {
        self.cache.ask(requester)
    }

    /// A document is composed: begins the next one, if requesters wait for it.
    pub(in crate::master) fn next_document(&mut self) -> Option<Job> {
        self.cache.next()
    }

    /// Composes a document on another thread, and answers all requesters that wait for it.
    /// `look`: whether the ready workers accept is looked at first.
    pub(in crate::master) fn compose(&self, job: Job, facts: LoopFacts<'_>) {
        let LoopFacts {
            workers,
            listeners,
            watched,
            slots,
            release,
            look,
            releases,
            paths,
            canary,
            watch,
            preload,
            pause_left,
            scale,
        } = facts;
        let facts = Facts {
            summary: self.summary.borrow().clone(),
            last_reload: self.history.last_reload().cloned(),
            reloads: self.history.reloads_by_result().clone(),
            failures_by_cause: self.history.failures_by_cause().clone(),
            recycled_by_reason: self.history.recycled_by_reason().clone(),
            committed_at: self.history.committed_at(),
            releases,
            canary,
            watch,
            pause_left,
            scale,
            last_scaled: self.last_scaled.clone(),
            preload,
            paths,
            path_look: self.path_look.clone(),
            limits: release.map(|release| limits(&release.config)).unwrap_or_default(),
            workers,
            listeners,
            watched,
            slots,
            failures: self.history.failures().cloned().collect(),
            past: self.history.totals().clone(),
            surveyor: self.surveyor.clone(),
            accepting: self.accepting.clone(),
        };
        let results = self.results.clone();
        tokio::task::spawn_blocking(move || {
            let mut facts = facts;
            if let Some(seen) = look.and_then(|look| look.run_bounded(results.clone())) {
                facts.accepting = seen;
            }
            if job.done(|| build(facts)) {
                let _ = results.send(TaskResult::Composed);
            }
        });
    }
}

/// Composes the document. In a small pool it also returns the marks of the pages from before they were read.
fn build(facts: Facts) -> (RenderedStatus, Option<Pages>) {
    let Facts { summary, last_reload, reloads, failures_by_cause, recycled_by_reason, .. } = facts;
    let Facts { releases, canary, watch, preload, pause_left, scale, last_scaled, paths, path_look, .. } = facts;
    let Facts { committed_at, limits, mut workers, listeners, watched, slots, failures, past, surveyor, accepting, .. } = facts;
    workers.sort_by_key(|one| (one.view.slot, one.view.id));
    let mut all = past;
    // Each page is read once, so that the sums match the workers shown.
    let mut told_by = Vec::with_capacity(workers.len());
    let (mut lists, mut claims) = (Lists::default(), Claims::default());
    let pages = || workers.iter().filter_map(|one| one.scoreboard.clone());
    let marks = match workers.len() <= PAGES {
        true => pages().map(|page| page.mark().map(|mark| (Arc::downgrade(&page), mark))).collect::<Option<Vec<_>>>(),
        false => None,
    };
    for one in &workers {
        if one.view.state == Phase::Draining {
            claims.leaves(one.view.id);
        }
        let (mut unlisted, mut active) = (None, None);
        let page = lists.read(one.scoreboard.as_deref()).map(|shown| {
            unlisted = Some(shown.unlisted);
            active = Some(shown.active as u64);
            if shown.all {
                claims.add(one.view.id, shown.peers);
            }
            shown.totals
        });
        let totals = figures(page, &one.counters);
        all.add(&totals);
        told_by.push(Told { totals, unlisted, active });
    }
    let subjects: Vec<kernel::Subject> = workers.iter().map(|one| (one.view.id, one.view.pid, one.group.clone())).collect();
    let survey = surveyor.survey(&subjects, &watched, &claims);
    let pages = marks.zip(survey.until).map(|(marks, until)| Pages { until, marks });
    let document = Document {
        instance: summary.instance.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state: summary.state.as_str().to_owned(),
        degraded: summary.degraded,
        paused: summary.paused,
        resumes_in_ms: pause_left.map(|left| left.as_millis() as u64),
        idle: summary.idle,
        last_wake_ms: summary.last_wake.map(|took| took.as_millis() as u64),
        status_text: summary.status_text.to_string(),
        generation: summary.generation,
        start_time: time(summary.started_at),
        worker_crashes: summary.crashes,
        workers_configured: summary.workers_configured,
        workers_ready: summary.workers_ready,
        workers_min: summary.workers_min,
        workers_max: summary.workers_max,
        at_max: summary.at_max,
        scale: scale::shown(scale, last_scaled),
        connections: all.known_connections(),
        requests: all.known_requests(),
        bytes_read: all.known_bytes_read(),
        bytes_written: all.known_bytes_written(),
        counters: all.counters,
        release: releases.first().map(|first| tree::CurrentRelease {
            generation: first.release,
            program: first.program.clone(),
            directory: first.directory.clone(),
            committed_at: first.committed_at.clone(),
            path_leads_elsewhere: paths.and_then(|paths| path_look.leads_elsewhere(paths)),
        }),
        releases,
        canary: canary.map(shown_canary),
        watch: watch.map(shown_watch),
        preload: preload.map(|preload| tree::Preload {
            pid: preload.pid,
            state: preload.state.to_owned(),
            memory_pss: preload.pid.and_then(kernel::pss),
        }),
        committed_at: committed_at.map(time),
        last_reload: last_reload.map(|last| tree::LastReload {
            generation: last.generation,
            result: last.outcome.as_str().to_owned(),
            reason: last.reason.to_string(),
            detail: last.detail,
            output: last.output,
            start_time: time(last.began),
            duration_ms: last.took.as_millis() as u64,
        }),
        reloads,
        failures_by_cause,
        recycled_by_reason,
        limits,
        details_hidden: false,
        master: tree::Master {
            pid: std::process::id(),
            memory_rss: survey.master.rss,
            memory_pss: survey.master.pss,
            cpu_usec: survey.master.cpu_usec,
            start_time: time(survey.master.started.unwrap_or(summary.started_at)),
        },
        sockets: listeners
            .iter()
            .scan(0, |first, (listener, queues)| {
                let places = *first..*first + queues.len();
                *first = places.end;
                Some(socket(listener, places.map(|place| survey.queue(place)).collect(), &slots, dropped(listener, queues)))
            })
            .collect(),
        workers: workers
            .into_iter()
            .zip(told_by)
            .map(|(one, told)| {
                let accepts = accepting.get(&one.view.id).copied().filter(|_| one.view.state == Phase::Ready);
                tree::Worker { accepting: accepts, ..worker(one, told, &survey) }
            })
            .collect(),
        failures,
    };
    (RenderedStatus::new(document, &lists), pages)
}

fn figures_of(of: Figures) -> tree::GenerationFigures {
    tree::GenerationFigures { requests: of.requests, failed: of.failed, answer_usec: of.times.typical_usec() }
}

fn shown_watch(watch: WatchView) -> tree::Watch {
    tree::Watch {
        generation: watch.generation,
        before: watch.before,
        state: watch.state.as_str().to_owned(),
        compares: watch.compares,
        left_ms: watch.left.map(|left| left.as_millis() as u64),
        old: watch.figures.map(|comparison| figures_of(comparison.old)),
        new: watch.figures.map(|comparison| figures_of(comparison.new)),
    }
}

/// The canary as the status document and the summary have it.
pub(super) fn shown_canary(canary: CanaryView) -> tree::Canary {
    tree::Canary {
        generation: canary.generation,
        step: canary.step as u64,
        steps: canary.steps as u64,
        workers_ready: canary.ready,
        workers: canary.size,
        workers_configured: canary.target,
        waits: canary.waits,
        manual: canary.manual,
        asks_command: canary.asks_command,
        left_ms: canary.left.map(|left| left.as_millis() as u64),
        old: canary.figures.map(|comparison| figures_of(comparison.old)),
        new: canary.figures.map(|comparison| figures_of(comparison.new)),
        verdict: canary.verdict.map(|verdict| verdict.text()),
    }
}

/// A socket, and the connections that wait in its queue (for sockets of slots: the sum of all queues).
fn socket(listener: &Listener, queues: Vec<Option<Queue>>, slots: &[Slot], dropped: Option<u64>) -> tree::Socket {
    let sum = |of: fn(&Queue) -> u64| queues.iter().flatten().map(of).reduce(|sum, more| sum.saturating_add(more));
    let slots = if queues.len() > 1 { by_slot(&queues, slots) } else { Vec::new() };
    tree::Socket {
        name: listener.name.clone(),
        address: listener.address.clone(),
        queue: sum(|queue| queue.waiting),
        queue_max: sum(|queue| queue.max),
        dropped,
        slots,
    }
}

/// The connections that wait in the queues of each slot. A socket that belongs to no slot yet counts for the one of its number.
fn by_slot(queues: &[Option<Queue>], slots: &[Slot]) -> Vec<Option<u64>> {
    let mut sums: BTreeMap<Slot, Option<u64>> = BTreeMap::new();
    for (place, queue) in queues.iter().enumerate() {
        let sum = sums.entry(slots.get(place).copied().unwrap_or(place as Slot)).or_default();
        let waiting = queue.map(|queue| queue.waiting);
        *sum = sum.zip(waiting).map(|(sum, more)| sum.saturating_add(more)).or(*sum).or(waiting);
    }
    sums.into_values().collect()
}

/// Connections that the kernel refused on a socket's queues. Only TCP counts them.
fn dropped(listener: &Listener, queues: &[Arc<OwnedFd>]) -> Option<u64> {
    let each = || queues.iter().map(|queue| drops(queue).ok().map(u64::from));
    (listener.kind == Kind::TcpStream).then(|| each().sum()).flatten()
}

/// The figures that a worker reported, by its status page and by notifications.
struct Told {
    totals: Totals,
    /// Open connections for which the page has no room; `None` without a page.
    unlisted: Option<u64>,
    /// Requests in work, which only the page tells.
    active: Option<u64>,
}

/// Limits that the configuration sets.
fn limits(config: &Config) -> tree::Limits {
    let limits = &config.worker.limits;
    tree::Limits {
        memory_max: limits.memory_max,
        memory_high: limits.memory_high,
        tasks_max: limits.tasks_max,
        nofile: limits.nofile,
        recycle_memory: config.recycle.max_memory,
        recycle_requests: config.recycle.max_requests,
    }
}

fn worker(one: WorkerFacts, told: Told, survey: &Survey) -> tree::Worker {
    let WorkerFacts { view, group: _, info, counters: _, scoreboard: _, readiness, avoided } = one;

    let Told { totals, unlisted, active } = told;
    let figures = survey.worker(view.id).cloned().unwrap_or_default();
    tree::Worker {
        id: view.id,
        slot: view.slot,
        generation: view.generation,
        pid: (view.pid != 0).then_some(view.pid),
        state: view.state.as_str().to_owned(),
        status: (!view.status_text.is_empty()).then(|| view.status_text.to_string()),
        readiness: readiness.map(|known| known.as_str().to_owned()),
        start_time: time(view.started_at),
        memory_rss: figures.rss,
        cpu_usec: figures.cpu_usec,
        open_connections: figures.open_connections,
        listening: figures.listening,
        accepting: None,
        avoided: avoided.map(|why| why.as_str().to_owned()),
        requests_in_work: active,
        connections: totals.known_connections(),
        requests: totals.known_requests(),
        bytes_read: totals.known_bytes_read(),
        bytes_written: totals.known_bytes_written(),
        counters: totals.counters,
        info: Some(info),
        unlisted_connections: unlisted,
        // The connections are in `Lists`.
        active_connections: Vec::new(),
    }
}
