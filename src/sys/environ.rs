//! `/proc/PID/environ` of processes that may not answer.
//!
//! A read of it waits for the mmap_lock of the process, and for its execve(2): for ever, if the process, or the file system that it
//! maps or executes, wants that. The read is done by another thread, for which the caller waits at most `LIMIT` a process.
//! A thread that does not come back is left alone, and that process is not read again until it does.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::thread;

/// The longest wait for one process.
const LIMIT: Duration = Duration::from_millis(500);
/// So many threads may be left alone; then nothing is read until one of them comes back.
const LOST_MAX: usize = 16;
/// So much of an environment is read, bytes.
const SIZE_MAX: u64 = 1 << 20;

struct Reads {
    /// Processes whose environment is being read, and since when.
    running: BTreeMap<u32, Instant>,
    /// Processes that did not answer and of which nobody has been told.
    untold: Vec<u32>,
}

static READS: Mutex<Reads> = Mutex::new(Reads { running: BTreeMap::new(), untold: Vec::new() });

fn reads() -> MutexGuard<'static, Reads> {
    READS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The environment that a process was executed with, its first MiB.
pub fn read(pid: u32) -> Option<Vec<u8>> {
    read_all(vec![pid], Some).pop().map(|(_, environment)| environment)
}

/// What `make` makes of the environments of these processes; those that cannot be read are left out.
pub fn read_all<T: Send + 'static>(pids: Vec<u32>, make: impl Fn(Vec<u8>) -> Option<T> + Send + Sync + 'static) -> Vec<(u32, T)> {
    read_all_with(read_file, pids, LIMIT, make)
}

/// The processes that have not answered since the last call: worth a line in the log.
pub fn take_unanswered() -> Vec<u32> {
    std::mem::take(&mut reads().untold)
}

fn read_file(pid: u32) -> Option<Vec<u8>> {
    let mut environment = Vec::new();
    let file = std::fs::File::open(format!("/proc/{pid}/environ")).ok()?;
    file.take(SIZE_MAX).read_to_end(&mut environment).ok()?;
    Some(environment)
}

fn read_all_with<T: Send + 'static>(
    read: impl Fn(u32) -> Option<Vec<u8>> + Copy + Send + 'static,
    mut pids: Vec<u32>,
    limit: Duration,
    make: impl Fn(Vec<u8>) -> Option<T> + Send + Sync + 'static,
) -> Vec<(u32, T)> {
    let lost = |since: &Instant| since.elapsed() >= limit;
    pids.retain(|pid| !reads().running.get(pid).is_some_and(lost));
    let (make, mut made) = (Arc::new(make), Vec::new());
    while !pids.is_empty() && reads().running.values().filter(|since| lost(since)).count() < LOST_MAX {
        let (tell, told) = channel();
        let (batch, make) = (pids.clone(), Arc::clone(&make));
        let work = move || {
            for pid in batch {
                reads().running.insert(pid, Instant::now());
                let environment = read(pid);
                reads().running.remove(&pid);
                if tell.send((pid, environment.and_then(|environment| make(environment)))).is_err() {
                    return;
                }
            }
        };
        if thread::spawn("ratoon-environ", work).is_err() {
            break;
        }
        let mut done = 0;
        let hangs = loop {
            match told.recv_timeout(limit) {
                Ok((pid, result)) => {
                    done += 1;
                    made.extend(result.map(|result| (pid, result)));
                }
                Err(RecvTimeoutError::Disconnected) => break false,
                Err(RecvTimeoutError::Timeout) => break true,
            }
        };
        if !hangs {
            break;
        }
        reads().untold.extend(pids.get(done));
        pids.drain(..(done + 1).min(pids.len()));
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn environment_of_this_process_is_read() {
        let own = std::process::id();
        let path = std::env::var("PATH").expect("a PATH");
        let has_path = move |environment: Vec<u8>| {
            environment.split(|byte| *byte == 0).any(|entry| entry == format!("PATH={path}").as_bytes()).then_some(())
        };
        assert_eq!(read_all(vec![own, u32::MAX], has_path), [(own, ())]);
        assert!(read(own).is_some());
    }

    #[test]
    fn process_that_does_not_answer_is_given_up_and_left_out() {
        // Numbers that no process has.
        const HANGS: u32 = u32::MAX - 1;
        const ANSWERS: [u32; 2] = [u32::MAX - 2, u32::MAX - 3];
        static GATE: Mutex<()> = Mutex::new(());
        let gate = GATE.lock().expect("nobody panics");
        let read = |pid| {
            let _waits = (pid == HANGS).then(|| GATE.lock());
            Some(Vec::new())
        };
        let all = || vec![ANSWERS[0], HANGS, ANSWERS[1]];
        let answered =
            |limit| read_all_with(read, all(), limit, |_| Some(())).into_iter().map(|(pid, ())| pid).collect::<Vec<_>>();
        assert_eq!(answered(Duration::from_millis(20)), ANSWERS);
        assert!(take_unanswered().contains(&HANGS));
        // It is not asked again, so the gate cannot keep this one.
        let begun = Instant::now();
        while reads().running.get(&HANGS).is_none_or(|since| since.elapsed() < Duration::from_millis(20)) {
            assert!(begun.elapsed() < LONG, "the thread waits still");
            std::thread::yield_now();
        }
        assert_eq!(answered(Duration::from_millis(20)), ANSWERS);
        drop(gate);
        while reads().running.contains_key(&HANGS) {
            assert!(begun.elapsed() < LONG, "the thread has not come back");
            std::thread::yield_now();
        }
        assert_eq!(answered(LONG), [ANSWERS[0], HANGS, ANSWERS[1]]);
    }
}
