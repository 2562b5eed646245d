//! The kernel's own figures, for workers that say nothing: memory, CPU, open connections, accept queues.
//!
//! Law: what cannot be learned is `None`, never 0. A survey reads `/proc`, the workers' cgroups and one `sock_diag` dump for
//! each address family, whatever the number of workers. It blocks: run it on a thread of its own, off the loop. Nothing that
//! a worker does makes it fail, and it ends within [`BUDGET`] and a little.

pub mod accepting;
mod claims;
mod diag;
mod holders;
mod kept;
mod netlink;
mod process;
mod ring;

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::net::{AddressFamily, SocketType, sockopt};

pub use self::claims::Claims;
use self::diag::Inode;
use self::kept::Remembered;
use self::process::Process;
use crate::status::keep::Clock;

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
    /// Until when another survey would say the same, if pages and workers are as they were; `None`: this is not kept.
    pub until: Option<Instant>,
}

/// What the kernel knows of one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Resident memory, bytes: of all its processes (those of its cgroup, else its main one and the descendants of that), from
    /// `/proc/PID/statm`; pages that they share count for each.
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
///
/// One that [`Self::keeps`] gives what it has learned again for a small multiple of what that cost
/// ([`crate::status::keep`]). Not kept are a worker that is new, has another process or begins to drain, and who holds which
/// connections when the pages claim others.
#[derive(Clone, Default)]
pub struct Surveyor {
    memory: Arc<Mutex<Remembered>>,
    clock: Option<Arc<dyn Clock>>,
}

impl Surveyor {
    /// A surveyor that keeps what it has learned for a while, by this clock.
    pub fn keeps(clock: Arc<dyn Clock>) -> Self {
        Surveyor { clock: Some(clock), ..Surveyor::default() }
    }

    /// Looks at these workers and these listening sockets now, or says what was seen a moment ago. Surveys at the same time
    /// wait for each other.
    pub fn survey(&self, workers: &[Subject], listeners: &[impl AsFd], claims: &Claims) -> Survey {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let listeners: Vec<Option<Listener>> = listeners.iter().map(Listener::of).collect();
        memory.survey(workers, &listeners, claims, self.clock.as_deref())
    }

    /// Forgets what is kept: nobody asks. Does not wait for a survey.
    pub fn forget(&self) {
        if let Ok(mut memory) = self.memory.try_lock() {
            memory.forget();
        }
    }
}

/// Which of these processes hold one of the listening sockets, or a connection that was accepted from one. A living process whose
/// descriptors cannot be seen counts as one that does. Blocks as a survey does.
pub fn serving(processes: &[u32], listeners: &[impl AsFd]) -> Vec<u32> {
    let end = Instant::now() + BUDGET;
    let listeners: Vec<Option<Listener>> = listeners.iter().map(Listener::of).collect();
    let accepted = kept::look_at_sockets(&listeners).connections;
    let wanted: std::collections::HashSet<Inode> =
        listeners.iter().flatten().map(|it| it.inode).chain(accepted.iter().map(|it| it.inode)).collect();
    let serves = |pid: &u32| {
        let Some(process) = Process::of(*pid) else { return false };
        let mut holds = false;
        let visible = process.sockets(end, |_, inode| holds |= wanted.contains(&inode));
        holds || (!visible && process.stat().is_some())
    };
    processes.iter().copied().filter(serves).collect()
}

/// A survey that remembers nothing.
pub fn survey(workers: &[Subject], listeners: &[impl AsFd]) -> Survey {
    Surveyor::default().survey(workers, listeners, &Claims::default())
}

/// The master's own figures alone.
pub fn master() -> Master {
    let me = Process::of(std::process::id());
    let stat = me.and_then(|me| me.stat());
    let (rss, pss) = process::own_rollup();
    Master {
        rss: rss.or_else(|| me?.rss()),
        pss,
        cpu_usec: Some(process::own_cpu()),
        started: stat.and_then(|stat| process::boot_time()?.checked_add(stat.started)),
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

#[cfg(test)]
mod memory_tests;
#[cfg(test)]
mod tests;
