//! Makes the master's components, each with what it needs, and the master of them.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::mpsc;

use crate::api::{self, Summary};
use crate::control::http::ConnectionRegistry;
use crate::master::Master;
use crate::master::comparison::Comparer;
use crate::master::event_queue::EventQueue;
use crate::master::listeners::ListenerSet;
use crate::master::listeners::hang_watch::HangWatch;
use crate::master::listeners::idle_watch::IdleWatch;
use crate::master::listeners::queue_watch::QueueWatch;
use crate::master::load_watch::LoadWatch;
use crate::master::log::Log;
use crate::master::log::journal::{Journal, Level, Record};
use crate::master::origin::{First, Origin};
use crate::master::output::Outputs;
use crate::master::pool_clock;
use crate::master::recycle::Recycler;
use crate::master::releases::last_good::LastGood;
use crate::master::releases::prepare::{self, Source};
use crate::master::releases::preparing::ReleaseStore;
use crate::master::releases::probing::Prober;
use crate::master::request_table::RequestTable;
use crate::master::service_manager::systemd::Systemd;
use crate::master::signals::SIGNALS;
use crate::master::signals::StopSignals;
use crate::master::sources::Sources;
use crate::master::status::accept_watch::AcceptWatch;
use crate::master::status::status_listener::StatusListener;
use crate::master::status::{self, StatusPublisher};
use crate::master::tasks::Tasks;
use crate::master::terminal::Terminal;
use crate::master::upgrade::store;
use crate::master::upgrade::unknown_workers::UnknownWorkers;
use crate::master::upgrade::upgrader::Upgrader;
use crate::master::workers::cgroup::Cgroups;
use crate::master::workers::processes::Token;
use crate::master::workers::runtime_dir::RuntimeDir;
use crate::master::workers::{self, WorkerSet};
use crate::pool::{Event, Pool, PoolState, Settings};
use crate::sys::poll::Poll;
use crate::sys::signals::SignalFd;

/// Said once where a unit has no state directory.
const NOT_RECORDED: &str =
    "no StateDirectory=ratoon/NAME: after a reboot there is no last good release to fall back to (start.fallback)";

/// The summary before the first turn.
pub(super) fn first_summary(name: &str, started_at: SystemTime) -> Summary {
    Summary {
        instance: name.into(),
        state: PoolState::Starting,
        degraded: false,
        paused: false,
        idle: false,
        last_wake: None,
        status_text: "starting".into(),
        generation: 0,
        workers_configured: 0,
        workers_ready: 0,
        workers_min: 0,
        workers_max: 0,
        at_max: false,
        crashes: 0,
        started_at,
        last_reload: None,
        canary: None,
    }
}

/// The parts that a master is built from.
pub(super) struct Parts<'a> {
    pub source: Source,
    pub journal: &'a Journal,
    pub systemd: Systemd,
    pub cgroups: Option<Cgroups>,
    pub origin: Origin,
    pub terminal: Terminal,
}

impl Master {
    /// Makes the master, and restores what it goes on from. Call it within a tokio runtime.
    ///
    /// # Errors
    /// A descriptor, a directory or a socket cannot be made.
    pub(super) fn begin(parts: Parts<'_>) -> Result<Master, String> {
        let Parts { source, journal, systemd, cgroups, origin, terminal } = parts;
        let Origin { context, control, directory, program, started_at, status, errors, mode, output, mut fds, .. } = origin;
        let Origin { last_requester, releases, troubles, first, status_address, .. } = origin;
        let (handle, api::Backend { commands, summary, changes: feed }) =
            api::channel(first_summary(&context.instance, started_at));
        handle.number_requesters_after(last_requester);
        let registry: Arc<ConnectionRegistry> = Arc::default();
        let go_on = matches!(first, First::GoOn(_));
        let mut runtime_dir = RuntimeDir::new(control, directory, handle.clone(), registry.clone(), go_on)?;
        runtime_dir.serve()?;
        let (listener, served) = StatusListener::begin(status_address, status, &handle, &registry);
        if let Err(error) = served {
            journal.log(Record::new(Level::Error, format!("status.listen: {error}")));
        }
        let cannot = |error: std::io::Error| format!("cannot begin: {error}");
        let (poll, signals) = watch(&cgroups, &runtime_dir).map_err(cannot)?;
        let now = Instant::now();
        let outputs = Outputs::new(mode, &context.instance, store::is_wanted());
        outputs.take_over(output);
        let (results, task_results) = mpsc::unbounded_channel();
        let (log, tasks, poll) = (Log::new(journal.clone()), Tasks::default(), Arc::new(poll));
        let listeners = ListenerSet::new(context.listeners.clone(), log.clone());
        let shared = workers::Shared {
            poll: poll.clone(),
            log: log.clone(),
            outputs: outputs.clone(),
            tasks: tasks.clone(),
            results: results.clone(),
        };
        let status = StatusPublisher::new(status::Parts {
            instance: context.instance.clone(),
            config_file: source.file.clone(),
            started_at,
            handle,
            summary,
            feed,
            listener,
            troubles,
            outputs: outputs.clone(),
            log: log.clone(),
            results: results.clone(),
        });
        let upgrader = Upgrader::new(program, registry, tasks.clone(), results.clone(), log.clone());
        let mut releases = ReleaseStore::new(releases, source, context, tasks.clone(), results.clone(), log.clone());
        let (last_good, fault) = LastGood::read(&releases.context().instance);
        if let Some(fault) = fault {
            log.warn(fault);
        } else if systemd.is_there() && !last_good.is_recorded() {
            log.record(Record::new(Level::Info, NOT_RECORDED));
        }
        releases.restore_records(last_good);
        let prober = Prober::new(outputs.clone(), results.clone());
        let workers = WorkerSet::new(errors, runtime_dir, cgroups, shared);
        // The clock and the pid suffice as a seed: nobody gains by knowing the jitter.
        let seed = started_at.duration_since(SystemTime::UNIX_EPOCH).map_or(1, |span| span.as_nanos() as u64)
            ^ u64::from(std::process::id());
        let mut master = Master {
            now,
            pool: Pool::new(pool_clock::time(now), seed),
            events: EventQueue::default(),
            sources: Sources::new(poll.clone(), signals, commands, task_results, now).map_err(cannot)?,
            workers,
            listeners,
            releases,
            prober,
            tasks,
            terminal,
            stop_signals: StopSignals::default(),
            outputs,
            log,
            systemd,
            comparer: Comparer::default(),
            recycler: Recycler::new(now, results.clone()),
            accept_watch: AcceptWatch::new(now, results.clone()),
            queue_watch: QueueWatch::new(poll.clone(), results.clone()),
            idle_watch: IdleWatch::new(poll.clone(), results.clone()),
            load_watch: LoadWatch::new(results.clone()),
            hang_watch: HangWatch::new(&poll, results.clone(), now).map_err(cannot)?,
            results,
            requests: RequestTable::default(),
            unknown_workers: UnknownWorkers::default(),
            upgrader,
            status,
            store: None,
            end: None,
        };
        match first {
            First::Start(release, unknown_workers, instead_of) => {
                let pool = Pool::new(pool_clock::time(now), seed).with_workers_after(unknown_workers.last_worker);
                let pool = if unknown_workers.is_empty() { pool } else { pool.beside_other_workers() };
                master.pool = match instead_of {
                    Some(why) => pool.instead_of_the_release_on_disk(why),
                    None => pool,
                };
                master.unknown_workers = unknown_workers;
                if master.unknown_workers.is_empty() && store::is_wanted() {
                    master.workers.remove_strays();
                }
                master.listeners.resume(&mut fds, &[], &master.pool, now);
                master.listeners.make_slots(&release.config, 0).map_err(|error| error.to_string())?;
                let fallback = master.releases.may_fall_back(&release);
                master.events.push(Event::Start(Settings { fallback, ..prepare::settings(&release) }));
                master.releases.insert(1, release);
                master.releases.warn_of(1);
                master.keep_conditions(1);
                master.warn_of_limits(1);
            }
            First::Probe(release) => {
                master.listeners.make_slots(&release.config, 0).map_err(|error| error.to_string())?;
                master.events.push(Event::ProbeOnce(prepare::settings(&release)));
                master.releases.insert(1, release);
            }
            First::GoOn(rest) => {
                master.restore(*rest, &mut fds);
                master.keep_conditions(master.pool.generation());
            }
        }
        master.store = store::open(&mut fds, now, master.log.journal());
        master.follow_readiness_of_all();
        master.read_all_notifications();
        Ok(master)
    }
}

/// Creates the poll set of the loop, with the descriptors that it always watches.
fn watch(cgroups: &Option<Cgroups>, runtime_dir: &RuntimeDir) -> std::io::Result<(Poll, SignalFd)> {
    let poll = Poll::new()?;
    let signals = SignalFd::new(&SIGNALS)?;
    poll.add(&signals, Token::Signal.to_u64())?;
    if let Some(events) = cgroups.as_ref().and_then(Cgroups::events_fd) {
        poll.add(events, Token::Cgroups.to_u64())?;
    }
    if let Some(directory) = runtime_dir.watch() {
        poll.add(directory, Token::Directory.to_u64())?;
    }
    Ok((poll, signals))
}
