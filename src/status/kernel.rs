//! The kernel's figures, which exist also for workers that report nothing: memory, CPU time, open connections, accept queues.
//!
//! Law: an unknown figure is `None`, never 0. A survey reads `/proc`, the workers' cgroups and one `sock_diag` dump for each
//! address family, for any number of workers. It blocks: run it on a separate thread, off the loop. No action of a worker
//! makes a survey fail, and a survey ends at most a little later than [`BUDGET`].

pub mod accepting;
mod claims;
mod cpu;
mod diag;
mod holders;
mod kept;
mod netlink;
mod process;
mod ring;

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::net::{AddressFamily, SocketType, sockopt};

pub use self::claims::Claims;
pub use self::cpu::cpu;
use self::diag::Inode;
use self::kept::Remembered;
use self::process::Process;
pub use self::process::pss;
use crate::status::keep::Clock;

/// Time limit of a survey. After it the figures of the remaining workers stay unknown.
pub const BUDGET: Duration = Duration::from_secs(2);
/// The most processes of one worker that are examined.
const PROCESSES_MAX: usize = 1024;

/// A worker to examine: its id, the PID of its main process, and the directory of its cgroup, if it has one.
pub type Subject = (u64, u32, Option<PathBuf>);

/// The result of a survey.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survey {
    workers: HashMap<u64, Figures>,
    queues: Vec<Option<Queue>>,
    /// The master's own figures.
    pub master: Master,
    /// Time until which another survey gives the same result if pages and workers do not change; `None` when nothing is kept.
    pub until: Option<Instant>,
}

/// The kernel's figures of one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Resident memory of the worker's processes, bytes, from `/proc/PID/statm`: the processes of its cgroup, else its main process
    /// and the descendants of that. A shared page counts for each process.
    pub rss: Option<u64>,
    /// `memory.current` of the worker's cgroup, bytes, page cache included; only with a memory controller.
    pub memory_current: Option<u64>,
    /// CPU time, microseconds: that of the worker's cgroup, else of its main process and the descendants of that, each with the children
    /// that it has waited for. Without a cgroup it falls when a descendant ends for which no process waits.
    pub cpu_usec: Option<u64>,
    /// Start time of the worker's main process, to a hundredth of a second, as the kernel has it.
    pub started: Option<SystemTime>,
    /// Number of connections of the listening sockets that the worker's processes hold open.
    pub open_connections: Option<u64>,
    /// Whether a process of the worker holds a listening socket open.
    pub listening: Option<bool>,
}

/// The accept queue of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Connections that wait to be accepted.
    pub waiting: u64,
    /// Number of connections that may wait: the lesser of listen(2)'s backlog and `net.core.somaxconn`.
    pub max: u64,
}

/// The master's own figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Master {
    /// Resident memory, bytes.
    pub rss: Option<u64>,
    /// Proportional memory, bytes: a shared page is divided by the number of processes that share it.
    pub pss: Option<u64>,
    /// CPU time, microseconds.
    pub cpu_usec: Option<u64>,
    /// Start time of this process.
    pub started: Option<SystemTime>,
}

impl Survey {
    /// The figures of the worker with this id.
    pub fn worker(&self, id: u64) -> Option<&Figures> {
        self.workers.get(&id)
    }

    /// The accept queue of the listening socket at this index of the list; `None` also for a socket without a queue (UDP).
    pub fn queue(&self, listener: usize) -> Option<Queue> {
        self.queues.get(listener).copied().flatten()
    }
}

/// Makes surveys, and remembers from one to the next which worker holds which connection. Cheap to clone.
///
/// A surveyor made by [`Self::keeps`] reuses its figures for a small multiple of what they cost ([`crate::status::keep`]). It still
/// examines a worker that is new, has another process or begins to drain, and finds the holders of connections again when the
/// pages claim other connections.
#[derive(Clone, Default)]
pub struct Surveyor {
    memory: Arc<Mutex<Remembered>>,
    clock: Option<Arc<dyn Clock>>,
}

impl Surveyor {
    /// A surveyor that reuses its figures for a while, by this clock.
    pub fn keeps(clock: Arc<dyn Clock>) -> Self {
        Surveyor { clock: Some(clock), ..Surveyor::default() }
    }

    /// Examines these workers and listening sockets now, or returns the figures of a moment ago. Concurrent surveys wait for each
    /// other.
    pub fn survey(&self, workers: &[Subject], listeners: &[impl Listening], claims: &Claims) -> Survey {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let listeners: Vec<Option<Listener>> = listeners.iter().map(Listening::listener).collect();
        memory.survey(workers, &listeners, claims, self.clock.as_deref())
    }

    /// Forgets the kept figures, when there is no reader. Forgets nothing while a survey runs, rather than wait for it.
    pub fn forget(&self) {
        if let Ok(mut memory) = self.memory.try_lock() {
            memory.forget();
        }
    }
}

/// The processes of this list that hold a listening socket, or a connection that was accepted from one. A living process whose
/// descriptors cannot be read counts as a holder. Blocks like a survey.
pub fn serving(processes: &[u32], listeners: &[impl Listening]) -> Vec<u32> {
    let end = Instant::now() + BUDGET;
    let listeners: Vec<Option<Listener>> = listeners.iter().map(Listening::listener).collect();
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

/// The number of connections that wait on these listening sockets. Blocks for a dump of the kernel's.
pub fn waiting(listeners: &[impl AsFd]) -> u64 {
    queues(listeners).into_iter().flatten().map(|queue| queue.waiting).sum()
}

/// The accept queue of each of these listening sockets; `None` where the kernel tells of none. Blocks for a dump of the kernel's.
pub fn queues(listeners: &[impl Listening]) -> Vec<Option<Queue>> {
    let listeners: Vec<Option<Listener>> = listeners.iter().map(Listening::listener).collect();
    let queues = kept::look_at_sockets(&listeners).queues;
    listeners.iter().map(|it| queues.get(&it.as_ref()?.inode).copied()).collect()
}

/// The number of connections that a process has accepted from these listening sockets, and of those that wait on them; `None` if the
/// kernel does not tell of each socket that accepts connections. Blocks for a dump of the kernel's.
pub fn open_connections(listeners: &[impl AsFd]) -> Option<u64> {
    let accepts = |socket: &&_| sockopt::socket_acceptconn(*socket).unwrap_or(true);
    let listeners: Vec<Option<Listener>> = listeners.iter().filter(accepts).map(Listener::of).collect();
    let seen = kept::look_at_sockets(&listeners);
    let waiting = listeners.iter().map(|it| Some(seen.queues.get(&it.as_ref()?.inode)?.waiting)).sum::<Option<u64>>()?;
    Some(waiting.saturating_add(seen.connections.len() as u64))
}

/// Whether a process is stopped, as by SIGSTOP.
pub fn is_stopped(pid: u32) -> bool {
    Process::of(pid).and_then(|process| process.stat()).is_some_and(|stat| stat.is_stopped)
}

/// Makes a survey that neither uses nor keeps earlier results.
pub fn survey(workers: &[Subject], listeners: &[impl Listening]) -> Survey {
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

/// A listening socket, by what identifies it in the dumps.
#[derive(Clone, Debug)]
pub struct Listener {
    inode: Inode,
    local: Local,
}

/// A listening socket that a survey can look for.
pub trait Listening {
    /// The socket; `None` if it is not a socket.
    fn listener(&self) -> Option<Listener>;
}

impl<T: AsFd> Listening for T {
    fn listener(&self) -> Option<Listener> {
        Listener::of(self)
    }
}

/// A listening socket of which this process may have closed its copy, while workers have theirs.
#[derive(Clone, Debug)]
pub enum Watched {
    /// This process has a copy.
    Open(Arc<OwnedFd>),
    /// The socket as it was before this process closed its copy.
    Closed(Listener),
}

impl Listening for Watched {
    fn listener(&self) -> Option<Listener> {
        match self {
            Watched::Open(fd) => Listener::of(fd),
            Watched::Closed(listener) => Some(listener.clone()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Local {
    Tcp {
        six: bool,
        port: u16,
    },
    Unix {
        name: Vec<u8>,
    },
    /// The socket accepts no connections, or no dump that is made here has it.
    Other,
}

impl Listener {
    /// The socket of this descriptor; `None` if it is not a socket.
    pub fn of(fd: &impl AsFd) -> Option<Listener> {
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
