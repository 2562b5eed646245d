//! The master process: one loop that turns what happens outside into events for the pool, and carries out the pool's actions.
//! Nothing else.
//!
//! Law: the loop never blocks. Work that may block has a thread, or a queue that drops entries and reports that. An error does not
//! end the master: it reports what it cannot do, and goes on with what it has.
//!
//! | module | owns |
//! |---|---|
//! | `bootstrap` | startup, from the command line to the running loop |
//! | `origin` | what a master begins with |
//! | `assemble` | makes the components, and the master of them |
//! | `turn` | the parts of one turn of the loop |
//! | `effects` | carries out the pool's actions, in order |
//! | `event_queue` | events for the pool |
//! | `requests`, `signals`, `terminal` | requests of the front ends and by signals |
//! | `results` | results of other threads and tasks |
//! | `request_table` | requesters that wait for an answer |
//! | `workers` | worker processes: spawn, notifications, readiness, exit, control groups |
//! | `releases` | a release: read, checked, pinned; hooks, memory |
//! | `listeners` | listening sockets: inherited, bound, one for each slot |
//! | `status` | the summary, changes, the status document |
//! | `service_manager` | messages to systemd, and what its version and the unit allow |
//! | `log`, `output` | the master's log; the workers' output |
//! | `state` | the state of a master as a document with descriptors, for the next one |
//! | `upgrade` | the upgrade in place, and the recovery after a death of the master |
//! | `fronts` | starts the front ends beside the control socket: the status address, D-Bus |
//! | `task_result` | the results of other threads and tasks |
//! | `tasks` | work on other threads that may block for ever, with deadlines |
//! | `sources` | what wakes the loop: descriptors, requests, results, the time |
//! | `recycle` | workers that have reached a memory size or a number of requests |
//! | `load_watch` | samples of the load of an elastic pool |
//! | `comparison` | figures of the old and the new generation during a canary |
//! | `absence` | times in which the loop did not run; they move every deadline |
//! | `pool_clock` | converts between instants and the pool's time |
//! | `idle_trim` | gives memory back to the kernel when the master is idle |
#![forbid(unsafe_code)]

mod absence;
mod assemble;
mod bootstrap;
mod comparison;
mod effects;
mod event_queue;
mod fronts;
mod idle_trim;
pub mod listeners;
mod load_watch;
pub mod log;
mod origin;
mod output;
mod pool_clock;
mod recycle;
pub mod releases;
mod request_table;
mod requests;
mod results;
pub mod service_manager;
mod signals;
mod sources;
mod state;
pub mod status;
mod task_result;
mod tasks;
mod terminal;
#[cfg(test)]
pub(crate) mod testing;
mod turn;
mod upgrade;
pub mod workers;

pub use bootstrap::{Options, run};
pub use upgrade::check::{VERB as UPGRADE_CHECK, answer as upgrade_check};

use std::time::Instant;

use self::comparison::Comparer;
use self::event_queue::EventQueue;
use self::listeners::ListenerSet;
use self::listeners::hang_watch::HangWatch;
use self::listeners::idle_watch::IdleWatch;
use self::listeners::queue_watch::QueueWatch;
use self::load_watch::LoadWatch;
use self::log::Log;
use self::output::Outputs;
use self::recycle::Recycler;
use self::releases::preparing::ReleaseStore;
use self::releases::probing::Prober;
use self::request_table::RequestTable;
use self::service_manager::systemd::Systemd;
use self::signals::StopSignals;
use self::sources::{Sources, Wake, Woken};
use self::status::StatusPublisher;
use self::status::accept_watch::AcceptWatch;
use self::task_result::TaskResults;
use self::tasks::Tasks;
use self::terminal::Terminal;
use self::upgrade::store::Store;
use self::upgrade::unknown_workers::UnknownWorkers;
use self::upgrade::upgrader::Upgrader;
use self::workers::WorkerSet;
use crate::pool::Pool;

/// Why the loop ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The instance is over; the exit status.
    Exit(u8),
    /// Another program is to go on from here ([`Master::replace`]).
    Replace,
    /// The master ends, and its workers stay for the next one.
    Leave,
}

/// The master: its components, each with its own state behind a narrow interface.
///
/// A component does not name the master. It takes what it needs as arguments (the time, the queue of events, a release, the pool), and
/// returns what happened or adds an event. `effects`, `requests` and `results` lead from one component to another.
struct Master {
    now: Instant,
    pool: Pool,
    /// Events for the pool, oldest first.
    events: EventQueue,
    sources: Sources,
    workers: WorkerSet,
    listeners: ListenerSet,
    releases: ReleaseStore,
    prober: Prober,
    tasks: Tasks,
    terminal: Terminal,
    stop_signals: StopSignals,
    outputs: Outputs,
    log: Log,
    systemd: Systemd,
    /// Where tasks send their results.
    results: TaskResults,
    /// Requesters that wait for an answer.
    requests: RequestTable,
    recycler: Recycler,
    accept_watch: AcceptWatch,
    queue_watch: QueueWatch,
    idle_watch: IdleWatch,
    load_watch: LoadWatch,
    hang_watch: HangWatch,
    comparer: Comparer,
    /// Workers of an earlier program of which nothing else is known.
    unknown_workers: UnknownWorkers,
    upgrader: Upgrader,
    status: StatusPublisher,
    /// The state kept for the next master, in case this one dies.
    store: Option<Store>,
    /// Why the loop is to end.
    end: Option<End>,
}

impl Master {
    /// Runs turns until the instance is over, the master leaves its workers to the next one, or another program is to go on.
    async fn run(&mut self) -> End {
        loop {
            self.step_pool();
            // The store is updated before anything is published, so that published state holds even if the master dies now.
            self.checkpoint();
            self.publish();
            self.wake_threads();
            if let Some(end) = self.end {
                return end;
            }
            if self.is_to_be_replaced() {
                return End::Replace;
            }
            let Woken { now, wake, absent } = self.sources.next(self.deadline(), self.workers.len()).await;
            self.now = now;
            self.was_absent(absent);
            self.workers.begin_turn();
            match wake {
                Wake::Descriptors(tokens) => self.serve(tokens),
                Wake::Command(command) => self.request(command),
                Wake::TaskResult(result) => self.take_result(result),
                Wake::Time => {}
            }
            self.run_due();
            // The front ends run on this thread, too.
            tokio::task::yield_now().await;
        }
    }
}
