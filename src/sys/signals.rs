//! Signals as data: blocked before the first thread starts, then read from a descriptor; inherited dispositions; and names.
//!
//! Law: the master has no signal handlers. The mask is inherited over exec on purpose, so that an upgrade loses no signal;
//! a worker starts with an empty mask, see [`crate::sys::spawn`].

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether SIGPIPE was ignored when this process's program began. Rust's runtime ignores SIGPIPE before main begins, so
/// [`look_at_sigpipe`] reads the disposition before that.
static SIGPIPE_WAS_IGNORED: AtomicBool = AtomicBool::new(false);

/// The C library calls this function before Rust's runtime starts.
#[used]
// SAFETY: the section holds pointers to functions that the C library calls once, before main; this function calls only sigaction.
#[unsafe(link_section = ".init_array")]
static LOOK_AT_SIGPIPE: extern "C" fn() = look_at_sigpipe;

extern "C" fn look_at_sigpipe() {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the structure is large enough, and no new action is given.
    let asked = unsafe { libc::sigaction(libc::SIGPIPE, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: all zeroes is a valid sigaction, and what the call wrote is one, too.
    let ignored = unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN;
    SIGPIPE_WAS_IGNORED.store(asked == 0 && ignored, Ordering::Relaxed);
}

/// Whether this process was started with SIGPIPE ignored (`IgnoreSIGPIPE=yes`, systemd's default).
pub fn sigpipe_was_ignored() -> bool {
    SIGPIPE_WAS_IGNORED.load(Ordering::Relaxed)
}

/// Sets the value after an upgrade: whether SIGPIPE was ignored when the first program of this process began.
pub fn sigpipe_was(ignored: bool) {
    SIGPIPE_WAS_IGNORED.store(ignored, Ordering::Relaxed);
}

/// Resets ignored signals among these to their default disposition, and returns them. An ignored signal stays ignored over execve(2): it
/// never reaches a signalfd, and while SIGCHLD is ignored no child can be waited for.
pub fn reset_ignored(signals: impl IntoIterator<Item = i32>) -> Vec<i32> {
    let mut reset = Vec::new();
    for signal in signals {
        let mut current = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: the pointer is to a sigaction that the kernel fills; no new action is given.
        let known = unsafe { libc::sigaction(signal, std::ptr::null(), current.as_mut_ptr()) } == 0;
        // SAFETY: all zeroes is a valid sigaction, and so is what the kernel wrote.
        if known && unsafe { current.assume_init() }.sa_sigaction == libc::SIG_IGN {
            // SAFETY: SIG_DFL runs no code of this program.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
            reset.push(signal);
        }
    }
    reset
}

/// Every signal whose disposition a program may set, except SIGPIPE, which std has set itself.
pub fn settable() -> impl Iterator<Item = i32> {
    let standard = (1..=31).filter(|signal| !matches!(*signal, libc::SIGKILL | libc::SIGSTOP | libc::SIGPIPE));
    standard.chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
}

/// Blocks exactly these signals in the calling thread and all threads that it starts later; the inherited mask is replaced. Call it
/// before there are other threads.
pub fn only(signals: &[i32]) -> io::Result<()> {
    let set = set_of(signals)?;
    // SAFETY: `set` is initialised, and the old mask isn't requested.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn set_of(signals: &[i32]) -> io::Result<libc::sigset_t> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set behind the pointer.
    let mut set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for &signal in signals {
        // SAFETY: the set is initialised; the call refuses a number that is no signal.
        if unsafe { libc::sigaddset(&raw mut set, signal) } != 0 {
            return Err(io::Error::other(format!("{signal} is not a signal")));
        }
    }
    Ok(set)
}

/// A descriptor from which blocked signals are read (signalfd(2)); non-blocking, close-on-exec.
#[derive(Debug)]
pub struct SignalFd {
    fd: OwnedFd,
}

impl SignalFd {
    /// Makes a descriptor for these signals; block them first with [`only`].
    pub fn new(signals: &[i32]) -> io::Result<SignalFd> {
        let set = set_of(signals)?;
        // SAFETY: `set` is initialised; -1 requests a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor, so it has no other owner.
        Ok(SignalFd { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Reads the next pending signal; `None` when there is none.
    pub fn read(&self) -> Option<i32> {
        let mut record = [0u8; size_of::<libc::signalfd_siginfo>()];
        loop {
            match rustix::io::read(&self.fd, &mut record[..]) {
                // `ssi_signo` is the record's first field, 32 bits.
                Ok(length) if length == record.len() => {
                    return i32::try_from(u32::from_ne_bytes([record[0], record[1], record[2], record[3]])).ok();
                }
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) | Err(_) => return None,
            }
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for SignalFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// The standard signals and their names, signal(7).
const NAMES: [(i32, &str); 31] = [
    (libc::SIGHUP, "SIGHUP"),
    (libc::SIGINT, "SIGINT"),
    (libc::SIGQUIT, "SIGQUIT"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGTRAP, "SIGTRAP"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGKILL, "SIGKILL"),
    (libc::SIGUSR1, "SIGUSR1"),
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGUSR2, "SIGUSR2"),
    (libc::SIGPIPE, "SIGPIPE"),
    (libc::SIGALRM, "SIGALRM"),
    (libc::SIGTERM, "SIGTERM"),
    (libc::SIGSTKFLT, "SIGSTKFLT"),
    (libc::SIGCHLD, "SIGCHLD"),
    (libc::SIGCONT, "SIGCONT"),
    (libc::SIGSTOP, "SIGSTOP"),
    (libc::SIGTSTP, "SIGTSTP"),
    (libc::SIGTTIN, "SIGTTIN"),
    (libc::SIGTTOU, "SIGTTOU"),
    (libc::SIGURG, "SIGURG"),
    (libc::SIGXCPU, "SIGXCPU"),
    (libc::SIGXFSZ, "SIGXFSZ"),
    (libc::SIGVTALRM, "SIGVTALRM"),
    (libc::SIGPROF, "SIGPROF"),
    (libc::SIGWINCH, "SIGWINCH"),
    (libc::SIGIO, "SIGIO"),
    (libc::SIGPWR, "SIGPWR"),
    (libc::SIGSYS, "SIGSYS"),
];

/// The names of the real-time signals, from `SIGRTMIN` on.
#[rustfmt::skip]
const REALTIME: [&str; 31] = [
    "SIGRTMIN", "SIGRTMIN+1", "SIGRTMIN+2", "SIGRTMIN+3", "SIGRTMIN+4", "SIGRTMIN+5", "SIGRTMIN+6", "SIGRTMIN+7",
    "SIGRTMIN+8", "SIGRTMIN+9", "SIGRTMIN+10", "SIGRTMIN+11", "SIGRTMIN+12", "SIGRTMIN+13", "SIGRTMIN+14", "SIGRTMIN+15",
    "SIGRTMIN+16", "SIGRTMIN+17", "SIGRTMIN+18", "SIGRTMIN+19", "SIGRTMIN+20", "SIGRTMIN+21", "SIGRTMIN+22", "SIGRTMIN+23",
    "SIGRTMIN+24", "SIGRTMIN+25", "SIGRTMIN+26", "SIGRTMIN+27", "SIGRTMIN+28", "SIGRTMIN+29", "SIGRTMIN+30",
];

/// A signal's name, `SIGTERM` or `SIGRTMIN+3`; `SIG?` for a number that is no signal.
pub fn name(signal: i32) -> &'static str {
    if let Some((_, name)) = NAMES.iter().find(|(number, _)| *number == signal) {
        return name;
    }
    let offset = usize::try_from(signal - libc::SIGRTMIN()).ok();
    match offset.and_then(|offset| REALTIME.get(offset)) {
        Some(name) if signal <= libc::SIGRTMAX() => name,
        _ => "SIG?",
    }
}

/// Parses a signal as administrators write it: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, `RTMAX-1`.
pub fn from_name(text: &str) -> Option<i32> {
    let upper = text.trim().to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = match short {
        "RTMIN" => libc::SIGRTMIN(),
        "RTMAX" => libc::SIGRTMAX(),
        "CLD" => libc::SIGCHLD,
        "IOT" => libc::SIGABRT,
        "POLL" => libc::SIGIO,
        _ => {
            if let Some(offset) = short.strip_prefix("RTMIN+") {
                libc::SIGRTMIN().checked_add(digits(offset)?)?
            } else if let Some(offset) = short.strip_prefix("RTMAX-") {
                libc::SIGRTMAX() - digits(offset)?
            } else if let Some((number, _)) = NAMES.iter().find(|(_, name)| name.strip_prefix("SIG") == Some(short)) {
                *number
            } else {
                digits(&upper)?
            }
        }
    };
    (name(number) != "SIG?").then_some(number)
}

/// Parses a number without a sign.
fn digits(text: &str) -> Option<i32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for signal in (1..=31).chain(libc::SIGRTMIN()..=libc::SIGRTMAX()) {
            let text = name(signal);
            assert_ne!(text, "SIG?", "{signal}");
            assert_eq!(from_name(text), Some(signal));
            assert_eq!(from_name(&text[3..]), Some(signal));
            assert_eq!(from_name(&text.to_lowercase()), Some(signal));
            assert_eq!(from_name(&signal.to_string()), Some(signal));
        }
        assert_eq!(from_name("SIGRTMAX-1"), Some(libc::SIGRTMAX() - 1));
        assert_eq!(name(libc::SIGRTMIN() + 3), "SIGRTMIN+3");
    }

    #[test]
    fn what_is_no_signal_is_refused() {
        for text in
            ["", "SIG", "TERMS", "0", "-15", "+15", "32", "65", "999999999999", "SIGRTMIN+99", "RTMAX-99", "RTMIN+-1", "SIG15x"]
        {
            assert_eq!(from_name(text), None, "{text:?}");
        }
        assert_eq!(name(0), "SIG?");
        assert_eq!(name(i32::MAX), "SIG?");
        assert!(only(&[0]).is_err());
        assert!(SignalFd::new(&[4711]).is_err());
    }

    #[test]
    fn a_blocked_signal_is_read_from_the_descriptor() {
        // In a thread of its own, so that the masks of other threads stay unchanged.
        std::thread::spawn(|| {
            only(&[libc::SIGWINCH]).unwrap();
            let signals = SignalFd::new(&[libc::SIGWINCH]).unwrap();
            assert_eq!(signals.read(), None);
            // SAFETY: raises a signal in this thread alone, where it is blocked.
            unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGWINCH) };
            assert_eq!(signals.read(), Some(libc::SIGWINCH));
            assert_eq!(signals.read(), None);
        })
        .join()
        .unwrap();
    }
}
