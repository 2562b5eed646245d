//! Children that a thread of this process has started and waits for: hooks, checks, journalctl.
//!
//! Law: the reaper of orphans reaps every child except workers and the children in this list. Session and process group cannot
//! distinguish them, since children that the process had before it became the master share both.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};

struct Awaited {
    /// Number of children that are being started, whose process numbers are not known yet.
    starting: usize,
    pids: BTreeSet<u32>,
}

static AWAITED: Mutex<Awaited> = Mutex::new(Awaited { starting: 0, pids: BTreeSet::new() });

fn awaited() -> MutexGuard<'static, Awaited> {
    AWAITED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While this guard lives, [`is_awaited`] is true for its child.
#[derive(Debug)]
pub struct AwaitedChild(u32);

impl Drop for AwaitedChild {
    fn drop(&mut self) {
        awaited().pids.remove(&self.0);
    }
}

/// Starts a child that the caller waits for. The reaper of orphans does not reap it as long as the guard lives.
/// Blocks until the child has executed its program.
pub fn spawn_awaited(command: &mut Command) -> io::Result<(Child, AwaitedChild)> {
    awaited().starting += 1;
    let started = command.spawn();
    let mut awaited = awaited();
    awaited.starting -= 1;
    let child = started?;
    awaited.pids.insert(child.id());
    let guard = AwaitedChild(child.id());
    Ok((child, guard))
}

/// Lets the child block no signal: the master reads its signals from a descriptor and blocks them in every thread, and a child that
/// inherits that through exec cannot be stopped. std then executes the program by execvp(3), which has sh(1) run a file without `#!`.
pub fn with_no_signal_blocked(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec the closure only makes a system call.
    unsafe { command.pre_exec(unblock_all) }
}

fn unblock_all() -> io::Result<()> {
    // SAFETY: the set is initialised by sigemptyset before it is read; both functions may be called between fork and exec.
    let error = unsafe {
        let mut none = std::mem::MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut())
    };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Whether a thread waits for this child. Also true for every child while one is being started: it could be this one.
pub fn is_awaited(pid: u32) -> bool {
    let awaited = awaited();
    awaited.starting > 0 || awaited.pids.contains(&pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn child_blocks_no_signal_although_its_parent_does() {
        let run = || {
            crate::sys::signals::only(&[libc::SIGTERM, libc::SIGCHLD]).expect("a mask");
            let mut command = Command::new("grep");
            with_no_signal_blocked(&mut command);
            let (child, _guard) =
                spawn_awaited(command.args(["SigBlk", "/proc/self/status"]).stdout(std::process::Stdio::piped())).expect("grep");
            child.wait_with_output().expect("an end").stdout
        };
        let said = std::thread::spawn(run).join().expect("no panic");
        assert_eq!(String::from_utf8_lossy(&said).trim_end(), "SigBlk:\t0000000000000000");
    }

    #[test]
    fn child_is_awaited_as_long_as_its_guard_lives() {
        let (mut child, guard) = spawn_awaited(&mut Command::new("true")).expect("true");
        assert!(is_awaited(child.id()));
        assert!(child.wait().expect("an end").success());
        drop(guard);
        assert!(!awaited().pids.contains(&child.id()));
        assert!(spawn_awaited(&mut Command::new("/does/not/exist")).is_err());
    }
}
