//! The kernel's own figures, for workers that say nothing: memory, CPU, open connections, accept queues.
//!
//! Law: what cannot be learned is `None`, never 0. A survey reads `/proc`, the workers' cgroups and one `sock_diag` dump for
//! each address family, whatever the number of workers. It blocks: run it on a thread of its own, off the loop. Nothing that
//! a worker does makes it fail, and it ends within [`BUDGET`] and a little.

mod diag;
mod netlink;
mod process;

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::net::{AddressFamily, SocketType, sockopt};

use self::diag::{Inode, Sockets};
use self::process::Process;

/// After so long the figures of the remaining workers are left unknown.
pub const BUDGET: Duration = Duration::from_millis(500);
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
    /// Resident memory of all its processes that are known, bytes; pages that they share count for each.
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

/// Looks at these workers and these listening sockets now.
pub fn survey(workers: &[Subject], listeners: &[impl AsFd]) -> Survey {
    let end = Instant::now() + BUDGET;
    let listeners: Vec<Option<Listener>> = listeners.iter().map(Listener::of).collect();
    let sockets = look_at_sockets(&listeners);
    let queues = listeners.iter().map(|listener| sockets.queues.get(&listener.as_ref()?.inode).copied()).collect();
    let inodes: HashSet<Inode> = listeners.iter().flatten().map(|listener| listener.inode).collect();
    // A socket of another network namespace (PrivateNetwork=) is in no dump of ours, nor are its connections.
    let accepting: Vec<&Listener> = listeners.iter().flatten().filter(|listener| listener.local != Local::Other).collect();
    let complete = !accepting.is_empty() && accepting.iter().all(|listener| sockets.queues.contains_key(&listener.inode));
    let look = Look { inodes, sockets, complete, boot: process::boot_time(), end };
    let workers = workers.iter().map(|(id, pid, group)| (*id, look.worker(*pid, group.as_deref()))).collect();
    Survey { workers, queues, master: master() }
}

/// The master's own figures alone.
pub fn master() -> Master {
    let stat = Process::open(std::process::id()).and_then(|me| me.stat());
    let (rss, pss) = process::own_rollup();
    Master {
        rss: rss.or(stat.as_ref().map(|stat| stat.rss)),
        pss,
        cpu_usec: stat.as_ref().map(|stat| stat.cpu_usec),
        started: stat.and_then(|stat| process::boot_time()?.checked_add(stat.started)),
    }
}

/// What is the same for all workers of one survey.
struct Look {
    inodes: HashSet<Inode>,
    sockets: Sockets,
    complete: bool,
    boot: Option<SystemTime>,
    end: Instant,
}

impl Look {
    fn worker(&self, pid: u32, group: Option<&Path>) -> Figures {
        if Instant::now() > self.end {
            return Figures::default();
        }
        let main = Process::open(pid);
        let stat = main.as_ref().and_then(Process::stat);
        let mut figures = Figures {
            memory_current: group.and_then(|group| process::number(&group.join("memory.current"))),
            cpu_usec: group.and_then(process::group_cpu).or(stat.as_ref().map(|stat| stat.cpu_usec)),
            started: stat.as_ref().and_then(|stat| self.boot?.checked_add(stat.started)),
            rss: stat.as_ref().map(|stat| stat.rss),
            ..Figures::default()
        };
        let others = match group {
            Some(group) => process::group_members(group, PROCESSES_MAX),
            None => process::descendants(main.as_ref(), PROCESSES_MAX),
        };
        let mut held = Held::default();
        let mut known = main.as_ref().is_some_and(|main| self.count(main, &mut held));
        match others {
            Some(others) => {
                for other in others.into_iter().filter(|other| *other != pid).filter_map(Process::open) {
                    if let (Some(rss), Some(stat)) = (&mut figures.rss, other.stat()) {
                        *rss = rss.saturating_add(stat.rss);
                    }
                    // One that has ended meanwhile holds nothing; one that hides its descriptors makes the sum unknown.
                    known &= self.count(&other, &mut held) || other.stat().is_none();
                }
            }
            None => known = false,
        }
        if known {
            figures.listening = Some(held.listening);
            figures.open_connections = self.complete.then_some(held.connections.len() as u64);
        }
        figures
    }

    /// Adds what this process holds; `false` when that cannot be seen.
    fn count(&self, process: &Process, held: &mut Held) -> bool {
        process.sockets(self.end, |inode| {
            if self.inodes.contains(&inode) {
                held.listening = true;
            } else if self.sockets.connections.contains(&inode) {
                // A set, as parent and child may hold the same one.
                held.connections.insert(inode);
            }
        })
    }
}

#[derive(Default)]
struct Held {
    listening: bool,
    connections: HashSet<Inode>,
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
