//! What the master adds to fork and exec: `cargo bench --bench respawn`.
//!
//! Two spans, each beside the machine's own floor in the same run, interleaved: from the death of a worker to its
//! replacement's fork and first instruction, and from asking for a reload to its commit, with and without the worker's own
//! start. The worker is this program itself: it says READY=1, notes when it began and when it was ready, and waits.
//!
//! Law: every stamp is CLOCK_MONOTONIC, taken by whoever it is about; no poll of ours is in a figure.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 60;
const WORKERS: usize = 4;

fn main() {
    if let Some(stamps) = std::env::var_os("RESPAWN_STAMPS") {
        return worker(Path::new(&stamps));
    }
    let directory = tempfile::tempdir().expect("a directory for the sockets");
    let stamps = directory.path().join("stamps");
    fs::write(&stamps, "").expect("a file for the stamps");
    let mut master = Master::start(directory.path(), &stamps);

    let (mut bare, mut floor, mut ours) = (vec![], vec![], vec![]);
    let (mut floor_generation, mut reloads, mut less) = (vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        bare.push(floor_spawn(&stamps));
        floor.push(floor_respawn(&stamps));
        ours.push(master.respawn(&stamps));
        floor_generation.push(floor_spawn_generation(&stamps));
        let (reload, start) = master.reload(&stamps);
        reloads.push(reload);
        less.push(reload - start);
    }
    master.end();

    println!("{:60}    min   median      max", format!("{ROUNDS} rounds, interleaved; milliseconds"));
    row("bare: fork, exec, first instruction", &mut bare);
    row("bare: death -> fork, exec, first instruction", &mut floor);
    row("ratoon: death -> fork, exec, first instruction", &mut ours);
    row(&format!("bare: {WORKERS} forks, execs and READY=1"), &mut floor_generation);
    row("ratoon: reload asked -> commit", &mut reloads);
    row("ratoon: the same less the longest own start of its workers", &mut less);
    println!(
        "death -> fork: {:.2} ms by ratoon, {:.2} ms bare (medians, less bare fork and exec)",
        middle(&mut ours) - middle(&mut bare),
        middle(&mut floor) - middle(&mut bare)
    );
    println!("respawn: {:.2} x the floor (medians)", middle(&mut ours) / middle(&mut floor));
    println!("reload:  {:.2} x the floor (medians)", middle(&mut reloads) / middle(&mut floor_generation));
}

/// The worker: READY=1, when it began and was ready, and nothing more.
fn worker(stamps: &Path) {
    let began = monotonic();
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET") {
        let notify = UnixDatagram::unbound().expect("a socket");
        notify.send_to(b"READY=1", Path::new(&socket)).expect("READY=1");
    }
    let ready = monotonic();
    let mut file = OpenOptions::new().append(true).open(stamps).expect("the stamps");
    file.write_all(format!("{began} {ready}\n").as_bytes()).expect("a stamp");
    // SIGTERM's default ends it.
    loop {
        std::thread::park();
    }
}

fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// What a worker notes: when its first instruction ran, and when it had said READY=1.
struct Stamp {
    began: u64,
    ready: u64,
}

/// The stamp behind the first `known`, as soon as it is there.
fn stamp(stamps: &Path, known: usize) -> Stamp {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let text = fs::read_to_string(stamps).expect("the stamps");
        // A line is whole when there is another behind it, if only an empty one.
        if let Some(line) = text.split('\n').nth(known).filter(|_| text.matches('\n').count() > known) {
            let (began, ready) = line.split_once(' ').expect("two numbers");
            return Stamp { began: began.parse().expect("a time"), ready: ready.parse().expect("a time") };
        }
        assert!(Instant::now() < until, "no new worker within 10 s");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Of the workers of a new generation, the longest time from the first instruction to READY=1, in milliseconds.
fn longest_start(stamps: &Path, known: usize) -> f64 {
    let starts = (known..known + WORKERS).map(|index| stamp(stamps, index)).map(|it| it.ready - it.began);
    starts.max().unwrap_or(0) as f64 / 1e6
}

fn stamped(stamps: &Path) -> usize {
    fs::read_to_string(stamps).expect("the stamps").lines().count()
}

fn spawn_bare(stamps: &Path, notify: Option<&Path>) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.env("RESPAWN_STAMPS", stamps).stdin(Stdio::null());
    if let Some(notify) = notify {
        command.env("NOTIFY_SOCKET", notify);
    }
    command.spawn().expect("a worker")
}

/// Fork and exec alone.
fn floor_spawn(stamps: &Path) -> f64 {
    let known = stamped(stamps);
    let asked = monotonic();
    let mut worker = spawn_bare(stamps, None);
    let began = stamp(stamps, known).began;
    worker.kill().and_then(|()| worker.wait()).expect("its end");
    (began - asked) as f64 / 1e6
}

/// Kill, wait, fork, exec: what any master must do.
fn floor_respawn(stamps: &Path) -> f64 {
    let known = stamped(stamps);
    let mut first = spawn_bare(stamps, None);
    stamp(stamps, known);
    let killed = monotonic();
    first.kill().expect("SIGKILL");
    first.wait().expect("its end");
    let mut second = spawn_bare(stamps, None);
    let began = stamp(stamps, known + 1).began;
    second.kill().and_then(|()| second.wait()).expect("its end");
    (began - killed) as f64 / 1e6
}

/// A generation of workers, until each has said READY=1.
fn floor_spawn_generation(stamps: &Path) -> f64 {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a notify socket");
    let began = monotonic();
    let mut workers: Vec<Child> = (0..WORKERS).map(|_| spawn_bare(stamps, Some(&path))).collect();
    let mut buffer = [0; 64];
    for _ in 0..WORKERS {
        socket.recv(&mut buffer).expect("READY=1");
    }
    let all_ready = monotonic();
    for worker in &mut workers {
        worker.kill().and_then(|()| worker.wait()).expect("its end");
    }
    (all_ready - began) as f64 / 1e6
}

/// A ratoon with four of these workers.
struct Master {
    process: Child,
    control: PathBuf,
}

impl Master {
    fn start(directory: &Path, stamps: &Path) -> Master {
        let process = Command::new(env!("CARGO_BIN_EXE_ratoon"))
            .args([
                "run",
                "--name",
                "bench",
                "--workers",
                &WORKERS.to_string(),
                "--restart-limit",
                "100000",
                "--restart-max",
                "1s",
                "--",
            ])
            .arg(std::env::current_exe().expect("this program"))
            .env("RESPAWN_STAMPS", stamps)
            .env("RUNTIME_DIRECTORY", directory)
            .env_remove("NOTIFY_SOCKET")
            .stderr(Stdio::null())
            .spawn()
            .expect("ratoon");
        let master = Master { process, control: directory.join("control") };
        let until = Instant::now() + Duration::from_secs(10);
        while !master.ask("GET /readyz").is_some_and(|answer| answer.contains(&format!("\"workers_ready\":{WORKERS}"))) {
            assert!(Instant::now() < until, "ratoon is not ready within 10 s");
            std::thread::sleep(Duration::from_millis(5));
        }
        master
    }

    fn ask(&self, what: &str) -> Option<String> {
        let mut stream = UnixStream::connect(&self.control).ok()?;
        stream.write_all(format!("{what} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// The pid of a ready worker that has lived long enough to be replaced at once.
    fn victim(&self, stamps: &Path) -> u32 {
        // A fresh generation: nobody has failed in it, so nobody waits.
        self.reload(stamps);
        let answer = self.ask("GET /status").expect("a status");
        let body = answer.split_once("\r\n\r\n").expect("a head and a body").1;
        let document: serde_json::Value = serde_json::from_str(body).expect("a status document");
        // Those of the generation before may still be ending.
        let workers = document["workers"].as_array().expect("workers");
        let ready = workers.iter().find(|worker| worker["state"] == "ready").expect("a ready worker");
        ready["pid"].as_u64().expect("a pid") as u32
    }

    fn respawn(&mut self, stamps: &Path) -> f64 {
        let victim = self.victim(stamps);
        let known = stamped(stamps);
        let killed = monotonic();
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(victim as i32).expect("a pid"),
            rustix::process::Signal::KILL,
        )
        .expect("SIGKILL");
        let began = stamp(stamps, known).began;
        (began - killed) as f64 / 1e6
    }

    /// From asking to the answer, and the longest own start of its workers: milliseconds.
    fn reload(&self, stamps: &Path) -> (f64, f64) {
        let known = stamped(stamps);
        let asked = monotonic();
        let answer = self.ask("POST /reload").expect("an answer");
        let answered = monotonic();
        assert!(answer.contains("\"committed\""), "{answer}");
        // It waits for the stamps of all: whoever counts them next finds them there.
        ((answered - asked) as f64 / 1e6, longest_start(stamps, known))
    }

    fn end(mut self) {
        let pid = rustix::process::Pid::from_raw(self.process.id() as i32).expect("a pid");
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.process.wait();
    }
}

fn middle(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn row(what: &str, values: &mut [f64]) {
    let median = middle(values);
    println!("{what:60} {:6.2}   {median:6.2}   {:6.2}", values[0], values[values.len() - 1]);
}
