//! Reads `/proc/PID/environ` of processes whose file may block the reader.
//!
//! A read waits for the mmap_lock of the process, and for its execve(2). A process, or the file system that it maps or executes, can
//! make that wait endless. So other threads read, and the caller waits for them at most `LIMIT`, however many processes hang.
//! A thread that does not return is left running, and its process is not read again until it returns.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Read;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::thread;

/// The longest wait for all processes of one scan.
const LIMIT: Duration = Duration::from_millis(500);
/// If no thread answers for 1/`STEPS` of the limit, another thread is started.
const STEPS: u32 = 8;
/// The most threads that may hang. With so many, nothing is read until one of them returns.
const LOST_MAX: usize = 16;
/// The most bytes read of an environment.
const SIZE_MAX: u64 = 1 << 20;

struct Reads {
    /// Processes whose environment is being read, with the start of the read.
    running: BTreeMap<u32, Instant>,
    /// Processes that did not answer and that [`take_unanswered`] has not returned yet.
    untold: Vec<u32>,
}

static READS: Mutex<Reads> = Mutex::new(Reads { running: BTreeMap::new(), untold: Vec::new() });

fn reads() -> MutexGuard<'static, Reads> {
    locked(&READS)
}

/// The environment with which a process was executed, at most its first MiB.
pub fn read(pid: u32) -> Option<Vec<u8>> {
    read_all(vec![pid], Some).pop().map(|(_, environment)| environment)
}

/// Reads the environments of these processes and returns the results of `make`. Processes that cannot be read are left out.
pub fn read_all<T: Send + 'static>(pids: Vec<u32>, make: impl Fn(Vec<u8>) -> Option<T> + Send + Sync + 'static) -> Vec<(u32, T)> {
    read_all_with(read_file, pids, LIMIT, make)
}

/// The processes that have not answered since the last call, for the log.
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
    let end = Instant::now() + limit;
    let lost = |since: &Instant| since.elapsed() >= limit;
    pids.retain(|pid| !reads().running.get(pid).is_some_and(lost));
    let mut unanswered: BTreeSet<u32> = pids.iter().copied().collect();
    let queue: Arc<Mutex<VecDeque<u32>>> = Arc::new(Mutex::new(pids.into()));
    let (make, mut made, (tell, told)) = (Arc::new(make), Vec::new(), channel());
    let start = || {
        let (queue, make, tell) = (Arc::clone(&queue), Arc::clone(&make), tell.clone());
        let work = move || {
            // The lock of the queue is not held while a process is read.
            let next = || locked(&queue).pop_front();
            while let Some(pid) = next() {
                reads().running.insert(pid, Instant::now());
                let environment = read(pid);
                reads().running.remove(&pid);
                if tell.send((pid, environment.and_then(|environment| make(environment)))).is_err() {
                    return;
                }
            }
        };
        reads().running.values().filter(|since| lost(since)).count() < LOST_MAX && thread::spawn("ratoon-environ", work).is_ok()
    };
    let mut goes_on = !unanswered.is_empty() && start();
    while goes_on && !unanswered.is_empty() {
        let left = end.saturating_duration_since(Instant::now());
        match told.recv_timeout(left.min(limit / STEPS)) {
            Ok((pid, result)) => {
                unanswered.remove(&pid);
                made.extend(result.map(|result| (pid, result)));
            }
            // All threads hang or are slow: another thread reads the processes that are left.
            Err(_) if left.is_zero() => goes_on = false,
            Err(_) => goes_on = locked(&queue).is_empty() || start(),
        }
    }
    // Processes that no thread has begun to read are left to the next call. The empty queue ends the threads.
    let skipped = std::mem::take(&mut *locked(&queue));
    skipped.iter().for_each(|pid| _ = unanswered.remove(pid));
    reads().untold.extend(unanswered);
    made
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        // Process numbers that do not exist.
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
        assert_eq!(answered(LIMIT), ANSWERS);
        assert!(take_unanswered().contains(&HANGS));
        // The hanging process is not read again, so the gate does not delay the second scan.
        let begun = Instant::now();
        while reads().running.get(&HANGS).is_none_or(|since| since.elapsed() < LIMIT) {
            assert!(begun.elapsed() < LONG, "the thread waits still");
            std::thread::yield_now();
        }
        assert_eq!(answered(LIMIT), ANSWERS);
        drop(gate);
        while reads().running.contains_key(&HANGS) {
            assert!(begun.elapsed() < LONG, "the thread has not come back");
            std::thread::yield_now();
        }
        assert_eq!(answered(LONG), [ANSWERS[0], HANGS, ANSWERS[1]]);
    }
    #[test]
    fn scan_has_one_deadline_however_many_processes_hang() {
        const HANG: std::ops::Range<u32> = u32::MAX - 120..u32::MAX - 100;
        const ANSWERS: u32 = u32::MAX - 99;
        static GATE: Mutex<()> = Mutex::new(());
        let gate = GATE.lock().expect("nobody panics");
        let read = |pid| {
            let _waits = HANG.contains(&pid).then(|| GATE.lock());
            Some(Vec::new())
        };
        let limit = Duration::from_secs(2);
        let begun = Instant::now();
        let pids = HANG.take(3).chain([ANSWERS]).chain(HANG.skip(3)).collect();
        let answered = read_all_with(read, pids, limit, |_| Some(()));
        assert!(begun.elapsed() < 3 * limit, "{:?} for 20 processes that hang", begun.elapsed());
        assert_eq!(answered, [(ANSWERS, ())], "those that hang keep no other from being read");
        drop(gate);
        while reads().running.keys().any(|pid| HANG.contains(pid)) {
            assert!(begun.elapsed() < LONG, "a thread has not come back");
            std::thread::yield_now();
        }
    }
}
