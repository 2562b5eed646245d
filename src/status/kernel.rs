//! The kernel's own figures, for workers that say nothing: memory, CPU, open connections, accept queues.
//!
//! Law: what cannot be learned is `None`, never 0. A survey reads `/proc`, the workers' cgroups and one `sock_diag` dump for
//! each address family, whatever the number of workers. It blocks: run it on a thread of its own, off the loop. Nothing that
//! a worker does makes it fail, and it ends within [`BUDGET`] and a little.

mod claims;
mod diag;
mod holders;
mod netlink;
mod process;

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::net::{AddressFamily, SocketType, sockopt};

pub use self::claims::Claims;
use self::diag::{Inode, Sockets};
use self::holders::{Holders, Memory, Seen};
use self::process::Process;

/// After so long the figures of the remaining workers are left unknown.
pub const BUDGET: Duration = Duration::from_secs(2);
/// How many processes of one worker are looked at.
const PROCESSES_MAX: usize = 1024;

/// A worker to be looked at: its id, its main process, and its cgroup's directory where it has one.
pub type Subject = (u64, u32, Option<PathBuf>);

/// What the kernel knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survey {
    workers: HashMap<u64, Figures>,
    queues: Vec<Option<Queue>>,
    /// The master's own figures.
    pub master: Master,
}

/// What the kernel knows of one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Resident memory, bytes: of all processes in its cgroup (pages that they share count for each), else of its main one.
    pub rss: Option<u64>,
    /// `memory.current` of its cgroup, bytes: with the page cache that it causes; only where there is a memory controller.
    pub memory_current: Option<u64>,
    /// CPU time, microseconds: that of its cgroup, else of its main process and the children that this has waited for.
    pub cpu_usec: Option<u64>,
    /// When its main process began (a hundredth of a second is all that the kernel tells).
    pub started: Option<SystemTime>,
    /// Connections of the listening sockets that its processes hold open.
    pub open_connections: Option<u64>,
    /// Whether one of its processes holds a listening socket open.
    pub listening: Option<bool>,
}

/// The accept queue of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Connections that wait to be accepted.
    pub waiting: u64,
    /// How many may wait: the lesser of listen(2)'s backlog and `net.core.somaxconn`.
    pub max: u64,
}

/// The master's own figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Master {
    /// Resident memory, bytes.
    pub rss: Option<u64>,
    /// Proportional memory, bytes: shared pages are divided by those that share them.
    pub pss: Option<u64>,
    /// CPU time, microseconds.
    pub cpu_usec: Option<u64>,
    /// When this process began.
    pub started: Option<SystemTime>,
}

impl Survey {
    /// The figures of the worker with this id.
    pub fn worker(&self, id: u64) -> Option<&Figures> {
        self.workers.get(&id)
    }

    /// The accept queue of the listening socket at this place of the list; `None` also for one that has none (UDP).
    pub fn queue(&self, listener: usize) -> Option<Queue> {
        self.queues.get(listener).copied().flatten()
    }
}

/// Makes surveys, and remembers from one to the next who holds which connection. Cheap to clone.
#[derive(Clone, Default)]
pub struct Surveyor {
    memory: Arc<Mutex<Memory>>,
}

impl Surveyor {
    /// Looks at these workers and these listening sockets now. Surveys at the same time wait for each other.
    pub fn survey(&self, workers: &[Subject], listeners: &[impl AsFd], claims: &Claims) -> Survey {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let end = Instant::now() + BUDGET;
        let listeners: Vec<Option<Listener>> = listeners.iter().map(Listener::of).collect();
        let sockets = look_at_sockets(&listeners);
        let queues = listeners.iter().map(|listener| sockets.queues.get(&listener.as_ref()?.inode).copied()).collect();
        // A socket of another network namespace (PrivateNetwork=) is in no dump of ours, nor are its connections.
        let accepting: Vec<&Listener> = listeners.iter().flatten().filter(|listener| listener.local != Local::Other).collect();
        let complete = !accepting.is_empty() && accepting.iter().all(|listener| sockets.queues.contains_key(&listener.inode));
        let inodes = listeners.iter().flatten().map(|listener| listener.inode).collect();
        let ids = workers.iter().map(|(id, ..)| *id).collect();
        let holders = Holders::new(&mut memory, inodes, &sockets.connections, &ids, claims, end);
        let workers = look_at_workers(workers, holders, complete, end);
        Survey { workers, queues, master: master() }
    }
}

/// A survey that remembers nothing.
pub fn survey(workers: &[Subject], listeners: &[impl AsFd]) -> Survey {
    Surveyor::default().survey(workers, listeners, &Claims::default())
}

/// The master's own figures alone.
pub fn master() -> Master {
    let stat = Process::open(std::process::id()).and_then(|me| me.stat());
    let (rss, pss) = process::own_rollup();
    Master {
        rss: rss.or(stat.as_ref().map(|stat| stat.rss)),
        pss,
        cpu_usec: Some(process::own_cpu()),
        started: stat.and_then(|stat| process::boot_time()?.checked_add(stat.started)),
    }
}

/// A worker while it is looked at.
struct Look<'a> {
    id: u64,
    pid: u32,
    group: Option<&'a Path>,
    main: Process,
    others: Option<Vec<u32>>,
    seen: Seen,
    figures: Figures,
}

fn look_at_workers(workers: &[Subject], mut holders: Holders<'_>, complete: bool, end: Instant) -> HashMap<u64, Figures> {
    let boot = process::boot_time();
    let mut all = HashMap::with_capacity(workers.len());
    let mut looks = Vec::with_capacity(workers.len());
    for (id, pid, group) in workers {
        all.insert(*id, Figures::default());
        let living = if Instant::now() < end { Process::open(*pid) } else { None };
        match living.and_then(|main| Some((main.stat()?, main))) {
            Some((stat, main)) => {
                looks.push(Look::new(*id, *pid, group.as_deref(), main, stat, boot));
            }
            None => holders.hide(),
        }
    }
    // First those who do not show their connections: what they hold can be claimed by nobody.
    let (mut silent, mut telling): (Vec<_>, Vec<_>) = looks.into_iter().partition(|look| !holders.tells(look.id));
    if holders.any() {
        look_for_holders(&mut silent, &mut holders);
        holders.believe();
        look_for_holders(&mut telling, &mut holders);
    }
    let (counts, unexplained) = holders.count();
    for look in silent.into_iter().chain(telling) {
        let known = complete && (look.seen.visible || !unexplained);
        let open_connections = known.then(|| counts.get(&look.id).copied().unwrap_or(0));
        all.insert(look.id, Figures { open_connections, listening: look.seen.listening, ..look.figures });
    }
    all
}

fn look_for_holders(looks: &mut [Look<'_>], holders: &mut Holders<'_>) {
    for look in &mut *looks {
        look.seen = holders.main(look.id, &look.main);
    }
    // Whatever the main processes do not hold, their other processes do.
    for look in looks {
        if !holders.wants_others(look.id, look.seen) {
            continue;
        }
        match look.others.take().or_else(|| look.find_others()) {
            Some(others) => {
                for other in others.into_iter().filter(|other| *other != look.pid).filter_map(Process::open) {
                    holders.other(look.id, &other, &mut look.seen);
                }
            }
            None => {
                look.seen = Seen::default();
                holders.hide();
            }
        }
    }
}

impl<'a> Look<'a> {
    fn new(id: u64, pid: u32, group: Option<&'a Path>, main: Process, stat: process::Stat, boot: Option<SystemTime>) -> Look<'a> {
        let others = group.and_then(|group| process::group_members(group, PROCESSES_MAX));
        let siblings = others.iter().flatten().filter(|other| **other != pid).filter_map(|other| Process::open(*other)?.stat());
        let figures = Figures {
            rss: Some(siblings.fold(stat.rss, |sum, sibling| sum.saturating_add(sibling.rss))),
            memory_current: group.and_then(|group| process::number(&group.join("memory.current"))),
            cpu_usec: group.and_then(process::group_cpu).or(Some(stat.cpu_usec)),
            started: boot.and_then(|boot| boot.checked_add(stat.started)),
            ..Figures::default()
        };
        Look { id, pid, group, main, others, seen: Seen::default(), figures }
    }

    /// The other processes of a worker without a cgroup; a cgroup that could not be read is no reason to guess.
    fn find_others(&self) -> Option<Vec<u32>> {
        match self.group {
            Some(_) => None,
            None => process::descendants(&self.main, PROCESSES_MAX),
        }
    }
}

/// A listening socket, as the dumps know it.
struct Listener {
    inode: Inode,
    local: Local,
}

#[derive(Debug, PartialEq, Eq)]
enum Local {
    Tcp {
        six: bool,
        port: u16,
    },
    Unix {
        name: Vec<u8>,
    },
    /// It accepts no connections, or we know no dump that has it.
    Other,
}

impl Listener {
    fn of(fd: &impl AsFd) -> Option<Listener> {
        let stat = rustix::fs::fstat(fd).ok()?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Socket {
            return None;
        }
        Some(Listener { inode: Inode::try_from(stat.st_ino).ok()?, local: Self::local(fd).unwrap_or(Local::Other) })
    }

    fn local(fd: &impl AsFd) -> Option<Local> {
        let kind = sockopt::socket_type(fd).ok()?;
        if !sockopt::socket_acceptconn(fd).ok()? {
            return None;
        }
        let address = rustix::net::getsockname(fd).ok()?;
        match address.address_family() {
            family @ (AddressFamily::INET | AddressFamily::INET6) if kind == SocketType::STREAM => {
                let port = std::net::SocketAddr::try_from(address).ok()?.port();
                Some(Local::Tcp { six: family == AddressFamily::INET6, port })
            }
            AddressFamily::UNIX => {
                let address = rustix::net::SocketAddrUnix::try_from(address).ok()?;
                let name = match (address.path_bytes(), address.abstract_name()) {
                    (Some(path), _) => path.to_vec(),
                    (None, Some(name)) => [b"\0", name].concat(),
                    (None, None) => Vec::new(),
                };
                Some(Local::Unix { name: diag::unix_name(&name).to_vec() })
            }
            _ => None,
        }
    }
}

/// All listening sockets' queues and connections, in as few dumps as the kernel allows.
fn look_at_sockets(listeners: &[Option<Listener>]) -> Sockets {
    let mut sockets = Sockets::default();
    let locals = || listeners.iter().flatten().map(|listener| &listener.local);
    for six in [false, true] {
        let ports: HashSet<u16> = locals()
            .filter_map(|local| match local {
                Local::Tcp { six: is_six, port } if *is_six == six => Some(*port),
                Local::Tcp { .. } | Local::Unix { .. } | Local::Other => None,
            })
            .collect();
        if !ports.is_empty() {
            sockets.add_tcp(six, &ports);
        }
    }
    let names: HashSet<&[u8]> = locals()
        .filter_map(|local| match local {
            Local::Unix { name } if !name.is_empty() => Some(name.as_slice()),
            Local::Unix { .. } | Local::Tcp { .. } | Local::Other => None,
        })
        .collect();
    if !names.is_empty() {
        sockets.add_unix(&names);
    }
    sockets
}

#[cfg(test)]
mod tests;
