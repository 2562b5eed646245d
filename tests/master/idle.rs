//! With nothing to do the master sleeps: its wake-ups are counted, not timed.

use std::time::Duration;

use super::harness::{Master, Place, processes};

/// How often the threads of a process have gone to sleep so far; `None` while one comes or goes.
fn sleeps(pid: u32) -> Option<u64> {
    let of = |thread: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).ok()?;
        processes::parse_facts(&text).get("voluntary_ctxt_switches")?.parse::<u64>().ok()
    };
    processes::threads(pid).into_iter().map(of).sum()
}

/// Waits until no thread has woken for this long, and then for as long again; gives how often one woke in it.
fn wakes(master: &Master, span: Duration) -> u64 {
    let calm = || {
        let before = sleeps(master.pid)?;
        // A second after the last change it lets go of memory.
        std::thread::sleep(Duration::from_millis(1500));
        (sleeps(master.pid) == Some(before)).then_some(before)
    };
    let before = super::harness::eventually("it is idle", calm, || master.log());
    std::thread::sleep(span);
    sleeps(master.pid).expect("no thread came or went") - before
}

#[test]
fn an_idle_master_never_wakes() {
    let place = Place::new();
    // Its workers have nothing to say either.
    place.program("v1/worker", "#!/bin/sh\nsystemd-notify --ready\nexec sleep 1000\n");
    let master = place.pool("ready = 'notify'\ncount = 3", "").launch();
    // Nobody asks it anything: an answer would leave a thread that waits a while for the next question.
    master.systemd().wait_for("READY=1", 1);
    assert_eq!(wakes(&master, Duration::from_secs(4)), 0);
}

/// Each slot has its own queue, in which the master looks for workers that hang while a connection is open.
#[test]
fn master_never_wakes_while_the_queues_of_slots_are_unused() {
    let place = Place::new();
    place.program("v1/worker", "#!/bin/sh\nsystemd-notify --ready\nexec sleep 1000\n");
    let master = place.pool("ready = 'notify'\ncount = 3\nbalance = 'per-slot'", "").launch();
    master.systemd().wait_for("READY=1", 1);
    assert_eq!(wakes(&master, Duration::from_secs(4)), 0);
}

#[test]
fn the_unit_s_watchdog_is_fed_twice_a_period_and_nothing_else_wakes_it() {
    let place = Place::new();
    place.program("v1/worker", "#!/bin/sh\nsystemd-notify --ready\nexec sleep 1000\n");
    let master = place.pool("ready = 'notify'\ncount = 1", "").environment("WATCHDOG_USEC", "1000000").launch();
    master.systemd().wait_for("READY=1", 1);
    let pings = || master.systemd().messages().iter().filter(|it| *it == "WATCHDOG=1").count();
    let (start, begun) = (pings(), std::time::Instant::now());
    master.systemd().wait_for("WATCHDOG=1", start + 6);
    // Six pings in three seconds: the first of them may have been due at once.
    assert!(begun.elapsed() > Duration::from_millis(2400), "{:?}", begun.elapsed());

    let before = (sleeps(master.pid).expect("threads"), pings());
    master.systemd().wait_for("WATCHDOG=1", before.1 + 4);
    let after = (sleeps(master.pid).expect("threads"), pings());
    // A ping is one wake-up; one may be on its way.
    let (woke, pinged) = (after.0 - before.0, (after.1 - before.1) as u64);
    assert!(woke <= 2 * pinged + 2, "{woke} wake-ups for {pinged} pings");
}

#[test]
fn a_watchdog_that_is_for_another_process_is_not_fed() {
    let master =
        Place::new().pool("count = 1", "").environment("WATCHDOG_USEC", "200000").environment("WATCHDOG_PID", "1").start();
    master.ok(&["reload"]);
    master.ok(&["reload"]);
    assert!(!master.systemd().messages().contains(&"WATCHDOG=1".to_owned()));
}

#[test]
fn paused_master_never_wakes_while_nothing_waits() {
    let master = Place::new().pool("count = 1", "[recycle]\nmax_requests = 1000").start();
    master.ok(&["pause"]);
    assert_eq!(wakes(&master, Duration::from_secs(4)), 0);
}

#[test]
fn instance_without_workers_never_wakes() {
    let master = Place::new().pool("count = 1\nmin = 0", "[recycle]\nmax_requests = 1000\n[scale]\nidle = '100ms'").launch();
    master.systemd().wait_for("READY=1", 1);
    master.systemd().wait_for("STATUS=generation 1: idle, 0 workers, starts at the first connection", 1);
    assert_eq!(wakes(&master, Duration::from_secs(4)), 0);
}
