//! Processes as descriptors: waiting, signalling, identity; and the reaping of adopted processes.
//!
//! Law: no process is killed or waited for by number. The one exception is the reaping of a child, which keeps its number until then.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, WaitId, WaitIdOptions, WaitIdStatus};
use rustix::time::Timespec;

use super::signals;

/// `f_type` of the filesystem of pidfds (kernel 6.9 and later). Only there does the inode of a pidfd identify its process.
pub(crate) const PIDFS_MAGIC: u64 = 0x5049_4446;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this status (0 to 255).
    Exit(i32),
    /// A signal killed it.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Whether it dumped core.
        core: bool,
    },
    /// It has ended, but its status is unknown: another parent has it.
    Unknown,
}

impl Ended {
    /// Decodes a status of wait(2).
    pub fn from_wait_status(status: i32) -> Ended {
        if libc::WIFSIGNALED(status) {
            Ended::Signal { signal: libc::WTERMSIG(status), core: libc::WCOREDUMP(status) }
        } else if libc::WIFEXITED(status) {
            Ended::Exit(libc::WEXITSTATUS(status))
        } else {
            Ended::Unknown
        }
    }

    fn from_waitid(status: &WaitIdStatus) -> Ended {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ended::Exit(code),
            (None, Some(signal)) => Ended::Signal { signal, core: status.dumped() },
            (None, None) => Ended::Unknown,
        }
    }
}

/// The text of `failures[].how` in the status document: `exit 1`, `signal SIGSEGV (core dumped)`.
impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Exit(code) => write!(f, "exit {code}"),
            Ended::Signal { signal, core } => {
                write!(f, "signal {}{}", signals::name(*signal), if *core { " (core dumped)" } else { "" })
            }
            Ended::Unknown => f.write_str("ended, status unknown"),
        }
    }
}

/// A process by descriptor (pidfd_open(2)): it never refers to another process that got the same number.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens a running process or a zombie. Race-free for a child that isn't reaped yet.
    pub fn open(pid: u32) -> io::Result<PidFd> {
        let pid = to_pid(pid)?;
        Ok(PidFd(rustix::process::pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Another descriptor of the same process, close-on-exec.
    pub fn try_clone(&self) -> io::Result<PidFd> {
        Ok(PidFd(self.0.try_clone()?))
    }

    /// Sends a signal; 0 only checks whether the process exists. `ESRCH` when the process is reaped.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        // By system call: rustix accepts neither real-time signals nor 0.
        // SAFETY: the descriptor is open for the call; no information is passed (null), no flags.
        let result = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// How the process ended; `None` while it runs. Reaps a child. For a process that isn't a child the result is as exact as the kernel
    /// allows. Never waits.
    pub fn wait(&self) -> io::Result<Option<Ended>> {
        self.status(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// Whether the process is a child of this process that is not reaped.
    pub fn is_child(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::PidFd(self.0.as_fd()), options)).is_ok()
    }

    /// Like [`PidFd::wait`], but a child stays a zombie, so its number is not used again and its descendants can be found before it is
    /// reaped, see [`super::descendants`].
    pub fn peek(&self) -> io::Result<Option<Ended>> {
        self.status(WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)
    }

    fn status(&self, options: WaitIdOptions) -> io::Result<Option<Ended>> {
        match rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::PidFd(self.0.as_fd()), options)) {
            Ok(status) => Ok(status.as_ref().map(Ended::from_waitid)),
            Err(rustix::io::Errno::CHILD) => self.status_of_a_stranger(),
            Err(error) => Err(error.into()),
        }
    }

    /// How a process ended that isn't a child of this process, or that is an already reaped child.
    fn status_of_a_stranger(&self) -> io::Result<Option<Ended>> {
        let mut poll = [PollFd::new(&self.0, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut poll, Some(&now)))?;
        if poll[0].revents().is_empty() {
            return Ok(None);
        }
        // Query `exit_info` twice: if the parent reaps the process in between, its zombie is gone but `exit_info` has the status.
        let status = self.exit_info().or_else(|| self.status_of_a_zombie()).or_else(|| self.exit_info());
        Ok(Some(status.unwrap_or(Ended::Unknown)))
    }

    /// Whether another process's child has not been reaped yet, on a kernel that reports its status then. The reaping shows as a hang-up of
    /// this descriptor. Call it for a process that has ended.
    pub fn lacks_status(&self) -> bool {
        self.info().is_some_and(|info| info.mask & PIDFD_INFO_EXIT == 0) && self.signal(0).is_ok()
    }

    /// How a reaped process ended, from the pidfd itself (`PIDFD_INFO_EXIT`, kernel 6.15 and later).
    fn exit_info(&self) -> Option<Ended> {
        let info = self.info()?;
        (info.mask & PIDFD_INFO_EXIT != 0).then(|| Ended::from_wait_status(info.exit_code))
    }

    fn info(&self) -> Option<PidfdInfo> {
        let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
        // SAFETY: the request's number contains the size of the structure; the kernel writes no more than that.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
        (result == 0).then_some(info)
    }

    /// How a zombie of another parent ended: the last field of /proc/PID/stat. A reader without permission sees 0, so only another
    /// value is a result.
    fn status_of_a_zombie(&self) -> Option<Ended> {
        let stat = Stat::read(self.pid()?)?;
        // If the process still isn't reaped, its number was its own during the read.
        self.signal(0).ok()?;
        (stat.state == b'Z' && stat.exit_code != 0).then(|| Ended::from_wait_status(stat.exit_code))
    }

    /// The process's number in this PID namespace; `None` once it is reaped.
    pub fn pid(&self) -> Option<u32> {
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd())).ok()?;
        text.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok().filter(|&pid| pid != 0)
    }

    /// The process's identity, as in `LISTEN_PIDFDID`: unique until the next boot, even when the number is used again. `None` on kernels
    /// before 6.9.
    pub fn inode(&self) -> Option<u64> {
        pidfs_inode(self.0.as_fd())
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl From<OwnedFd> for PidFd {
    fn from(fd: OwnedFd) -> PidFd {
        PidFd(fd)
    }
}

impl From<PidFd> for OwnedFd {
    fn from(pidfd: PidFd) -> OwnedFd {
        pidfd.0
    }
}

/// The inode of a pidfd; `None` if it does not identify the process, see [`PIDFS_MAGIC`].
pub(crate) fn pidfs_inode(fd: BorrowedFd<'_>) -> Option<u64> {
    let filesystem = rustix::fs::fstatfs(fd).ok()?;
    if filesystem.f_type as u64 != PIDFS_MAGIC {
        return None;
    }
    Some(rustix::fs::fstat(fd).ok()?.st_ino)
}

/// `struct pidfd_info` as of kernel 6.15 (its first version, 64 bytes).
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// Requests, or marks as valid, the status of a reaped process in [`PidfdInfo::exit_code`].
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// `_IOWR(0xFF, 11, struct pidfd_info)`.
const PIDFD_GET_INFO: u32 = (3 << 30) | ((size_of::<PidfdInfo>() as u32) << 16) | (0xFF << 8) | 11;

fn to_pid(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

/// The fields of /proc/PID/stat that are used here, proc_pid_stat(5).
pub(crate) struct Stat {
    /// The process's state: `R`, `S`, `Z` …
    pub state: u8,
    /// The current parent.
    pub parent: u32,
    /// The session.
    pub session: u32,
    /// Start time in clock ticks since boot. Start time and number together identify a process.
    pub start: u64,
    /// Status as of wait(2); 0 for a reader without permission.
    pub exit_code: i32,
}

/// The current effective user of a process; `None` when the process is gone.
pub fn effective_uid(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_ascii_whitespace().nth(1)?.parse().ok()
}

impl Stat {
    /// Reads the fields of a process; `None` when the process is gone.
    pub fn read(pid: u32) -> Option<Stat> {
        Stat::parse(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &[u8]) -> Option<Stat> {
        // The program's name may contain parentheses and blanks, so parse from the last closing parenthesis on.
        let end = text.iter().rposition(|&byte| byte == b')')?;
        let fields: Vec<&str> = std::str::from_utf8(text.get(end + 1..)?).ok()?.split_ascii_whitespace().collect();
        Some(Stat {
            state: *fields.first()?.as_bytes().first()?,
            parent: fields.get(1)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
            exit_code: fields.get(49).and_then(|text| text.parse().ok()).unwrap_or(0),
        })
    }
}

/// The name of a process (`/proc/PID/comm`, at most 15 bytes of any value); `None` when the process is gone. Never waits for it.
pub fn name(pid: u32) -> Option<Vec<u8>> {
    let mut name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    name.truncate(name.trim_ascii_end().len());
    Some(name)
}

/// The session and the process group of this process; 0 where the leader is in another PID namespace (as for the first process of a
/// container).
pub fn own_session_and_group() -> (u32, u32) {
    // Not by rustix: it panics at 0.
    // SAFETY: both calls only read numbers of this process, and cannot fail for it.
    let (session, group) = unsafe { (libc::getsid(0), libc::getpgrp()) };
    (session.unsigned_abs(), group.unsigned_abs())
}

/// Makes this process adopt its descendants whose own parent exits (`PR_SET_CHILD_SUBREAPER`).
pub fn set_subreaper() -> io::Result<()> {
    LazyLock::force(&CHILDREN);
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// The result of [`reap_orphans`].
#[derive(Debug, Default)]
pub struct Reaped {
    /// Processes that were reaped, with their exits.
    pub ended: Vec<(u32, Ended)>,
    /// More processes may be left: the call reached its limit, or (on kernels without a list of children) the status of a known child
    /// hides them. Call again, in the second case after that child was reaped.
    pub more: bool,
}

/// The most processes that one call reaps.
const REAPED_AT_ONCE: usize = 256;

/// Reaps ended children that no part of the program waits for; never waits.
///
/// `is_known` is true for children whose status is collected elsewhere: workers, by their own [`PidFd::wait`], and children that another
/// thread has started and waits for.
pub fn reap_orphans(mut is_known: impl FnMut(u32) -> bool) -> io::Result<Reaped> {
    let mut reaped = Reaped::default();
    let Some(children) = of_the_first_thread() else { return reap_one_by_one(is_known) };
    for pid in children {
        if reaped.ended.len() == REAPED_AT_ONCE {
            reaped.more = true;
            break;
        }
        if !is_known(pid)
            && let Some(end) = reap(pid)?
        {
            reaped.ended.push((pid, end));
        }
    }
    Ok(reaped)
}

/// The children of this process's first thread. These are all adopted processes, since the kernel assigns them to the first living
/// thread, and children that the first thread or a thread that has ended has started. Children of other threads are not included.
/// `None` on kernels without CONFIG_PROC_CHILDREN. The time grows with the number of children.
pub fn of_the_first_thread() -> Option<Vec<u32>> {
    let file = CHILDREN.as_ref()?;
    let (mut text, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match file.read_at(&mut piece, text.len() as u64) {
            Ok(0) => break,
            Ok(length) => text.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some(std::str::from_utf8(&text).ok()?.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// The first thread's list of children. It stays open, since it is read at each exit and opening it takes longer than reading it.
static CHILDREN: LazyLock<Option<File>> =
    LazyLock::new(|| File::open(format!("/proc/self/task/{}/children", std::process::id())).ok());

/// Reaps without a list of children: waitid(2) shows one ended child at a time, and the same one again until it is reaped.
fn reap_one_by_one(mut is_known: impl FnMut(u32) -> bool) -> io::Result<Reaped> {
    let mut reaped = Reaped::default();
    for _ in 0..REAPED_AT_ONCE {
        let Some(pid) = first_ended_child()? else { return Ok(reaped) };
        if is_known(pid) {
            break;
        }
        reaped.ended.extend(reap(pid)?.map(|end| (pid, end)));
    }
    reaped.more = true;
    Ok(reaped)
}

/// Reaps a child if it has ended. The number is safe to use, since a child keeps it until this process reaps it.
fn reap(pid: u32) -> io::Result<Option<Ended>> {
    match rustix::process::waitid(WaitId::Pid(to_pid(pid)?), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
        Ok(status) => Ok(status.as_ref().map(Ended::from_waitid)),
        Err(rustix::io::Errno::CHILD | rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The number of a child that has ended and isn't reaped; `None` if there is none.
fn first_ended_child() -> io::Result<Option<u32>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // Not by rustix: its waitid doesn't return the child's number.
    // SAFETY: the pointer leads to a siginfo_t that the kernel fills or leaves zeroed.
    if unsafe { libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) } != 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ECHILD) | Some(libc::EINTR) => Ok(None),
            _ => Err(error),
        };
    }
    // SAFETY: all zeroes is a valid siginfo_t, and so is what the kernel wrote for a child.
    let pid = unsafe { info.assume_init_ref().si_pid() };
    Ok(u32::try_from(pid).ok().filter(|&pid| pid != 0))
}

/// Raises the soft limit of open files to the hard limit and returns both previous values; `u64::MAX` is "unlimited".
///
/// Workers get the previous values back ([`super::spawn::Plan::nofile`]): a program that uses select(2) breaks above 1024.
pub fn raise_nofile() -> io::Result<(u64, u64)> {
    let before = rustix::process::getrlimit(Resource::Nofile);
    if before.current != before.maximum {
        rustix::process::setrlimit(Resource::Nofile, Rlimit { current: before.maximum, maximum: before.maximum })?;
    }
    Ok((before.current.unwrap_or(u64::MAX), before.maximum.unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests;
