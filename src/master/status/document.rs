//! The status document: the loop copies what it holds; another thread asks the kernel and reads the workers' status pages.
//!
//! Law: the loop's part is a copy of what it has in memory: it reads no file and asks no worker. (A worker's status page is memory,
//! too.)

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value};

use crate::api::{Summary, WorkerView};
use crate::config::Config;
use crate::master::listeners::sockets::{Kind, Listener};
use crate::master::status::publish::{Ended, LastReload};
use crate::master::status::status_cache::{Job, PAGES, Pages, Requester};
use crate::master::tasks::TaskResult;
use crate::master::turn::Master;
use crate::master::workers::processes::told;
use crate::master::workers::readiness::Known;
use crate::pool::Phase;
use crate::status::kernel::{self, Claims, Queue, Survey, Surveyor};
use crate::status::rendered::{Lists, RenderedStatus};
use crate::status::scoreboard::{Scoreboard, Totals};
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
    limits: tree::Limits,
    workers: Vec<One>,
    /// Each listener with its queues; it has several where each slot has its own socket.
    listeners: Vec<(Listener, Vec<Arc<OwnedFd>>)>,
    failures: Vec<tree::Failure>,
    past: Ended,
    surveyor: Surveyor,
}

/// A worker in the [`Facts`].
struct One {
    view: WorkerView,
    group: Option<PathBuf>,
    info: Map<String, Value>,
    counters: BTreeMap<String, f64>,
    scoreboard: Option<Arc<Scoreboard>>,
    readiness: Option<Known>,
}

impl Master {
    /// Answers the requester with the document, which another thread composes.
    pub(in crate::master) fn document(&mut self, requester: Requester) {
        let job = self.status_cache.ask(requester);
        self.compose(job);
    }

    /// Called when a document is composed: begins the next one, if requesters wait for it.
    pub(in crate::master) fn composed(&mut self) {
        let job = self.status_cache.next();
        self.compose(job);
    }

    fn compose(&mut self, job: Option<Job>) {
        let Some(job) = job else { return };
        let facts = self.facts();
        let results = self.results.clone();
        tokio::task::spawn_blocking(move || {
            if job.done(|| build(facts)) {
                let _ = results.send(TaskResult::Composed);
            }
        });
    }

    fn facts(&self) -> Facts {
        let summary = self.ends.summary.borrow().clone();
        let workers = self.pool.workers().filter_map(|(id, _)| {
            let process = self.workers.get(id);
            Some(One {
                view: self.workers.view(&self.pool, id)?,
                group: process.and_then(|process| process.group.as_ref()).map(|group| group.path().to_owned()),
                info: process.map(|process| process.info()).unwrap_or_default(),
                counters: process.map(|process| process.counters().clone()).unwrap_or_default(),
                scoreboard: process.and_then(|process| process.scoreboard.clone()),
                readiness: process
                    .and_then(|process| process.readiness)
                    .or(self.pool.said_ready_alone(id).then_some(Known::Said)),
            })
        });
        Facts {
            summary,
            last_reload: self.published.last_reload.clone(),
            reloads: self.published.reloads.clone(),
            failures_by_cause: self.published.failures.clone(),
            recycled_by_reason: self.published.recycled.clone(),
            committed_at: self.published.committed_at,
            limits: self.releases.get(self.pool.generation()).map(|release| limits(&release.config)).unwrap_or_default(),
            workers: workers.collect(),
            listeners: self.listeners.shown(),
            failures: self.failures.iter().cloned().collect(),
            past: self.past.clone(),
            surveyor: self.surveyor.clone(),
        }
    }

    /// Gives memory back when nobody has requested a document for a while.
    pub(in crate::master) fn forget_documents(&mut self) {
        if let Some(forgotten) = self.status_cache.forget(self.now) {
            self.surveyor.forget();
            self.idle_trim.tidy(forgotten);
        }
    }
}

/// The time by RFC 3339, in UTC, to the millisecond.
pub(in crate::master) fn time(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map_or_else(|_| "1970-01-01T00:00:00Z".to_owned(), |at| format!("{at:.3}"))
}

/// Composes the document. In a small pool it also returns the marks of the pages from before they were read.
fn build(facts: Facts) -> (RenderedStatus, Option<Pages>) {
    let Facts { summary, last_reload, reloads, failures_by_cause, recycled_by_reason, .. } = facts;
    let Facts { committed_at, limits, mut workers, listeners, failures, past, surveyor, .. } = facts;
    workers.sort_by_key(|one| (one.view.slot, one.view.id));
    let Ended { totals: mut all } = past;
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
        let totals = told(page, &one.counters);
        all.add(&totals);
        told_by.push(Told { totals, unlisted, active });
    }
    let subjects: Vec<kernel::Subject> = workers.iter().map(|one| (one.view.id, one.view.pid, one.group.clone())).collect();
    let sockets: Vec<_> = listeners.iter().flat_map(|(_, queues)| queues).collect();
    let survey = surveyor.survey(&subjects, &sockets, &claims);
    let pages = marks.zip(survey.until).map(|(marks, until)| Pages { until, marks });
    let document = Document {
        instance: summary.instance.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state: summary.state.as_str().to_owned(),
        degraded: summary.degraded,
        status_text: summary.status_text.to_string(),
        generation: summary.generation,
        start_time: time(summary.started_at),
        worker_crashes: summary.crashes,
        workers_configured: summary.workers_configured,
        workers_ready: summary.workers_ready,
        connections: all.known_connections(),
        requests: all.known_requests(),
        bytes_read: all.known_bytes_read(),
        bytes_written: all.known_bytes_written(),
        counters: all.counters,
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
                Some(socket(listener, places.map(|place| survey.queue(place)).collect(), dropped(listener, queues)))
            })
            .collect(),
        workers: workers.into_iter().zip(told_by).map(|(one, told)| worker(one, told, &survey)).collect(),
        failures,
    };
    (RenderedStatus::new(document, &lists), pages)
}

/// A socket, and the connections that wait in its queue (for sockets of slots: the sum of all queues).
fn socket(listener: &Listener, queues: Vec<Option<Queue>>, dropped: Option<u64>) -> tree::Socket {
    let sum = |of: fn(&Queue) -> u64| queues.iter().flatten().map(of).reduce(|sum, more| sum.saturating_add(more));
    let slots = queues.iter().map(|queue| queue.map(|queue| queue.waiting)).filter(|_| queues.len() > 1);
    tree::Socket {
        name: listener.name.clone(),
        address: listener.address.clone(),
        queue: sum(|queue| queue.waiting),
        queue_max: sum(|queue| queue.max),
        dropped,
        slots: slots.collect(),
    }
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

fn worker(one: One, told: Told, survey: &Survey) -> tree::Worker {
    let One { view, group: _, info, counters: _, scoreboard: _, readiness } = one;

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
