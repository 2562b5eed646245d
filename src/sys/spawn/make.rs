//! Makes the process: a child that shares the master's memory until it executes its program, or a copy.
//!
//! A copy costs the master the copying of its page tables, then a fault and a copied page for each page that it writes to until the
//! child has executed its program: more than all other costs of a start. vfork(2) shares the memory, but the parent waits. Here the
//! child shares the memory and the parent does not wait. The child has a stack of its own and an order that owns all it needs
//! (a [`ChildStack`]). Both are kept until the kernel reports, by `CLONE_CHILD_CLEARTID`, that the child has left the memory.
//! `child.rs` says what the child must not do there.
//! Where the master has many descriptors, the child also shares its descriptor table until the child's first system call, so that it
//! copies and closes no more descriptors than it needs.
//!
//! Law: whatever happens to the child, the master survives. So a copy is made in these cases:
//!
//! - a worker of another user, who could trace the child and so read the master's memory;
//! - a cgroup so small that the OOM killer may act before the exec: it kills all processes that share a memory;
//! - kernels before 5.16, where a core dump does the same;
//! - architectures for which `raw.rs` has no system call instructions;
//! - while [`PADS`] children have not left the memory yet;
//! - always, after [`always_copy`].

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use super::child::{Order, run};
use super::raw;

/// The way in which a process is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), expect(dead_code, reason = "what copying falls back to by itself, the tests name"))]
pub(super) enum CloneMode {
    /// clone3(2); the child shares the master's memory.
    Share,
    /// clone3(2); the child shares the master's memory and descriptor table.
    ShareAll,
    /// clone3(2); the child has a copy of the memory.
    Copy,
    /// fork(2), where clone3 is missing (before 5.3) or forbidden (seccomp of old container engines).
    Fork,
}

impl CloneMode {
    /// This mode, or [`CloneMode::Copy`] where the law above demands it.
    pub fn for_this(self, foreign: bool, small: bool) -> CloneMode {
        let shares = matches!(self, CloneMode::Share | CloneMode::ShareAll);
        let shareable = !ALWAYS_COPY.load(Ordering::Relaxed) && may_share(foreign, small, *DIES_ALONE);
        if shares && !shareable { CloneMode::Copy } else { self }
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

/// The most children that may share the memory at once, so that the memory for them is bounded.
const PADS: usize = 64;
/// The number of idle stacks that are kept.
const KEPT: usize = 4;
/// The stack of a child, bytes. A child needs 2 to 3 KiB.
const STACK: usize = 16 * 1024;

/// Whether there may be something to sweep. Changed under the lock of [`ALL`].
static USED: AtomicBool = AtomicBool::new(false);

/// The part of the master's memory that one child uses.
struct ChildStack {
    /// Set to 1 by the parent, cleared by the kernel once the child has left the memory.
    busy: AtomicU32,
    order: Option<Order>,
    stack: Vec<u128>,
}

/// All child stacks. They are boxed because the kernel and the children have their addresses.
#[allow(clippy::vec_box)]
static ALL: Mutex<Vec<Box<ChildStack>>> = Mutex::new(Vec::new());

/// Whether the law above allows sharing. `foreign`: a worker of another user. `small`: a small cgroup.
pub(super) fn may_share(foreign: bool, small: bool, dies_alone: bool) -> bool {
    raw::BARE && !foreign && !small && dies_alone
}

/// Set by [`always_copy`].
static ALWAYS_COPY: AtomicBool = AtomicBool::new(false);

/// From now on each child has a copy of the master's memory: for a kernel that is suspected of errors when children share it.
pub fn always_copy() {
    ALWAYS_COPY.store(true, Ordering::Relaxed);
}

/// Whether on this kernel a core dump kills only the dumping process, and not others that share its memory.
static DIES_ALONE: LazyLock<bool> = LazyLock::new(|| dies_alone(&rustix::system::uname().release().to_string_lossy()));

/// [`DIES_ALONE`] for a kernel release as of uname(2). A release that cannot be parsed counts as old.
pub(super) fn dies_alone(release: &str) -> bool {
    let mut numbers = release.split(|it: char| !it.is_ascii_digit()).map(str::parse::<u32>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (5, 16))
}

/// Frees the orders and stacks of children that have left the memory. Returns the number of children that still share it.
pub(super) fn sweep() -> usize {
    if !USED.load(Ordering::Acquire) {
        return 0;
    }
    let mut pads = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    let here = sweep_these(&mut pads);
    USED.store(here > 0, Ordering::Release);
    here
}

#[allow(clippy::vec_box)]
fn sweep_these(pads: &mut Vec<Box<ChildStack>>) -> usize {
    let mut idle = 0;
    pads.retain_mut(|pad| {
        if pad.busy.load(Ordering::Acquire) != 0 {
            return true;
        }
        pad.order = None;
        idle += 1;
        idle <= KEPT
    });
    pads.len() - idle.min(KEPT)
}

/// Makes the process. Returns its number and pidfd, in the parent only.
///
/// # Safety
/// All signals are blocked in the calling thread, and every pointer in `order` points into memory that it owns.
pub(super) unsafe fn process(order: Order, way: CloneMode) -> io::Result<(i32, RawFd)> {
    // SAFETY: as for this function.
    unsafe {
        match way {
            CloneMode::Share | CloneMode::ShareAll => share(order),
            CloneMode::Copy => or_fork(copy(&order), &order),
            CloneMode::Fork => fork(&order),
        }
    }
}

/// Returns the result of clone3, or of fork if clone3 is missing, forbidden by a filter, or lacks one of the flags.
///
/// # Safety
/// As for [`process`].
unsafe fn or_fork(made: Result<(i32, RawFd), i32>, order: &Order) -> io::Result<(i32, RawFd)> {
    match made {
        // SAFETY: as for this function.
        Err(libc::ENOSYS | libc::EPERM | libc::EINVAL | libc::E2BIG) => unsafe { fork(order) },
        Err(errno) => Err(io::Error::from_raw_os_error(errno)),
        Ok(born) => Ok(born),
    }
}

/// The arguments that all modes of clone3 have in common. The kernel writes the pidfd to `pidfd`.
fn arguments(order: &Order, pidfd: &mut RawFd) -> CloneArgs {
    const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let into = if order.cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    CloneArgs {
        flags: libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND | into,
        pidfd: std::ptr::from_mut(pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: order.cgroup.unwrap_or(0) as u64,
        ..CloneArgs::default()
    }
}

/// # Safety
/// As for [`process`].
unsafe fn copy(order: &Order) -> Result<(i32, RawFd), i32> {
    let mut pidfd: RawFd = -1;
    let args = arguments(order, &mut pidfd);
    // SAFETY: `args` has the size that is passed, and without CLONE_VM the child has its own copy of all memory and stack.
    match unsafe { raw::call(libc::SYS_clone3, [(&raw const args).addr(), size_of::<CloneArgs>()]) }? {
        // SAFETY: this is the child.
        0 => unsafe { run(order, None) },
        pid => Ok((pid as i32, pidfd)),
    }
}

/// # Safety
/// As for [`process`], and [`raw::BARE`].
unsafe fn share(order: Order) -> io::Result<(i32, RawFd)> {
    let mut pads = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    sweep_these(&mut pads);
    let free = pads.iter().position(|pad| pad.busy.load(Ordering::Acquire) == 0);
    let index = match free {
        Some(index) => index,
        None if pads.len() < PADS => {
            let stack = vec![0; STACK / size_of::<u128>()];
            pads.push(Box::new(ChildStack { busy: AtomicU32::new(0), order: None, stack }));
            pads.len() - 1
        }
        None => {
            // SAFETY: as for this function.
            return unsafe { or_fork(copy(&order), &order) };
        }
    };
    let ChildStack { busy, order: place, stack } = &mut *pads[index];
    let order = place.insert(order);
    let mut pidfd: RawFd = -1;
    let mut args = arguments(order, &mut pidfd);
    args.flags |= (libc::CLONE_VM | libc::CLONE_CHILD_CLEARTID) as u64;
    // With a shared table, the duplicates of the descriptors stay open until the child has left the memory.
    args.flags |= if order.copied_up_to.is_some() { libc::CLONE_FILES as u64 } else { 0 };
    args.child_tid = busy.as_ptr() as u64;
    args.stack = stack.as_mut_ptr() as u64;
    args.stack_size = STACK as u64;
    busy.store(1, Ordering::Release);
    USED.store(true, Ordering::Release);
    // SAFETY: the stack and the order stay in place until the kernel clears `busy`: only `sweep_these` frees them,
    // and it checks `busy` first. All signals are blocked, and the child has its own table of handlers.
    match unsafe { clone_sharing(&args, order) } {
        result @ -4095..0 => {
            busy.store(0, Ordering::Release);
            // SAFETY: as for this function.
            unsafe { or_fork(Err(-result as i32), order) }
        }
        pid => Ok((pid as i32, pidfd)),
    }
}

/// clone3(2) of a child that begins with `begin` on the stack that `args` names.
///
/// # Safety
/// As for [`share`].
#[cfg(target_arch = "x86_64")]
unsafe fn clone_sharing(args: &CloneArgs, order: *const Order) -> isize {
    let result: isize;
    // SAFETY: in the parent the call changes only the three named registers. The child returns from it with all other
    // registers, on an empty stack that is aligned to 16 bytes, and calls `begin`, which never returns.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r8",
            "call {begin}",
            "2:",
            begin = sym begin,
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") std::ptr::from_ref(args), in("rsi") size_of::<CloneArgs>(), in("r8") order,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn clone_sharing(_: &CloneArgs, _: *const Order) -> isize {
    -(libc::ENOSYS as isize)
}

/// The entry point of a child that shares the memory; never returns.
///
/// # Safety
/// Only [`clone_sharing`] may call it.
#[cfg(target_arch = "x86_64")]
unsafe extern "C" fn begin(order: *const Order) -> ! {
    // SAFETY: the parent keeps the order until this child has left the memory.
    unsafe { run(&*order, None) }
}

/// # Safety
/// As for [`process`].
unsafe fn fork(order: &Order) -> io::Result<(i32, RawFd)> {
    // SAFETY: the child runs only `run`, which makes no call that could wait for another thread's lock.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: this is the child.
        0 => unsafe { run(order, order.cgroup) },
        pid => {
            // Only this process reaps the child, so the number is the child's own even if it has exited.
            // SAFETY: numbers only.
            let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
            if pidfd >= 0 {
                return Ok((pid, pidfd as RawFd));
            }
            let error = io::Error::last_os_error();
            // Without a pidfd the child could not be supervised, so kill it.
            // SAFETY: it is a child of this process and not reaped yet; the status isn't requested.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, std::ptr::null_mut(), 0);
            }
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ErrorPipe, spawn};
    use super::*;
    use crate::sys::testing::{ended, request, shell};

    #[test]
    fn nothing_that_ends_a_child_ends_who_shares_its_memory() {
        for (release, alone) in
            [("6.18.4", true), ("5.16.0-rc1", true), ("5.15.0-91-generic", false), ("4.18.0", false), ("7", false), ("", false)]
        {
            assert_eq!(dies_alone(release), alone, "{release}");
        }
        assert_eq!(may_share(false, false, true), cfg!(target_arch = "x86_64"));
        for (foreign, small, alone) in [(true, false, true), (false, true, true), (false, false, false)] {
            assert!(!may_share(foreign, small, alone));
        }
    }

    #[test]
    fn a_child_does_not_need_a_quarter_of_its_stack() {
        let errors = ErrorPipe::new().expect("a pipe");
        let mut request = request();
        request.watchdog_pid = true;
        let child = spawn(&shell("exit 0"), &request, &errors).expect("a process");
        ended(&child.pidfd);
        let pads = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        // A stack grows downwards, so untouched zeros are at its beginning.
        for pad in pads.iter().filter(|pad| pad.busy.load(Ordering::Acquire) == 0) {
            let left = pad.stack.iter().take_while(|words| **words == 0).count() * size_of::<u128>();
            assert!(left > STACK / 4 * 3, "{left} of {STACK} bytes are left");
        }
    }
}
