//! Signals to the master: those that come twice, and those whose disposition or mask it inherits.

use std::time::{Duration, Instant};

use super::harness::master::pids;
use super::harness::{Place, Signal, eventually, processes};

#[test]
fn stop_signals_within_a_second_are_one() {
    for second in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let master = Place::new().pool("count = 2\nstop_timeout = '1h'", "").start();
        let request = master.ask_for_later();
        master.signal(Signal::TERM);
        master.wait("stopping", |status| status["state"] == "stopping");
        master.signal(second);
        // Whatever is asked later is answered after the signal has been read.
        master.status();
        let answer = request.answer();
        assert!(answer.contains("generation 1"), "a request was lost: {answer}\n{}", master.log());
        assert_eq!(master.end().code(), Some(0), "{second:?}: {}", master.log());
    }
}

#[test]
fn stop_signal_a_second_later_is_said_and_exits_1() {
    let place = Place::new();
    place.behave("v1", "ignore_term=1");
    let master = place.pool("count = 3\nstop_timeout = '1h'", "").start();
    let workers = pids(&master.status());
    let began = Instant::now();
    master.signal(Signal::TERM);
    master.wait("stopping", |status| status["state"] == "stopping");
    eventually("the end", || master.has_ended().or_else(|| (master.signal(Signal::TERM), None).1), || master.log());
    assert!(began.elapsed() > Duration::from_secs(1), "signals within a second counted twice");
    assert_eq!(master.end().code(), Some(1), "{}", master.log());
    assert!(master.log().contains("second SIGTERM: 3 workers killed"), "{}", master.log());
    assert!(!workers.iter().any(|pid| processes::lives(*pid)), "a worker outlived its master");
}

/// Every signal that can be ignored or blocked at all.
fn all_signals() -> Vec<i32> {
    (1..=libc::SIGRTMAX()).filter(|signal| !matches!(*signal, libc::SIGKILL | libc::SIGSTOP | 32 | 33)).collect()
}

#[test]
fn inherited_signal_state_changes_nothing() {
    let sets: [(&str, Vec<i32>, Vec<i32>); 4] = [
        ("SIGCHLD ignored", vec![libc::SIGCHLD], vec![]),
        ("SIGTERM, SIGINT and SIGHUP ignored", vec![libc::SIGTERM, libc::SIGINT, libc::SIGHUP], vec![]),
        ("all ignored", all_signals(), vec![]),
        ("all blocked", vec![], all_signals()),
    ];
    for (what, ignored, blocked) in sets {
        let place = Place::new();
        let master = place
            .pool("count = 2", "[hooks]\nbefore_reload = ['sh', '-c', 'exit 0']\n[restart]\ninitial = '10ms'")
            .ignoring(&ignored)
            .blocking(&blocked)
            .start();
        processes::signal(pids(&master.status())[0], Signal::KILL);
        master.wait(what, |status| status["worker_crashes"] == 1 && status["workers_ready"] == 2);
        master.signal(Signal::HUP);
        master.wait(what, |status| status["generation"] == 2);
        master.wait_until_calm();
        master.signal(Signal::TERM);
        assert_eq!(master.end().code(), Some(0), "{what}: {}", master.log());
    }
}
