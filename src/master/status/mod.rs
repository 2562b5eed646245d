//! The published state: the summary, changes, the status document.
//!
//! | module | owns |
//! |---|---|
//! | `publish` | the summary and changes; publishes them at the end of a turn |
//! | `history` | failures, reloads, recycled workers, totals of workers that have exited |
//! | `hello` | what the master prints when it serves |
//! | `pending_changes` | changes that wait for the summary of their turn |
//! | `document` | composes the status document, on another thread |
//! | `status_cache` | the status document, kept as long as it may be given again, and the requesters that wait for one |
//! | `status_listener` | the socket of `status.listen` |
//! | `release_path` | whether the configured paths still lead to the release that runs |
//! | `reader_rules` | which readers see details |
//! | `conditions` | parts of the configuration that a reload could not apply |
//! | `accept_watch` | watches whether ready workers accept connections |
//! | `accepting` | what a look at the ready workers found |
//! | `scale` | the number of workers in the status document |
//! | `waiting` | connections that wait while no worker serves |
//! | `troubles` | problems that degrade the instance although its workers are well |

pub(in crate::master) mod accept_watch;
pub(in crate::master) mod accepting;
mod conditions;
pub(in crate::master) mod document;
pub(in crate::master) mod hello;
pub(in crate::master) mod history;
mod pending_changes;
pub(in crate::master) mod publish;
pub(in crate::master) mod reader_rules;
pub(in crate::master) mod release_path;
pub(in crate::master) mod scale;
pub(in crate::master) mod status_cache;
pub(in crate::master) mod status_listener;
pub(in crate::master) mod troubles;
pub(in crate::master) mod waiting;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::watch;

use self::conditions::Conditions;
use self::history::History;
use self::pending_changes::PendingChanges;
use self::release_path::PathLook;
use self::status_cache::StatusCache;
use self::status_listener::{StatusChange, StatusListener};
use self::troubles::Troubles;
use self::waiting::Waiting;
use crate::api::changes::ChangeFeed;
use crate::api::{Handle, Summary};
use crate::master::idle_trim::IdleTrim;
use crate::master::log::Log;
use crate::master::log::journal::{Level, Record};
use crate::master::output::Outputs;
use crate::master::state;
use crate::master::state::fds::Outgoing;
use crate::master::task_result::TaskResults;
use crate::pool::{GenerationId, PoolState, Scaled, WorkerId};
use crate::status::keep::Clocks;
use crate::status::kernel::Surveyor;

/// Values of the instance and of the master that a publisher needs.
pub(in crate::master) struct Parts {
    pub instance: Arc<str>,
    pub config_file: Option<PathBuf>,
    pub started_at: SystemTime,
    pub handle: Handle,
    pub summary: watch::Sender<Summary>,
    pub feed: ChangeFeed,
    pub listener: StatusListener,
    pub troubles: Troubles,
    pub outputs: Outputs,
    pub log: Log,
    /// Where tasks send their results.
    pub results: TaskResults,
}

/// All that front ends and systemd are told.
pub(in crate::master) struct StatusPublisher {
    instance: Arc<str>,
    config_file: Option<PathBuf>,
    started_at: SystemTime,
    handle: Handle,
    summary: watch::Sender<Summary>,
    feed: ChangeFeed,
    changes: PendingChanges,
    /// More than a count has changed, so systemd gets the status line at once.
    at_once: bool,
    /// The state and the number of ready workers published last. Another state or more ready workers are progress.
    state: PoolState,
    is_paused: bool,
    is_at_max: bool,
    ready: u32,
    history: History,
    /// The last change of the number of workers, and its time.
    last_scaled: Option<(Scaled, SystemTime)>,
    conditions: Conditions,
    troubles: Troubles,
    /// The connections that wait while the instance is paused.
    waiting: Option<Waiting>,
    /// Whether the log has the warning of a queue that is nearly full, in this pause.
    is_warned: bool,
    /// Whether each ready worker accepts, as it was seen last.
    accepting: BTreeMap<WorkerId, bool>,
    listener: StatusListener,
    /// Asks the kernel for figures, and remembers which connection belongs to which worker.
    surveyor: Surveyor,
    /// The cached status document, and the requesters that wait for one.
    cache: StatusCache,
    /// Gives memory back to the kernel when the master is idle.
    idle_trim: IdleTrim,
    path_look: PathLook,
    outputs: Outputs,
    log: Log,
    results: TaskResults,
}

impl StatusPublisher {
    /// A publisher that has published nothing. Call it within a tokio runtime.
    pub fn new(parts: Parts) -> StatusPublisher {
        let Parts { instance, config_file, started_at, handle, summary, feed, listener, troubles, outputs, log, results } = parts;
        StatusPublisher {
            instance,
            config_file,
            started_at,
            idle_trim: IdleTrim::new(handle.summary()),
            handle,
            summary,
            feed,
            changes: PendingChanges::default(),
            at_once: true,
            state: PoolState::Starting,
            is_paused: false,
            is_at_max: false,
            ready: 0,
            history: History::default(),
            last_scaled: None,
            conditions: Conditions::default(),
            troubles,
            waiting: None,
            is_warned: false,
            accepting: BTreeMap::new(),
            listener,
            surveyor: Surveyor::keeps(Arc::new(Clocks)),
            cache: StatusCache::new(Arc::new(Clocks)),
            path_look: PathLook::default(),
            outputs,
            log,
            results,
        }
    }

    /// Something has changed, or may have: the cached document is not given again.
    pub fn touch(&mut self) {
        self.cache.touch();
    }

    /// Why no new generation may be committed; `None` if one may.
    pub fn refusal(&self) -> Option<String> {
        self.troubles.refusal()
    }

    /// The address at which the status is served.
    pub fn address(&self) -> Option<&str> {
        self.listener.address()
    }

    /// Keeps what a prepared reload changes here until its commit, and its warnings for its requester.
    pub fn prepared(&mut self, number: GenerationId, change: Option<StatusChange>, warnings: Vec<String>) {
        self.conditions.prepared(number, warnings);
        self.listener.prepared(number, change);
    }

    /// The warnings for the requester of this reload.
    pub fn warnings(&self, number: GenerationId) -> Vec<String> {
        self.conditions.warnings(number).to_vec()
    }

    /// Drops what a failed reload would have changed.
    pub fn withdrawn(&mut self) {
        self.listener.withdrawn();
    }

    /// Serves the address of a committed reload.
    pub fn committed(&mut self, number: GenerationId) {
        if let Err(error) = self.listener.committed(number) {
            self.log.record(Record::new(Level::Error, format!("status.listen: {error}")));
        }
    }

    /// Tells from now on the parts of the committed configuration that are not applied: `wanted`, its `status.listen`, if that is not
    /// served, and others.
    pub fn keep_conditions(&mut self, wanted: Option<&str>, others: Option<String>) {
        let served = self.listener.address();
        let address = (wanted != served).then(|| match (wanted, served) {
            (Some(wanted), Some(served)) => format!("status.listen = {wanted:?} is not served, {served:?} still is"),
            (Some(wanted), None) => format!("status.listen = {wanted:?} is not served"),
            (None, _) => "status.listen is still served".to_owned(),
        });
        self.conditions.committed(address.into_iter().chain(others).collect());
    }

    /// When [`Self::on_deadline`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.cache.deadline()
    }

    /// Gives memory back when nobody has requested a document for a while.
    pub fn on_deadline(&mut self, now: Instant) {
        if let Some(forgotten) = self.cache.forget(now) {
            self.surveyor.forget();
            self.idle_trim.tidy(forgotten);
        }
    }

    /// Adds the publisher's part to the state. The descriptors are lent: this master may have to go on.
    pub fn save<'a>(&'a self, state: &mut state::State, fds: &mut Outgoing<'a>) {
        state.started_at = Some(self.started_at);
        state.status = self.listener.socket().map(|status| fds.lend("status".to_owned(), status));
        state.status_address = self.listener.address().map(str::to_owned);
        state.last_requester = self.handle.last_requester();
        state.troubles = self.troubles.saved();
        self.history.save(state);
    }

    /// Takes the history out of the state of an earlier program.
    pub fn resume(&mut self, state: &mut state::State) {
        self.history.resume(state);
    }
}

#[cfg(test)]
mod tests;
