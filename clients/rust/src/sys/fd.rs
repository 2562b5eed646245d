//! Inherited descriptors by number.
//!
//! Law: every descriptor that this process opens is close-on-exec from the start; a descriptor without the flag was inherited.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd};

/// Takes ownership of a descriptor that was inherited over exec, by its number, and sets it close-on-exec.
///
/// Fails (`EBADF`) when the descriptor isn't open, is 0, 1 or 2, or is close-on-exec: then this program has opened or already taken
/// it, and it has an owner.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(Errno::BADF.into());
    }
    // SAFETY: only borrowed for the call that asks whether it is open; F_GETFD changes nothing.
    let probe = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    if fcntl_getfd(probe.as_fd())?.contains(FdFlags::CLOEXEC) {
        return Err(Errno::BADF.into());
    }
    // SAFETY: everything in this program opens descriptors close-on-exec, so one that is open without that flag was
    // inherited and has no owner here; the flag set below makes a second taking fail.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}
