//! Tasks that may block for ever: reading from a mount whose server is gone, running a program that cannot be killed.
//!
//! Law: each task has its own thread and a deadline for each of its steps. A task that hangs costs its requester that deadline and
//! the process one thread, and no other request anything. The loop never joins such a thread.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::master::releases::command::Cancel;
use crate::master::signals::SIGNALS;
use crate::pool::Span;
use crate::sys::{signals, thread};

/// Threads of tasks at most, hung ones included. More are refused: each holds memory and counts for `TasksMax=`.
const THREADS: usize = 16;

/// A task's number; never used twice by one master.
pub type TaskId = u64;

/// The step of a task: what it does, since when, and how long this may take.
#[derive(Debug)]
struct Step {
    what: String,
    since: Instant,
    limit: Duration,
}

/// The side of the task's own thread: it learns of a cancellation, and reports the current step.
#[derive(Clone, Debug)]
pub struct Job {
    /// Ends the programs that the task runs.
    pub cancel: Cancel,
    step: Arc<Mutex<Step>>,
    limit: Duration,
}

impl Job {
    /// A job without deadlines.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn unwatched() -> std::io::Result<Job> {
        Job::new(Duration::MAX)
    }

    /// A job whose steps may take `limit` each.
    fn new(limit: Duration) -> std::io::Result<Job> {
        let step = Step { what: "starting".to_owned(), since: Instant::now(), limit };
        Ok(Job { cancel: Cancel::new()?, step: Arc::new(Mutex::new(step)), limit })
    }

    /// Begins a step that reads this file or directory.
    pub fn reading(&self, what: impl Display) {
        self.begin(format!("reading {what}"), self.limit);
    }

    /// Begins a step that runs a program, which is ended after `at_most`.
    pub fn running(&self, what: impl Display, at_most: Duration) {
        self.begin(format!("running {what}"), self.limit.saturating_add(at_most));
    }

    fn begin(&self, what: String, limit: Duration) {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = Step { what, since: Instant::now(), limit };
    }
}

/// A task under way, as the loop sees it.
#[derive(Debug)]
pub struct Task {
    id: TaskId,
    job: Job,
}

impl Task {
    /// The number of the task, which its result carries.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// Cancels the task, whose result is not wanted any more.
    pub fn cancel(&self) {
        self.job.cancel.cancel();
    }

    /// When the current step is overdue. A later step has a later deadline, so check again at that time.
    pub fn deadline(&self) -> Option<Instant> {
        let step = self.job.step.lock().unwrap_or_else(PoisonError::into_inner);
        step.since.checked_add(step.limit)
    }

    /// The error for the requester, if the current step is overdue.
    pub fn overdue(&self, now: Instant) -> Option<String> {
        let step = self.job.step.lock().unwrap_or_else(PoisonError::into_inner);
        let late = step.since.checked_add(step.limit).is_some_and(|at| at <= now);
        late.then(|| {
            format!(
                "still {} after {}; look whether its file system answers (a network mount whose server is gone does not), then \
                 try again",
                step.what,
                Span(step.limit)
            )
        })
    }
}

/// Starts tasks and counts their threads. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    last: Arc<AtomicU64>,
    threads: Arc<AtomicUsize>,
}

/// Counts one thread until it ends.
struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Tasks {
    /// Starts a task whose steps may take `limit` each. `body` gets the task's number and its job, and reports the result
    /// itself.
    ///
    /// # Errors
    /// A sentence that says what is lacking: descriptors, threads, or the end of earlier tasks.
    pub fn start(&self, limit: Duration, body: impl FnOnce(TaskId, &Job) + Send + 'static) -> Result<Task, String> {
        let seat = Seat(self.threads.clone());
        if self.threads.fetch_add(1, Ordering::SeqCst) >= THREADS {
            return Err(format!(
                "{THREADS} earlier tasks still hang, each reading a file that does not answer; restart the service once the \
                 file system answers again"
            ));
        }
        let job = Job::new(limit)
            .map_err(|error| format!("no descriptor is left: {error}; raise LimitNOFILE= (ulimit -n), or have fewer workers"))?;
        let (id, inside) = (self.last.fetch_add(1, Ordering::Relaxed) + 1, job.clone());
        let run = move || {
            let _seat = seat;
            // Programs that the task runs inherit this mask. With SIGSEGV blocked, a program that crashes would seem to succeed.
            let _ = signals::only(&SIGNALS);
            body(id, &inside);
        };
        thread::spawn("ratoon-task", run).map_err(|error| {
            format!("cannot start a thread: {error}; raise TasksMax= or the user's limit of processes (ulimit -u)")
        })?;
        Ok(Task { id, job })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn task_is_overdue_by_the_step_it_is_at() {
        let tasks = Tasks::default();
        let ((go, wait), (tell, told)) = (mpsc::channel::<()>(), mpsc::channel());
        let task = tasks.start(LIMIT, move |id, job| {
            job.reading("/srv/app/app.toml");
            tell.send(id).expect("the test waits");
            wait.recv().expect("the test goes on");
            job.running("hook", Duration::from_secs(60));
            tell.send(id).expect("the test waits");
            let _ = wait.recv();
        });
        let task = task.expect("a thread");
        assert_eq!(told.recv(), Ok(task.id()));
        let now = Instant::now();
        assert_eq!(task.overdue(now), None);
        let why = task.overdue(now + LIMIT).expect("overdue");
        assert!(why.starts_with("still reading /srv/app/app.toml after 10s; "), "{why}");
        go.send(()).expect("the task waits");
        told.recv().expect("the second step");
        assert_eq!(task.overdue(now + LIMIT), None);
        assert!(task.deadline().is_some_and(|at| at >= now + 6 * LIMIT));
    }

    #[test]
    fn hung_tasks_are_bounded_and_said() {
        let tasks = Tasks::default();
        let hung: Vec<_> = (0..THREADS)
            .map(|_| {
                let (go, wait) = mpsc::channel::<()>();
                (go, tasks.start(LIMIT, move |_, _| _ = wait.recv()).expect("a thread"))
            })
            .collect();
        assert_ne!(hung[0].1.id(), hung[1].1.id());
        let why = tasks.start(LIMIT, |_, _| ()).expect_err("one too many");
        assert!(why.contains("16 earlier tasks still hang"), "{why}");
        drop(hung);
        // Every thread ends now, so that a new task can start.
        let deadline = Instant::now() + LIMIT;
        while tasks.start(LIMIT, |_, _| ()).is_err() {
            assert!(Instant::now() < deadline, "the threads are still counted");
            std::thread::yield_now();
        }
    }

    #[test]
    fn unwatched_job_is_never_overdue() {
        let task = Task { id: 1, job: Job::unwatched().expect("a descriptor") };
        task.job.reading("x");
        assert_eq!((task.deadline(), task.overdue(Instant::now() + 1000 * LIMIT)), (None, None));
    }
}
