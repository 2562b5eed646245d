//! Descriptors by number: inherited descriptors, and descriptors that are moved above the numbers that workers use.
//!
//! Law: every descriptor that this process opens is close-on-exec from the start; a descriptor without the flag was inherited.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

pub use ratoon_worker::sys::fd::inherited;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd};

/// The lowest number for descriptors that workers inherit from the master: above every number that they get in a worker.
pub const RESERVED_FD_BASE: RawFd = 512;

/// The highest number that [`dup_high`] has ever returned.
static HIGHEST: AtomicI32 = AtomicI32::new(0);

/// Whether [`dup_high`] has moved so many descriptors (ever) that a copy of the descriptor table is costly.
pub fn crowded() -> bool {
    HIGHEST.load(Ordering::Relaxed) > RESERVED_FD_BASE + 64
}

/// Grows the descriptor table to the numbers that [`dup_high`] uses, before there are threads: a table that threads share
/// grows only after an RCU grace period of the kernel, which takes some ten milliseconds.
pub fn make_room() {
    // Errors (a lower limit, a closed standard input) are ignored: the table then grows when it must.
    drop(fcntl_dupfd_cloexec(std::io::stdin(), RESERVED_FD_BASE));
}

/// Moves a descriptor to a number of at least `above`, close-on-exec. If the limit of open files is too low, `above` is halved until
/// a number is free.
///
/// When the descriptor table is full, the descriptor keeps its number and is set close-on-exec.
pub fn dup_high(fd: OwnedFd, above: RawFd) -> OwnedFd {
    let mut least = above;
    while least > fd.as_raw_fd() {
        match fcntl_dupfd_cloexec(&fd, least) {
            Ok(moved) => {
                HIGHEST.fetch_max(moved.as_raw_fd(), Ordering::Relaxed);
                return moved;
            }
            Err(_) => least /= 2,
        }
    }
    let _ = fcntl_setfd(&fd, FdFlags::CLOEXEC);
    fd
}

/// Closes this process's copy of a file and puts a copy of another one under its number, close-on-exec. Every owner of the number has
/// the other file from then on.
///
/// # Errors
/// The kernel refuses; the descriptor is as before.
pub fn replace(fd: BorrowedFd<'_>, with: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory is involved. The number stays open, so it stays valid for those who own or borrow it.
    let result = unsafe { libc::dup3(with.as_raw_fd(), fd.as_raw_fd(), libc::O_CLOEXEC) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The numbers of all open descriptors, from /proc; without /proc, those below 65536.
pub fn open_numbers() -> Vec<RawFd> {
    let mut numbers: Vec<RawFd> = match std::fs::read_dir("/proc/self/fd") {
        Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect(),
        Err(_) => (0..65536).collect(),
    };
    // The list includes the descriptor of the directory itself, which is closed by now: keep only open ones.
    // SAFETY: only borrowed for the call that asks whether it is open.
    numbers.retain(|&number| fcntl_getfd(unsafe { std::os::fd::BorrowedFd::borrow_raw(number) }).is_ok());
    numbers.sort_unstable();
    numbers
}
