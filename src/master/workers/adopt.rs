//! Passes the workers' processes to the next program of the master, and takes them over from an earlier one.
//!
//! Law: a worker of which a part is missing is kept without that part; a worker whose process is not known any more is given up.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::master::releases::prepare::Release;
use crate::master::state;
use crate::master::state::Name;
use crate::master::state::READING_PREFIX;
use crate::master::state::fds::{Incoming, Outgoing};
use crate::master::workers::WorkerSet;
use crate::master::workers::cgroup::{Stray, WorkerGroup};
use crate::master::workers::orphaned::Orphaned;
use crate::master::workers::processes::{Budget, More, Process, Token, owner};
use crate::master::workers::spawn::limits;
use crate::pool::{GenerationId, Slot, WorkerId};
use crate::status::scoreboard::Scoreboard;
use crate::sys::notify::NotifySocket;
use crate::sys::process::PidFd;

impl WorkerSet {
    /// Adds the workers' part to the state. The descriptors are lent: this master may have to go on.
    pub(in crate::master) fn save<'a>(&'a self, state: &mut state::State, fds: &mut Outgoing<'a>) {
        let (read, write) = self.errors.ends();
        state.control = self.runtime_dir.save(fds);
        state.signalled = self.orphaned.signalled();
        state.workers = self.iter().map(|(id, process)| (id, save_process(id, process, self.fork_socket(id), fds))).collect();
        state.spawns = self.to_spawn.iter().copied().collect();
        state.errors = Some((fds.lend("errors-read".to_owned(), read), fds.lend("errors-write".to_owned(), write)));
    }

    /// Puts errors of failed starts that are not handled yet back into the pipe, where the next program finds them.
    pub(in crate::master) fn return_spawn_errors(&mut self) {
        for error in self.errors.drain() {
            self.spawn_errors.insert(error.tag, error);
        }
        for (_, error) in self.spawn_errors.drain() {
            self.errors.put_back(&error);
        }
    }

    /// Takes over the rest of the state of an earlier program, beside the processes: see [`Self::adopt`].
    pub(in crate::master) fn resume(
        &mut self,
        signalled: BTreeMap<WorkerId, Vec<(u32, u64)>>,
        to_spawn: Vec<(WorkerId, Slot, GenerationId)>,
    ) {
        self.orphaned = Orphaned::resume(signalled);
        self.to_spawn.extend(to_spawn);
    }

    /// The control groups that a dead master left.
    pub(in crate::master) fn strays(&mut self) -> Vec<Stray> {
        self.cgroups.as_mut().map_or_else(Vec::new, |cgroups| cgroups.strays())
    }

    /// Kills the processes in control groups that belong to no known worker, and removes these groups.
    pub(in crate::master) fn remove_strays(&mut self) {
        let Some(cgroups) = self.cgroups.as_mut() else { return };
        for stray in cgroups.strays() {
            if !self.processes.contains_key(&stray.worker) && stray.group.kill().is_ok() {
                let _ = cgroups.remove(&stray.group);
            }
        }
    }

    /// Takes over the process of a worker.
    ///
    /// # Errors
    /// The process is not known any more, or cannot be watched.
    pub(in crate::master) fn adopt(
        &mut self,
        id: WorkerId,
        saved: state::Process,
        mut group: Option<WorkerGroup>,
        release: Option<Arc<Release>>,
        fds: &mut Incoming,
        now: Instant,
    ) -> Result<(), String> {
        let release = release.ok_or("its release is missing in the state")?;
        if let Some(group) = &mut group {
            group.apply(&limits(&release));
        }
        let failed = |error: std::io::Error| error.to_string();
        // The descriptor can be missing (a store that was too small, or systemd took two descriptors for one). Then find the
        // process in the worker's own control group.
        let stored = fds.take(&saved.pidfd).map(PidFd::from);
        let pidfd = stored.or_else(|missing| in_group(saved.pid, group.as_ref()).ok_or(missing)).map_err(failed)?;
        let notify = fds.take(&saved.notify).and_then(NotifySocket::from_fd);
        let notify = notify.or_else(|_| NotifySocket::bind(&self.runtime_dir.notify_path(id), owner(&release)));
        let former = saved.former.into_iter().filter_map(|(pid, name)| Some((pid, PidFd::from(fds.take(&name).ok()?))));
        let former: Vec<(u32, PidFd)> = former.collect();
        let output: Vec<OwnedFd> = saved.output.iter().filter_map(|name| fds.take(name).ok()).collect();
        let is_usual = former.is_empty() && output.is_empty() && saved.info.is_empty() && saved.counters.is_empty();
        let more = More { former, output, info: saved.info, counters: saved.counters };
        let process = Process {
            generation: saved.generation,
            release,
            pid: saved.pid,
            pidfd,
            notify: notify.map_err(failed)?,
            notify_again: saved.notify_again.and_then(|name| NotifySocket::from_fd(fds.take(&name).ok()?).ok()),
            group: group.map(Box::new),
            scoreboard: saved.scoreboard.and_then(|name| Scoreboard::from_fd(fds.take(&name).ok()?).ok()).map(Arc::new),
            started_at: saved.started_at.unwrap_or_else(SystemTime::now),
            more: (!is_usual).then(|| Box::new(more)),
            errnos_left: saved.errnos_left,
            budget: Budget::new(now),
            readiness: None,
            left_behind: saved.left_behind,
        };
        if !process.left_behind {
            self.poll.add(&process.pidfd, Token::Exit(id).to_u64()).map_err(failed)?;
        }
        for socket in process.sockets() {
            self.poll.add(socket, Token::Notify(id).to_u64()).map_err(failed)?;
        }
        for (pid, pidfd) in process.former() {
            self.poll.add(pidfd, Token::Former(id).to_u64()).map_err(failed)?;
            self.pids.insert(*pid, id);
        }
        self.pids.insert(process.pid, id);
        self.processes.insert(id, Box::new(process));
        if let Some(socket) = saved.fork.and_then(|name| NotifySocket::from_fd(fds.take(&name).ok()?).ok()) {
            self.add_fork_socket(id, socket).map_err(failed)?;
        }
        Ok(())
    }
}

/// The process with this pid, if it is in this worker's own control group. The descriptor is opened before the check, so that the
/// check is about this very process.
fn in_group(pid: u32, group: Option<&WorkerGroup>) -> Option<PidFd> {
    let pidfd = PidFd::open(pid).ok()?;
    group?.holds(pid).then_some(pidfd)
}

fn save_process<'a>(
    id: WorkerId,
    process: &'a Process,
    fork: Option<&'a NotifySocket>,
    fds: &mut Outgoing<'a>,
) -> state::Process {
    let former = process.former().iter().map(|(pid, pidfd)| (*pid, fds.lend(format!("former-{id}-{pid}"), pidfd.as_fd())));
    let finite = |value: f64| if value.is_finite() { value } else { f64::MAX };
    state::Process {
        generation: process.generation,
        pid: process.pid,
        former: former.collect(),
        pidfd: fds.lend(format!("process-{id}-{}", process.pid), process.pidfd.as_fd()),
        notify: fds.lend(format!("notify-{id}"), process.notify.as_fd()),
        notify_again: process.notify_again.as_ref().map(|again| fds.lend(format!("notify-again-{id}"), again.as_fd())),
        group: process.group.is_some(),
        scoreboard: process.scoreboard.as_ref().map(|page| fds.lend(format!("page-{id}"), page.as_fd())),
        started_at: Some(process.started_at),
        output: save_reading_ends(id, process, fds),
        info: process.info(),
        counters: process.counters().iter().map(|(name, value)| (name.clone(), finite(*value))).collect::<BTreeMap<_, _>>(),
        errnos_left: process.errnos_left,
        fork: fork.map(|socket| fds.lend(format!("fork-{id}"), socket.as_fd())),
        left_behind: process.left_behind,
    }
}

fn save_reading_ends<'a>(id: WorkerId, process: &'a Process, fds: &mut Outgoing<'a>) -> Vec<Name> {
    let ends = process.output().iter().enumerate();
    ends.map(|(index, fd)| fds.lend(format!("{}{id}-{index}", READING_PREFIX), fd.as_fd())).collect()
}
