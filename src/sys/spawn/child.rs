//! Between fork and exec: system calls, and nothing that allocates, locks or panics.
//!
//! The process was made by a raw clone3(2), so the C library doesn't know that it is alone in it: everything that the
//! library would coordinate between threads (setuid, pthread_sigmask) is done by system call. It may share the master's
//! memory, and the master runs on: so it writes to its own stack and to its own order, and to nothing else, not even errno.

use std::ffi::c_char;
use std::io;
use std::os::fd::{OwnedFd, RawFd};

use super::Identity;
use super::errors::{Stage, encode};
use super::raw::{call, inode, stat};
use crate::sys::process::PIDFS_MAGIC;
use crate::sys::program::Identity as FileIdentity;

/// What the child does. It owns all that its pointers lead to.
pub(super) struct Order {
    pub tag: u64,
    pub errors: RawFd,
    pub parent: i32,
    pub cgroup: Option<RawFd>,
    pub stdin: Option<RawFd>,
    pub stdout: Option<RawFd>,
    pub stderr: Option<RawFd>,
    /// These become `first`, `first + 1`, … up to `next - 1`.
    pub descriptors: Vec<RawFd>,
    pub first: RawFd,
    pub next: RawFd,
    pub directory: RawFd,
    pub identity: Option<Identity>,
    pub nofile: Option<(u64, u64)>,
    pub death_signal: Option<i32>,
    /// The signals that the master ignores, as bits from 0 on: what clone3(2) and execve(2) would leave so.
    pub ignored: Mask,
    pub file: FileIdentity,
    pub pinned: RawFd,
    pub keep_pinned: bool,
    pub texts: Texts,
    /// Where it shares the master's table of descriptors: it takes a copy of that up to this number.
    pub copied_up_to: Option<RawFd>,
    /// The copies among the numbers above, open until the order is dropped.
    #[allow(dead_code, reason = "it is kept, not used")]
    pub moved: Vec<OwnedFd>,
}

// SAFETY: its pointers lead into what it owns.
unsafe impl Send for Order {}

/// The texts that an [`Order`] needs, as pointers into one buffer.
pub(super) struct Texts {
    /// What the pointers lead into; never touched while they are used.
    pub _bytes: Vec<u8>,
    /// The ways to start the program, its arguments, its environment: the lists of texts end with a null.
    pub starts: Vec<Start>,
    pub argv: Vec<*const c_char>,
    pub env: Vec<*const c_char>,
    /// Room for digits, or null.
    pub listen_pid: *mut u8,
    pub watchdog_pid: *mut u8,
    pub listen_pidfdid: Option<LastVariable>,
}

/// One way to start the program, see `sys::program::Start`.
pub(super) struct Start {
    pub path: *const c_char,
    pub same: bool,
    pub execute: *const c_char,
    /// The arguments; `None`: those of [`Texts`].
    pub argv: Option<Vec<*const c_char>>,
}

/// A variable that may have to be left out.
pub(super) struct LastVariable {
    /// Room for its digits.
    pub digits: *mut u8,
    /// Its place in the environment, the last before the null.
    pub entry: *mut *const c_char,
}

/// The kernel's signal set.
pub(in crate::sys) type Mask = u64;

/// Blocks all signals in this thread, those of the C library too, and returns the mask as it was.
pub(in crate::sys) fn block_everything() -> io::Result<Mask> {
    let (all, mut before): (Mask, Mask) = (!0, 0);
    // SAFETY: both sets are of the size that is passed.
    let result =
        unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, &raw mut before, size_of::<Mask>()) };
    if result == 0 { Ok(before) } else { Err(io::Error::last_os_error()) }
}

/// Sets the mask of this thread; also in the child.
pub(in crate::sys) fn restore(mask: &Mask) {
    let (how, mask) = (libc::SIG_SETMASK as usize, std::ptr::from_ref(mask).addr());
    // SAFETY: the set is of the size that is passed. It can't fail with these arguments.
    let _ = unsafe { call(libc::SYS_rt_sigprocmask, [how, mask, 0, size_of::<Mask>()]) };
}

/// What failed, and errno.
type Failed = (Stage, i32);

/// The child's whole life before its program.
///
/// # Safety
/// Called in a fresh child alone, with all signals blocked.
pub(super) unsafe fn run(order: &Order, cgroup: Option<RawFd>) -> ! {
    // SAFETY: as for this function.
    let (stage, errno) = match unsafe { become_worker(order, cgroup) } {
        Err(failed) => failed,
        Ok(never) => match never {},
    };
    let record = encode(order.tag, stage, errno);
    // SAFETY: the record is on our stack.
    unsafe {
        let _ = call(libc::SYS_write, [order.errors as usize, record.as_ptr().addr(), record.len()]);
        leave()
    }
}

/// Runs nothing of the parent's.
unsafe fn leave() -> ! {
    loop {
        // SAFETY: a number. It does not return.
        let _ = unsafe { call(libc::SYS_exit_group, [127]) };
    }
}

/// A call that must not fail, and the stage that has failed when it does.
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
    // SAFETY: system calls with numbers and with pointers that `order` vouches for; memory is written only where the
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
            // dup3 clears close-on-exec, and the numbers differ: sources are above all targets.
            must(Stage::Sockets, libc::SYS_dup3, [source as usize, target as usize, 0])?;
        }
        patch_numbers(&order.texts);
        close_on_exec_from(order.next);

        if let Some((soft, hard)) = order.nofile {
            let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
            let limit = (&raw const limit).addr();
            must(Stage::Limits, libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE as usize, limit, 0])?;
        }
        if let Some(identity) = &order.identity {
            let groups = &identity.groups;
            must(Stage::Groups, libc::SYS_setgroups, [groups.len(), groups.as_ptr().addr()])?;
            let (uid, gid) = (identity.uid as usize, identity.gid as usize);
            must(Stage::SetGid, libc::SYS_setresgid, [gid, gid, gid])?;
            must(Stage::SetUid, libc::SYS_setresuid, [uid, uid, uid])?;
        }
        if let Some(signal) = order.death_signal {
            // After the change of user, which would forget it.
            let death = libc::PR_SET_PDEATHSIG as usize;
            must(Stage::DeathSignal, libc::SYS_prctl, [death, signal as usize, 0, 0, 0])?;
            if call(libc::SYS_getppid, []) != Ok(order.parent as usize) {
                // The master died before the call: nobody is left to tell.
                leave();
            }
        }
        must(Stage::Chdir, libc::SYS_fchdir, [order.directory as usize])?;
        restore(&0);
        Err((Stage::Exec, execute(order)))
    }
}

/// From a table of descriptors that is the master's to one of our own, without what is above `last`: of a thousand workers the
/// master has thousands, and to copy and to close them takes longer than all else here.
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

/// The kernel's `struct sigaction` is at most this large; all zeroes is SIG_DFL with no flags and an empty mask, and what is
/// to be done comes first.
type Action = [usize; 8];

/// Signals as in a fresh process, those of the mask: whoever started the master may have wanted that, or its runtime.
unsafe fn default_signals(ignored: Mask) {
    let default: Action = [libc::SIG_DFL; 8];
    for signal in (1..=64).filter(|signal| ignored & bit(*signal) != 0) {
        // By system call: the C library keeps two signals to itself. SIGKILL and SIGSTOP fail, as they should.
        // SAFETY: the structure is large enough, the old one isn't asked for.
        let _ = unsafe { call(libc::SYS_rt_sigaction, [signal, default.as_ptr().addr(), 0, size_of::<Mask>()]) };
    }
}

fn bit(signal: usize) -> Mask {
    1 << (signal - 1)
}

/// What this process ignores and its workers do not.
pub(super) fn ignored_signals() -> Mask {
    // SIGPIPE is as whoever started the master wanted it for the workers, too (`IgnoreSIGPIPE=`): the runtime ignores it anyway.
    let kept = if crate::sys::signals::sigpipe_was_ignored() { bit(libc::SIGPIPE as usize) } else { 0 };
    let is_ignored = |signal: &usize| {
        let mut action: Action = [libc::SIG_DFL; 8];
        // SAFETY: the structure is large enough, and no new one is given.
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

/// Nothing of the master leaks, whoever opened it.
unsafe fn close_on_exec_from(next: RawFd) {
    // SAFETY: numbers only.
    unsafe {
        let (first, last) = (next as usize, u32::MAX as usize);
        if call(libc::SYS_close_range, [first, last, libc::CLOSE_RANGE_CLOEXEC as usize]).is_ok() {
            return;
        }
        // Before 5.11. Ours are close-on-exec anyway; this is for what the master itself was given.
        for number in first..65536 {
            let _ = call(libc::SYS_fcntl, [number, libc::F_SETFD as usize, libc::FD_CLOEXEC as usize]);
        }
    }
}

/// Who we are is known only here.
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

/// Without leading zeros: a reader may take those for octal.
unsafe fn write_digits(mut room: *mut u8, number: u64) {
    if room.is_null() {
        return;
    }
    let mut divisor = 1;
    while number / divisor >= 10 {
        divisor *= 10;
    }
    while divisor > 0 {
        // SAFETY: at most 20 digits go into the room for them; the NUL behind is there already.
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

/// What `LISTEN_PIDFDID` says, sd_listen_fds(3); `None` where a pidfd's inode is no identity.
unsafe fn own_pidfd_inode(pid: u64) -> Option<u64> {
    // SAFETY: numbers only; the descriptor is closed here.
    unsafe {
        let pidfd = call(libc::SYS_pidfd_open, [pid as usize, 0]).ok()?;
        let known = inode(pidfd);
        let _ = call(libc::SYS_close, [pidfd]);
        known.ok().filter(|(_, filesystem)| *filesystem == PIDFS_MAGIC).map(|(inode, _)| inode)
    }
}

/// Returns only when it failed: errno.
unsafe fn execute(order: &Order) -> i32 {
    let pause = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    for _ in 0..5 {
        // SAFETY: as the caller vouches.
        let errno = unsafe { execute_once(order) };
        if errno != libc::ETXTBSY {
            return errno;
        }
        // Whoever wrote the file has closed it, but a process that was forked meanwhile, and is about to execute
        // something else, still has it open. It's over in a moment, and this process is all that waits.
        // SAFETY: the time is ours, what remains of it isn't asked for.
        let _ = unsafe { call(libc::SYS_nanosleep, [(&raw const pause).addr(), 0]) };
    }
    // SAFETY: as the caller vouches.
    unsafe { execute_once(order) }
}

/// In the first way whose path leads to the file that it wants, else the pinned file itself.
unsafe fn execute_once(order: &Order) -> i32 {
    let texts = &order.texts;
    let (argv, env) = (texts.argv.as_ptr().addr(), texts.env.as_ptr().addr());
    for start in &texts.starts {
        // SAFETY: as the caller vouches.
        let fits = match unsafe { stat(start.path) } {
            Ok(stat) => !start.same || FileIdentity::of(&stat) == order.file,
            // The worker's user may not go there: that is the error to tell, rather than to start in a way that
            // no administrator would expect.
            Err(errno) => errno == libc::EACCES,
        };
        if fits {
            let argv = start.argv.as_ref().map_or(argv, |argv| argv.as_ptr().addr());
            // SAFETY: as the caller vouches.
            return unsafe { call(libc::SYS_execve, [start.execute.addr(), argv, env]) }.err().unwrap_or_default();
        }
    }
    let pinned = order.pinned as usize;
    // SAFETY: as the caller vouches.
    let failed = unsafe {
        if order.keep_pinned {
            // The interpreter opens the script by this descriptor's number.
            let _ = call(libc::SYS_fcntl, [pinned, libc::F_SETFD as usize, 0]);
        }
        call(libc::SYS_execveat, [pinned, c"".as_ptr().addr(), argv, env, libc::AT_EMPTY_PATH as usize])
    };
    failed.err().unwrap_or_default()
}
