//! Whether a worker accepts connections, as the kernel shows it: a check of readiness from outside.
//!
//! A process accepts when a listening socket is in one of its epoll sets, when one of its threads waits for the socket in accept(2),
//! select(2), poll(2) or a receive call, or when it holds an open connection of the socket. A process that only sleeps with the socket
//! open does not accept: the parent processes of gunicorn and unicorn do that while the application is still to be loaded.
//!
//! A socket is known by its inode, since programs close and duplicate descriptors. All of this reads `/proc` and may block: run it off
//! the loop, and only while a worker starts.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::net::{SocketType, sockopt};

use super::diag::{Inode, Sockets};
use super::process::{Process, descendants, group_members};
use super::ring;
use super::{Listener as Known, Local, PROCESSES_MAX, Subject};

/// Time limit of the observation of one worker.
const BUDGET: Duration = Duration::from_millis(500);
/// The most threads of one process that are examined.
const THREADS_MAX: usize = 4096;
/// The most entries of a poll set, and descriptors of a select set, that are examined.
const SET_MAX: usize = 65_536;

/// The evidence that a worker accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evidence {
    /// The worker holds an open connection of the socket.
    Connection,
    /// A thread waits for the socket: accept, select, poll, or a receive call.
    Accept,
    /// The socket is in an epoll set.
    Epoll,
}

impl Evidence {
    /// The value in the status document.
    pub fn as_str(self) -> &'static str {
        match self {
            Evidence::Connection => "connection",
            Evidence::Accept => "accept",
            Evidence::Epoll => "epoll",
        }
    }
}

/// The result of the observation of one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// The evidence for each listening socket, in the order of the sockets.
    pub sockets: Vec<Option<Evidence>>,
    /// Whether a part of the worker could not be seen: another user's process without CAP_SYS_PTRACE, a process that is not dumpable, or
    /// io_uring. The evidence that was found is valid all the same.
    pub hidden: bool,
    /// Whether the time ran out before everything was examined; another observation may show more.
    pub cut_short: bool,
}

impl Observation {
    /// The strongest evidence of all sockets.
    pub fn best(&self) -> Option<Evidence> {
        self.sockets.iter().copied().flatten().max()
    }
}

/// Observes one worker now.
pub fn observe(worker: &Subject, listeners: &[impl AsFd]) -> Observation {
    observe_until(Instant::now() + BUDGET, worker, listeners)
}

fn observe_until(end: Instant, worker: &Subject, listeners: &[impl AsFd]) -> Observation {
    let sockets: Vec<Option<Socket>> = listeners.iter().map(Socket::of).collect();
    let mut observation = Observation { sockets: vec![None; sockets.len()], hidden: false, cut_short: false };
    let mut held = HashSet::new();
    for pid in processes_of(worker) {
        Look { pid, sockets: &sockets, end, seen: &mut observation, held: &mut held }.all();
    }
    if observation.sockets.iter().any(Option::is_none) && !held.is_empty() {
        let after = || held_now(worker, end);
        connections(&sockets, &held, after, &mut observation);
    }
    observation
}

/// The inodes of all sockets that the processes of a worker hold now, as far as they can be seen.
fn held_now(worker: &Subject, end: Instant) -> HashSet<Inode> {
    let mut held = HashSet::new();
    for process in processes_of(worker).into_iter().filter_map(Process::of) {
        process.sockets(end, |_, inode| _ = held.insert(inode));
    }
    held
}

/// The processes of a worker: those of its cgroup, else its main process and the descendants of that.
fn processes_of((_, main, group): &Subject) -> Vec<u32> {
    if let Some(members) = group.as_ref().and_then(|group| group_members(group, PROCESSES_MAX)) {
        return members;
    }
    let below = Process::of(*main).and_then(|main| descendants(&main, PROCESSES_MAX)).unwrap_or_default();
    std::iter::once(*main).chain(below).collect()
}

/// A listening socket.
struct Socket {
    inode: Inode,
    /// `sdev` of an epoll set's entries: the device of all sockets, as the kernel writes it.
    device: u64,
    /// Whether the socket takes datagrams: a thread that waits to receive then counts as accepting.
    datagrams: bool,
    known: Option<Known>,
}

impl Socket {
    fn of(fd: &impl AsFd) -> Option<Socket> {
        let stat = rustix::fs::fstat(fd).ok()?;
        let device = u64::from(rustix::fs::major(stat.st_dev)) << 20 | u64::from(rustix::fs::minor(stat.st_dev));
        let datagrams = sockopt::socket_type(fd) == Ok(SocketType::DGRAM);
        Some(Socket { inode: Inode::try_from(stat.st_ino).ok()?, device, datagrams, known: Known::of(fd) })
    }
}

/// The examination of one process.
struct Look<'a> {
    pid: u32,
    sockets: &'a [Option<Socket>],
    end: Instant,
    seen: &'a mut Observation,
    /// Inodes of all sockets that processes of this worker hold.
    held: &'a mut HashSet<Inode>,
}

impl Look<'_> {
    fn all(&mut self) {
        // Descriptor number and index in `sockets` of each listening socket that the process holds.
        let mut listening: Vec<(u32, usize)> = Vec::new();
        let (sockets, held) = (self.sockets, &mut *self.held);
        let Some(process) = Process::of(self.pid) else { return };
        let visible = process.sockets(self.end, |number, inode| {
            held.insert(inode);
            let at = sockets.iter().position(|socket| socket.as_ref().is_some_and(|socket| socket.inode == inode));
            listening.extend(at.map(|at| (number, at)));
        });
        if !visible {
            if Instant::now() > self.end {
                self.seen.cut_short = true;
            } else {
                // A process that has ended shows nothing and hides nothing.
                self.seen.hidden |= process.stat().is_some();
            }
            return;
        }
        if listening.is_empty() || self.is_stopped() {
            return;
        }
        self.epoll_sets();
        self.threads(&listening);
    }

    /// Whether the process is stopped by a signal or by a debugger: it is in its call, and does not return from it.
    fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(self.path("stat")).unwrap_or_default();
        // "17 (name) T 1 …": the name may have any characters.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
    }

    fn path(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.pid))
    }

    fn found(&mut self, at: usize, evidence: Evidence) {
        let seen = &mut self.seen.sockets[at];
        *seen = (*seen).max(Some(evidence));
    }

    /// Reads the epoll sets of the process, proc_pid_fdinfo(5): "tfd: 7 events: 19 data: 7 pos:0 ino:4b1e sdev:8".
    fn epoll_sets(&mut self) {
        let Ok(descriptors) = fs::read_dir(self.path("fd")) else { return };
        for descriptor in descriptors.flatten() {
            let Ok(link) = fs::read_link(descriptor.path()) else { continue };
            let file = self.path("fdinfo").join(descriptor.file_name());
            if link.as_os_str() == "anon_inode:[io_uring]" {
                // The kernel does not show for which descriptor a request of a ring waits.
                self.seen.hidden |= fs::read_to_string(&file).map_or(true, |text| ring::may_wait(&text));
            }
            if link.as_os_str() != "anon_inode:[eventpoll]" {
                continue;
            }
            let Ok(text) = fs::read_to_string(&file) else { continue };
            for entry in text.lines().filter(|line| line.starts_with("tfd:")) {
                let field = |name: &str| {
                    let value = entry.split_once(name)?.1;
                    u64::from_str_radix(value.split_ascii_whitespace().next()?, 16).ok()
                };
                let (inode, device) = (field(" ino:"), field(" sdev:"));
                let is = |socket: &Socket| inode == Some(socket.inode.into()) && device == Some(socket.device);
                if let Some(at) = self.sockets.iter().position(|socket| socket.as_ref().is_some_and(is)) {
                    self.found(at, Evidence::Epoll);
                }
            }
        }
    }

    fn threads(&mut self, listening: &[(u32, usize)]) {
        let Ok(threads) = fs::read_dir(self.path("task")) else { return };
        for (count, thread) in threads.flatten().enumerate() {
            if count >= THREADS_MAX {
                self.seen.hidden = true;
                return;
            }
            if Instant::now() > self.end {
                self.seen.cut_short = true;
                return;
            }
            match fs::read_to_string(thread.path().join("syscall")) {
                Ok(text) => self.call(&text, listening),
                // The thread has ended.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound) || error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(_) => self.seen.hidden = true,
            }
        }
    }

    /// Reads the system call of one thread: "43 0x3 0x7ffd… …", or "running" (proc_pid_syscall(5)).
    fn call(&mut self, text: &str, listening: &[(u32, usize)]) {
        let mut fields = text.split_ascii_whitespace();
        let Some(number) = fields.next().and_then(|number| number.parse::<i64>().ok()) else { return };
        let arguments: Vec<u64> = fields.map_while(|field| u64::from_str_radix(field.strip_prefix("0x")?, 16).ok()).collect();
        let argument = |at: usize| arguments.get(at).copied().unwrap_or(0);
        let waits = match Call::of(number) {
            Some(Call::Accept) => self.waits_on(argument(0), listening, false),
            Some(Call::Receive) => self.waits_on(argument(0), listening, true),
            Some(Call::Select) => self.select_set(argument(0), argument(1), listening),
            Some(Call::Poll) => self.poll_set(argument(0), argument(1), listening),
            None => return,
        };
        for at in waits {
            self.found(at, Evidence::Accept);
        }
    }

    fn waits_on(&self, descriptor: u64, listening: &[(u32, usize)], datagrams: bool) -> Vec<usize> {
        let is = |at: usize| self.sockets[at].as_ref().is_some_and(|socket| socket.datagrams == datagrams);
        listening.iter().filter(|(number, at)| u64::from(*number) == descriptor && is(*at)).map(|(_, at)| *at).collect()
    }

    /// The listening sockets in the read set of select(2), which has one bit a descriptor, in words of the machine.
    fn select_set(&mut self, count: u64, address: u64, listening: &[(u32, usize)]) -> Vec<usize> {
        let bytes = (count as usize).min(SET_MAX).div_ceil(64) * 8;
        let Some(set) = self.memory(address, bytes) else { return Vec::new() };
        let contains = |number: u32| {
            let (word, bit) = (number as usize / 64, number % 64);
            let bytes = set.get(word * 8..word * 8 + 8).and_then(|bytes| bytes.try_into().ok());
            u64::from(number) < count && bytes.is_some_and(|bytes| u64::from_ne_bytes(bytes) & (1 << bit) != 0)
        };
        listening.iter().filter(|(number, _)| contains(*number)).map(|(_, at)| *at).collect()
    }

    /// The listening sockets in the set of poll(2), an array of `struct pollfd`: a descriptor (int) and two shorts each.
    fn poll_set(&mut self, address: u64, count: u64, listening: &[(u32, usize)]) -> Vec<usize> {
        let Some(set) = self.memory(address, (count as usize).min(SET_MAX) * 8) else { return Vec::new() };
        let readable = |entry: &[u8]| i16::from_ne_bytes([entry[4], entry[5]]) & libc::POLLIN != 0;
        let watched: HashSet<i32> = set
            .chunks_exact(8)
            .filter(|entry| readable(entry))
            .map(|entry| i32::from_ne_bytes([entry[0], entry[1], entry[2], entry[3]]))
            .collect();
        let watches = |number: u32| i32::try_from(number).is_ok_and(|number| watched.contains(&number));
        listening.iter().filter(|(number, _)| watches(*number)).map(|(_, at)| *at).collect()
    }

    /// Reads memory of the process; `None` when that fails. If the kernel denies it, the observation is marked as hidden.
    fn memory(&mut self, address: u64, bytes: usize) -> Option<Vec<u8>> {
        if address == 0 || bytes == 0 {
            return None;
        }
        let mut memory = vec![0; bytes];
        let read = File::open(self.path("mem")).and_then(|file| file.read_at(&mut memory, address));
        self.seen.hidden |= matches!(&read, Err(error) if error.kind() == ErrorKind::PermissionDenied);
        memory.truncate(read.ok()?);
        Some(memory)
    }
}

/// System calls in which a thread waits for a socket.
enum Call {
    /// accept, accept4.
    Accept,
    /// recvfrom, recvmsg, recvmmsg.
    Receive,
    /// select, pselect6.
    Select,
    /// poll, ppoll.
    Poll,
}

impl Call {
    fn of(number: i64) -> Option<Call> {
        match number {
            libc::SYS_accept | libc::SYS_accept4 => Some(Call::Accept),
            libc::SYS_recvfrom | libc::SYS_recvmsg | libc::SYS_recvmmsg => Some(Call::Receive),
            libc::SYS_pselect6 => Some(Call::Select),
            libc::SYS_ppoll => Some(Call::Poll),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_select => Some(Call::Select),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_poll => Some(Call::Poll),
            _ => None,
        }
    }
}

/// Looks for open connections of the sockets without other evidence. A worker with a process for each connection holds one for a few
/// milliseconds only, so what it holds before and after the kernel's list was read counts.
fn connections(
    sockets: &[Option<Socket>],
    before: &HashSet<Inode>,
    after: impl FnOnce() -> HashSet<Inode>,
    observation: &mut Observation,
) {
    let mut open: Vec<(usize, Vec<Inode>)> = Vec::new();
    for (at, socket) in sockets.iter().enumerate() {
        let Some(known) = socket.as_ref().and_then(|socket| socket.known.as_ref()) else { continue };
        if observation.sockets[at].is_some() {
            continue;
        }
        let mut dump = Sockets::default();
        match &known.local {
            Local::Tcp { six, port } => dump.add_tcp(*six, &HashSet::from([*port])),
            Local::Unix { name } => dump.add_unix(&HashSet::from([name.as_slice()])),
            Local::Other => {}
        }
        let inodes: Vec<Inode> = dump.connections.iter().map(|connection| connection.inode).collect();
        if inodes.iter().any(|inode| before.contains(inode)) {
            observation.sockets[at] = Some(Evidence::Connection);
        } else if !inodes.is_empty() {
            open.push((at, inodes));
        }
    }
    if open.is_empty() {
        return;
    }
    let after = after();
    for (at, _) in open.into_iter().filter(|(_, inodes)| inodes.iter().any(|inode| after.contains(inode))) {
        observation.sockets[at] = Some(Evidence::Connection);
    }
}

#[cfg(test)]
mod tests;
