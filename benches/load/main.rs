//! `load`: puts an HTTP/1.1 server under load and counts every kind of failure. Exit status 1 when anything failed.
//!
//! Closed loop: each client sends its next request when the last was answered. Open loop (`--rate`): requests arrive by
//! the clock, whether or not the server keeps up, and latency counts from the scheduled arrival, so a stall is felt by
//! all who arrived in it. One thread; a client is a task.
#![allow(missing_docs)]
#![forbid(unsafe_code)]

mod answer;
mod client;
mod count;
mod pace;
mod report;

use std::cell::{Cell, RefCell};
use std::io::{IsTerminal, Read};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use tokio::task::LocalSet;
use tokio::time::Instant;

use client::{Class, Client, Target};
use count::Counts;
use pace::Pace;

/// Loads an HTTP/1.1 server and counts every kind of failure.
#[derive(Debug, Parser)]
#[command(
    after_help = "Without --requests and --time it runs until SIGINT, SIGTERM or (with --until-eof) the end of standard input.\nExit status: 0 all well, 1 something failed or nothing was answered, 2 usage."
)]
struct Args {
    /// host:port, the path of a Unix socket, or http://host:port/path
    address: String,
    /// Path and query to ask for
    #[arg(long, default_value = "/")]
    path: String,
    /// Clients that keep their connection (16, if --new isn't given either)
    #[arg(long, value_name = "N")]
    keep_alive: Option<usize>,
    /// Clients that open a connection for each request
    #[arg(long, value_name = "N")]
    new: Option<usize>,
    /// Open loop: so many requests a second in all
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Stop after so many requests
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    /// Stop after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    time: Option<Duration>,
    /// Stop at the end of standard input
    #[arg(long)]
    until_eof: bool,
    /// How long a connect, and how long a whole answer, may take
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "10")]
    timeout: Duration,
    /// Closed loop: pause of each client between an answer and its next request
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "0")]
    think: Duration,
    /// Open a kept connection again that the server closed before a request was sent on it, as most clients do; else it is a failure
    #[arg(long)]
    reconnect: bool,
    /// A further header of each request, "Name: value"
    #[arg(long, value_name = "HEADER")]
    header: Vec<String>,
    /// The status that each answer must have
    #[arg(long, value_name = "STATUS", default_value_t = 200)]
    expect_status: u16,
    /// What the body of each answer must begin with
    #[arg(long, value_name = "TEXT")]
    expect_body_prefix: Option<String>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Print `requests N failures N` to standard error, so often
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    progress: Option<Duration>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a tokio runtime");
    LocalSet::new().block_on(&runtime, run(args))
}

async fn run(args: Args) -> ExitCode {
    let (address, path) = match args.address.strip_prefix("http://") {
        None => (args.address.as_str(), args.path.as_str()),
        Some(url) => url.find('/').map_or((url, args.path.as_str()), |slash| url.split_at(slash)),
    };
    let target = match Target::resolve(address).await {
        Ok(target) => target,
        Err(error) => {
            eprintln!("load: {address}: {error}");
            return ExitCode::from(2);
        }
    };
    let (keep_alive, new) = match (args.keep_alive, args.new) {
        (None, None) => (16, 0),
        (keep_alive, new) => (keep_alive.unwrap_or(0), new.unwrap_or(0)),
    };
    let started = Instant::now();
    let pace = Rc::new(Pace::new(args.rate, args.requests, args.time.map(|time| started + time), args.think));
    let counts = Class::ALL.map(|_| Rc::new(RefCell::new(Counts::new(started))));
    let settings = Rc::new(client::Settings {
        target,
        host: if address.contains('/') { "localhost".into() } else { address.into() },
        path: path.into(),
        headers: args.header,
        timeout: args.timeout,
        reconnect: args.reconnect,
        expect_status: args.expect_status,
        expect_body_prefix: args.expect_body_prefix.map(String::into_bytes),
    });
    stop_when_told(&pace, args.until_eof);
    let running = Rc::new(Cell::new(keep_alive + new));
    let all_done = Rc::new(tokio::sync::Notify::new());
    for (class, clients) in Class::ALL.into_iter().zip([keep_alive, new]) {
        for _ in 0..clients {
            let (running, all_done) = (running.clone(), all_done.clone());
            let client = Client::new(class, settings.clone(), pace.clone(), counts[class as usize].clone());
            tokio::task::spawn_local(async move {
                client.run().await;
                running.set(running.get() - 1);
                all_done.notify_one();
            });
        }
    }
    if let Some(interval) = args.progress {
        tokio::task::spawn_local(progress(interval, counts.clone()));
    }
    if let Some(rate) = args.rate {
        tokio::task::spawn_local(pace::arrivals(pace.clone(), rate, started));
    }
    while running.get() > 0 {
        all_done.notified().await;
    }
    let took = started.elapsed();
    let classes: Vec<_> = Class::ALL.into_iter().zip([keep_alive, new]).filter(|(_, clients)| *clients > 0).collect();
    let finished: Vec<_> = classes.iter().map(|(class, clients)| (*class, *clients, counts[*class as usize].take())).collect();
    let report = report::Report { took, rate: args.rate, never_sent: pace.waiting(), classes: &finished };
    if args.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.table());
    }
    ExitCode::from(u8::from(!report.all_well()))
}

/// SIGINT and SIGTERM end the run in good order, and so does the end of standard input, if asked for.
fn stop_when_told(pace: &Rc<Pace>, until_eof: bool) {
    use tokio::signal::unix::{SignalKind, signal};
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let pace = pace.clone();
        let mut told = signal(kind).expect("SIGINT and SIGTERM can be listened to");
        tokio::task::spawn_local(async move {
            told.recv().await;
            pace.stop();
        });
    }
    if until_eof {
        if std::io::stdin().is_terminal() {
            eprintln!("load: running until Ctrl-D");
        }
        let (tell, told) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
            let _ = tell.send(());
        });
        let pace = pace.clone();
        tokio::task::spawn_local(async move {
            let _ = told.await;
            pace.stop();
        });
    }
}

async fn progress(interval: Duration, counts: [Rc<RefCell<Counts>>; 2]) {
    loop {
        tokio::time::sleep(interval).await;
        let (requests, failures) = counts.iter().map(|c| c.borrow().progress()).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        eprintln!("requests {requests} failures {failures}");
    }
}
