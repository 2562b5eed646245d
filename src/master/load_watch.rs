//! Samples of the load of an elastic pool: the share of busy workers, the connections that wait, the memory that is left.
//!
//! Law: without such a pool there is no sample and no tick. Figures are read on another thread, one sample at a time; a figure that is not
//! known is told as such.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::master::releases::memory::Footprint;
use crate::master::task_result::{TaskResult, TaskResults};
use crate::pool::{Busy, GenerationId, Load, Measure, Room, WorkerId};
use crate::status::kernel::{self, Watched};
use crate::status::scoreboard::Scoreboard;
use crate::sys::thread;

/// The name of the thread that reads the figures.
const THREAD: &str = "ratoon-load";
/// The memory is read again after this time.
const MEMORY_PERIOD: Duration = Duration::from_secs(10);

/// A ready worker, by what its figures are read from.
pub(in crate::master) struct Subject {
    pub worker: WorkerId,
    pub pid: u32,
    /// The path of the worker's control group.
    pub group: Option<PathBuf>,
    pub scoreboard: Option<Arc<Scoreboard>>,
}

/// What a sample is read from.
pub(in crate::master) struct Subjects {
    pub generation: GenerationId,
    /// The ready workers of this generation.
    pub workers: Vec<Subject>,
    pub sockets: Vec<Watched>,
    pub footprint: Footprint,
}

/// The figures of a worker.
struct Figures {
    worker: WorkerId,
    /// Requests in work; `None` without a status page that the worker writes.
    in_work: Option<u64>,
    /// CPU time since the start of the worker, microseconds.
    cpu_usec: Option<u64>,
    /// Open connections; read only where nothing else is known of any worker.
    open: Option<u64>,
}

/// The figures of a sample.
pub(in crate::master) struct Seen {
    generation: GenerationId,
    at: Instant,
    workers: Vec<Figures>,
    waiting: Option<u64>,
    /// `None` if the memory was not read.
    memory: Option<Option<Room>>,
}

/// Takes the samples.
pub(in crate::master) struct LoadWatch {
    results: TaskResults,
    /// When the last sample was taken; `None` while none is taken.
    last: Option<Instant>,
    is_looking: bool,
    /// The CPU time of each worker at the last sample, and when that was.
    before: BTreeMap<WorkerId, (Instant, u64)>,
    /// The generation in which a worker was seen to have several requests in work at once.
    concurrent: Option<GenerationId>,
    memory: Option<(Instant, Option<Room>)>,
}

impl LoadWatch {
    /// A watch that has seen nothing.
    pub fn new(results: TaskResults) -> LoadWatch {
        LoadWatch { results, last: None, is_looking: false, before: BTreeMap::new(), concurrent: None, memory: None }
    }

    /// When the next sample is due. `period`: the time between two, as the pool asks for it.
    pub fn deadline(&self, period: Option<Duration>, now: Instant) -> Option<Instant> {
        let next = self.last.map_or(now, |last| last + period.unwrap_or_default());
        period.filter(|_| !self.is_looking).map(|_| next)
    }

    /// Takes a sample, when it is time.
    pub fn on_deadline(&mut self, now: Instant, period: Option<Duration>, subjects: impl FnOnce() -> Subjects) {
        if period.is_none() {
            (self.last, self.before, self.memory) = (None, BTreeMap::new(), None);
            return;
        }
        if self.deadline(period, now).is_none_or(|at| at > now) {
            return;
        }
        self.last = Some(now);
        let subjects = subjects();
        let asks_for_memory = self.memory.as_ref().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= MEMORY_PERIOD);
        let results = self.results.clone();
        let run = move || drop(results.send(TaskResult::Load(look(&subjects, asks_for_memory))));
        self.is_looking = thread::spawn(THREAD, run).is_ok();
    }

    /// Makes a sample of the figures that were read.
    pub fn seen(&mut self, seen: &Seen) -> (GenerationId, Load) {
        self.is_looking = false;
        if let Some(memory) = seen.memory {
            self.memory = Some((seen.at, memory));
        }
        let memory = self.memory.and_then(|(_, memory)| memory);
        let load = Load { ready: seen.workers.len() as u32, busy: self.busy(seen), waiting: seen.waiting, memory };
        let cpu = |of: &Figures| Some((of.worker, (seen.at, of.cpu_usec?)));
        self.before = seen.workers.iter().filter_map(cpu).collect();
        (seen.generation, load)
    }

    fn busy(&mut self, seen: &Seen) -> Option<Busy> {
        let workers = &seen.workers;
        if workers.iter().any(|of| of.in_work.is_some_and(|in_work| in_work > 1)) {
            self.concurrent = Some(seen.generation);
        }
        let one_at_once = self.concurrent != Some(seen.generation);
        if one_at_once && let Some(share) = share(workers, |of| Some(f64::from(u8::from(of.in_work? > 0)))) {
            return Some(Busy { share, by: Measure::Requests });
        }
        if workers.iter().any(|of| of.cpu_usec.is_some()) {
            // A worker that has just become ready has no earlier figure.
            let known = workers.iter().filter_map(|of| {
                let ((at, before), now) = (self.before.get(&of.worker)?, of.cpu_usec?);
                let passed = seen.at.saturating_duration_since(*at).as_secs_f64();
                (passed > 0.0).then(|| (now.saturating_sub(*before) as f64 / 1e6 / passed).min(1.0))
            });
            let (count, sum) = known.fold((0.0, 0.0), |(count, sum), share| (count + 1.0, sum + share));
            return (count > 0.0).then(|| Busy { share: sum / count, by: Measure::CpuTime });
        }
        let share = share(workers, |of| Some(f64::from(u8::from(of.open? > 0))))?;
        Some(Busy { share, by: Measure::Connections })
    }
}

/// The mean of a figure of all workers; `None` if that of one is not known, and without workers.
fn share(workers: &[Figures], figure: impl Fn(&Figures) -> Option<f64>) -> Option<f64> {
    let sum = workers.iter().map(figure).sum::<Option<f64>>()?;
    (!workers.is_empty()).then(|| sum / workers.len() as f64)
}

/// Reads the figures. Blocks.
fn look(subjects: &Subjects, asks_for_memory: bool) -> Seen {
    let mut workers: Vec<Figures> = Vec::with_capacity(subjects.workers.len());
    for Subject { worker, pid, group, scoreboard } in &subjects.workers {
        let in_work = scoreboard.as_ref().and_then(|page| page.in_work());
        workers.push(Figures { worker: *worker, in_work, cpu_usec: kernel::cpu(*pid, group.as_deref()), open: None });
    }
    let at = Instant::now();
    if workers.iter().any(|of| of.in_work.is_none()) && workers.iter().all(|of| of.cpu_usec.is_none()) {
        let asked: Vec<kernel::Subject> = subjects.workers.iter().map(|of| (of.worker, of.pid, of.group.clone())).collect();
        let survey = kernel::survey(&asked, &subjects.sockets);
        for of in &mut workers {
            of.open = survey.worker(of.worker).and_then(|figures| figures.open_connections);
        }
    }
    let queues = kernel::queues(&subjects.sockets);
    let waiting = queues.iter().flatten().map(|queue| queue.waiting).reduce(u64::saturating_add);
    let memory = asks_for_memory.then(|| subjects.footprint.room());
    Seen { generation: subjects.generation, at, workers, waiting, memory }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn watch() -> LoadWatch {
        LoadWatch::new(unbounded_channel().0)
    }

    fn figures(worker: WorkerId, in_work: Option<u64>, cpu_usec: Option<u64>, open: Option<u64>) -> Figures {
        Figures { worker, in_work, cpu_usec, open }
    }

    fn seen(generation: GenerationId, at: Instant, workers: Vec<Figures>) -> Seen {
        Seen { generation, at, workers, waiting: Some(3), memory: None }
    }

    #[test]
    fn watch_has_no_deadline_unless_the_pool_asks() {
        let (mut watch, now) = (watch(), Instant::now());
        assert_eq!((watch.deadline(None, now), watch.deadline(Some(SECOND), now)), (None, Some(now)));
        watch.on_deadline(now, None, || panic!("nobody asks"));
        watch.on_deadline(now, Some(SECOND), || Subjects {
            generation: 1,
            workers: Vec::new(),
            sockets: Vec::new(),
            footprint: Footprint::of(&[], None),
        });
        assert_eq!(watch.deadline(Some(SECOND), now), None, "a sample is being taken");
        watch.seen(&seen(1, now, Vec::new()));
        assert_eq!(watch.deadline(Some(SECOND), now), Some(now + SECOND));
        assert_eq!(watch.deadline(Some(10 * SECOND), now), Some(now + 10 * SECOND));
        watch.on_deadline(now + SECOND / 2, Some(SECOND), || panic!("too early"));
        watch.on_deadline(now + SECOND, None, || panic!("nobody asks"));
        assert_eq!(watch.deadline(Some(SECOND), now), Some(now));
    }

    #[test]
    fn share_is_that_of_requests_if_workers_have_one_at_once() {
        let (mut watch, now) = (watch(), Instant::now());
        let pages = |a, b| vec![figures(1, Some(a), Some(0), None), figures(2, Some(b), Some(0), None)];
        let busy = |watch: &mut LoadWatch, generation, at, workers| watch.seen(&seen(generation, at, workers)).1.busy;
        assert_eq!(busy(&mut watch, 1, now, pages(1, 0)), Some(Busy { share: 0.5, by: Measure::Requests }));
        // Several at once: the CPU time tells it, in this generation.
        assert_eq!(busy(&mut watch, 1, now + SECOND, pages(2, 0)), Some(Busy { share: 0.0, by: Measure::CpuTime }));
        let later = vec![figures(1, Some(1), Some(1_000_000), None), figures(2, Some(0), Some(500_000), None)];
        assert_eq!(busy(&mut watch, 1, now + 2 * SECOND, later), Some(Busy { share: 0.75, by: Measure::CpuTime }));
        assert_eq!(busy(&mut watch, 2, now + 3 * SECOND, pages(0, 0)), Some(Busy { share: 0.0, by: Measure::Requests }));
    }

    #[test]
    fn share_is_known_of_workers_with_an_earlier_figure() {
        let (mut watch, now) = (watch(), Instant::now());
        let cpu = |a, b| vec![figures(1, None, a, None), figures(2, None, b, None)];
        assert_eq!(watch.seen(&seen(1, now, cpu(Some(0), None))).1.busy, None);
        let (generation, load) = watch.seen(&seen(1, now + SECOND, cpu(Some(9_000_000), Some(1))));
        let expected = Load { ready: 2, busy: Some(Busy { share: 1.0, by: Measure::CpuTime }), waiting: Some(3), memory: None };
        assert_eq!((generation, load), (1, expected));
        let open = vec![figures(1, None, None, Some(2)), figures(2, None, None, Some(0))];
        let load = watch.seen(&seen(1, now + 2 * SECOND, open)).1;
        assert_eq!(load.busy, Some(Busy { share: 0.5, by: Measure::Connections }));
        let unknown = vec![figures(1, None, None, Some(2)), figures(2, None, None, None)];
        assert_eq!(watch.seen(&seen(1, now + 3 * SECOND, unknown)).1.busy, None);
        assert_eq!(watch.seen(&seen(1, now + 3 * SECOND, Vec::new())).1.busy, None);
    }

    #[test]
    fn look_reads_the_figures_of_this_process() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
        let _waits = std::net::TcpStream::connect(socket.local_addr().expect("an address")).expect("a connection");
        let subjects = Subjects {
            generation: 4,
            workers: vec![Subject { worker: 9, pid: std::process::id(), group: None, scoreboard: None }],
            sockets: vec![Watched::Open(Arc::new(socket.into()))],
            footprint: Footprint::of(&[(std::process::id(), None)], None),
        };
        let mut watch = watch();
        let (generation, load) = watch.seen(&look(&subjects, true));
        assert_eq!((generation, load.ready, load.waiting, load.busy), (4, 1, Some(1), None));
        assert!(load.memory.is_some_and(|room| room.left > 0 && room.worker > 0), "{load:?}");
        let busy = watch.seen(&look(&subjects, false)).1;
        assert_eq!((busy.busy.map(|busy| busy.by), busy.memory), (Some(Measure::CpuTime), load.memory));
    }
}
