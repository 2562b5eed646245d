//! All ways to ask agree: status document, D-Bus, metrics and /proc, sampled while workers start, crash, drain and are replaced.
//!
//! A sample reads the document, then everything else, then the document again. Where both documents say the same, what was read
//! between them must say it too; figures that only grow must lie between them.
//!
//! | file | owns |
//! |---|---|
//! | `sample.rs` | one sample: what was read, and what must agree |
//! | `metrics.rs` | the exposition as a table |

#![allow(dead_code, unused_imports)]

#[path = "../dbus/bus.rs"]
mod bus;
#[path = "../master/harness/mod.rs"]
mod harness;
mod metrics;
mod sample;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use bus::Bus;
use harness::{Master, Place, eventually, http};
use sample::{Sampler, Seen};

/// How often everything is changed.
const ROUNDS: u64 = 2;
/// So long a worker takes to be ready, so that several samples fall into a reload.
const START: &str = "start_ms=1200";
/// So many samples must have been compared for the test to say anything.
const COMPARED: u64 = 100;

/// Requests under way all the time, and how many were answered.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(address: &str) -> Load {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let one = || {
            let (stop, answered, address) = (stop.clone(), answered.clone(), address.to_owned());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // A worker that is told to crash takes others' requests with it.
                    let ok = http::get(&address, "/sleep?ms=5").is_ok_and(|answer| answer.status == 200);
                    answered.fetch_add(u64::from(ok), Ordering::Relaxed);
                }
            })
        };
        let threads = (0..2).map(|_| one()).collect();
        Load { stop, answered, threads }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        self.answered.load(Ordering::Relaxed)
    }
}

/// Everything that changes what is told.
fn change(master: &Master) {
    for step in 0..ROUNDS {
        master.ok(&["reload"]);
        let crashes = master.status()["worker_crashes"].as_u64();
        let _ = master.try_get("/exit?code=3");
        master.wait("the crash is told", |status| status["worker_crashes"].as_u64() > crashes);
        master.wait_until_ready();
        master.ok(&["scale", "4"]);
        master.wait_until_ready();
        master.ok(&["recycle"]);
        master.ok(&["scale", "2"]);
        master.wait_until_calm();
        // A release that does not start is rolled back.
        if step == 1 {
            master.place.behave("v1", "exit_at_start=1");
            assert_eq!(master.verb(&["reload"]).code, Some(1));
            master.place.behave("v1", START);
        }
    }
}

#[test]
fn all_ways_to_ask_agree_while_everything_changes() {
    let bus = Bus::start();
    let place = Place::new();
    place.behave("v1", START);
    let plan = place.pool("count = 2\nstop_timeout = '5s'", "[restart]\ninitial = '100ms'");
    let master = plan.environment("DBUS_SYSTEM_BUS_ADDRESS", bus.address()).start();
    let sampler = Sampler::new(master.control(), master.pid, bus.address());
    eventually("the instance is on the bus", || sampler.is_on_the_bus().then_some(()), || master.log());
    let stop = Arc::new(AtomicBool::new(false));
    let load = Load::start(&master.address());
    let sampling = {
        let stop = stop.clone();
        std::thread::spawn(move || {
            let mut seen = Seen::default();
            while !stop.load(Ordering::Relaxed) {
                sampler.sample(&mut seen);
            }
            (sampler, seen)
        })
    };
    change(&master);
    let answered = load.end();
    stop.store(true, Ordering::Relaxed);
    let (sampler, mut seen) = sampling.join().unwrap_or_else(|panic| {
        eprintln!("{}", master.log());
        std::panic::resume_unwind(panic)
    });
    master.wait_until_calm();
    while seen.compared < COMPARED {
        let before = seen.compared;
        eventually(
            "a sample at rest",
            || {
                sampler.sample(&mut seen);
                (seen.compared > before).then_some(())
            },
            || master.log(),
        );
    }
    assert!(seen.reloading > 0, "no sample was compared during a reload: {seen:?}");
    assert!(seen.workers >= 2 * seen.compared, "samples had too few workers: {seen:?}");
    // Nothing that was answered is missing from the sums, whatever became of the worker.
    let status = master.status();
    let requests = status["requests"].as_u64().expect("a sum");
    assert!(requests >= answered, "{requests} told, {answered} answered");
    let causes = status["failures_by_cause"].as_object().expect("a table").values().filter_map(serde_json::Value::as_u64);
    assert!(causes.sum::<u64>() >= ROUNDS && status["worker_crashes"].as_u64() >= Some(ROUNDS), "{status:#}");
    assert_eq!(status["workers_ready"], 2, "{status:#}");
}
