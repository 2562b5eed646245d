//! A worker's life: time to start, probation, surge, recycling, leaving, watchdogs, and what it says of itself.

use super::harness::master::{last_failure, pids, wait_for_end_of, workers};
use super::harness::{Master, Place, Signal, Value, processes};

/// How many workers of a generation there are in this state.
fn count(status: &Value, generation: u64, state: &str) -> usize {
    workers(status).iter().filter(|worker| worker["generation"] == generation && worker["state"] == state).count()
}

#[test]
fn a_worker_that_asks_for_more_time_to_start_gets_it() {
    let place = Place::new();
    place.behave("v1", "notify=EXTEND_TIMEOUT_USEC=60000000\nstart_ms=2000");
    let master = place.pool("count = 1\nstart_timeout = '1500ms'", "").start();
    assert_eq!(master.status()["failures"], serde_json::json!([]));
    // Without it the same start is too slow.
    master.place.behave("v1", "start_ms=60000");
    let said = master.verb(&["reload"]);
    assert!(said.code == Some(1) && said.err.contains("start timeout after 1s 500ms"), "{said:?}");
}

#[test]
fn a_crash_during_probation_rolls_back() {
    let place = Place::new();
    place.release("v2", "exit_after_ready=50 3");
    let master = place.pool("count = 2", "[reload]\nprobation = '1h'").start();
    let before = pids(&master.status());
    master.place.current("v2");
    let said = master.verb(&["reload"]);
    assert!(said.code == Some(1) && said.err.contains("exit 3"), "{said:?}");
    let status = master.wait_until_calm();
    assert_eq!((pids(&status), &status["last_reload"]["result"]), (before, &"rolled-back".into()), "{status:#}");
}

#[test]
fn the_old_generation_serves_until_probation_is_over() {
    let place = Place::new();
    let master = place.pool("count = 1", "[reload]\nprobation = '1h'").start();
    let old = pids(&master.status())[0];
    let reload = master.begin(&["reload"]);
    master.systemd().wait_for("STATUS=reloading to generation 2: 1/1 ready, on probation", 1);
    let status = master.status();
    assert_eq!((count(&status, 1, "ready"), count(&status, 2, "ready")), (1, 1), "{status:#}");
    assert_eq!((&status["generation"], &status["state"]), (&1.into(), &"reloading".into()), "{status:#}");
    master.ok(&["abort"]);
    assert_eq!(reload.end().code, Some(1));
    assert_eq!(pids(&master.wait_until_calm()), [old]);

    master.place.configure("count = 1", "[reload]\nprobation = '50ms'");
    master.ok(&["reload"]);
    master.wait_until_calm();
    wait_for_end_of(old);
}

#[test]
fn surge_1_replaces_one_by_one() {
    let place = Place::new();
    place.gate("v1");
    (0..3).for_each(|slot| place.open(1, slot));
    let master = place.pool("count = 3\nstart_timeout = '1h'", "[reload]\nsurge = 1").start();
    let reload = master.begin(&["reload"]);
    for slot in 0..3 {
        let left = 3 - slot;
        let status = master.wait("one new worker starts beside the old", |status| {
            count(status, 1, "ready") == left && count(status, 2, "starting") == 1 && workers(status).len() == 4
        });
        assert_eq!(count(&status, 2, "ready"), slot, "{status:#}");
        master.place.open(2, slot as u32);
    }
    assert_eq!(reload.end().code, Some(0));
    let status = master.wait_until_calm();
    assert_eq!((&status["generation"], &status["workers_ready"]), (&2.into(), &3.into()));
}

#[test]
fn a_failure_half_way_with_surge_1_brings_the_old_release_back() {
    let place = Place::new();
    place.wrap("v1", "true");
    place.release("v2", "");
    place.wrap("v2", "[ $RATOON_SLOT = 0 ] || exit 8");
    let master = place.pool("count = 3", "[reload]\nsurge = 1").start();
    let before = pids(&master.status());
    master.place.current("v2");
    let said = master.verb(&["reload"]);
    assert!(said.code == Some(1) && said.err.contains("exit 8"), "{said:?}");
    let status = master.wait_until_calm();
    assert_eq!((&status["generation"], &status["workers_ready"]), (&1.into(), &3.into()), "{status:#}");
    assert_eq!(pids(&status)[1..], before[1..], "those that had not been replaced were touched");
    for _ in 0..6 {
        assert!(master.get("/").contains("version v1"));
    }
}

#[test]
fn a_worker_that_leaves_is_replaced_at_once() {
    let place = Place::new();
    let master = place.pool("count = 1", "").start();
    let leaving = pids(&master.status())[0];
    let request = master.ask_for_later();
    master.get("/stopping");
    let status = master.wait("another beside it", |status| count(status, 1, "draining") == 1 && count(status, 1, "ready") == 1);
    assert!(pids(&status).contains(&leaving), "{status:#}");
    let answer = request.answer();
    assert!(answer.contains(&format!("pid {leaving} ")), "{answer}");
    let status = master.wait_until_calm();
    assert_eq!((&status["worker_crashes"], &status["failures"]), (&0.into(), &serde_json::json!([])), "{status:#}");
    wait_for_end_of(leaving);
}

/// Waits until the pool's only worker was replaced for its watchdog.
#[track_caller]
fn replaced_by_watchdog(master: &Master) {
    let status = master.wait("replaced", |status| status["workers_ready"] == 1 && status["worker_crashes"] == 1);
    assert_eq!(last_failure(&status)["how"], "watchdog", "{status:#}");
    master.wait_for_log("watchdog");
}

#[test]
fn a_worker_that_hangs_is_aborted_and_replaced() {
    let place = Place::new();
    // SIGABRT is what it gets first: a trace of what it was doing.
    let master = place.pool("count = 1\nwatchdog = '700ms'", "").start();
    let hanging = pids(&master.status())[0];
    let address = master.address();
    std::thread::spawn(move || super::harness::http::get(&address, "/hang"));
    replaced_by_watchdog(&master);
    assert!(!processes::lives(hanging));
}

#[test]
fn a_worker_that_feeds_its_watchdog_lives() {
    let master = Place::new().pool("count = 1\nwatchdog = '2s'", "").start();
    let before = pids(&master.status());
    // Some seconds of its life: nothing must happen in them.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let status = master.status();
    assert_eq!((pids(&status), &status["worker_crashes"]), (before, &0.into()), "{status:#}");
}

#[test]
fn a_worker_that_hangs_for_good_is_killed() {
    let place = Place::new();
    let script = "#!/bin/sh\ntrap '' ABRT TERM\nsystemd-notify --ready\nwhile :; do sleep 0.05; done\n";
    place.program("v1/worker", script);
    // Its SIGKILL comes after the stop timeout.
    let master = place.pool("ready = 'notify'\ncount = 1\nwatchdog = '300ms'\nstop_timeout = '300ms'", "").start();
    let hanging = pids(&master.status())[0];
    wait_for_end_of(hanging);
    let status = master.wait("replaced", |status| status["worker_crashes"].as_u64() > Some(0));
    assert_eq!(last_failure(&status)["how"], "watchdog", "{status:#}");
}

#[test]
fn a_worker_can_pull_its_own_trigger() {
    let master = Place::new().pool("count = 1\nwatchdog = '1h'", "").start();
    let _ = master.try_get("/notify?message=WATCHDOG%3Dtrigger");
    replaced_by_watchdog(&master);
}

#[test]
fn ready_running_needs_no_word_from_the_worker() {
    let place = Place::new();
    place.program("v1/worker", "#!/bin/sh\n[ ! -e ../dies ] || exit 2\nexec sleep 1000\n");
    let master = place.pool("count = 2\nready = 'running'\nsettle = '150ms'", "").start();
    let before = pids(&master.status());
    master.place.write("dies", "");
    let said = master.verb(&["reload"]);
    assert!(said.code == Some(1) && said.err.contains("exit 2"), "{said:?}");
    assert_eq!(pids(&master.wait_until_calm()), before);
    std::fs::remove_file(master.place.path("dies")).expect("dies");
    master.ok(&["reload"]);
}

#[test]
fn what_workers_say_of_themselves_is_shown_and_counters_are_never_lost() {
    let master = Place::new().pool("count = 1", "").start();
    master.get("/notify?message=X_RATOON_INFO%3D%7B%22queue%22%3A%5B1%2C2%5D%7D");
    master.get("/notify?message=X_RATOON_COUNTERS%3D%7B%22jobs%22%3A7%7D");
    master.get("/status?text=seven+jobs+done");
    let status = master.wait("its words", |status| workers(status)[0]["status"] == "seven jobs done");
    let worker = &workers(&status)[0];
    assert_eq!(worker["info"], serde_json::json!({"queue": [1, 2]}), "{status:#}");
    assert_eq!((&worker["counters"]["jobs"], &status["counters"]["jobs"]), (&7.0.into(), &7.0.into()), "{status:#}");
    master.ok(&["reload"]);
    master.wait_until_calm();
    master.get("/notify?message=X_RATOON_COUNTERS%3D%7B%22jobs%22%3A5%7D");
    let status = master.wait("the sum", |status| workers(status)[0]["counters"]["jobs"] == 5.0);
    assert_eq!(status["counters"]["jobs"], 12.0, "{status:#}");
}

#[test]
fn the_last_20_failures_are_kept() {
    let master = Place::new().pool("count = 1", "[restart]\ninitial = '1ms'\nmax = '2ms'\nlimit = 1000").start();
    break_worker(&master, 0);
    let status = master.wait("more than that", |status| status["worker_crashes"].as_u64() > Some(25));
    let failures = status["failures"].as_array().expect("failures");
    assert_eq!(failures.len(), 20);
    let ids: Vec<_> = failures.iter().map(|failure| failure["worker"].as_u64().expect("an id")).collect();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]) && ids[0] > 1, "{ids:?}");
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0));
}

#[test]
fn restarts_back_off() {
    // The other worker serves on: without a ready worker no delay would be longer than a second.
    let master = Place::new().pool("count = 2", "[restart]\ninitial = '400ms'\nmax = '1h'").start();
    break_worker(&master, 0);
    let status = master.wait("four crashes", |status| status["worker_crashes"] == 4);
    let times: Vec<f64> = status["failures"].as_array().expect("failures").iter().map(seconds).collect();
    // At once after the worker that was ready; then, with jitter, at least 80 % of what the delay should be: 800 ms, 1.6 s.
    assert!(times[2] - times[1] >= 0.64 && times[3] - times[2] >= 1.28, "{times:?}");
}

/// Ends the worker of this slot; the workers after it exit as soon as they start.
fn break_worker(master: &Master, slot: usize) {
    master.place.behave("v1", "exit_at_start=1");
    processes::signal(pids(&master.status())[slot], Signal::KILL);
}

/// Seconds within the hour, of a failure's time; the hour's turn is as good as any other.
fn seconds(failure: &Value) -> f64 {
    let time = failure["time"].as_str().expect("a time");
    let (_, clock) = time.trim_end_matches('Z').split_once('T').expect("RFC 3339");
    clock.split(':').map(|part| part.parse::<f64>().expect("a number")).fold(0.0, |all, part| all * 60.0 + part)
}

#[test]
fn a_worker_may_say_which_of_its_processes_is_the_main_one() {
    let place = Place::new();
    // The child serves, the shell goes: as daemons do that were written for another age.
    let chaos = super::harness::example("chaos");
    let script = format!(
        "#!/bin/sh\nsh -c 'echo $$ > ../main.$RATOON_WORKER; LISTEN_PID=$$ exec {}' &\nsystemd-notify MAINPID=$!\nexit 0\n",
        chaos.display()
    );
    place.program("v1/worker", &script);
    let master = place.pool("count = 1", "").start();
    let main =
        |status: &Value| master.place.read(&format!("main.{}", workers(status)[0]["id"])).trim().parse::<u32>().expect("a pid");
    // The child may be ready before the shell has said who is the main one.
    let told = |status: &Value| status["workers_ready"] == 1 && pids(status) == [main(status)];
    let status = master.wait("its word", told);
    let pid = main(&status);
    assert_eq!(&status["worker_crashes"], 0, "{status:#}");
    assert!(master.get("/").contains(&format!("pid {pid} ")));
    // Its end is the worker's.
    processes::signal(pid, Signal::KILL);
    let status = master.wait("another", |status| status["worker_crashes"] == 1 && told(status));
    assert_eq!((&last_failure(&status)["how"], &last_failure(&status)["pid"]), (&"signal SIGKILL".into(), &pid.into()));
    // And it hears the stop signal.
    let pid = main(&status);
    let request = master.ask_for_later();
    master.signal(Signal::TERM);
    master.wait("draining", |status| status["state"] == "stopping");
    assert!(request.answer().contains(&format!("pid {pid} ")));
    assert_eq!(master.end().code(), Some(0));
    assert!(!processes::lives(pid));
}
