//! The child between clone3 or fork and exec: it only makes system calls, and does not allocate, lock or panic.
//!
//! The child was made by a raw clone3(2), so the C library doesn't know that it has a single thread: everything that the
//! library would coordinate between threads (setuid, pthread_sigmask) is done by system call. The child may share the master's
//! memory while the master runs on. So the child writes only to its own stack and to its own order, and not even to errno.

use std::ffi::c_char;
use std::io;
use std::os::fd::{OwnedFd, RawFd};

use rustix::thread::CpuSet;

use super::Identity;
use super::errors::{Stage, encode};
use super::raw::{call, inode, stat};
use crate::sys::process::PIDFS_MAGIC;
use crate::sys::program::Identity as FileIdentity;

/// The instructions for a child. The order owns everything that its pointers point to.
pub(super) struct Order {
    pub tag: u64,
    pub errors: RawFd,
    pub parent: i32,
    pub cgroup: Option<RawFd>,
    pub stdin: Option<RawFd>,
    pub stdout: Option<RawFd>,
    pub stderr: Option<RawFd>,
    /// Sources of the descriptors `first`, `first + 1`, … up to `next - 1`.
    pub descriptors: Vec<RawFd>,
    pub first: RawFd,
    pub next: RawFd,
    pub directory: RawFd,
    pub identity: Option<Identity>,
    pub nofile: Option<(u64, u64)>,
    pub cpus: Option<CpuSet>,
    pub death_signal: Option<i32>,
    /// The signals that the child must reset to default: the master ignores them, and clone3(2) and execve(2) would keep that.
    pub ignored: Mask,
    pub file: FileIdentity,
    pub pinned: RawFd,
    pub keep_pinned: bool,
    pub texts: Texts,
    /// Set if the child shares the master's descriptor table: the child first takes a copy of the table, up to this number.
    pub copied_up_to: Option<RawFd>,
    /// Duplicates that the numbers above refer to; they stay open until the order is dropped.
    #[allow(dead_code, reason = "it is kept, not used")]
    pub moved: Vec<OwnedFd>,
}

// SAFETY: the pointers of an order point into memory that it owns.
unsafe impl Send for Order {}

/// The texts that an [`Order`] needs, as pointers into one buffer.
pub(super) struct Texts {
    /// The buffer that the pointers point into; not accessed while they are used.
    pub _bytes: Vec<u8>,
    /// The ways to start the program, its arguments and its environment. The lists of texts end with a null pointer.
    pub starts: Vec<Start>,
    pub argv: Vec<*const c_char>,
    pub env: Vec<*const c_char>,
    /// Points to room for the digits of the variable, or null.
    pub listen_pid: *mut u8,
    pub watchdog_pid: *mut u8,
    pub listen_pidfdid: Option<LastVariable>,
}

/// One way to start the program, see `sys::program::Start`.
pub(super) struct Start {
    pub path: *const c_char,
    pub same: bool,
    pub execute: *const c_char,
    /// The arguments; `None`: those in [`Texts::argv`].
    pub argv: Option<Vec<*const c_char>>,
}

/// A variable that the child removes if it has no value for it.
pub(super) struct LastVariable {
    /// Room for the variable's digits.
    pub digits: *mut u8,
    /// The variable's pointer in the environment, the last before the null.
    pub entry: *mut *const c_char,
}

/// The kernel's signal set: bit 0 is signal 1.
pub(in crate::sys) type Mask = u64;

/// Blocks all signals in this thread, including those that the C library reserves. Returns the previous mask.
pub(in crate::sys) fn block_everything() -> io::Result<Mask> {
    let (all, mut before): (Mask, Mask) = (!0, 0);
    // SAFETY: both sets are of the size that is passed.
    let result =
        unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, &raw mut before, size_of::<Mask>()) };
    if result == 0 { Ok(before) } else { Err(io::Error::last_os_error()) }
}

/// Sets the mask of this thread. The child uses it, too.
pub(in crate::sys) fn restore(mask: &Mask) {
    let (how, mask) = (libc::SIG_SETMASK as usize, std::ptr::from_ref(mask).addr());
    // SAFETY: the set has the size that is passed. The call can't fail with these arguments.
    let _ = unsafe { call(libc::SYS_rt_sigprocmask, [how, mask, 0, size_of::<Mask>()]) };
}

/// The stage that failed, and the errno.
type Failed = (Stage, i32);

/// Runs the child until it executes its program, or reports the failure and exits with status 127.
///
/// # Safety
/// Call it only in a new child, with all signals blocked.
pub(super) unsafe fn run(order: &Order, cgroup: Option<RawFd>) -> ! {
    // SAFETY: as for this function.
    let (stage, errno) = match unsafe { become_worker(order, cgroup) } {
        Err(failed) => failed,
        Ok(never) => match never {},
    };
    let record = encode(order.tag, stage, errno);
    // SAFETY: the record is on this stack.
    unsafe {
        let _ = call(libc::SYS_write, [order.errors as usize, record.as_ptr().addr(), record.len()]);
        leave()
    }
}

/// Exits with status 127, without running exit handlers of the parent.
unsafe fn leave() -> ! {
    loop {
        // SAFETY: the argument is a number. The call does not return.
        let _ = unsafe { call(libc::SYS_exit_group, [127]) };
    }
}

/// Makes a system call; an error becomes a failure of `stage`.
///
/// # Safety
/// As for the call.
unsafe fn must<const N: usize>(stage: Stage, number: std::ffi::c_long, arguments: [usize; N]) -> Result<usize, Failed> {
    // SAFETY: as for this function.
    unsafe { call(number, arguments) }.map_err(|errno| (stage, errno))
}

/// # Safety
/// As for [`run`].
unsafe fn become_worker(order: &Order, cgroup: Option<RawFd>) -> Result<std::convert::Infallible, Failed> {
    // SAFETY: the arguments are numbers, and pointers into memory that `order` owns; memory is written only where the
    // parent made room for digits.
    unsafe {
        if let Some(last) = order.copied_up_to {
            own_table(last)?;
        }
        default_signals(order.ignored);
        must(Stage::Session, libc::SYS_setsid, [])?;
        if let Some(cgroup) = cgroup {
            enter(cgroup)?;
        }
        standard_streams(order)?;

        for (target, &source) in (order.first..).zip(&order.descriptors) {
            // dup3 clears close-on-exec. It fails for equal numbers, but sources are above all targets.
            must(Stage::Sockets, libc::SYS_dup3, [source as usize, target as usize, 0])?;
        }
        patch_numbers(&order.texts);
        close_on_exec_from(order.next);

        if let Some((soft, hard)) = order.nofile {
            let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
            let limit = (&raw const limit).addr();
            must(Stage::Limits, libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE as usize, limit, 0])?;
        }
        if let Some(cpus) = &order.cpus {
            let (size, cpus) = (size_of::<CpuSet>(), std::ptr::from_ref(cpus).addr());
            // Fails if none of them is usable any more; then the worker has the master's.
            let _ = call(libc::SYS_sched_setaffinity, [0, size, cpus]);
        }
        if let Some(identity) = &order.identity {
            let groups = &identity.groups;
            must(Stage::Groups, libc::SYS_setgroups, [groups.len(), groups.as_ptr().addr()])?;
            let (uid, gid) = (identity.uid as usize, identity.gid as usize);
            must(Stage::SetGid, libc::SYS_setresgid, [gid, gid, gid])?;
            must(Stage::SetUid, libc::SYS_setresuid, [uid, uid, uid])?;
        }
        if let Some(signal) = order.death_signal {
            // After the change of user, which would clear it.
            let death = libc::PR_SET_PDEATHSIG as usize;
            must(Stage::DeathSignal, libc::SYS_prctl, [death, signal as usize, 0, 0, 0])?;
            if call(libc::SYS_getppid, []) != Ok(order.parent as usize) {
                // The master exited before the call: the signal would never come, and no process reads the error.
                leave();
            }
        }
        must(Stage::Chdir, libc::SYS_fchdir, [order.directory as usize])?;
        restore(&0);
        Err((Stage::Exec, execute(order)))
    }
}

/// Replaces the descriptor table that is shared with the master by an own copy without the numbers above `last`. With a thousand workers
/// the master has thousands of descriptors, and copying and closing them would take longer than all other steps.
unsafe fn own_table(last: RawFd) -> Result<(), Failed> {
    // SAFETY: numbers only.
    unsafe {
        let range = [last as usize + 1, u32::MAX as usize, libc::CLOSE_RANGE_UNSHARE as usize];
        if call(libc::SYS_close_range, range).is_err() {
            must(Stage::Sockets, libc::SYS_unshare, [libc::CLONE_FILES as usize])?;
        }
    }
    Ok(())
}

/// Room for the kernel's `struct sigaction`. All zeroes means SIG_DFL with no flags and an empty mask; the first word is the handler.
type Action = [usize; 8];

/// Resets the signals in `ignored` to their default disposition. The program that started the master, or Rust's runtime, has ignored
/// them.
unsafe fn default_signals(ignored: Mask) {
    let default: Action = [libc::SIG_DFL; 8];
    for signal in (1..=64).filter(|signal| ignored & bit(*signal) != 0) {
        // By system call: the C library refuses the two signals that it reserves. SIGKILL and SIGSTOP fail, as they should.
        // SAFETY: the structure is large enough, and the old one isn't requested.
        let _ = unsafe { call(libc::SYS_rt_sigaction, [signal, default.as_ptr().addr(), 0, size_of::<Mask>()]) };
    }
}

fn bit(signal: usize) -> Mask {
    1 << (signal - 1)
}

/// The signals that this process ignores and its workers must not ignore.
pub(super) fn ignored_signals() -> Mask {
    // Workers get the disposition of SIGPIPE with which the master was started (`IgnoreSIGPIPE=`); Rust's runtime always ignores it.
    let kept = if crate::sys::signals::sigpipe_was_ignored() { bit(libc::SIGPIPE as usize) } else { 0 };
    let is_ignored = |signal: &usize| {
        let mut action: Action = [libc::SIG_DFL; 8];
        // SAFETY: the structure is large enough, and no new action is given.
        let asked = unsafe { call(libc::SYS_rt_sigaction, [*signal, 0, action.as_mut_ptr().addr(), size_of::<Mask>()]) };
        asked.is_ok() && action[0] == libc::SIG_IGN
    };
    (1..=64).filter(is_ignored).map(bit).sum::<Mask>() & !kept
}

unsafe fn enter(cgroup: RawFd) -> Result<(), Failed> {
    let flags = (libc::O_WRONLY | libc::O_CLOEXEC) as usize;
    // SAFETY: the strings are constants; the descriptor is closed here.
    unsafe {
        let name = c"cgroup.procs".as_ptr().addr();
        let procs = must(Stage::Cgroup, libc::SYS_openat, [cgroup as usize, name, flags, 0])?;
        must(Stage::Cgroup, libc::SYS_write, [procs, c"0".as_ptr().addr(), 1])?;
        let _ = call(libc::SYS_close, [procs]);
    }
    Ok(())
}

unsafe fn standard_streams(order: &Order) -> Result<(), Failed> {
    // SAFETY: numbers and a constant string.
    unsafe {
        if order.stdin.is_none() {
            let null = c"/dev/null".as_ptr().addr();
            let null = must(Stage::Stdin, libc::SYS_openat, [libc::AT_FDCWD as usize, null, libc::O_RDONLY as usize, 0])?;
            if null != 0 {
                must(Stage::Stdin, libc::SYS_dup3, [null, 0, 0])?;
                let _ = call(libc::SYS_close, [null]);
            }
        }
        let streams = [(order.stdin, Stage::Stdin), (order.stdout, Stage::Output), (order.stderr, Stage::Output)];
        for (number, (stream, stage)) in streams.into_iter().enumerate() {
            if let Some(stream) = stream {
                must(stage, libc::SYS_dup3, [stream as usize, number, 0])?;
            }
        }
    }
    Ok(())
}

/// Sets all descriptors from `next` on close-on-exec, so that none of the master leaks, not even one that a library opened without it.
unsafe fn close_on_exec_from(next: RawFd) {
    // SAFETY: numbers only.
    unsafe {
        let (first, last) = (next as usize, u32::MAX as usize);
        if call(libc::SYS_close_range, [first, last, libc::CLOSE_RANGE_CLOEXEC as usize]).is_ok() {
            return;
        }
        // Kernels before 5.11. The master's own descriptors are close-on-exec anyway; this loop is for those that it inherited.
        for number in first..65536 {
            let _ = call(libc::SYS_fcntl, [number, libc::F_SETFD as usize, libc::FD_CLOEXEC as usize]);
        }
    }
}

/// Writes the numbers into the environment that only the child itself knows: its pid and its pidfd's inode.
unsafe fn patch_numbers(texts: &Texts) {
    // SAFETY: the pointers lead to room for the digits of any 64-bit number, or are null.
    unsafe {
        let pid = call(libc::SYS_getpid, []).unwrap_or_default() as u64;
        write_digits(texts.listen_pid, pid);
        write_digits(texts.watchdog_pid, pid);
        if let Some(variable) = &texts.listen_pidfdid {
            match own_pidfd_inode(pid) {
                Some(inode) => write_digits(variable.digits, inode),
                None => *variable.entry = std::ptr::null(),
            }
        }
    }
}

/// Writes a number in decimal, without leading zeros, since a reader may take those for octal.
unsafe fn write_digits(mut room: *mut u8, number: u64) {
    if room.is_null() {
        return;
    }
    let mut divisor = 1;
    while number / divisor >= 10 {
        divisor *= 10;
    }
    while divisor > 0 {
        // SAFETY: the room holds the at most 20 digits, and the NUL after them is already there.
        unsafe {
            *room = b'0' + (number / divisor % 10) as u8;
            room = room.add(1);
        }
        divisor /= 10;
    }
}

/// [`write_digits`] for a test.
#[cfg(test)]
pub(super) fn digits_for_tests(room: &mut [u8; super::DIGITS], number: u64) {
    // SAFETY: there is room for any number.
    unsafe { write_digits(room.as_mut_ptr(), number) }
}

/// The value of `LISTEN_PIDFDID`, sd_listen_fds(3); `None` where the inode of a pidfd does not identify the process.
unsafe fn own_pidfd_inode(pid: u64) -> Option<u64> {
    // SAFETY: numbers only; the descriptor is closed here.
    unsafe {
        let pidfd = call(libc::SYS_pidfd_open, [pid as usize, 0]).ok()?;
        let known = inode(pidfd);
        let _ = call(libc::SYS_close, [pidfd]);
        known.ok().filter(|(_, filesystem)| *filesystem == PIDFS_MAGIC).map(|(inode, _)| inode)
    }
}

/// Executes the program. Returns only on failure, with the errno. ETXTBSY is retried five times, after 20 ms each.
unsafe fn execute(order: &Order) -> i32 {
    let pause = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    for _ in 0..5 {
        // SAFETY: guaranteed by the caller.
        let errno = unsafe { execute_once(order) };
        if errno != libc::ETXTBSY {
            return errno;
        }
        // The writer of the file has closed it, but a process that was forked meanwhile, and is about to execute
        // another program, still has it open. That ends in a moment, and only this child waits.
        // SAFETY: the time is on this stack, and the remaining time isn't requested.
        let _ = unsafe { call(libc::SYS_nanosleep, [(&raw const pause).addr(), 0]) };
    }
    // SAFETY: guaranteed by the caller.
    unsafe { execute_once(order) }
}

/// Executes the first way whose path leads to the wanted file; without one, the pinned file itself. Returns the errno.
unsafe fn execute_once(order: &Order) -> i32 {
    let texts = &order.texts;
    let (argv, env) = (texts.argv.as_ptr().addr(), texts.env.as_ptr().addr());
    for start in &texts.starts {
        // SAFETY: guaranteed by the caller.
        let fits = match unsafe { stat(start.path) } {
            Ok(stat) => !start.same || FileIdentity::of(&stat) == order.file,
            // The worker's user has no access to the path. Report this error, and do not start in a way that no
            // administrator would expect.
            Err(errno) => errno == libc::EACCES,
        };
        if fits {
            let argv = start.argv.as_ref().map_or(argv, |argv| argv.as_ptr().addr());
            // SAFETY: guaranteed by the caller.
            return unsafe { call(libc::SYS_execve, [start.execute.addr(), argv, env]) }.err().unwrap_or_default();
        }
    }
    let pinned = order.pinned as usize;
    // SAFETY: guaranteed by the caller.
    let failed = unsafe {
        if order.keep_pinned {
            // The interpreter opens the script by this descriptor's number.
            let _ = call(libc::SYS_fcntl, [pinned, libc::F_SETFD as usize, 0]);
        }
        call(libc::SYS_execveat, [pinned, c"".as_ptr().addr(), argv, env, libc::AT_EMPTY_PATH as usize])
    };
    failed.err().unwrap_or_default()
}
