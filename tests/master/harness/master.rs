//! The running master: asked over its control socket and by the command line, signalled, waited for.

use std::cell::RefCell;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::Value;

use super::http::{self, Answer};
use super::systemd::Systemd;
use super::{Place, RATOON, Signal, TIMEOUT, eventually, processes};

/// A `ratoon run`; ended with everything that it left when dropped.
pub struct Master {
    child: RefCell<Child>,
    pub pid: u32,
    systemd: Option<Systemd>,
    // Last: its drop ends every process.
    pub place: Place,
}

/// How a verb of the command line ended.
#[derive(Debug)]
pub struct Notification {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Master {
    pub(super) fn new(child: Child, place: Place, systemd: Option<Systemd>) -> Master {
        let pid = child.id();
        Master { child: RefCell::new(child), pid, systemd, place }
    }

    /// What the test's systemd heard.
    pub fn systemd(&self) -> &Systemd {
        self.systemd.as_ref().expect("a systemd")
    }

    pub fn control(&self) -> PathBuf {
        self.place.path("run/control")
    }

    /// The status document; `None` while nobody answers.
    pub fn try_status(&self) -> Option<Value> {
        let answer = http::over_unix(&self.control(), "GET", "/status", TIMEOUT).ok()?;
        serde_json::from_str(&answer.body).ok()
    }

    #[track_caller]
    pub fn status(&self) -> Value {
        self.try_status().unwrap_or_else(|| panic!("no status\n{}", self.log()))
    }

    /// Waits until the status document is so, and gives it.
    #[track_caller]
    pub fn wait(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let ask = || {
            if let Some(status) = self.has_ended() {
                panic!("{what}: the master ended ({status})\n{}", self.log());
            }
            self.try_status().filter(|status| is_so(status))
        };
        eventually(what, ask, || format!("{:#}\n{}", self.try_status().unwrap_or_default(), self.log()))
    }

    /// Waits until it runs and every worker is ready.
    #[track_caller]
    pub fn wait_until_ready(&self) -> Value {
        self.wait("all are ready", |status| {
            status["state"] == "running" && status["workers_ready"] == status["workers_configured"]
        })
    }

    /// Waits until only ready workers of one generation are left: nothing starts and nothing drains.
    #[track_caller]
    pub fn wait_until_calm(&self) -> Value {
        self.wait("it is calm", |status| {
            let mut workers = workers(status).iter();
            status["state"] == "running"
                && workers.all(|worker| worker["state"] == "ready" && worker["generation"] == status["generation"])
                && status["workers"].as_array().map(Vec::len) == status["workers_configured"].as_u64().map(|count| count as usize)
        })
    }

    /// A verb of the command line, to its end.
    pub fn verb(&self, words: &[&str]) -> Notification {
        self.begin(words).end()
    }

    /// A verb that must succeed.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> Notification {
        let said = self.verb(words);
        assert_eq!(said.code, Some(0), "ratoon {words:?}: {said:?}\n{}", self.log());
        said
    }

    /// A verb of the command line that goes on.
    pub fn begin(&self, words: &[&str]) -> Verb {
        let child = Command::new(RATOON)
            .args(words)
            .arg("--control")
            .arg(self.control())
            .env(processes::MARK, self.place.root())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ratoon");
        Verb::new(child)
    }

    /// Of its first socket.
    pub fn address(&self) -> String {
        self.status()["sockets"][0]["address"].as_str().expect("an address").to_owned()
    }

    /// A worker's answer.
    #[track_caller]
    pub fn get(&self, path: &str) -> String {
        let answer = self.try_get(path).unwrap_or_else(|error| panic!("GET {path}: {error}\n{}", self.log()));
        assert_eq!(answer.status, 200, "GET {path}: {answer:?}\n{}", self.log());
        answer.body
    }

    /// A worker's answer, if there is one.
    pub fn try_get(&self, path: &str) -> std::io::Result<Answer> {
        http::get(&self.address(), path)
    }

    /// A request that a worker answers when the test says so; under way when this returns.
    #[track_caller]
    pub fn ask_for_later(&self) -> Later {
        let address = self.address();
        let open = |status: &Value| workers(status).iter().filter_map(|it| it["open_connections"].as_u64()).sum::<u64>();
        let before = open(&self.status());
        let file = self.place.path(format!("answer.{before}"));
        let path = format!("/wait?file={}", file.display());
        let request = std::thread::spawn(move || http::get(&address, &path).map_or_else(|error| error.to_string(), |it| it.body));
        self.wait("a worker has the request", |status| open(status) > before);
        Later { request, file }
    }

    pub fn signal(&self, signal: Signal) {
        processes::signal(self.pid, signal);
    }

    /// How it ended, if it has.
    pub fn has_ended(&self) -> Option<ExitStatus> {
        self.child.borrow_mut().try_wait().expect("wait")
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(&self) -> ExitStatus {
        eventually("the master ends", || self.has_ended(), || self.log())
    }

    /// What it and its workers wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.place.path("log")).unwrap_or_default()
    }

    /// Waits until this stands in the log.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        eventually(text, || self.log().contains(text).then_some(()), || self.log());
    }
}

impl Master {
    /// A second master in the same place, after this one's end.
    pub fn again(self) -> Master {
        super::Plan::new(self.into_place()).start()
    }

    /// The place, after this master's end.
    pub fn into_place(mut self) -> Place {
        let place = std::mem::replace(&mut self.place, Place::new());
        drop(self);
        let systemd = place.path("systemd");
        let _ = fs::remove_file(systemd);
        place
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A request under way.
pub struct Later {
    request: JoinHandle<String>,
    file: PathBuf,
}

impl Later {
    /// Lets it be answered; gives what the worker said, or why nothing came.
    pub fn answer(self) -> String {
        fs::write(&self.file, "").expect("a file");
        self.request.join().expect("no panic")
    }
}

/// A verb under way.
pub struct Verb {
    child: Child,
    out: Heard,
    err: Heard,
}

/// What came so far of a stream, and whether that is all.
type Heard = Arc<Mutex<(String, bool)>>;

impl Verb {
    fn new(mut child: Child) -> Verb {
        let out = hear(child.stdout.take().expect("piped"));
        let err = hear(child.stderr.take().expect("piped"));
        Verb { child, out, err }
    }

    /// Its end.
    #[track_caller]
    pub fn end(mut self) -> Notification {
        let whole = |heard: &Heard| {
            let heard = heard.lock().expect("no panic under the lock");
            heard.1.then(|| heard.0.clone())
        };
        let (out, err) = (self.out.clone(), self.err.clone());
        eventually(
            "the verb ends",
            || {
                let code = self.child.try_wait().expect("wait")?.code();
                Some(Notification { code, out: whole(&out)?, err: whole(&err)? })
            },
            || format!("{out:?}\n{err:?}"),
        )
    }

    /// Sends it a signal, and waits for its end.
    #[track_caller]
    pub fn signal(self, signal: Signal) -> Notification {
        processes::signal(self.child.id(), signal);
        self.end()
    }

    /// Waits until this was printed.
    #[track_caller]
    pub fn wait_for_line(&self, part: &str) {
        let heard = || self.out.lock().expect("no panic under the lock").0.clone();
        eventually(part, || heard().contains(part).then_some(()), || format!("{:?}\n{:?}", self.out, self.err));
    }
}

/// Reads a stream to its end on a thread.
fn hear(mut stream: impl Read + Send + 'static) -> Heard {
    let heard = Heard::default();
    let to = heard.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let length = stream.read(&mut buffer).unwrap_or(0);
            let mut to = to.lock().expect("no panic under the lock");
            to.0 += &String::from_utf8_lossy(&buffer[..length]);
            to.1 = length == 0;
            if length == 0 {
                return;
            }
        }
    });
    heard
}

/// The workers of a status document.
pub fn workers(status: &Value) -> &[Value] {
    status["workers"].as_array().map_or(&[], Vec::as_slice)
}

/// The pids of all workers of a status document, by slot.
pub fn pids(status: &Value) -> Vec<u32> {
    workers(status).iter().filter_map(|worker| worker["pid"].as_u64()?.try_into().ok()).collect()
}

/// The last failure of a status document.
pub fn last_failure(status: &Value) -> &Value {
    status["failures"].as_array().and_then(|failures| failures.last()).unwrap_or(&Value::Null)
}

/// Waits as long as a test may.
#[track_caller]
pub fn wait_for_end_of(pid: u32) {
    eventually(
        &format!("the end of {pid}"),
        || (!processes::lives(pid)).then_some(()),
        || format!("{:?}", processes::facts(pid)),
    );
}
