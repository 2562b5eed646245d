//! Helper threads that block all signals.
//!
//! Law: only the master's loop receives signals. A thread started here has every signal blocked from its first
//! instruction on, so that no signal is taken from the loop and no system call of the thread is interrupted.

use std::io;
use std::mem::MaybeUninit;
use std::sync::mpsc::channel;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// The stack of every thread, bytes. A thread occupies only the pages that it has touched, so a large stack costs address space.
/// The deepest use that was measured in a debug build is 276 KiB (the log thread, when it reads the time zone);
/// `tests/faults/stacks.rs` measures every thread again and asserts that the stack is at least four times as large.
pub const STACK: usize = 2 << 20;

/// Starts a named thread (≤ 15 bytes of the name are shown by the kernel) that blocks all signals, with a stack of [`STACK`] bytes.
///
/// # Errors
/// The kernel has no room for another thread (EAGAIN: `TasksMax=`, RLIMIT_NPROC).
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    // A thread inherits the mask of its creator: block all signals here, create the thread, restore the mask.
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `all` is room for a set, which sigfillset fills before pthread_sigmask reads it; `before` is room for the old set.
    let changed = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr())
    };
    let body = move || {
        yield_to_others();
        body();
    };
    let started = Builder::new().name(name.to_owned()).stack_size(STACK).spawn(body);
    if changed == 0 {
        // SAFETY: pthread_sigmask succeeded above, so it wrote `before`.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    }
    started
}

/// Runs `body` on a thread of its own, see [`spawn`], and waits at most `wait` for its result. `None`: it is not done yet. The thread
/// goes on, and is lost if `body` never returns.
///
/// # Errors
/// As [`spawn`].
pub fn bounded<T: Send + 'static>(
    name: &str,
    wait: Duration,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    let (tell, told) = channel();
    // Nobody receives a result that comes too late.
    spawn(name, move || drop(tell.send(body())))?;
    Ok(told.recv_timeout(wait).ok())
}

/// Sets SCHED_BATCH, sched(7): a helper thread that wakes up does not preempt a running process, such as a worker that starts or
/// exits. Errors are ignored: the policy then stays as it was.
fn yield_to_others() {
    // SAFETY: all zeroes is a valid sched_param, and the only one for this policy; 0 means this thread.
    unsafe {
        let none: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const none);
    }
}

/// Runs `body` on another thread with the signal mask of this thread, and waits for its result. Runs it on this thread when no other
/// can be created.
pub fn aside<T: Send>(name: &str, body: impl FnOnce() -> T + Send) -> T {
    let (body, result) = (Mutex::new(Some(body)), Mutex::new(None));
    let run = || {
        let body = held(&body).take();
        *held(&result) = body.map(|body| body());
    };
    std::thread::scope(|scope| match Builder::new().name(name.to_owned()).stack_size(STACK).spawn_scoped(scope, run) {
        Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        Err(_) => run(),
    });
    let result = held(&result).take();
    result.unwrap_or_else(|| unreachable!("it has run here or there, and has not panicked"))
}

fn held<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::{aside, bounded, spawn};

    fn blocked() -> String {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("procfs");
        status.lines().find(|line| line.starts_with("SigBlk:")).expect("SigBlk").to_owned()
    }

    #[test]
    fn the_thread_blocks_all_signals_and_the_creator_keeps_its_mask() {
        let before = blocked();
        let (tell, told) = std::sync::mpsc::channel();
        // SAFETY: the call only reads the policy of this thread.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        spawn("ratoon-test", move || tell.send((blocked(), policy())).expect("the test waits"))
            .expect("a thread")
            .join()
            .expect("no panic");
        let (inside, unhurried) = told.recv().expect("the mask");
        assert_eq!((policy(), unhurried), (libc::SCHED_OTHER, libc::SCHED_BATCH));
        let mask = u64::from_str_radix(inside.trim_start_matches("SigBlk:").trim(), 16).expect("hex");
        // SIGTERM is 15, SIGHUP 1: bit n-1.
        assert_eq!(mask & (1 << 14), 1 << 14, "{inside}");
        assert_eq!(mask & 1, 1, "{inside}");
        assert_eq!(blocked(), before);
    }

    #[test]
    fn bounded_wait_ends_although_the_thread_hangs() {
        assert_eq!(bounded("ratoon-test", Duration::from_secs(60), || 7).expect("a thread"), Some(7));
        let ((go, hangs), (tell, told)) = (channel::<()>(), channel());
        let body = move || {
            let _ = hangs.recv();
            tell.send(8).expect("the test waits");
            8
        };
        assert_eq!(bounded("ratoon-test", Duration::from_millis(1), body).expect("a thread"), None);
        drop(go);
        assert_eq!(told.recv(), Ok(8), "the thread goes on");
    }

    #[test]
    fn what_is_done_aside_is_done_on_another_thread_with_the_same_mask() {
        let (here, before) = (std::thread::current().id(), blocked());
        let local = 7;
        let (there, mask, result) = aside("ratoon-test", || (std::thread::current().id(), blocked(), local + 1));
        assert_ne!(there, here);
        assert_eq!((mask, result), (before, 8));
        let panicked = std::panic::catch_unwind(|| aside("ratoon-test", || std::panic::resume_unwind(Box::new("why"))));
        assert_eq!(panicked.map_err(|why| why.downcast_ref::<&str>().copied()), Err::<(), _>(Some("why")));
    }
}
