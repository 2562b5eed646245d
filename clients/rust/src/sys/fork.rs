//! fork(2) and what is done right after it, in a process of one thread.

use std::ffi::OsStr;
use std::io;

/// The part of a process after fork(2).
pub enum Forked {
    /// This is the parent; the child has this pid.
    Parent(u32),
    /// This is the child.
    Child,
}

/// Forks this process.
///
/// # Errors
/// `EDEADLK`: the process has more than one thread, and the child would have only the calling one, with the locks of the others. Else those
/// of fork(2).
pub fn fork() -> io::Result<Forked> {
    one_thread()?;
    // SAFETY: this is the only thread, so no lock is held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid.unsigned_abs())),
    }
}

/// Ends this process at once: nothing is flushed, no destructor and no handler of exit(3) runs.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: the call touches no memory of the program.
    unsafe { libc::_exit(status) }
}

/// Unblocks all signals.
pub fn unblock_signals() -> io::Result<()> {
    // SAFETY: the set is initialised by sigemptyset before it is read; the old set is not asked for.
    let result = unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets (`Some`) or removes a variable of the environment.
///
/// # Errors
/// This process has more than one thread, of which another may read the environment.
pub fn change_variable(name: &OsStr, value: Option<&OsStr>) -> io::Result<()> {
    one_thread()?;
    // SAFETY: this is the only thread.
    unsafe {
        match value {
            Some(value) => std::env::set_var(name, value),
            None => std::env::remove_var(name),
        }
    }
    Ok(())
}

fn one_thread() -> io::Result<()> {
    if std::fs::read_dir("/proc/self/task")?.count() == 1 {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(libc::EDEADLK))
}
