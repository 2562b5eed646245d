//! The start of a master that goes on from an earlier program or a dead master.
//!
//! Law: the master never exits because of the state that it finds. With a state that cannot be used it starts a new generation on
//! the same sockets, beside the workers that it finds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::replace::Left;
use super::restore::{self, Saved};
use super::unknown_workers::UnknownWorkers;
use super::{listeners, lost_sockets, store::Store};
use crate::control::listen::{Control, Parts};
use crate::control::paths::{self, Env};
use crate::control::{bound, varlink};
use crate::master::fronts;
use crate::master::listeners::sockets::{Inherited, Listener};
use crate::master::log::catalog;
use crate::master::log::journal::{Journal, Level, Record, Target};
use crate::master::origin::{First, Origin, Start};
use crate::master::output::{Mode, RelayState};
use crate::master::releases::prepare::{self, InstanceContext, Release};
use crate::master::signals::SIGNALS;
use crate::master::state::fds::Incoming;
use crate::master::state::{self, CONTROL, LOCK, READING_PREFIX, VARLINK};
use crate::master::status::troubles::{self, Troubles};
use crate::master::tasks::Job;
use crate::pool::{GenerationId, Pool};
use crate::stored_name;
use crate::sys::process;
use crate::sys::signals::SignalFd;
use crate::sys::spawn::ErrorPipe;

/// Pause between watchdog pings, and the number of pauses before a configuration that cannot be used is read again.
const AGAIN: (Duration, u32) = (Duration::from_millis(250), 20);
/// How long systemd is asked to wait for the start each time that a configuration was read; longer than all pauses together, so that the
/// start does not time out while workers serve.
const START_WAITS: Duration = Duration::from_secs(60);

/// Why a master cannot go on.
pub enum NoOrigin {
    /// A signal told the master to end before it could begin.
    ToldToEnd,
    /// An error, as a sentence.
    Failed(String),
}

impl From<String> for NoOrigin {
    fn from(why: String) -> NoOrigin {
        NoOrigin::Failed(why)
    }
}

/// Goes on from the state of the earlier program of this process.
///
/// # Errors
/// The master was told to stop before it could begin.
pub fn go_on(left: Left, start: &Start<'_>) -> Result<Origin, NoOrigin> {
    let Left { state, mut fds, names } = left;
    let listeners =
        carried_listeners(state.as_ref().map(|(state, _)| state.listeners.as_slice()).unwrap_or_default(), &names, &mut fds);
    match state {
        Ok((mut state, version)) => {
            set_log(&state.log, start.journal);
            fds.now_held(std::mem::take(&mut state.stored));
            // The first program's value: this program would find the value that the earlier one had set.
            crate::sys::signals::sigpipe_was(state.sigpipe_ignored);
            let output = std::mem::take(&mut state.output);
            match whole(state, listeners.clone(), &mut fds) {
                Ok(mut origin) => {
                    say_upgraded(start.journal, &version);
                    origin.mode = match (output.journal, output.native) {
                        (true, _) => Mode::Journal,
                        (false, true) => Mode::Native,
                        (false, false) => Mode::Relay,
                    };
                    origin.output = restore::output(output, &mut fds);
                    origin.fds = fds;
                    Ok(origin)
                }
                Err(why) => {
                    let output = restore::output(output, &mut fds);
                    makeshift(&why, listeners, output, fds, start)
                }
            }
        }
        Err(why) => makeshift(&why, listeners, RelayState::default(), fds, start),
    }
}

/// The output mode for new workers.
fn mode(start: &Start<'_>) -> Mode {
    Mode::of(start.journal.target(), crate::sys::credentials::own_uid())
}

/// The output mode for workers that write to pipes of the master.
fn relay_mode(output: &state::Output) -> Mode {
    if output.native { Mode::Native } else { Mode::Relay }
}

fn say_upgraded(journal: &Journal, before: &str) {
    let message = format!("upgraded in place from version {before} to {}", env!("CARGO_PKG_VERSION"));
    journal.log(Record { id: catalog::UPGRADED, ..Record::new(Level::Info, message) });
}

fn set_log(log: &state::Log, journal: &Journal) {
    if let Ok(level) = log.level.parse() {
        journal.set_level(level);
    }
    journal.set_target(if log.journal { Target::Journal } else { Target::Stderr });
}

/// Goes on from the descriptors that systemd stored for a master that died.
///
/// # Errors
/// The master was told to stop before it could begin, or another master runs.
pub fn after_death(inherited: Inherited, start: &Start<'_>) -> Result<Origin, NoOrigin> {
    // Bundles have more descriptors than those that systemd passed within the limit.
    let nofile = process::raise_nofile().ok();
    let mut fds = Incoming::by_name(inherited.stored, stored_name::PREFIX);
    let read = Store::read(&fds).map(|document| document.state);
    let messages = Store::messages(&fds);
    let places = Env::of_process();
    let directory = paths::runtime_directory(start.name, &places);
    let control = Control::bind(&directory, &places).map_err(|error| error.to_string())?;
    let restored = read.and_then(|mut state| {
        let pool = restore::pool(&mut state)?;
        let found = listeners::find(&state.listeners, &inherited.listeners, &mut fds);
        let releases = releases(&mut state, &found.listeners, &mut fds)?;
        Ok((state, pool, found, releases))
    });
    let (state, pool, found, releases) = match restored {
        Ok(restored) => restored,
        Err(why) => {
            let unknown_workers = UnknownWorkers::find(&mut fds);
            // Keep the reading ends open: a worker that writes to a pipe without a reader is killed by SIGPIPE.
            std::mem::forget(fds.take_all(READING_PREFIX));
            let found = listeners::without_state(inherited.listeners, start.name, &mut fds);
            let troubles = troubles(&found, start);
            let origin = makeshift_with(control, nofile, &why, found.listeners, RelayState::default(), unknown_workers, start)?;
            return Ok(Origin { fds, troubles, ..origin });
        }
    };
    let troubles = troubles(&found, start);
    let context = InstanceContext {
        instance: start.name.into(),
        control: control.path(),
        listeners: found.listeners,
        nofile: nofile.unwrap_or(state.nofile),
        die_with_parent: None,
    };
    let config = releases.get(&pool.generation()).map(|release| release.config.clone());
    let output = restore::outlived_output(&state, &pool, &fds);
    let mode = if output.pipes.is_empty() { mode(start) } else { relay_mode(&state.output) };
    Ok(Origin {
        working_directory: start.source.directory.clone(),
        context,
        control,
        directory,
        program: super::replace::program(),
        started_at: state.started_at.unwrap_or_else(SystemTime::now),
        status: config.and_then(|config| fronts::bind_status(&config, start.journal)),
        status_address: address_of(&releases, &pool),
        errors: ErrorPipe::new().map_err(|error| error.to_string())?,
        mode,
        output,
        fds,
        last_requester: state.last_requester,
        releases,
        troubles,
        first: First::GoOn(Box::new(Saved { pool, state, messages, died: true, bound_anew: found.bound_anew })),
    })
}

/// The troubles with the listening sockets; logs them, too.
fn troubles(found: &listeners::Found, start: &Start<'_>) -> Troubles {
    let mut troubles = Troubles::default();
    let detached = found.detached_sentence(start.name).map(|sentence| (troubles::DETACHED, sentence));
    let missing = found.missing_sentence(start.name).map(|sentence| (troubles::MISSING, sentence));
    for (kind, sentence) in detached.into_iter().chain(missing) {
        start.journal.log(Record::new(Level::Error, format!("degraded: {sentence}")));
        troubles.begin(kind, sentence);
    }
    troubles
}

/// The `status.listen` of the committed generation.
fn address_of(releases: &HashMap<GenerationId, Release>, pool: &Pool) -> Option<String> {
    releases.get(&pool.generation())?.config.status.listen.clone()
}

fn releases(
    state: &mut state::State,
    listeners: &[Listener],
    fds: &mut Incoming,
) -> Result<HashMap<GenerationId, Release>, String> {
    let mut releases = HashMap::new();
    for (number, saved) in std::mem::take(&mut state.releases) {
        let sockets = prepare::listeners(&saved.config, listeners).into_iter().map(|listener| listener.fd.clone()).collect();
        let release = restore::release(saved, sockets, state.die_with_parent, fds);
        releases.insert(number, release.map_err(|why| format!("the release of generation {number}: {why}"))?);
    }
    Ok(releases)
}

/// The listening sockets, from the state or else from the environment.
fn carried_listeners(known: &[state::Listener], names: &[String], fds: &mut Incoming) -> Arc<[Listener]> {
    if known.is_empty() {
        let named = names.iter().enumerate();
        return named
            .filter_map(|(index, name)| Some(Listener::of(name.clone(), fds.take(&format!("listener-{index}")).ok()?, true)))
            .collect();
    }
    known.iter().filter_map(|it| Some(Listener::of(it.name.clone(), fds.take(&it.fd).ok()?, it.inherited))).collect()
}

/// Restores the whole state.
fn whole(mut state: state::State, listeners: Arc<[Listener]>, fds: &mut Incoming) -> Result<Origin, String> {
    let pool = restore::pool(&mut state)?;
    if listeners.len() != state.listeners.len() {
        return Err(format!(
            "of {} listening sockets {} did not come",
            state.listeners.len(),
            state.listeners.len() - listeners.len()
        ));
    }
    let releases = releases(&mut state, &listeners, fds)?;
    let directory = state.control.directory.clone().into_path();
    let control = control(&state.control, fds)?;
    let errors = restore::errors(state.errors.take(), fds).map_err(|error| error.to_string())?;
    let context = InstanceContext {
        instance: state.instance.as_str().into(),
        control: control.path(),
        listeners,
        nofile: state.nofile,
        die_with_parent: state.die_with_parent,
    };
    Ok(Origin {
        context,
        working_directory: state.directory.clone().into_path(),
        control,
        directory,
        program: state.program.clone().into_path(),
        started_at: state.started_at.unwrap_or_else(SystemTime::now),
        status: state.status.as_ref().and_then(|status| fds.take(status).ok()),
        status_address: state.status_address.clone(),
        errors,
        mode: Mode::Relay,
        output: RelayState::default(),
        fds: Incoming::default(),
        last_requester: state.last_requester,
        releases,
        troubles: Troubles::from_saved(std::mem::take(&mut state.troubles)),
        first: First::GoOn(Box::new(Saved { pool, state, messages: Vec::new(), died: false, bound_anew: Vec::new() })),
    })
}

fn control(saved: &state::Control, fds: &mut Incoming) -> Result<Control, String> {
    let taken = fds.take(&saved.listener).and_then(|listener| Ok((listener, fds.take(&saved.lock)?)));
    let (listener, lock) = taken.map_err(|error| error.to_string())?;
    let directory = saved.directory.clone().into_path();
    // Without it the socket is bound anew.
    let varlink = saved.varlink.as_ref().and_then(|(name, identity)| Some((fds.take(name).ok()?, *identity)));
    Ok(Control::from_parts(Parts { directory, made: saved.made, identity: saved.identity, listener, varlink, lock }))
}

/// Starts with the control socket and the listening sockets only, without a usable state.
fn makeshift(
    why: &str,
    listeners: Arc<[Listener]>,
    output: RelayState,
    mut fds: Incoming,
    start: &Start<'_>,
) -> Result<Origin, NoOrigin> {
    let places = Env::of_process();
    let directory = paths::runtime_directory(start.name, &places);
    let control = match (fds.take(CONTROL), fds.take(LOCK)) {
        (Ok(listener), Ok(lock)) => {
            let identity_of = |name| bound::identity(&directory.join(name)).unwrap_or_default();
            let identity = identity_of(paths::SOCKET);
            let varlink = fds.take(VARLINK).ok().map(|socket| (socket, identity_of(varlink::SOCKET)));
            let made = std::env::var_os("RUNTIME_DIRECTORY").is_none();
            Control::from_parts(Parts { directory, made, identity, listener, varlink, lock })
        }
        _ => Control::bind(&directory, &places).map_err(|error| error.to_string())?,
    };
    let unknown_workers = UnknownWorkers::find(&mut fds);
    // Keep the other descriptors open: a worker that writes to a pipe without a reader is killed by SIGPIPE.
    let held = fds.held().clone();
    std::mem::forget(fds);
    let nofile = process::raise_nofile().ok();
    let mut origin = makeshift_with(control, nofile, why, listeners, output, unknown_workers, start)?;
    origin.fds.now_held(held);
    Ok(origin)
}

fn makeshift_with(
    control: Control,
    nofile: Option<(u64, u64)>,
    why: &str,
    listeners: Arc<[Listener]>,
    output: RelayState,
    unknown_workers: UnknownWorkers,
    start: &Start<'_>,
) -> Result<Origin, NoOrigin> {
    let reason = format!("the state of the earlier program cannot be used: {why}");
    start.journal.log(Record {
        id: catalog::UPGRADE_REFUSED,
        reason: Some(reason.clone()),
        ..Record::new(Level::Error, format!("{reason}; its workers serve on until a new generation is ready"))
    });
    let directory = paths::runtime_directory(start.name, &Env::of_process());
    let context = InstanceContext {
        instance: start.name.into(),
        control: control.path(),
        listeners,
        nofile: nofile.unwrap_or((1024, 4096)),
        die_with_parent: start.die_with_parent(),
    };
    let release = patiently(&context, &unknown_workers, start)?;
    Ok(Origin {
        working_directory: start.source.directory.clone(),
        context,
        control,
        directory,
        program: super::replace::program(),
        started_at: SystemTime::now(),
        status: fronts::bind_status(&release.config, start.journal),
        status_address: release.config.status.listen.clone(),
        errors: ErrorPipe::new().map_err(|error| error.to_string())?,
        mode: mode(start),
        output,
        fds: Incoming::default(),
        last_requester: 0,
        releases: HashMap::new(),
        troubles: Troubles::default(),
        first: First::Start(release, unknown_workers, None),
    })
}

/// Makes a release, and retries until the configuration is usable and the release has the sockets on which workers accept. The master
/// does not give up, because workers are serving.
fn patiently(context: &InstanceContext, unknown_workers: &UnknownWorkers, start: &Start<'_>) -> Result<Arc<Release>, NoOrigin> {
    let signals = SignalFd::new(&SIGNALS).map_err(|error| error.to_string())?;
    loop {
        let job = Job::unwatched().map_err(|error| error.to_string())?;
        let why = match prepare::prepare(start.source, context, None, crate::pool::Purpose::Reload, &job) {
            Ok(prepared) if prepared.release.plan.listeners.is_empty() && lost_sockets::any_listens(unknown_workers.pids()) => {
                format!(
                    "no listening socket is here, and only the workers of the earlier program hold one; they serve on. To start anew: {}",
                    listeners::hint(start.name)
                )
            }
            Ok(prepared) => return Ok(prepared.release),
            Err(why) => why.in_full(),
        };
        let why = format!("no new generation can be started: {why}");
        start.systemd.start_waits(&why, START_WAITS);
        start.journal.log(Record::new(Level::Error, why));
        for _ in 0..AGAIN.1 {
            start.systemd.ping();
            // SIGUSR1: a restart with `survive.conf`.
            if let Some(libc::SIGTERM | libc::SIGINT | libc::SIGQUIT | libc::SIGUSR1) = signals.read() {
                start.journal.log(Record::new(Level::Info, "told to end before a generation could be started"));
                return Err(NoOrigin::ToldToEnd);
            }
            std::thread::sleep(AGAIN.0);
        }
    }
}
