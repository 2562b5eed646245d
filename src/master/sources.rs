//! The sources of the loop: descriptors, requests of the front ends, results of tasks, the time.
//!
//! Law: a bounded number of each is served per turn, so that no source keeps another waiting. With nothing to do the loop sleeps
//! without a tick.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::api::Command;
use crate::master::absence::Absence;
use crate::master::task_result::TaskResult;
use crate::master::workers::processes::Token;
use crate::sys::poll::Poll;
use crate::sys::signals::SignalFd;

/// Descriptors served per turn.
const DESCRIPTORS: usize = 64;

/// Why the loop woke.
pub(in crate::master) enum Wake {
    /// Descriptors are ready; signals come first.
    Descriptors(Vec<Token>),
    /// A front end has a request.
    Command(Command),
    /// A task has a result.
    TaskResult(TaskResult),
    /// A deadline has passed, or the plan is out of date.
    Time,
}

/// A wake-up of the loop.
pub(in crate::master) struct Woken {
    pub now: Instant,
    pub wake: Wake,
    /// For how long the loop did not run although it should have.
    pub absent: Option<Duration>,
}

/// Everything that wakes the loop.
pub(in crate::master) struct Sources {
    poll: AsyncFd<Arc<Poll>>,
    signals: SignalFd,
    commands: UnboundedReceiver<Command>,
    results: UnboundedReceiver<TaskResult>,
    /// Notices when the loop did not run.
    absence: Absence,
}

impl Sources {
    /// The sources of a loop. Call it within a tokio runtime.
    ///
    /// # Errors
    /// The kernel's limit of watches is reached.
    pub fn new(
        poll: Arc<Poll>,
        signals: SignalFd,
        commands: UnboundedReceiver<Command>,
        results: UnboundedReceiver<TaskResult>,
        now: Instant,
    ) -> std::io::Result<Sources> {
        Ok(Sources { poll: poll.watched()?, signals, commands, results, absence: Absence::new(now) })
    }

    /// The next signal to the master.
    pub fn signal(&self) -> Option<i32> {
        self.signals.read()
    }

    /// A request that has come, if there is one.
    pub fn command(&mut self) -> Option<Command> {
        self.commands.try_recv().ok()
    }

    /// A result that has come, if there is one.
    pub fn task_result(&mut self) -> Option<TaskResult> {
        self.results.try_recv().ok()
    }

    /// Waits for a request or a result, and for nothing else.
    pub async fn command_or_result(&mut self) -> Wake {
        tokio::select! {
            Some(command) = self.commands.recv() => Wake::Command(command),
            Some(result) = self.results.recv() => Wake::TaskResult(result),
            else => std::future::pending().await,
        }
    }

    /// Whether queued input is read before deadlines are judged.
    pub fn reads_first(&self) -> bool {
        self.absence.reads_first()
    }

    /// Waits until there is something to do, until `deadline` at the latest. With a `deadline` that has passed it does not wait.
    /// `processes`: the number of workers' processes.
    pub async fn next(&mut self, deadline: Option<Instant>, processes: usize) -> Woken {
        let before = Instant::now();
        let cut_off = self.absence.sleeps(before, deadline);
        let wake = match (cut_off, deadline) {
            // The turn was interrupted, so the deadlines are out of date.
            (Some(_), _) => Wake::Time,
            (None, Some(at)) if at <= before => self.ready().unwrap_or(Wake::Time),
            (None, _) => self.wait(deadline).await,
        };
        let full = match &wake {
            Wake::Descriptors(tokens) => Some(tokens.len() == DESCRIPTORS),
            Wake::Time => Some(false),
            Wake::Command(_) | Wake::TaskResult(_) => None,
        };
        if let Some(full) = full {
            self.absence.has_served(full, processes / DESCRIPTORS);
        }
        let now = Instant::now();
        let late = self.absence.woke(now);
        Woken { now, wake, absent: cut_off.or(late) }
    }

    async fn wait(&mut self, deadline: Option<Instant>) -> Wake {
        loop {
            tokio::select! {
                biased;
                guard = self.poll.readable() => {
                    let Ok(mut guard) = guard else { return Wake::Time };
                    match tokens(guard.get_inner()) {
                        Some(tokens) => return Wake::Descriptors(tokens),
                        // Only when no descriptor is ready: tokio reports changes, and a descriptor left unserved is no change.
                        None => guard.clear_ready(),
                    }
                }
                Some(command) = self.commands.recv() => return Wake::Command(command),
                Some(result) = self.results.recv() => return Wake::TaskResult(result),
                () = time_of(deadline) => return Wake::Time,
            }
        }
    }

    fn ready(&self) -> Option<Wake> {
        tokens(self.poll.get_ref()).map(Wake::Descriptors)
    }
}

/// The tokens of the descriptors that are ready, signals first; `None` without any.
fn tokens(poll: &Poll) -> Option<Vec<Token>> {
    let mut numbers = Vec::new();
    let _ = poll.ready(&mut numbers, DESCRIPTORS);
    let mut tokens: Vec<Token> = numbers.into_iter().map(Token::from_u64).collect();
    tokens.sort_unstable();
    (!tokens.is_empty()).then_some(tokens)
}

/// Sleeps until `deadline`; for ever without one.
async fn time_of(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    use super::*;

    struct Room {
        sources: Sources,
        poll: Arc<Poll>,
        _commands: UnboundedSender<Command>,
        results: UnboundedSender<TaskResult>,
    }

    fn room() -> Room {
        let poll = Arc::new(Poll::new().expect("a poll set"));
        let ((commands_in, commands), (results_in, results)) = (unbounded_channel(), unbounded_channel());
        let signals = SignalFd::new(&[]).expect("a signalfd");
        let sources = Sources::new(poll.clone(), signals, commands, results, Instant::now()).expect("sources");
        Room { sources, poll, _commands: commands_in, results: results_in }
    }

    #[tokio::test]
    async fn sources_report_what_is_ready_before_a_deadline() {
        let Room { mut sources, poll, results, _commands } = room();
        let (here, there) = UnixDatagram::pair().expect("sockets");
        poll.add(&here, Token::Notify(7).to_u64()).expect("watched");
        let past = Some(Instant::now());
        assert!(matches!(sources.next(past, 1).await, Woken { wake: Wake::Time, absent: None, .. }));
        there.send(b"READY=1").expect("sent");
        for deadline in [past, None] {
            let woken = sources.next(deadline, 1).await;
            assert!(matches!(woken.wake, Wake::Descriptors(tokens) if tokens == [Token::Notify(7)]), "not served, still ready");
        }
        poll.remove(&here).expect("removed");
        results.send(TaskResult::Composed).expect("sent");
        assert!(matches!(sources.next(None, 1).await.wake, Wake::TaskResult(TaskResult::Composed)));
        let soon = Instant::now() + Duration::from_millis(5);
        let woken = sources.next(Some(soon), 1).await;
        assert!(matches!(woken.wake, Wake::Time) && woken.now >= soon);
    }

    #[tokio::test]
    async fn sources_notice_a_turn_that_was_interrupted() {
        let Room { mut sources, .. } = room();
        let late = Duration::from_secs(3);
        sources.absence = Absence::new(Instant::now().checked_sub(late).expect("a time"));
        let woken = sources.next(None, 1).await;
        assert!(matches!(woken.wake, Wake::Time) && woken.absent.is_some_and(|absent| absent >= late));
    }
}
