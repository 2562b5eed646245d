//! Children that a thread of ours has started and waits for: hooks, checks, journalctl.
//!
//! Law: whoever reaps orphans reaps every child but workers and these, by list: session and process group say nothing, since children
//! that the process had before it became the master share both.

use std::collections::BTreeSet;
use std::io;
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};

struct Awaited {
    /// Being started: their numbers are not known yet.
    starting: usize,
    pids: BTreeSet<u32>,
}

static AWAITED: Mutex<Awaited> = Mutex::new(Awaited { starting: 0, pids: BTreeSet::new() });

fn awaited() -> MutexGuard<'static, Awaited> {
    AWAITED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While this lives, [`is_awaited`] holds for a child.
#[derive(Debug)]
pub struct AwaitedChild(u32);

impl Drop for AwaitedChild {
    fn drop(&mut self) {
        awaited().pids.remove(&self.0);
    }
}

/// Starts a child that the caller waits for; whoever reaps orphans leaves it alone as long as the guard lives. Blocks until the child
/// has executed its program.
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

/// Whether a thread waits for this child, or may: one is being started, whose end will be heard of, too.
pub fn is_awaited(pid: u32) -> bool {
    let awaited = awaited();
    awaited.starting > 0 || awaited.pids.contains(&pid)
}

#[cfg(test)]
mod tests {
    use super::*;

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
