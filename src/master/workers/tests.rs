use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tokio::sync::mpsc;

use super::processes::Token;
use super::spawn::Start;
use super::*;
use crate::api;
use crate::control::listen::Control;
use crate::control::paths::Env;
use crate::master::event_queue::EventQueue;
use crate::master::log::journal;
use crate::master::output::Mode;
use crate::master::testing::release;
use crate::pool::{Event, ExitCause, Notification, StartMode};

const DEADLINE: Duration = Duration::from_secs(30);

/// Workers without a master: their set, and the results that their tasks send.
struct Room {
    workers: WorkerSet,
    poll: Arc<Poll>,
    events: EventQueue,
    directory: TempDir,
    _results: mpsc::UnboundedReceiver<TaskResult>,
}

impl Room {
    fn new() -> Room {
        let directory = TempDir::new().expect("a directory");
        let control = Control::bind(&directory.path().join("run"), &Env::of_process()).expect("a control socket");
        let (handle, _) = api::channel(crate::master::assemble::first_summary("web", SystemTime::now()));
        let runtime_dir = RuntimeDir::new(control, directory.path().join("run"), handle, Arc::default(), false);
        let poll = Arc::new(Poll::new().expect("a poll set"));
        let (results, received) = mpsc::unbounded_channel();
        let shared = Shared {
            poll: poll.clone(),
            log: Log::new(journal::start("web")),
            outputs: Outputs::new(Mode::Relay, "web", false),
            tasks: Tasks::default(),
            results,
        };
        let workers = WorkerSet::new(ErrorPipe::new().expect("a pipe"), runtime_dir.expect("a runtime directory"), None, shared);
        Room { workers, poll, events: EventQueue::default(), directory, _results: received }
    }

    fn spawn(&mut self, worker: WorkerId, command: &str) -> Result<u32, String> {
        let release = release(self.directory.path(), &format!("[worker]\ncommand = {command}\n"));
        let start = Start { slot: 0, generation: 1, release, sockets: None, environment: Vec::new(), mode: StartMode::Direct };
        self.workers.spawn(worker, &start, Instant::now())
    }

    /// Serves the workers' descriptors until there is an event.
    fn event(&mut self) -> Event {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(event) = self.events.pop() {
                return event;
            }
            assert!(Instant::now() < until, "no event");
            let mut tokens = Vec::new();
            self.poll.ready(&mut tokens, 8).expect("ready descriptors");
            let (now, mut keep) = (Instant::now(), |_: WorkerId, _: &[u8]| ());
            for token in tokens.into_iter().map(Token::from_u64) {
                match token {
                    Token::Exit(worker) => self.workers.ended(&[worker], now, &mut keep, &mut self.events),
                    Token::Notify(worker) => self.workers.read_notifications(worker, now, &mut keep, &mut self.events),
                    other => panic!("{other:?}"),
                }
            }
            std::thread::yield_now();
        }
    }

    fn notify_sockets(&self) -> usize {
        std::fs::read_dir(self.workers.runtime_dir().notify()).expect("the directory").count()
    }
}

#[test]
fn worker_set_reports_the_exit_of_a_process_and_frees_it() {
    let mut room = Room::new();
    let pid = room.spawn(7, r#"["sh", "-c", "exit 3"]"#).expect("a process");
    assert_eq!((room.workers.get(7).map(|process| process.pid), room.notify_sockets()), (Some(pid), 1));
    assert_eq!(room.event(), Event::Exited { worker: 7, how: ExitCause::Exit(3), left: false });
    assert!(room.workers.forget(7).is_some() && room.workers.forget(7).is_none());
    assert_eq!((room.workers.len(), room.notify_sockets(), room.workers.deadline()), (0, 0, None));
}

#[test]
fn worker_set_reports_notifications_of_its_workers() {
    let mut room = Room::new();
    let say = "import os, socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); \
               s.sendto(b'STATUS=warm', os.environ['NOTIFY_SOCKET']); import time; time.sleep(1000)";
    room.spawn(7, &format!("[\"python3\", \"-c\", \"{say}\"]")).expect("a process");
    assert_eq!(room.event(), Event::Notification(7, Notification::Status("warm".to_owned())));
    room.workers.kill(7, Some(0));
    assert!(matches!(room.event(), Event::Exited { worker: 7, how: ExitCause::Signal { signal: libc::SIGKILL, .. }, .. }));
    room.workers.forget(7);
}

#[test]
fn closed_fork_socket_leaves_the_notify_socket_with_the_helper() {
    let mut room = Room::new();
    room.spawn(7, r#"["sleep", "1000"]"#).expect("a process");
    let (socket, _theirs) = fork::sockets().expect("a pair");
    room.workers.add_fork_socket(7, socket).expect("it is watched");
    room.workers.discard(7, 0, Instant::now());
    room.workers.close_fork_socket(7);
    assert!(room.workers.discarder.holds(7), "it would be read beside the helper");
    room.workers.kill(7, Some(0));
    assert!(matches!(room.event(), Event::Exited { worker: 7, .. }));
    room.workers.forget(7);
    assert!(!room.workers.discarder.holds(7));
}

#[test]
fn worker_set_leaves_nothing_of_a_failed_start() {
    let mut room = Room::new();
    std::fs::remove_dir_all(room.workers.runtime_dir().notify()).expect("removed");
    std::fs::write(room.workers.runtime_dir().notify(), "in the way").expect("a file");
    let why = room.spawn(7, r#"["sleep", "1000"]"#).expect_err("no notify socket");
    assert!(why.starts_with("notify socket "), "{why}");
    assert_eq!(room.workers.len(), 0);
}

#[test]
fn worker_set_bounds_the_spawns_of_a_turn() {
    let mut room = Room::new();
    (1..=20).for_each(|worker| room.workers.add_to_spawn(worker, 0, 1));
    let mut all = BTreeSet::new();
    for most in [8, 8, 4] {
        room.workers.begin_turn();
        let some: Vec<_> = std::iter::from_fn(|| room.workers.next_to_spawn()).map(|(worker, ..)| worker).collect();
        assert_eq!(some.len(), most);
        all.extend(some);
    }
    assert!(all.into_iter().eq(1..=20) && !room.workers.has_to_spawn());
}
