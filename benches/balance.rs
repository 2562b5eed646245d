//! One queue for all workers or one for each slot (`worker.balance`): `cargo bench --bench balance`.
//!
//! Told are, for each of the two: how connections are spread (the requests of the busiest worker ÷ the mean), the latency, and
//! what is lost over 100 reloads and 100 changes of size. Two workers are measured: `hello`, which uses tokio, and one that waits
//! as nginx does (`EPOLLEXCLUSIVE`), which is this program.
//!
//! Law: the two take turns, so that what the machine does besides falls on both. A run takes some ten minutes; with
//! `RATOON_BENCH=quick` one. Exit status 1 when a request was lost.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use ratoon_worker::{self as worker, Listeners};
use rustix::event::epoll;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const WORKERS: usize = 4;
const BALANCES: [&str; 2] = ["shared", "per-slot"];

/// What is measured while nothing changes: what it is called, and what `load` is told.
const STEADY: [(&str, &[&str]); 4] = [
    ("128 keep-alive, 1000/s", &["--keep-alive", "128", "--rate", "1000"]),
    ("128 keep-alive, 8000/s", &["--keep-alive", "128", "--rate", "8000"]),
    ("128 keep-alive, all they can", &["--keep-alive", "128"]),
    ("64 new, all they can", &["--new", "64"]),
];

fn main() -> ExitCode {
    if std::env::var_os("RATOON_WORKER").is_some() {
        serve().expect("a worker");
        return ExitCode::SUCCESS;
    }
    let quick = std::env::var("RATOON_BENCH").is_ok_and(|how| how == "quick");
    let (rounds, seconds, changes) = if quick { (3, 1, 20) } else { (5, 2, 100) };
    let programs = Programs::build();
    println!(
        "{WORKERS} workers; {rounds} rounds of {seconds} s by turns: median (worst) of max ÷ mean, median of p50 and p99 in ms"
    );
    println!("{:32}{:12}{:>10} {:>8} {:>9}{:>9}{:>9}", "clients", "balance", "max÷mean", "", "p50", "p99", "lost");
    let mut lost = 0;
    for (name, program) in [("tokio", &programs.hello), ("EPOLLEXCLUSIVE", &programs.exclusive)] {
        println!("{name}");
        for (clients, words) in STEADY {
            let mut all: [Vec<Steady>; 2] = Default::default();
            for _ in 0..rounds {
                for (balance, of) in BALANCES.into_iter().zip(&mut all) {
                    let pool = Pool::start(&programs.ratoon, program, balance);
                    of.push(programs.load(&pool, words, seconds));
                }
            }
            for (balance, of) in BALANCES.into_iter().zip(&all) {
                let most = of.iter().map(|it| it.spread).fold(0.0, f64::max);
                let lost_here: u64 = of.iter().map(|it| it.failed).sum();
                println!(
                    "  {clients:30}{balance:12}{:10.2} {:>8}{:10.2}{:9.2}{lost_here:9}",
                    median(of, |it| it.spread),
                    format!("({most:.2})"),
                    median(of, |it| it.p50),
                    median(of, |it| it.p99),
                );
                lost += lost_here;
            }
        }
    }
    println!("while the pool changes, 8 keep-alive clients and 8 with a connection for each request (tokio)");
    for balance in BALANCES {
        for (what, change) in [("reloads", reload as Change), ("changes of size", resize)] {
            let pool = Pool::start(&programs.ratoon, &programs.hello, balance);
            let report = programs.while_(&pool, || (0..changes).for_each(|n| change(&programs.ratoon, &pool, n)));
            let (failed, answered) = (number(&report["failed"]), number(&report["answered"]));
            let p99 = report["latency_ms"]["p99"].as_f64().unwrap_or(f64::NAN);
            println!("  {:30}{balance:12}{failed:8} lost of {answered}, p99 {p99:.2} ms", format!("{changes} {what}"));
            lost += failed;
        }
    }
    println!("again: cargo bench --bench balance");
    if lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

type Change = fn(&Path, &Pool, usize);

fn reload(ratoon: &Path, pool: &Pool, _: usize) {
    pool.verb(ratoon, &["reload"]);
}

/// 4, 2, 6, 1, 5, 4 …, each until it is so.
fn resize(ratoon: &Path, pool: &Pool, n: usize) {
    let count = [2, 6, 1, 5, 4][n % 5];
    pool.verb(ratoon, &["scale", &count.to_string()]);
    pool.wait("the pool has its size", |document| {
        document["workers_ready"] == count && document["workers"].as_array().is_some_and(|all| all.len() == count)
    });
}

/// What one round showed.
struct Steady {
    spread: f64,
    p50: f64,
    p99: f64,
    failed: u64,
}

fn median(all: &[Steady], of: fn(&Steady) -> f64) -> f64 {
    let mut all: Vec<f64> = all.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(u64::MAX)
}

/// Requests of the busiest worker ÷ the mean.
fn spread(report: &Value) -> f64 {
    let mut by: BTreeMap<u64, u64> = BTreeMap::new();
    for one in report["classes"].as_object().into_iter().flat_map(|all| all.values()).flat_map(|it| it["by"].as_array()).flatten()
    {
        *by.entry(number(&one["pid"])).or_default() += number(&one["answered"]);
    }
    let (most, sum): (u64, u64) = (by.values().copied().max().unwrap_or(0), by.values().sum());
    most as f64 * WORKERS as f64 / sum as f64
}

/// What is run.
struct Programs {
    ratoon: PathBuf,
    load: PathBuf,
    hello: PathBuf,
    exclusive: PathBuf,
}

impl Programs {
    fn build() -> Programs {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--release", "--quiet", "--all-features", "--example", "load", "--example", "hello"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(built.expect("cargo").success(), "the examples are built");
        let ratoon = PathBuf::from(env!("CARGO_BIN_EXE_ratoon"));
        let example = |name: &str| ratoon.with_file_name("examples").join(name);
        let exclusive = std::env::current_exe().expect("this program");
        Programs { load: example("load"), hello: example("hello"), exclusive, ratoon }
    }

    fn loads(&self, pool: &Pool) -> Command {
        let mut load = Command::new(&self.load);
        load.arg(pool.address()).args(["--json", "--expect-body-prefix", "hello from pid"]);
        load.stdin(Stdio::piped()).stdout(Stdio::piped());
        load
    }

    fn load(&self, pool: &Pool, words: &[&str], seconds: u32) -> Steady {
        let mut load = self.loads(pool);
        let output = load.args(words).args(["--time", &seconds.to_string()]).output().expect("load");
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
        let latency = |quantile: &str| report["latency_ms"][quantile].as_f64().unwrap_or(f64::NAN);
        Steady { spread: spread(&report), p50: latency("p50"), p99: latency("p99"), failed: number(&report["failed"]) }
    }

    /// A report of the time in which this is done.
    fn while_(&self, pool: &Pool, done: impl FnOnce()) -> Value {
        let mut load = self.loads(pool);
        load.args(["--keep-alive", "8", "--new", "8", "--think", "0.001", "--until-eof"]);
        let mut load = load.spawn().expect("load");
        done();
        drop(load.stdin.take());
        let mut report = String::new();
        load.stdout.take().expect("piped").read_to_string(&mut report).expect("a report");
        load.wait().expect("load");
        serde_json::from_str(&report).expect("a report")
    }
}

/// A running instance.
struct Pool {
    process: Child,
    directory: tempfile::TempDir,
}

impl Pool {
    fn start(ratoon: &Path, program: &Path, balance: &str) -> Pool {
        let directory = tempfile::tempdir().expect("a directory");
        let process = Command::new(ratoon)
            .args(["run", "--name", "bench", "--listen", "127.0.0.1:0", "--balance", balance])
            .args(["--workers", &WORKERS.to_string(), "--"])
            .arg(program)
            .env("RUNTIME_DIRECTORY", directory.path())
            .env_remove("NOTIFY_SOCKET")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ratoon");
        let pool = Pool { process, directory };
        pool.wait("all workers are ready", |document| document["workers_ready"] == WORKERS);
        pool
    }

    fn control(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    fn address(&self) -> String {
        let document = self.document().expect("a status document");
        document["sockets"][0]["address"].as_str().expect("an address").to_owned()
    }

    fn verb(&self, ratoon: &Path, words: &[&str]) {
        let output = Command::new(ratoon).args(words).arg("--control").arg(self.control()).output().expect("ratoon");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn document(&self) -> Option<Value> {
        let mut stream = UnixStream::connect(self.control()).ok()?;
        stream.write_all(b"GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        let until = Instant::now() + Duration::from_secs(120);
        while !self.document().is_some_and(|document| is_so(&document)) {
            assert!(Instant::now() < until, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let _ = self.process.wait();
    }
}

/// The worker that waits as nginx does: one connection for each time that it is woken.
fn serve() -> std::io::Result<()> {
    let listener: TcpListener = Listeners::from_env()?.take(0)?;
    listener.set_nonblocking(true)?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, &listener, epoll::EventData::new_u64(0), epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE)?;
    worker::ready()?;
    let body = format!("hello from pid {} generation 1 worker 1 version none\n", std::process::id());
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut connections: HashMap<u64, TcpStream> = HashMap::new();
    let mut last = 0;
    let mut events = Vec::with_capacity(64);
    loop {
        events.clear();
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        for event in &events {
            let id = event.data.u64();
            if id == 0 {
                if let Ok((stream, _)) = listener.accept() {
                    last += 1;
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    epoll::add(&poll, &stream, epoll::EventData::new_u64(last), epoll::EventFlags::IN)?;
                    connections.insert(last, stream);
                }
                continue;
            }
            let Some(stream) = connections.get_mut(&id) else { continue };
            let mut request = [0; 4096];
            // The requests of `load` come whole.
            let goes_on = match stream.read(&mut request) {
                Ok(0) | Err(_) => false,
                Ok(length) => {
                    let close = request[..length].windows(17).any(|words| words == b"Connection: close");
                    stream.write_all(answer.as_bytes()).is_ok() && !close
                }
            };
            if !goes_on {
                connections.remove(&id);
            }
        }
    }
}
