//! `LD_PRELOAD=libratoon_bind.so server`: a server that binds its own address takes the listening socket that was handed over.
//!
//! `bind(2)` to the address of a handed socket (`LISTEN_FDS`, sd_listen_fds(3)) puts that socket under the program's descriptor number;
//! `listen(2)` on it changes nothing. `O_NONBLOCK` belongs to the open file, which all workers share, so it is set once and never
//! cleared; what the program asks for is remembered per descriptor, and a blocking `accept(2)` waits by `poll(2)`.
//!
//! Limits: static programs, those that make system calls without the C library (Go), set-user-ID programs (ld.so(8)), and programs
//! that watch a descriptor by epoll before they bind it.

#![cfg(target_os = "linux")]

mod address;
mod handed;
mod next;

use std::os::raw::{c_int, c_ulong, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};

use libc::{sockaddr, socklen_t};

use address::Address;
use handed::Handed;

/// Descriptors above this number are not adopted: no server listens on one.
const MOST: usize = 65_536;

/// Not a handed socket.
const OTHER: u8 = 0;
/// A handed socket that the program believes to block.
const BLOCKING: u8 = 1;
/// A handed socket that the program set to non-blocking.
const NONBLOCKING: u8 = 2;

/// The state of each descriptor number: one of the three constants above.
static ADOPTED: [AtomicU8; MOST] = [const { AtomicU8::new(OTHER) }; MOST];

fn state(fd: c_int) -> u8 {
    let Some(slot) = usize::try_from(fd).ok().and_then(|index| ADOPTED.get(index)) else { return OTHER };
    let state = slot.load(Ordering::Relaxed);
    // The number may have been closed and used again since: dup2(2) and close(2) need not be followed.
    if state != OTHER && !Handed::get().owns(fd) {
        slot.store(OTHER, Ordering::Relaxed);
        return OTHER;
    }
    state
}

fn remember(fd: c_int, state: u8) {
    if let Some(slot) = usize::try_from(fd).ok().and_then(|index| ADOPTED.get(index)) {
        slot.store(state, Ordering::Relaxed);
    }
}

/// `bind(2)`.
///
/// # Safety
/// As of the C library's `bind`: `address` points to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bind(fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int {
    // SAFETY: The caller promises `length` bytes at `address`.
    let wanted = unsafe { Address::read(address, length) };
    let Some(handed) = wanted.and_then(|wanted| Handed::get().find(fd, &wanted)) else {
        // SAFETY: The caller's own arguments.
        return unsafe { next::bind(fd, address, length) };
    };
    adopt(handed, fd)
}

/// Puts the handed socket under the program's number, with the close-on-exec flag of the program's socket.
fn adopt(handed: c_int, fd: c_int) -> c_int {
    // SAFETY: F_GETFD and F_GETFL take no argument; a wrong descriptor is an error.
    let (descriptor_flags, file_flags) = unsafe { (next::fcntl(fd, libc::F_GETFD, 0), next::fcntl(fd, libc::F_GETFL, 0)) };
    let close_on_exec = if descriptor_flags & libc::FD_CLOEXEC != 0 { libc::O_CLOEXEC } else { 0 };
    if fd == handed {
        return 0;
    }
    // SAFETY: dup3 replaces the caller's own socket, which is not bound yet.
    if unsafe { libc::dup3(handed, fd, close_on_exec) } < 0 {
        return -1;
    }
    remember(fd, if file_flags & libc::O_NONBLOCK != 0 { NONBLOCKING } else { BLOCKING });
    // SAFETY: As above. Workers that accept by this library wait by poll(2), so none of them minds.
    unsafe {
        let flags = next::fcntl(fd, libc::F_GETFL, 0);
        next::fcntl(fd, libc::F_SETFL, (flags | libc::O_NONBLOCK) as usize);
    }
    0
}

/// `listen(2)`: a handed socket listens already, and keeps its backlog.
#[unsafe(no_mangle)]
pub extern "C" fn listen(fd: c_int, backlog: c_int) -> c_int {
    if state(fd) != OTHER {
        return 0;
    }
    // SAFETY: The caller's own arguments.
    unsafe { next::listen(fd, backlog) }
}

/// `accept(2)`.
///
/// # Safety
/// As of the C library's `accept`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accept(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int {
    // SAFETY: The caller's own arguments.
    unsafe { accept4(fd, address, length, 0) }
}

/// `accept4(2)`.
///
/// # Safety
/// As of the C library's `accept4`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accept4(fd: c_int, address: *mut sockaddr, length: *mut socklen_t, flags: c_int) -> c_int {
    loop {
        // SAFETY: The caller's own arguments.
        let accepted = unsafe { next::accept4(fd, address, length, flags) };
        if accepted >= 0 || state(fd) != BLOCKING || errno() != libc::EAGAIN {
            return accepted;
        }
        // As a blocking accept(2): until there is a connection, a signal, or SO_RCVTIMEO has passed (socket(7)).
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: One pollfd of this function.
        match unsafe { libc::poll(&mut poll, 1, receive_timeout(fd)) } {
            0 => {
                set_errno(libc::EAGAIN);
                return -1;
            }
            ready if ready < 0 => return -1,
            _ => {}
        }
    }
}

/// `SO_RCVTIMEO` in milliseconds; -1: none.
fn receive_timeout(fd: c_int) -> c_int {
    let mut time = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let mut length = size_of::<libc::timeval>() as socklen_t;
    // SAFETY: `time` has room for `length` bytes.
    let result = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, ptr::from_mut(&mut time).cast::<c_void>(), &mut length)
    };
    let milliseconds = time.tv_sec.saturating_mul(1000).saturating_add(time.tv_usec / 1000);
    if result < 0 || milliseconds == 0 { -1 } else { c_int::try_from(milliseconds).unwrap_or(c_int::MAX) }
}

/// `fcntl(2)`. Not variadic: on the ABIs of Linux an argument that the caller did not pass is some register, and unused.
///
/// # Safety
/// As of the C library's `fcntl`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fcntl(fd: c_int, command: c_int, argument: usize) -> c_int {
    let state = state(fd);
    let mut argument = argument;
    if state != OTHER && command == libc::F_SETFL {
        let wants = argument as c_int & libc::O_NONBLOCK != 0;
        remember(fd, if wants { NONBLOCKING } else { BLOCKING });
        argument |= libc::O_NONBLOCK as usize;
    }
    // SAFETY: The caller's own arguments, but for the flag.
    let result = unsafe { next::fcntl(fd, command, argument) };
    match command {
        libc::F_GETFL if state == BLOCKING && result >= 0 => result & !libc::O_NONBLOCK,
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC if result >= 0 => {
            remember(result, state);
            result
        }
        _ => result,
    }
}

/// `fcntl(2)` as programs with 64-bit file offsets call it.
///
/// # Safety
/// As of the C library's `fcntl64`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fcntl64(fd: c_int, command: c_int, argument: usize) -> c_int {
    // SAFETY: The caller's own arguments.
    unsafe { fcntl(fd, command, argument) }
}

/// `ioctl(2)`: `FIONBIO` on a handed socket is remembered only.
///
/// # Safety
/// As of the C library's `ioctl`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    if request == libc::FIONBIO as c_ulong && !argument.is_null() && state(fd) != OTHER {
        // SAFETY: FIONBIO's argument is a pointer to an int (ioctl_tty(2), socket(7)).
        let wants = unsafe { argument.cast::<c_int>().read_unaligned() } != 0;
        remember(fd, if wants { NONBLOCKING } else { BLOCKING });
        return 0;
    }
    // SAFETY: The caller's own arguments.
    unsafe { next::ioctl(fd, request, argument) }
}

/// `dup(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn dup(fd: c_int) -> c_int {
    let state = state(fd);
    // SAFETY: The caller's own argument.
    let copy = unsafe { next::dup(fd) };
    if copy >= 0 {
        remember(copy, state);
    }
    copy
}

/// `dup2(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn dup2(fd: c_int, copy: c_int) -> c_int {
    let state = state(fd);
    // SAFETY: The caller's own arguments.
    let result = unsafe { next::dup2(fd, copy) };
    if result >= 0 {
        remember(result, state);
    }
    result
}

fn errno() -> c_int {
    // SAFETY: The C library's own variable of this thread.
    unsafe { *libc::__errno_location() }
}

fn set_errno(value: c_int) {
    // SAFETY: As above.
    unsafe { *libc::__errno_location() = value }
}
