//! Descriptors by number: those that were inherited, and those that must stay out of the way.
//!
//! Law: a descriptor of ours is close-on-exec from its first moment; one that is not can only have been inherited.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use std::sync::atomic::{AtomicI32, Ordering};

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd};

/// Where the master keeps what its workers inherit: above every number that it means in a worker.
pub const RESERVED_FD_BASE: RawFd = 512;

/// The highest number that was ever given by [`dup_high`].
static HIGHEST: AtomicI32 = AtomicI32::new(0);

/// Whether so many descriptors are (or were) stashed that to copy the table of all is work.
pub fn crowded() -> bool {
    HIGHEST.load(Ordering::Relaxed) > RESERVED_FD_BASE + 64
}

/// Makes the table of descriptors large enough for the dup_high, before there are threads: a table that threads share is made
/// larger only after a grace period of the kernel's (RCU), which takes some ten milliseconds.
pub fn make_room() {
    // A limit that is lower, or a standard input that is closed, is no fault: the table then grows when it must.
    drop(fcntl_dupfd_cloexec(std::io::stdin(), RESERVED_FD_BASE));
}

/// Moves a descriptor to a number of at least `above`, or as high as the limit of open files allows; close-on-exec.
///
/// When the table of descriptors is full it stays where it is, close-on-exec.
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

/// Takes a descriptor that was inherited over exec, by its number, and makes it close-on-exec.
///
/// Refused (`EBADF`) when it isn't open, is 0, 1 or 2, or is close-on-exec: then it was opened, or already taken, by
/// this program and has an owner.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: only borrowed for the call that asks whether it is open; F_GETFD changes nothing.
    let probe = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    if fcntl_getfd(probe.as_fd())?.contains(FdFlags::CLOEXEC) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: everything in this program opens descriptors close-on-exec, so one that is open without that flag was
    // inherited and has no owner here; the flag set below makes a second taking fail.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// The numbers of all open descriptors, from /proc; without it those up to 65536 that answer.
pub fn open_numbers() -> Vec<RawFd> {
    let mut numbers: Vec<RawFd> = match std::fs::read_dir("/proc/self/fd") {
        Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect(),
        Err(_) => (0..65536).collect(),
    };
    // The directory's own descriptor is among those read; only what is still open counts.
    // SAFETY: only borrowed for the call that asks whether it is open.
    numbers.retain(|&number| fcntl_getfd(unsafe { std::os::fd::BorrowedFd::borrow_raw(number) }).is_ok());
    numbers.sort_unstable();
    numbers
}
