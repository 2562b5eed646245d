//! Orphaned processes are the processes of a worker that live on after the exit of its main process. This module drains them, and
//! ends them with SIGKILL.
//!
//! Law: another thread finds the orphaned processes and opens a pidfd of each; signals are sent through the pidfd. A process gets the
//! stop signal once. A SIGKILL to other processes than the main process is logged with their names.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use crate::master::event_queue::EventQueue;
use crate::master::log::journal::{Level, Record};
use crate::master::log::text::one_line;
use crate::master::task_result::TaskResult;
use crate::master::workers::WorkerSet;
use crate::master::workers::cgroup;
use crate::master::workers::reports::OrphanedProcess;
use crate::pool::{Event, Slot, WorkerId};
use crate::status::kernel;
use crate::sys::process::{self, PidFd, Stat};
use crate::sys::{descendants, signals};

/// The longest name of a process, bytes: the kernel's 15, with room for the replacement characters of invalid UTF-8.
const NAME_MAX: usize = 48;
/// The most processes that a log line names.
const NAMED_MAX: usize = 8;

/// The orphaned processes that have got the stop signal, by worker.
#[derive(Default)]
pub(in crate::master) struct Orphaned {
    signalled: HashMap<WorkerId, Vec<(u32, u64)>>,
}

impl Orphaned {
    /// Whether the process has not got the stop signal yet. Notes that it gets the signal now.
    fn is_first(&mut self, worker: WorkerId, process: &OrphanedProcess) -> bool {
        let signalled = self.signalled.entry(worker).or_default();
        let identity = (process.pid, process.start);
        let first = !signalled.contains(&identity);
        if first {
            signalled.push(identity);
        }
        first
    }

    /// Restores the list that an earlier program of this process saved (upgrade in place).
    pub fn resume(signalled: BTreeMap<WorkerId, Vec<(u32, u64)>>) -> Orphaned {
        Orphaned { signalled: signalled.into_iter().collect() }
    }

    /// The process id and the start time of each, for the next program of this process.
    pub fn signalled(&self) -> BTreeMap<WorkerId, Vec<(u32, u64)>> {
        self.signalled.iter().map(|(worker, signalled)| (*worker, signalled.clone())).collect()
    }

    /// Forgets a worker that has no process left.
    pub fn forget(&mut self, worker: WorkerId) {
        self.signalled.remove(&worker);
    }
}

/// Where another thread finds the processes of a worker.
enum Place {
    /// In the worker's control group, by its path.
    Group(PathBuf),
    /// By descent, when the worker has no control group.
    Descent { pidfd: PidFd, pid: u32, id: WorkerId, notify_socket: PathBuf },
}

impl Place {
    /// The living processes, each with a pidfd.
    fn processes(&self) -> Vec<(u32, PidFd)> {
        match self {
            Place::Group(path) => {
                let open = |pid| Some((pid, PidFd::open(pid).ok()?));
                let opened: Vec<_> = cgroup::processes(path).into_iter().filter_map(open).collect();
                // The group is listed again with the pidfds open: a number in both lists is still a process of the group.
                let listed = cgroup::processes(path);
                opened.into_iter().filter(|(pid, _)| listed.contains(pid)).collect()
            }
            Place::Descent { pidfd, pid, id, notify_socket } => {
                let worker = descendants::Worker { pidfd, pid: *pid, id: *id, notify_socket: notify_socket.clone() };
                descendants::living(&worker)
            }
        }
    }

    fn look(&self, sockets: &[kernel::Watched]) -> Vec<OrphanedProcess> {
        let processes = self.processes();
        let pids: Vec<u32> = processes.iter().map(|(pid, _)| *pid).collect();
        let serving = kernel::serving(&pids, sockets);
        let orphaned = processes.into_iter().filter_map(|(pid, pidfd)| {
            let start = Stat::read(pid)?.start;
            Some(OrphanedProcess { pid, start, name: name(pid), pidfd, serves: serving.contains(&pid) })
        });
        orphaned.collect()
    }
}

impl WorkerSet {
    /// Looks for the orphaned processes of a worker on another thread. `sockets`: all listening sockets of the instance.
    pub(in crate::master) fn look_for_orphaned(&mut self, worker: WorkerId, sockets: Vec<kernel::Watched>) {
        // Without orphaned processes the worker is cleared already, and the event to the pool is on its way.
        let Some(process) = self.processes.get(&worker).filter(|process| process.left_behind) else { return };
        let place = match &process.group {
            Some(group) => Place::Group(group.path().to_owned()),
            None => {
                // If no descriptor is free, the pool's stop timeout ends the worker.
                let Ok(pidfd) = process.pidfd.try_clone() else { return };
                Place::Descent { pidfd, pid: process.pid, id: worker, notify_socket: self.runtime_dir.notify_path(worker) }
            }
        };
        let (results, limit) = (self.results.clone(), process.release.config.worker.start_timeout);
        // If the task cannot start, the pool asks again later.
        let _ = self.tasks.start(limit, move |_, _| {
            let _ = results.send(TaskResult::Orphaned(worker, place.look(&sockets)));
        });
    }

    /// Handles the found orphaned processes of a worker: the ones that serve get the stop signal.
    pub(in crate::master) fn orphaned_found(
        &mut self,
        worker: WorkerId,
        slot: Option<Slot>,
        found: Vec<OrphanedProcess>,
        events: &mut EventQueue,
    ) {
        let Some(process) = self.processes.get(&worker).filter(|process| process.left_behind) else { return };
        let signal = process.stop_signal();
        let serving: Vec<&OrphanedProcess> = found.iter().filter(|process| process.serves).collect();
        for process in &serving {
            if self.orphaned.is_first(worker, process) {
                let _ = process.pidfd.signal(signal);
                let _ = process.pidfd.signal(libc::SIGCONT);
                let (name, pid, signal) = (&process.name, process.pid, signals::name(signal));
                let message = format!(
                    "the main process is gone, {name} (pid {pid}) still serves: {signal}; let the wrapper exec its server"
                );
                self.record_of(worker, slot, Level::Info, &message);
            }
        }
        events.push(Event::Orphaned { worker, serving: !serving.is_empty() });
    }

    /// Sends SIGKILL to every process of a worker.
    pub(in crate::master) fn kill(&mut self, worker: WorkerId, slot: Option<Slot>) {
        let Some(process) = self.processes.get(&worker) else { return };
        let mut hit = Vec::new();
        let killed = match &process.group {
            Some(group) => {
                // The names are read before the kill, because the name of a process that is gone cannot be read.
                hit.extend(cgroup::processes(group.path()).into_iter().map(|pid| (pid, name(pid))));
                group.kill().map_err(|error| error.to_string())
            }
            None => {
                let family = Self::family(&self.runtime_dir, worker, process);
                hit.extend(descendants::kill(&family).into_iter().map(|(pid, name)| (pid, one_line(&name, NAME_MAX))));
                for (_, pidfd) in process.former() {
                    let _ = pidfd.signal(libc::SIGKILL);
                }
                Ok(())
            }
        };
        let main: std::io::Result<()> = PidFd::signal(&process.pidfd, libc::SIGKILL);
        hit.retain(|(pid, _)| *pid != process.pid);
        if let (Err(why), Err(_)) = (killed, main) {
            self.log.warn(format!("cannot kill worker {worker}: {why}"));
        } else if !hit.is_empty() {
            hit.sort_unstable();
            self.record_of(worker, slot, Level::Warning, &format!("SIGKILL to {}", listed(&hit)));
        }
    }

    /// Logs a line about a worker, with its slot and generation.
    fn record_of(&self, worker: WorkerId, slot: Option<Slot>, level: Level, what: &str) {
        let generation = self.processes.get(&worker).map(|process| process.generation);
        let of_slot = slot.map(|slot| format!(" (slot {slot})")).unwrap_or_default();
        let message = format!("worker {worker}{of_slot}: {what}");
        self.log.record(Record { generation, worker: Some(worker), slot, ..Record::new(level, message) });
    }
}

/// The name of a process, shortened and without control characters, for a log line.
fn name(pid: u32) -> String {
    one_line(&process::name(pid).unwrap_or_default(), NAME_MAX)
}

/// A list of processes for a log line: `sleep (pid 12), node (pid 13) and 4 more`.
fn listed(processes: &[(u32, String)]) -> String {
    let named: Vec<String> = processes.iter().take(NAMED_MAX).map(|(pid, name)| format!("{name} (pid {pid})")).collect();
    let more = processes.len() - named.len();
    if more == 0 { named.join(", ") } else { format!("{} and {more} more", named.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_line_names_no_more_than_eight() {
        let all: Vec<(u32, String)> = (1..=10).map(|pid| (pid, "sleep".to_owned())).collect();
        assert_eq!(listed(&all[..2]), "sleep (pid 1), sleep (pid 2)");
        assert!(listed(&all).ends_with("sleep (pid 8) and 2 more"));
    }

    #[test]
    fn stop_signal_goes_to_each_process_once() {
        let own = std::process::id();
        let process = |start| OrphanedProcess {
            pid: own,
            start,
            name: String::new(),
            pidfd: PidFd::open(own).expect("a pidfd"),
            serves: true,
        };
        let mut orphaned = Orphaned::default();
        assert!(orphaned.is_first(1, &process(5)));
        assert!(!orphaned.is_first(1, &process(5)));
        // Another process with the same process id.
        assert!(orphaned.is_first(1, &process(6)));
        orphaned.forget(1);
        assert!(orphaned.is_first(1, &process(5)));
    }
}
