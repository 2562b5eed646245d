//! Recycling: workers replaced within their generation, by wish and by wear.

use super::harness::master::{pids, workers};
use super::harness::{Place, Value};

/// How many workers there are in this state.
fn count(status: &Value, state: &str) -> usize {
    workers(status).iter().filter(|worker| worker["state"] == state).count()
}

#[test]
fn recycle_replaces_all_within_the_generation_one_at_a_time() {
    let master = Place::new().pool("count = 3", "").start();
    let before = pids(&master.status());
    master.ok(&["recycle"]);
    let status = master.wait_until_calm();
    assert!(!pids(&status).iter().any(|pid| before.contains(pid)), "{status:#}");
    assert_eq!((&status["generation"], &status["worker_crashes"], &status["last_reload"]), (&1.into(), &0.into(), &Value::Null));
}

#[test]
fn recycle_replaces_one_and_the_new_one_is_ready_first() {
    let place = Place::new();
    place.wrap("v1", "[ ! -e PLACE/closed ] || export CHAOS_GATE=PLACE/gate");
    let master = place.pool("count = 2\nstart_timeout = '1h'", "").start();
    let before = master.status();
    let id = workers(&before)[1]["id"].to_string();
    master.place.write("closed", "");
    let recycle = master.begin(&["recycle", &id]);
    let status = master.wait("its successor starts", |status| count(status, "starting") == 1);
    assert_eq!(count(&status, "ready"), 2, "{status:#}");
    master.place.write("gate", "");
    assert_eq!(recycle.end().code, Some(0));
    let status = master.wait_until_calm();
    assert_eq!(pids(&status)[0], pids(&before)[0]);
    assert_ne!(pids(&status)[1], pids(&before)[1]);

    let nobody = master.verb(&["recycle", "4711"]);
    assert!(nobody.code == Some(1) && nobody.err.contains("4711"), "{nobody:?}");
}

#[test]
fn a_recycled_worker_stays_when_its_successor_fails() {
    let master = Place::new().pool("count = 1", "").start();
    let before = pids(&master.status());
    master.place.behave("v1", "exit_at_start=1");
    let said = master.verb(&["recycle"]);
    assert!(said.code == Some(1) && said.err.contains("stays"), "{said:?}");
    assert_eq!(pids(&master.wait_until_calm()), before);
}

#[test]
fn old_workers_are_recycled() {
    let master = Place::new().pool("count = 1", "[recycle]\nmax_age = '300ms'").start();
    let before = pids(&master.status());
    let status = master.wait("it was recycled", |status| status["workers_ready"] == 1 && pids(status) != before);
    assert_eq!((&status["generation"], &status["worker_crashes"]), (&1.into(), &0.into()), "{status:#}");
}

#[test]
fn a_worker_that_has_served_enough_requests_is_recycled() {
    let master = Place::new().pool("count = 1", "[recycle]\nmax_requests = 10").start();
    let before = pids(&master.status());
    for _ in 0..10 {
        master.get("/");
    }
    // It is looked at every few seconds.
    let status = master.wait("it was recycled", |status| status["workers_ready"] == 1 && pids(status) != before);
    assert_eq!((&status["generation"], &status["worker_crashes"]), (&1.into(), &0.into()), "{status:#}");
    master.wait_for_log("recycle.max_requests");
}

#[test]
fn a_worker_that_has_grown_too_large_is_recycled() {
    let place = Place::new();
    // The first one is large, the next ones are not.
    let script = "#!/usr/bin/python3
import os, subprocess, time
if os.environ['RATOON_WORKER'] == '1':
    ballast = bytearray(os.urandom(1024)) * (200 * 1024)
subprocess.run(['systemd-notify', '--ready'])
time.sleep(1000)
";
    place.program("v1/worker", script);
    let master = place.pool("ready = 'notify'\ncount = 1", "[recycle]\nmax_memory = '100M'").start();
    let before = pids(&master.status());
    let status = master.wait("it was recycled", |status| status["workers_ready"] == 1 && pids(status) != before);
    assert_eq!(status["worker_crashes"], 0, "{status:#}");
    master.wait_for_log("recycle.max_memory");
}

/// Without a delegated control group, too: a worker is all of its processes.
#[test]
fn memory_and_cpu_of_a_workers_children_count_as_its_own() {
    let place = Place::new();
    // The first worker has a child that takes CPU time, and memory when it is told to; its own process is small.
    let script = "#!/bin/sh
if [ $RATOON_WORKER = 1 ]; then
    /usr/bin/python3 -c '
import os, time
while time.process_time() < 0.5:
    pass
while not os.path.exists(\"PLACE/grow\"):
    time.sleep(0.02)
ballast = bytearray(os.urandom(1024)) * (200 * 1024)
time.sleep(1000)
' &
fi
systemd-notify --ready
exec sleep 1000
";
    place.program("v1/worker", &script.replace("PLACE", &place.root().display().to_string()));
    let master = place.pool("ready = 'notify'\ncount = 1", "[recycle]\nmax_memory = '100M'").start();
    let figure = |status: &Value, name: &str| workers(status)[0][name].as_u64().unwrap_or_default();
    let before = master.wait("the CPU time of the child", |status| figure(status, "cpu_usec") >= 450_000);
    assert!(figure(&before, "memory_rss") < 100 << 20, "{before:#}");
    master.place.write("grow", "");
    let status = master.wait("it was recycled", |status| status["workers_ready"] == 1 && pids(status) != pids(&before));
    assert_eq!(status["worker_crashes"], 0, "{status:#}");
    master.wait_for_log("recycle.max_memory");
}
