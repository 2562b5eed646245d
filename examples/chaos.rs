//! A worker that misbehaves as it is told, for tests.
//!
//! Settings are lines `name=value` of the file `chaos` in its directory (so a release decides), or `CHAOS_NAME` in its
//! environment, which wins:
//!
//! | setting | does |
//! |---|---|
//! | `version` | what it calls itself; else the file `version` in its directory |
//! | `print` | prints this text at once, `\n` for a new line |
//! | `exit_at_start` | ends with this status before READY (`0` too) |
//! | `signal_at_start` | dies by this signal before READY |
//! | `hang_before_ready` | is never ready |
//! | `gate` | is ready only when this file exists |
//! | `start_ms` | takes so long to be ready |
//! | `grandchild` | starts a `sleep` that outlives it, before READY |
//! | `notify` | says this before READY, `\n` for a new line |
//! | `status` | its STATUS= |
//! | `no_watchdog` | says READY=1 but feeds no watchdog |
//! | `exit_after_ready` | `MS STATUS`: ends with STATUS so long after READY |
//! | `ignore_term` | does not drain |
//! | `fails_each` | answers each Nth request with 500 |
//! | `grace_ms` | the grace of a connection without a request, while draining |
//!
//! Requests: `/` (who am I), `/env`, `/fds` (what it inherited: `NUMBER TARGET` lines), `/where` (directory and program), `/sleep?ms=`, `/wait?file=` (answers when there is such a file), `/body?bytes=`, `/exit?code=`, `/crash`,
//! `/signal?number=`, `/hang` (its only thread stands still), `/stopping` (says STOPPING=1 and drains), `/status?text=`, `/notify?message=`,
//! `/print?text=`, `/err?text=`, `/child` (starts a `sleep`, says its pid), `/count?name=&by=` (a counter of its own), `/info?text=` (the worker's),
//! `/describe?about=&ms=` (the request's info, then sleeps), `/pool` (asks the master).

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::io;
use std::process::{Command, Stdio, exit};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use ratoon_worker::{self as worker, Drain, NotifyState, Server};
use rustix::process::{Signal, getpid, kill_process};
use tokio::time::sleep;

fn main() -> io::Result<()> {
    let inherited = fds()?; // before there is anything of our own
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(inherited))
}

async fn run(inherited: String) -> io::Result<()> {
    let settings = Settings::read();
    let get = |name| settings.get(name);
    if let Some(text) = get("print") {
        println!("{}", text.replace("\\n", "\n"));
    }
    if get("grandchild").is_some() {
        child()?;
    }
    if let Some(message) = get("notify") {
        worker::notify(&[NotifyState::Custom(&message.replace("\\n", "\n"))])?;
    }
    if let Some(number) = settings.number("signal_at_start") {
        die(number);
    }
    if let Some(code) = settings.number("exit_at_start") {
        exit(code);
    }
    let listener = worker::listen(&get("listen").unwrap_or_else(|| "127.0.0.1:8080".into()))?;
    if let Some(ms) = settings.number("start_ms") {
        sleep(millis(ms)).await;
    }
    if let Some(gate) = get("gate") {
        while !std::fs::exists(&gate)? {
            sleep(millis(2)).await;
        }
    }
    if get("hang_before_ready").is_some() {
        std::future::pending::<()>().await;
    }
    if let Some(text) = get("status") {
        worker::status(&text)?;
    }
    let term = worker::draining().clone(); // SIGTERM is caught from here on
    let drain = if get("ignore_term").is_some() { Drain::new() } else { term };
    if get("no_watchdog").is_some() {
        worker::notify(&[NotifyState::Ready])?
    } else {
        worker::ready()?
    }
    if let Some(text) = get("exit_after_ready") {
        let (ms, code) =
            text.split_once(' ').and_then(|(ms, code)| Some((ms.parse().ok()?, code.parse().ok()?))).expect("MS STATUS");
        tokio::spawn(async move {
            sleep(millis(ms)).await;
            exit(code);
        });
    }
    let fails_each = settings.number("fails_each").and_then(|each: i32| u64::try_from(each).ok()).filter(|each| *each > 0);
    let asked = Arc::new(AtomicU64::new(0));
    let who = who(get("version"));
    let stop = drain.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (who, inherited, stop) = (who.clone(), inherited.clone(), stop.clone());
        let number = asked.fetch_add(1, Ordering::Relaxed) + 1;
        let fails = fails_each.is_some_and(|each| number.is_multiple_of(each));
        async move {
            if fails {
                let mut answer = wrong("it fails, as it is told");
                *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                return Ok(answer);
            }
            Ok::<_, Infallible>(answer(&request, &who, &inherited, &stop).await.unwrap_or_else(|error| wrong(&error.to_string())))
        }
    });
    let mut server = Server::new().drain(drain);
    if let Some(ms) = settings.number("grace_ms") {
        server = server.grace(millis(ms));
    }
    server.serve(listener, service).await
}

async fn answer(request: &Request<Incoming>, who: &str, inherited: &str, stop: &Drain) -> io::Result<Response<Full<Bytes>>> {
    let query: HashMap<_, _> = request.uri().query().unwrap_or("").split('&').filter_map(|pair| pair.split_once('=')).collect();
    let text = |name| query.get(name).map_or_else(String::new, |text| decoded(text));
    let number =
        |name, default| query.get(name).map_or(Some(default), |text| text.parse().ok()).ok_or(io::ErrorKind::InvalidInput);
    let body = match request.uri().path() {
        "/" => who.to_owned(),
        "/env" => {
            let mut lines: Vec<_> =
                std::env::vars_os().map(|(name, value)| format!("{}={}\n", name.display(), value.display())).collect();
            lines.sort();
            lines.concat()
        }
        "/fds" => inherited.to_owned(),
        "/where" => format!("{}\n{}\n", std::env::current_dir()?.display(), std::fs::read_link("/proc/self/exe")?.display()),
        "/wait" => {
            while !std::fs::exists(text("file"))? {
                sleep(millis(2)).await;
            }
            who.to_owned()
        }
        "/sleep" => {
            sleep(millis(number("ms", 0)?)).await;
            who.to_owned()
        }
        "/body" => "x".repeat(number("bytes", 0)?.max(0) as usize),
        "/exit" => exit(number("code", 0)?),
        "/crash" => std::process::abort(),
        "/signal" => die(number("number", 9)?),
        "/hang" => loop {
            std::thread::park();
        },
        "/stopping" => {
            worker::stopping()?;
            stop.begin();
            who.to_owned()
        }
        "/status" => worker::status(&text("text")).map(|()| who.to_owned())?,
        "/notify" => worker::notify(&[NotifyState::Custom(&text("message"))]).map(|()| who.to_owned())?,
        "/print" => {
            println!("{}", text("text"));
            who.to_owned()
        }
        "/err" => {
            eprintln!("{}", text("text"));
            who.to_owned()
        }
        "/count" => {
            worker::counter(&text("name")).add(number("by", 1)?.max(0) as u64);
            who.to_owned()
        }
        "/describe" => {
            let about = HashMap::from([("about", text("about"))]);
            worker::request().ok_or(io::ErrorKind::NotFound)?.set_info(&about)?;
            sleep(millis(number("ms", 0)?)).await;
            who.to_owned()
        }
        "/info" => worker::info(&HashMap::from([("says", text("text"))])).map(|()| who.to_owned())?,
        "/pool" => format!("{} workers ready\n", worker::server_status().await?.workers_ready),
        "/child" => format!("{}\n", child()?),
        other => return Ok(wrong(&format!("no such request: {other}"))),
    };
    Ok(Response::new(Full::new(body.into())))
}

fn wrong(text: &str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(format!("{text}\n").into()));
    *answer.status_mut() = StatusCode::BAD_REQUEST;
    answer
}

/// The file `chaos` and the environment.
struct Settings(HashMap<String, String>);

impl Settings {
    fn read() -> Self {
        let file = std::fs::read_to_string("chaos").unwrap_or_default();
        Settings(
            file.lines()
                .filter_map(|line| line.split_once('='))
                .map(|(name, value)| (name.trim().into(), value.trim().into()))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<String> {
        std::env::var(format!("CHAOS_{}", name.to_uppercase())).ok().or_else(|| self.0.get(name).cloned())
    }

    fn number(&self, name: &str) -> Option<i32> {
        self.get(name).map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
    }
}

fn who(version: Option<String>) -> String {
    let me = worker::identity();
    let version = version.or_else(|| std::fs::read_to_string("version").ok());
    format!(
        "chaos pid {} generation {} worker {} slot {} version {}\n",
        std::process::id(),
        me.generation.unwrap_or(0),
        me.worker.unwrap_or(0),
        me.slot.unwrap_or(0),
        version.as_deref().map_or("none", str::trim),
    )
}

/// `NUMBER TARGET`, a line for each open descriptor, but not for the one that reads the directory.
fn fds() -> io::Result<String> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        numbers.extend(entry?.file_name().to_string_lossy().parse::<u32>());
    }
    numbers.sort();
    let mut lines = String::new();
    for number in numbers {
        if let Ok(target) = std::fs::read_link(format!("/proc/self/fd/{number}")) {
            let _ = writeln!(lines, "{number} {}", target.display());
        }
    }
    Ok(lines)
}

fn child() -> io::Result<u32> {
    Ok(Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn()?.id())
}

/// Again and again: std's own handler of SIGSEGV swallows the first that no bad access caused.
fn die(number: i32) -> ! {
    let signal = Signal::from_named_raw(number).unwrap_or_else(|| panic!("no signal {number}"));
    loop {
        kill_process(getpid(), signal).expect("a process may signal itself");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn millis(ms: i32) -> Duration {
    Duration::from_millis(ms.max(0) as u64)
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        let (byte, taken) = match (first, hex) {
            (b'%', Some(byte)) => (byte, 2),
            (b'+', _) => (b' ', 0),
            (byte, _) => (*byte, 0),
        };
        bytes.push(byte);
        rest = &tail[taken..];
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
