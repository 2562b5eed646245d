//! The load generator (`benches/load`) as a test uses it: clients that ask until they are told to stop, then a report.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Clients at work.
pub struct Load {
    child: Child,
    lifeline: ChildStdin,
    requests: Arc<AtomicU64>,
}

impl Load {
    /// `load` is the program, wherever it runs, with its arguments beside those that are set here.
    pub fn start(mut load: Command) -> Load {
        let mut child = load
            .args(["--until-eof", "--json", "--progress", "0.1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("load");
        let lifeline = child.stdin.take().expect("piped");
        let progress = BufReader::new(child.stderr.take().expect("piped"));
        let requests = Arc::new(AtomicU64::new(0));
        let counter = requests.clone();
        std::thread::spawn(move || {
            for line in progress.lines().map_while(Result::ok) {
                // "requests 17 failures 0"
                match line.split(' ').nth(1).and_then(|number| number.parse().ok()) {
                    Some(number) => counter.store(number, Ordering::Relaxed),
                    None => eprintln!("{line}"),
                }
            }
        });
        Load { child, lifeline, requests }
    }

    /// Waits until so many requests are over.
    pub fn wait_for(&self, requests: u64) {
        let deadline = Instant::now() + Duration::from_secs(600);
        while self.requests.load(Ordering::Relaxed) < requests {
            assert!(
                Instant::now() < deadline,
                "only {} of {requests} requests in 10 minutes",
                self.requests.load(Ordering::Relaxed)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How many requests are over.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Ends it in good order and gives its report.
    pub fn stop(mut self) -> Value {
        drop(self.lifeline);
        let mut report = String::new();
        self.child.stdout.take().expect("piped").read_to_string(&mut report).expect("load's report");
        let status = self.child.wait().expect("load");
        serde_json::from_str(&report).unwrap_or_else(|error| panic!("load: {error}: {status}"))
    }
}

/// From its report: which processes answered for each generation, and how often.
pub fn answers(report: &Value) -> BTreeMap<u64, BTreeMap<u64, u64>> {
    let mut answers = BTreeMap::<u64, BTreeMap<u64, u64>>::new();
    for class in report["classes"].as_object().into_iter().flat_map(|classes| classes.values()) {
        for by in class["by"].as_array().into_iter().flatten() {
            let number = |key: &str| by[key].as_u64().unwrap_or(0);
            *answers.entry(number("generation")).or_default().entry(number("pid")).or_default() += number("answered");
        }
    }
    answers
}
