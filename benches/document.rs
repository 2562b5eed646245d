//! The cost of the status document for the master: `cargo bench --bench document`.
//!
//! A pool of 1,000 workers that hold 10,000 open connections, each with a request in work. Told are, for the first document
//! (which has to find out who holds which connection) and for later ones: the CPU time of the whole master, and that of the thread
//! which turns its loop; the same with half of the workers stopped by SIGSTOP; and what one ping took meanwhile of the loop's thread
//! (which bounds how long the loop was blocked by its own work) and of the wall's time (in which the machine's neighbours are too).
//!
//! Law: CPU times are the kernel's own (`schedstat`, nanoseconds), so neighbours on the machine are not in them.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http_body_util::Empty;
use hyper::body::Bytes;
use ratoon_worker::{self as worker, Listeners};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const WORKERS: usize = 1000;
const CONNECTIONS: usize = 10_000;
/// A document is given again for a quarter of a second; each that is measured shall be composed.
const KEPT: Duration = Duration::from_millis(300);
const ROUNDS: usize = 15;
const REQUEST: &[u8] = b"GET /report/17?year=2026&format=html HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn main() {
    if std::env::var_os("RATOON_WORKER").is_some() {
        return tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(serve());
    }
    let directory = tempfile::tempdir().expect("a directory");
    let pool = Pool::start(directory.path().to_owned());
    let clients = pool.connect();
    let first = pool.measure();
    let later: Vec<Figures> = (0..ROUNDS).map(|_| pool.measure()).collect();
    let document = pool.document();
    let open: u64 = workers(&document).filter_map(|worker| worker["open_connections"].as_u64()).sum();
    let shown = workers(&document).flat_map(|worker| worker["active_connections"].as_array()).map(Vec::len).sum::<usize>();
    assert_eq!((open, shown), (CONNECTIONS as u64, CONNECTIONS), "who holds what is known, and shown");
    println!("{WORKERS} workers, {CONNECTIONS} open connections, each with a request in work; {ROUNDS} rounds; milliseconds");
    println!("{:44}   master   its loop    answered         MB", "");
    row("the first document", &[first]);
    row("later ones, median", &later);
    row("with half of the workers stopped, median", &pool.with_stopped(&document));
    println!(
        "\"master\" and \"its loop\" are CPU time: of all its threads, and of the one that turns the loop, which also sends"
    );
    println!("the answer piece by piece; \"answered\" is the time from asking to the last byte, with this machine's neighbours.");
    println!("pings meanwhile; milliseconds        the loop's CPU time: 99 of 100, the longest     wall: 99 of 100, the longest");
    for (name, documents) in [("while documents are read", ROUNDS), ("without documents", 0)] {
        let [(cpu, longest_cpu), (wall, longest_wall)] = pool.pings(documents);
        println!("{name:30} {cpu:33.2} {longest_cpu:12.2} {wall:18.2} {longest_wall:12.2}");
    }
    drop(clients);
}

fn workers(document: &Value) -> impl Iterator<Item = &Value> {
    document["workers"].as_array().expect("workers").iter()
}

/// The worker: accepts its share and answers nobody.
async fn serve() {
    let mut listeners = Listeners::from_env().expect("sockets");
    let listener: tokio::net::TcpListener = listeners.take(0).expect("a listening socket");
    worker::ready().expect("READY=1");
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS / WORKERS {
        let (io, peer) = listener.accept().await.expect("a client");
        let mut io = worker::Connection::new(io, Some(peer));
        let layer = io.layer();
        let mut bytes = [0; 256];
        let length = io.read(&mut bytes).await.expect("a request");
        assert_eq!(&bytes[..length], REQUEST);
        let service = tower_layer::Layer::layer(
            &layer,
            hyper::service::service_fn(|_: hyper::Request<Empty<Bytes>>| {
                std::future::pending::<Result<hyper::Response<String>, std::convert::Infallible>>()
            }),
        );
        let request = hyper::Request::get("/report/17?year=2026&format=html").body(Empty::new()).expect("a request");
        let answer = hyper::service::Service::call(&service, request);
        io.write_all(b"H").await.expect("a client that waits");
        held.push((io, answer));
    }
    worker::draining().begun().await;
}

/// Milliseconds, and the answer's size.
struct Figures {
    master: f64,
    turning: f64,
    answered: f64,
    bytes: usize,
}

/// Prints medians.
fn row(name: &str, all: &[Figures]) {
    let median = |figure: fn(&Figures) -> f64| {
        let mut all: Vec<f64> = all.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    println!(
        "{name:44} {:8.2} {:10.2} {:11.2} {:10.2}",
        median(|it| it.master),
        median(|it| it.turning),
        median(|it| it.answered),
        median(|it| it.bytes as f64 / 1e6)
    );
}

/// The CPU time of a thread, milliseconds.
fn scheduled(task: &Path) -> Option<f64> {
    let text = fs::read_to_string(task.join("schedstat")).ok()?;
    text.split(' ').next()?.parse::<f64>().ok().map(|nanoseconds| nanoseconds / 1e6)
}

struct Pool {
    process: Child,
    control: PathBuf,
}

impl Pool {
    fn start(directory: PathBuf) -> Pool {
        let process = Command::new(env!("CARGO_BIN_EXE_ratoon"))
            .args(["run", "--name", "bench", "--listen", "127.0.0.1:0", "--start-timeout", "5min"])
            .args(["--workers", &WORKERS.to_string(), "--"])
            .arg(std::env::current_exe().expect("this program"))
            .env("RUNTIME_DIRECTORY", &directory)
            .env_remove("NOTIFY_SOCKET")
            .stderr(Stdio::null())
            .spawn()
            .expect("ratoon");
        let pool = Pool { process, control: directory.join("control") };
        pool.wait("all workers are ready", |document| document["workers_ready"] == WORKERS);
        pool
    }

    /// So many connections, each with a request that is being served.
    fn connect(&self) -> Vec<TcpStream> {
        let address: SocketAddr =
            self.document()["sockets"][0]["address"].as_str().and_then(|it| it.parse().ok()).expect("an address");
        let connect = |_| {
            let mut stream = TcpStream::connect(address).expect("a connection");
            stream.write_all(REQUEST).expect("a request");
            stream
        };
        let mut clients: Vec<TcpStream> = (0..CONNECTIONS).map(connect).collect();
        // The first byte of an answer: the request is in work.
        clients.iter_mut().for_each(|client| client.read_exact(&mut [0]).expect("a worker"));
        clients
    }

    /// One document.
    fn measure(&self) -> Figures {
        std::thread::sleep(KEPT);
        let (master, turning, asked) = (self.cpu(), self.turning(), Instant::now());
        let answer = self.ask("GET /status").expect("a status document");
        let answered = asked.elapsed().as_secs_f64() * 1e3;
        Figures { master: self.cpu() - master, turning: self.turning() - turning, answered, bytes: answer.len() }
    }

    /// Of pings while so many documents are read: the CPU time that the loop's thread spent within one, and the time that one took;
    /// of each, what 99 of 100 stay below, and the longest.
    fn pings(&self, documents: usize) -> [(f64, f64); 2] {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let pings = scope.spawn(|| {
                let (mut cpu, mut wall) = (Vec::new(), Vec::new());
                while !over.load(Ordering::Relaxed) || cpu.is_empty() {
                    let (before, began) = (self.turning(), Instant::now());
                    self.ask("GET /readyz").expect("an answer");
                    wall.push(began.elapsed().as_secs_f64() * 1e3);
                    cpu.push(self.turning() - before);
                }
                [cpu, wall].map(|mut all| {
                    all.sort_by(f64::total_cmp);
                    (all[all.len() * 99 / 100], all[all.len() - 1])
                })
            });
            match documents {
                0 => std::thread::sleep(Duration::from_secs(1)),
                _ => (0..documents).for_each(|_| {
                    std::thread::sleep(KEPT);
                    drop(self.ask("GET /status").expect("a status document"));
                }),
            }
            over.store(true, Ordering::Relaxed);
            pings.join().expect("pings")
        })
    }

    /// CPU time of all threads of the master, milliseconds.
    fn cpu(&self) -> f64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).expect("threads");
        tasks.flatten().filter_map(|task| scheduled(&task.path())).sum()
    }

    /// CPU time of the thread that turns the loop.
    fn turning(&self) -> f64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).expect("threads");
        let is_it = |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "ratoon-loop\n");
        let task = tasks.flatten().map(|task| task.path()).find(is_it).expect("the loop's thread");
        scheduled(&task).expect("a thread")
    }

    /// The same again with every other worker stopped.
    fn with_stopped(&self, document: &Value) -> Vec<Figures> {
        let signal = |signal| {
            for pid in workers(document).step_by(2).filter_map(|worker| worker["pid"].as_i64()) {
                let _ = kill_process(Pid::from_raw(pid as i32).expect("a pid"), signal);
            }
        };
        signal(Signal::STOP);
        let figures = (0..ROUNDS).map(|_| self.measure()).collect();
        signal(Signal::CONT);
        figures
    }

    fn ask(&self, what: &str) -> Option<String> {
        let mut stream = UnixStream::connect(&self.control).ok()?;
        stream.write_all(format!("{what} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200 ").then_some(answer)
    }

    fn try_document(&self) -> Option<Value> {
        serde_json::from_str(self.ask("GET /status")?.split_once("\r\n\r\n")?.1).ok()
    }

    fn document(&self) -> Value {
        self.try_document().expect("a status document")
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        let until = Instant::now() + Duration::from_secs(300);
        while !self.try_document().is_some_and(|document| is_so(&document)) {
            assert!(Instant::now() < until, "{what}: not within 5 minutes");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.process);
        // The second one ends it at once.
        let _ = kill_process(pid, Signal::TERM);
        let _ = kill_process(pid, Signal::TERM);
        let _ = self.process.wait();
    }
}
