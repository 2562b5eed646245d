//! A master that does not run for a while (SIGSTOP): nothing is judged by that time.

use std::time::{Duration, Instant};

use super::harness::master::pids;
use super::harness::{Master, Place, Signal, eventually, processes};

/// Stops the master and its workers until this much time has passed: the fault itself, no wait for something to happen.
fn away(master: &Master, workers: &[u32], span: Duration) {
    let all = || workers.iter().chain([&master.pid]).copied();
    all().for_each(|pid| processes::signal(pid, Signal::STOP));
    for pid in all() {
        let stopped = || processes::facts(pid).get("State").is_some_and(|state| state.starts_with('T')).then_some(());
        eventually("it is stopped", stopped, || master.log());
    }
    let since = Instant::now();
    eventually("the time has passed", || (since.elapsed() > span).then_some(()), || master.log());
    // The master first: it must not depend on what workers do meanwhile. Its second answer comes after it has judged.
    processes::signal(master.pid, Signal::CONT);
    master.status();
    master.status();
    workers.iter().for_each(|pid| processes::signal(*pid, Signal::CONT));
}

#[test]
fn start_timeout_does_not_count_an_absence() {
    let place = Place::new();
    place.gate("v1");
    let master = place.pool("count = 2\nstart_timeout = '10s'", "").launch();
    let workers = pids(&master.wait("both start", |status| pids(status).len() == 2));
    away(&master, &workers, Duration::from_secs(12));
    (0..2).for_each(|slot| master.place.open(1, slot));
    let status = master.wait_until_ready();
    assert!(master.log().contains("the master did not run for"), "{}", master.log());
    assert_eq!((pids(&status), &status["worker_crashes"]), (workers, &0.into()), "{status:#}\n{}", master.log());
}

#[test]
fn stop_timeout_does_not_count_an_absence() {
    let place = Place::new();
    // No worker of the library: its own limit of a drain runs by its own clock.
    let script = "#!/bin/sh\ntrap 'echo term > ../term' TERM\nsystemd-notify --ready\nuntil [ -e ../over ]; do sleep 0.01; done\necho done > ../done\n";
    place.program("v1/worker", script);
    let master = place.pool("ready = 'notify'\ncount = 1\nstop_timeout = '10s'", "").start();
    let workers = pids(&master.status());
    master.signal(Signal::TERM);
    let term = master.place.path("term");
    eventually("it drains", || term.exists().then_some(()), || master.log());
    away(&master, &workers, Duration::from_secs(12));
    master.place.write("over", "");
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
    assert_eq!(master.place.read("done"), "done\n", "{}", master.log());
}

#[test]
fn watchdog_does_not_count_an_absence() {
    let master = Place::new().pool("count = 80\nwatchdog = '10s'\nstart_timeout = '1min'", "").start();
    let workers = pids(&master.status());
    away(&master, &workers, Duration::from_secs(12));
    let status = master.wait_until_calm();
    assert_eq!((pids(&status), &status["worker_crashes"]), (workers, &0.into()), "{}", master.log());
}
