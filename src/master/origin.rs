//! The origin of a master: a configuration, or the state of an earlier program.

use crate::api::RequesterId;
use crate::control::listen::Control;
use crate::master::log::journal::Journal;
use crate::master::output::{Mode, RelayState};
use crate::master::releases::prepare::{InstanceContext, Release, Source};
use crate::master::service_manager::systemd::Systemd;
use crate::master::state::fds::Incoming;
use crate::master::status::troubles::Troubles;
use crate::master::upgrade::restore;
use crate::master::upgrade::unknown_workers::UnknownWorkers;
use crate::pool::GenerationId;
use crate::sys::spawn::ErrorPipe;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

/// Inputs of every start: of the first one of an instance, and of one that goes on from an earlier master.
pub(super) struct Start<'a> {
    pub name: &'a str,
    pub source: &'a Source,
    pub journal: &'a Journal,
    pub systemd: &'a Systemd,
    pub under_systemd: bool,
}

impl Start<'_> {
    /// The signal that workers get when the master dies: SIGTERM, so that they drain. `None` under systemd, which looks after them.
    pub fn die_with_parent(&self) -> Option<i32> {
        (!self.under_systemd).then_some(libc::SIGTERM)
    }
}

/// The state that a master begins with.
pub(super) struct Origin {
    pub context: InstanceContext,
    /// See [`Source::directory`].
    pub working_directory: PathBuf,
    pub control: Control,
    /// The runtime directory.
    pub directory: PathBuf,
    pub program: PathBuf,
    pub started_at: SystemTime,
    /// The socket of `status.listen`.
    pub status: Option<OwnedFd>,
    /// The address of `status`, as the configuration writes it.
    pub status_address: Option<String>,
    pub errors: ErrorPipe,
    pub mode: Mode,
    /// Output of workers that an earlier program had not written yet.
    pub output: RelayState,
    /// The other descriptors of that earlier program.
    pub fds: Incoming,
    /// The last requester number that the earlier program gave out.
    pub last_requester: RequesterId,
    pub releases: HashMap<GenerationId, Release>,
    pub troubles: Troubles,
    pub first: First,
}

/// The first task of a master.
pub(super) enum First {
    /// Probe this release, and end.
    Probe(Arc<Release>),
    /// Start the first generation from this release, beside workers of an earlier master. With a reason it is the last good release,
    /// because the one on disk could not be prepared.
    Start(Arc<Release>, UnknownWorkers, Option<String>),
    /// Go on from the state of an earlier program.
    GoOn(Box<restore::Saved>),
}
