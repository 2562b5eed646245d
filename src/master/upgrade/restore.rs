//! Makes a running master from a saved state.
//!
//! Law: every step that can fail comes before any step that workers could notice. A worker of which a part is missing is kept
//! without that part; a worker whose process is not known any more counts as exited with an unknown cause.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::api::RequesterId;
use crate::master::Master;
use crate::master::log::journal::{Level, Record};
use crate::master::output::{Pipe, RelayState};
use crate::master::pool_clock;
use crate::master::releases::prepare::Release;
use crate::master::releases::script::ScriptCopy;
use crate::master::state::fds::Incoming;
use crate::master::state::{self, Bytes, State};
use crate::pool::{self, Action, Event, ExitCause, Phase, Pool, StartMode, WorkerId};
use crate::sys::fd::{RESERVED_FD_BASE, dup_high};
use crate::sys::program;
use crate::sys::program::Start;
use crate::sys::spawn::{ErrorPipe, Identity, Plan, Program};

/// Checks that a pool and its releases can be made from a state: makes them and drops them.
///
/// # Errors
/// A sentence that says what is wrong with the state.
pub fn can_restore(mut state: State) -> Result<(), String> {
    if let Some(number) = state.workers.values().map(|worker| worker.generation).find(|it| !state.releases.contains_key(it)) {
        return Err(format!("the release of generation {number} is missing in the state"));
    }
    for release in std::mem::take(&mut state.releases).into_values() {
        strings(release.argv)?;
        strings(release.env)?;
    }
    pool(&mut state).map(|_| ())
}

/// Restores a release as it was pinned.
pub fn release(
    saved: state::Release,
    listeners: Vec<Arc<OwnedFd>>,
    die_with_parent: Option<i32>,
    fds: &mut Incoming,
) -> Result<Release, String> {
    let failed = |error: std::io::Error| error.to_string();
    let path = saved.path.into_path();
    let mut program = pinned(&path, saved.identity, &saved.program, saved.script.as_ref(), fds)?;
    let starts = saved.starts.into_iter().map(|(path, same, execute, head)| {
        Ok(Start { path: path.into_c_string()?, same, execute: execute.into_c_string()?, head: head.map(strings).transpose()? })
    });
    program.set_starts(starts.collect::<Result<Vec<_>, String>>()?);
    let plan = Plan {
        program,
        argv: strings(saved.argv)?,
        env: strings(saved.env)?,
        directory: Arc::new(fds.take(&saved.directory).map_err(failed)?),
        listeners,
        identity: saved.user.map(|(uid, gid, groups)| Identity { uid, gid, groups }),
        nofile: saved.nofile,
        die_with_parent,
    };
    let preload = match saved.preload {
        Some(state::Preload { path, program, script, identity, argv }) => {
            let program = pinned(&path.into_path(), identity, &program, script.as_ref(), fds)?;
            Some(plan.for_preload(program, strings(argv)?))
        }
        None => None,
    };
    Ok(Release {
        config: Arc::new(saved.config),
        variables: saved.variables,
        plan,
        preload,
        script: saved.script_copy.map(|directory| ScriptCopy::from_path(directory.into_path())),
        pinned_at: saved.pinned_at,
    })
}

/// A program as it was pinned.
fn pinned(
    path: &Path,
    identity: (u64, u64, i64, i64, i64),
    program: &str,
    script: Option<&state::Name>,
    fds: &mut Incoming,
) -> Result<Program, String> {
    let (device, inode, size, seconds, nanoseconds) = identity;
    let identity = program::Identity { device, inode, size, modified: (seconds, nanoseconds) };
    let script = script.map(|script| fds.take(script)).transpose().map_err(|error| error.to_string())?;
    let program = fds.take(program).and_then(|file| Program::from_parts(path, identity, file, script));
    // A program that this process may not read is not in the store: pin it again by its path.
    let program =
        program.or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Program::pin(path) } else { Err(error) });
    program.map_err(|error| format!("the program {}: {error}", path.display()))
}

fn strings(saved: Vec<Bytes>) -> Result<Vec<std::ffi::CString>, String> {
    saved.into_iter().map(Bytes::into_c_string).collect()
}

/// Restores the pipe that reports failed starts, or makes a new one when it was not received.
pub fn errors(saved: Option<(String, String)>, fds: &mut Incoming) -> std::io::Result<ErrorPipe> {
    match saved.and_then(|(read, write)| Some((fds.take(&read).ok()?, fds.take(&write).ok()?))) {
        Some((read, write)) => Ok(ErrorPipe::from_ends(read, write)),
        None => ErrorPipe::new(),
    }
}

/// Restores the output of the workers.
pub fn output(saved: state::Output, fds: &mut Incoming) -> RelayState {
    let lines = |lines: Vec<Bytes>| lines.into_iter().map(Bytes::into_vec).collect::<Vec<_>>();
    let stream =
        |(id, identifier, copy): (WorkerId, String, Option<String>)| (id, identifier, copy.and_then(|it| fds.take(&it).ok()));
    RelayState {
        streams: saved.streams.into_iter().map(stream).collect(),
        pipes: saved
            .pipes
            .into_iter()
            .filter_map(|pipe| {
                let fd = fds.take(&pipe.fd).ok()?;
                let (worker, sink, label, closing) = (pipe.worker, pipe.sink, pipe.label, pipe.closing);
                Some(Pipe { worker, sink, fd, label, line: pipe.line.into_vec(), closing })
            })
            .collect(),
        pending: lines(saved.pending),
        tails: saved.tails.into_iter().map(|(id, tail)| (id, lines(tail))).collect(),
    }
}

/// The output pipes of workers that outlived their master.
pub fn outlived_output(state: &State, pool: &Pool, fds: &Incoming) -> RelayState {
    let mut pipes = Vec::new();
    for (id, process) in &state.workers {
        let Some(slot) = pool.worker(*id).map(|worker| worker.slot) else { continue };
        for (sink, name) in process.output.iter().enumerate() {
            let Some(Ok(fd)) = fds.get(name).map(OwnedFd::try_clone) else { continue };
            let (fd, label) = (dup_high(fd, RESERVED_FD_BASE), format!("{}/{slot}", state.instance));
            pipes.push(Pipe { worker: *id, sink, fd, label, line: Vec::new(), closing: false });
        }
    }
    RelayState { pipes, ..RelayState::default() }
}

/// The parts of a state that are put into a master once it is made.
pub struct Saved {
    /// Workers, generations, deadlines.
    pub pool: Pool,
    /// The state without the parts that were taken out before.
    pub state: State,
    /// Messages of workers that are not part of the state yet.
    pub messages: Vec<(WorkerId, Vec<u8>)>,
    /// Whether the earlier master died, so that there was a time without a master.
    pub died: bool,
    /// Addresses that systemd has bound anew: workers that were started before get no connections there.
    pub bound_anew: Vec<String>,
}

/// Takes the pool out of the state.
///
/// # Errors
/// There is no pool, or it contradicts itself.
pub fn pool(state: &mut State) -> Result<Pool, String> {
    let pool = state.pool.take().ok_or("there is no pool in the state")?;
    pool.resume(pool_clock::time(Instant::now()))
}

impl Master {
    /// Goes on from the state.
    pub(in crate::master) fn restore(&mut self, saved: Saved, fds: &mut Incoming) {
        let Saved { pool, mut state, messages, died, bound_anew } = saved;
        self.status.resume(&mut state);
        self.pool = pool;
        // A master that was started again after one died has its own terminal.
        if let Some(terminal) = state.terminal.filter(|_| !died) {
            self.terminal = terminal;
        }
        self.workers.resume(state.signalled, state.spawns);
        let mut groups = self.workers.strays();
        for (id, saved) in state.workers {
            let found = groups.iter().position(|stray| stray.worker == id);
            let group = found.map(|at| groups.swap_remove(at).group).filter(|_| saved.group);
            let release = self.releases.get(saved.generation).cloned();
            if let Err(why) = self.workers.adopt(id, saved, group, release, fds, self.now) {
                self.log.warn(format!("worker {id} is given up: {why}"));
                self.events.push(Event::Exited { worker: id, how: ExitCause::Unknown, left: false });
            }
        }
        // Workers that were spawned just before the master died, and are not in the state. They may have accepted connections.
        let strays: Vec<WorkerId> = groups.iter().map(|stray| stray.worker).collect();
        self.unknown_workers.add(&groups);
        self.drain_orphans();
        if self.unknown_workers.is_empty() {
            self.workers.remove_strays();
        }
        self.listeners.resume(fds, &state.queues, &self.pool, self.now);
        let unknown: Vec<_> = self.pool.workers().map(|(id, _)| id).filter(|id| !self.is_known(*id)).collect();
        for preload in self.pool.preload_processes() {
            // The workers that this preload process forks would be no children of this process, or its socket did not come.
            if died || self.workers.fork_socket(preload).is_none() {
                self.events.push(Event::PreloadOutlived(preload));
            }
        }
        for worker in unknown {
            if let StartMode::Fork(_) = self.pool.start_mode(worker) {
                self.events.push(Event::SpawnFailed(worker, "not forked: the master ended meanwhile".to_owned()));
                continue;
            }
            // The spawn was decided, and not done when the master died.
            if let Some(unborn) =
                self.pool.worker(worker).filter(|unborn| died && unborn.pid.is_none() && !strays.contains(&worker))
            {
                self.workers.add_to_spawn(worker, unborn.slot, unborn.generation);
                continue;
            }
            self.events.push(Event::Exited { worker, how: ExitCause::Unknown, left: false });
        }
        self.releases.restore_commits(std::mem::take(&mut state.commits));
        // A master that died between two writes of its state may leave releases that its pool has given up.
        self.releases.keep_only(|number| self.pool.refers_to(number));
        self.systemd.still_to_say(state.unsaid);
        if let Some(announce) = state.reload_asked {
            self.begin_reload(None, announce);
        }
        // Catch up on changes while no master ran: removed files, emptied groups, exited orphans.
        if let Err(error) = self.workers.restore_directory() {
            self.log.warn(format!("the runtime directory cannot be made again: {error}"));
        }
        self.workers.look_for_cleared(&mut self.events);
        self.workers.children(&mut self.events);
        for (worker, said) in messages {
            self.workers.replay(worker, &said, &mut self.events);
        }
        if died {
            self.after_death(state.waiting);
            self.replace_unreached(&bound_anew);
        }
    }

    /// Reads all notify sockets. Messages that were sent while no master ran count before any deadline that has passed meanwhile.
    pub(in crate::master) fn read_all_notifications(&mut self) {
        for worker in self.workers.ids() {
            self.with_workers(|workers, now, keep, events| workers.read_all(worker, now, keep, events));
        }
    }

    /// Steps of a master that goes on after another one died.
    fn after_death(&mut self, waited: Vec<RequesterId>) {
        // The connection of each waiting requester has ended with the dead master.
        waited.into_iter().map(Event::RequesterGone).for_each(|event| self.events.push(event));
        // The private sockets of a probed worker went with the master that died.
        if let Some(worker) = self.pool.asked_worker() {
            self.events.push(Event::Probed(worker, Err("the master died meanwhile".into())));
        }
        self.events.push(Event::MasterDied);
        // Whether the stop signal of a decided drain was sent is not known, so send it again.
        let waits: Vec<WorkerId> = self.pool.draining_queues().collect();
        let draining = self.pool.workers().filter(|(id, worker)| worker.phase == Phase::Draining && !waits.contains(id));
        let draining = draining.map(|(id, _)| id);
        for worker in draining.collect::<Vec<_>>() {
            self.apply(Action::Stop(worker));
        }
        let left = self.workers.len();
        // A killed and a restarted master leave the same traces, so the message does not say which it was.
        let message = match self.pool.is_paused() {
            true => "the instance was paused when the master before this one ended, and stays so".to_owned(),
            false if self.pool.wants_no_workers() => {
                "the instance was idle when the master before this one ended, and stays so".to_owned()
            }
            false => format!("{} of the master before this one found again: they serve on", pool::workers(left)),
        };
        self.log.record(Record::new(Level::Warning, message));
        if self.pool.announced() {
            self.systemd.status(&self.status.line(&self.pool), true, self.now);
            self.systemd.ready(self.now);
        }
    }

    /// Replaces all workers, one after the other, because systemd has bound their listening sockets anew.
    fn replace_unreached(&mut self, bound_anew: &[String]) {
        if bound_anew.is_empty() {
            return;
        }
        let addresses = bound_anew.join(", ");
        self.log
            .record(Record::new(Level::Warning, format!("systemd has bound {addresses} anew: the workers there are replaced")));
        for worker in self.workers.ids() {
            self.events.push(Event::RecycleDue(worker, crate::pool::RecycleReason::Socket));
        }
    }

    fn is_known(&self, worker: WorkerId) -> bool {
        self.workers.get(worker).is_some() || self.workers.is_to_spawn(worker) || self.pool.is_held(worker)
    }
}
