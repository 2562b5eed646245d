//! Between fork and exec: system calls, and nothing that allocates, locks or panics.
//!
//! The process was made by a raw clone3(2), so the C library doesn't know that it is alone in it: everything that the
//! library would coordinate between threads (setuid, pthread_sigmask) is done by system call.

use std::ffi::{c_char, c_long};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use super::Identity;
use super::errors::{Stage, encode};
use crate::sys::process::PIDFS_MAGIC;
use crate::sys::program::Identity as FileIdentity;

/// What the child does, in numbers and pointers into the parent's memory, of which it has a copy.
pub(super) struct Order<'a> {
    pub tag: u64,
    pub errors: RawFd,
    pub parent: i32,
    pub cgroup: Option<RawFd>,
    pub stdout: Option<RawFd>,
    pub stderr: Option<RawFd>,
    /// These become `first`, `first + 1`, … up to `next - 1`.
    pub descriptors: &'a [RawFd],
    pub first: RawFd,
    pub next: RawFd,
    pub directory: RawFd,
    pub identity: Option<&'a Identity>,
    pub nofile: Option<(u64, u64)>,
    pub death_signal: Option<i32>,
    pub path: *const c_char,
    pub file: FileIdentity,
    pub pinned: RawFd,
    pub keep_pinned: bool,
    pub argv: *const *const c_char,
    pub env: *const *const c_char,
    /// Room for digits, or null.
    pub listen_pid: *mut u8,
    pub watchdog_pid: *mut u8,
    pub listen_pidfdid: Option<LastVariable>,
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
    let none = std::ptr::null_mut::<Mask>();
    // SAFETY: the set is of the size that is passed. It can't fail with these arguments.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, std::ptr::from_ref(mask), none, size_of::<Mask>());
    }
}

/// `struct clone_args` of clone3(2) as of kernel 5.7.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Makes the process; returns its number and pidfd, in the parent only.
///
/// # Safety
/// All signals are blocked in the calling thread, and every pointer in `order` is valid as it says.
pub(super) unsafe fn fork(order: &Order<'_>, plainly: bool) -> io::Result<(i32, RawFd)> {
    if !plainly {
        // SAFETY: as for this function.
        match unsafe { clone3(order) } {
            // Missing, forbidden by a filter, or without one of the flags.
            Err(libc::ENOSYS | libc::EPERM | libc::EINVAL | libc::E2BIG) => {}
            Err(errno) => return Err(io::Error::from_raw_os_error(errno)),
            Ok(born) => return Ok(born),
        }
    }
    // SAFETY: the child runs only `run`, which makes no call that another thread's lock could hold up.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: we are the child.
        0 => unsafe { run(order, order.cgroup) },
        pid => {
            // Not reaped by anybody but us, so this is the child itself even if it has ended.
            // SAFETY: numbers only.
            let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
            if pidfd >= 0 {
                return Ok((pid, pidfd as RawFd));
            }
            let error = io::Error::last_os_error();
            // Without a pidfd nobody would ever look after it.
            // SAFETY: our own child, not reaped yet; the status isn't asked for.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, std::ptr::null_mut(), 0);
            }
            Err(error)
        }
    }
}

/// # Safety
/// As for [`fork`].
unsafe fn clone3(order: &Order<'_>) -> Result<(i32, RawFd), i32> {
    const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = order.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup as u64;
    }
    // SAFETY: `args` is as large as is said, and without CLONE_VM the child has its own copy of all memory and stack.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) } {
        -1 => Err(errno()),
        // SAFETY: we are the child.
        0 => unsafe { run(order, None) },
        pid => Ok((pid as i32, pidfd)),
    }
}

fn errno() -> i32 {
    // SAFETY: the address of this thread's errno is always valid.
    unsafe { *libc::__errno_location() }
}

/// The child's whole life before its program.
///
/// # Safety
/// Called in a fresh child alone, with all signals blocked.
unsafe fn run(order: &Order<'_>, cgroup: Option<RawFd>) -> ! {
    // SAFETY: as for this function.
    let stage = match unsafe { become_worker(order, cgroup) } {
        Err(stage) => stage,
        Ok(never) => match never {},
    };
    let record = encode(order.tag, stage, errno());
    // SAFETY: the record is on our stack; _exit runs nothing of the parent's.
    unsafe {
        libc::write(order.errors, record.as_ptr().cast(), record.len());
        libc::_exit(127)
    }
}

/// The stage that failed when a call said so (by -1, with errno set).
fn check(result: c_long, stage: Stage) -> Result<c_long, Stage> {
    if result == -1 { Err(stage) } else { Ok(result) }
}

/// # Safety
/// As for [`run`].
unsafe fn become_worker(order: &Order<'_>, cgroup: Option<RawFd>) -> Result<std::convert::Infallible, Stage> {
    // SAFETY: system calls with numbers and with pointers that `order` vouches for; memory is written only where the
    // parent made room for digits.
    unsafe {
        default_signals();
        check(libc::syscall(libc::SYS_setsid), Stage::Session)?;
        if let Some(cgroup) = cgroup {
            enter(cgroup)?;
        }
        standard_streams(order)?;

        for (target, &source) in (order.first..).zip(order.descriptors) {
            // dup3 clears close-on-exec, and the numbers differ: sources are above all targets.
            check(libc::syscall(libc::SYS_dup3, source, target, 0), Stage::Sockets)?;
        }
        patch_numbers(order);
        close_on_exec_from(order.next);

        if let Some((soft, hard)) = order.nofile {
            let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
            let none = std::ptr::null_mut::<libc::rlimit64>();
            check(libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, &raw const limit, none), Stage::Limits)?;
        }
        if let Some(identity) = order.identity {
            let groups = &identity.groups;
            check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()), Stage::Groups)?;
            let (uid, gid) = (identity.uid, identity.gid);
            check(libc::syscall(libc::SYS_setresgid, gid, gid, gid), Stage::SetGid)?;
            check(libc::syscall(libc::SYS_setresuid, uid, uid, uid), Stage::SetUid)?;
        }
        if let Some(signal) = order.death_signal {
            // After the change of user, which would forget it.
            check(libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, signal, 0, 0, 0), Stage::DeathSignal)?;
            if libc::syscall(libc::SYS_getppid) != c_long::from(order.parent) {
                // The master died before the call: nobody is left to tell.
                libc::_exit(127);
            }
        }
        check(libc::syscall(libc::SYS_fchdir, order.directory), Stage::Chdir)?;
        restore(&0);
        execute(order);
    }
    Err(Stage::Exec)
}

/// All signals as in a fresh process: also those that whoever started the master had ignored, which clone3 keeps.
unsafe fn default_signals() {
    // The kernel's `struct sigaction` is at most this large; all zeroes is SIG_DFL with no flags and an empty mask.
    let default = [0usize; 8];
    let none = std::ptr::null_mut::<usize>();
    for signal in 1..=64 {
        // By system call: the C library keeps two signals to itself. SIGKILL and SIGSTOP fail, as they should.
        // SAFETY: the structure is large enough, the old one isn't asked for.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, size_of::<Mask>()) };
    }
}

unsafe fn enter(cgroup: RawFd) -> Result<(), Stage> {
    // SAFETY: the strings are constants; the descriptor is closed here.
    unsafe {
        let flags = libc::O_WRONLY | libc::O_CLOEXEC;
        let procs = check(libc::syscall(libc::SYS_openat, cgroup, c"cgroup.procs".as_ptr(), flags, 0), Stage::Cgroup)?;
        check(libc::syscall(libc::SYS_write, procs, c"0".as_ptr(), 1usize), Stage::Cgroup)?;
        libc::syscall(libc::SYS_close, procs);
    }
    Ok(())
}

unsafe fn standard_streams(order: &Order<'_>) -> Result<(), Stage> {
    // SAFETY: numbers and a constant string.
    unsafe {
        let null = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, c"/dev/null".as_ptr(), libc::O_RDONLY, 0);
        if check(null, Stage::Stdin)? != 0 {
            check(libc::syscall(libc::SYS_dup3, null, 0, 0), Stage::Stdin)?;
            libc::syscall(libc::SYS_close, null);
        }
        if let Some(stdout) = order.stdout {
            check(libc::syscall(libc::SYS_dup3, stdout, 1, 0), Stage::Output)?;
        }
        if let Some(stderr) = order.stderr {
            check(libc::syscall(libc::SYS_dup3, stderr, 2, 0), Stage::Output)?;
        }
    }
    Ok(())
}

/// Nothing of the master leaks, whoever opened it.
unsafe fn close_on_exec_from(next: RawFd) {
    // SAFETY: numbers only.
    unsafe {
        if libc::syscall(libc::SYS_close_range, next, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) == 0 {
            return;
        }
        // Before 5.11. Ours are close-on-exec anyway; this is for what the master itself was given.
        for number in next..65536 {
            libc::syscall(libc::SYS_fcntl, number, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
}

/// Who we are is known only here.
unsafe fn patch_numbers(order: &Order<'_>) {
    // SAFETY: the pointers lead to room for the digits of any 64-bit number, or are null.
    unsafe {
        let pid = libc::syscall(libc::SYS_getpid) as u64;
        write_digits(order.listen_pid, pid);
        write_digits(order.watchdog_pid, pid);
        if let Some(variable) = &order.listen_pidfdid {
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
    // SAFETY: the buffers are of the types that the calls fill, and read only when they did.
    unsafe {
        let pidfd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if pidfd < 0 {
            return None;
        }
        let mut filesystem = MaybeUninit::<libc::statfs>::zeroed();
        let mut stat = MaybeUninit::<libc::stat>::zeroed();
        let known = libc::fstatfs(pidfd as RawFd, filesystem.as_mut_ptr()) == 0
            && filesystem.assume_init_ref().f_type as u64 == PIDFS_MAGIC
            && libc::fstat(pidfd as RawFd, stat.as_mut_ptr()) == 0;
        libc::syscall(libc::SYS_close, pidfd);
        known.then(|| stat.assume_init_ref().st_ino)
    }
}

/// Returns only when it failed, with errno.
unsafe fn execute(order: &Order<'_>) {
    let pause = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    for _ in 0..5 {
        // SAFETY: as the caller vouches.
        unsafe { execute_once(order) };
        if errno() != libc::ETXTBSY {
            return;
        }
        // Whoever wrote the file has closed it, but a process that was forked meanwhile, and is about to execute
        // something else, still has it open. It's over in a moment, and this process is all that waits.
        // SAFETY: the time is ours, what remains of it isn't asked for.
        unsafe { libc::syscall(libc::SYS_nanosleep, &raw const pause, std::ptr::null_mut::<libc::timespec>()) };
    }
    // SAFETY: as the caller vouches.
    unsafe { execute_once(order) };
}

/// By the path while it leads to the pinned file, else the pinned file itself.
unsafe fn execute_once(order: &Order<'_>) {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: as the caller vouches; the buffer is read only when it was filled.
    unsafe {
        let same = if libc::stat(order.path, stat.as_mut_ptr()) == 0 {
            FileIdentity::of(stat.assume_init_ref()) == order.file
        } else {
            // The worker's user may not go there: that is the error to tell, rather than to start in a way that
            // no administrator would expect.
            errno() == libc::EACCES
        };
        if same {
            libc::syscall(libc::SYS_execve, order.path, order.argv, order.env);
            return;
        }
        if order.keep_pinned {
            // The interpreter opens the script by this descriptor's number.
            libc::syscall(libc::SYS_fcntl, order.pinned, libc::F_SETFD, 0);
        }
        libc::syscall(libc::SYS_execveat, order.pinned, c"".as_ptr(), order.argv, order.env, libc::AT_EMPTY_PATH);
    }
}
