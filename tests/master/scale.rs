//! More workers and fewer: by the command line, by signals, and what a reload makes of it.

use super::harness::master::{pids, wait_for_end_of, workers};
use super::harness::{Master, Place, Signal, Value, eventually, processes};

/// Waits until there are so many, all ready, and gives the status.
#[track_caller]
fn has(master: &Master, count: usize) -> Value {
    let status = master.wait(&format!("{count} are ready"), |status| {
        status["workers_configured"] == count && status["workers_ready"] == count && workers(status).len() == count
    });
    let slots: Vec<_> = workers(&status).iter().map(|worker| worker["slot"].as_u64().expect("a slot")).collect();
    assert_eq!(slots, (0..count as u64).collect::<Vec<_>>(), "{status:#}");
    status
}

#[test]
fn scale_adds_workers_and_drains_the_last_ones() {
    let master = Place::new().pool("count = 2", "").start();
    let two = pids(&has(&master, 2));
    master.ok(&["scale", "4"]);
    let four = pids(&has(&master, 4));
    assert_eq!(four[..2], two, "those that were there were touched");
    master.ok(&["scale", "1"]);
    assert_eq!(pids(&has(&master, 1)), two[..1]);
    four[1..].iter().copied().for_each(wait_for_end_of);
    let status = master.status();
    assert_eq!((&status["generation"], &status["worker_crashes"]), (&1.into(), &0.into()));
    master.systemd().wait_for("STATUS=generation 1: 1/1 ready", 1);
}

#[test]
fn a_number_that_makes_no_sense_is_refused() {
    let master = Place::new().pool("count = 1", "").start();
    for number in ["0", "10001"] {
        let said = master.verb(&["scale", number]);
        assert!(said.code == Some(1) || said.code == Some(2), "{said:?}");
        assert!(!said.err.is_empty(), "{said:?}");
    }
    has(&master, 1);
}

#[test]
fn the_number_is_kept_over_reloads_until_the_file_s_changes() {
    let place = Place::new();
    place.release("v2", "exit_at_start=1");
    let master = place.pool("count = 2", "").start();
    master.ok(&["scale", "3"]);
    has(&master, 3);
    master.ok(&["reload"]);
    assert_eq!(has(&master, 3)["generation"], 2);
    // Another change of the file is none of the number.
    master.place.configure("count = 2\nstop_timeout = '20s'", "");
    master.ok(&["reload"]);
    has(&master, 3);
    // A number that comes with a reload that fails never came.
    master.place.configure("count = 4", "");
    master.place.current("v2");
    assert_eq!(master.verb(&["reload"]).code, Some(1));
    has(&master, 3);
    master.place.current("v1");
    master.ok(&["reload"]);
    has(&master, 4);
    master.place.configure("count = 2", "");
    master.ok(&["reload"]);
    has(&master, 2);
}

#[test]
fn ttin_and_ttou_are_one_more_and_one_fewer() {
    let master = Place::new().pool("count = 1", "").start();
    master.signal(Signal::TTIN);
    has(&master, 2);
    master.signal(Signal::TTIN);
    has(&master, 3);
    master.signal(Signal::TTOU);
    has(&master, 2);
    master.signal(Signal::TTOU);
    let one = has(&master, 1);
    // Never to nothing.
    master.signal(Signal::TTOU);
    let taken = || (processes::facts(master.pid)["ShdPnd"] == "0000000000000000").then_some(());
    eventually("the signal is taken", taken, || master.log());
    master.signal(Signal::TTIN);
    let two = has(&master, 2);
    assert_eq!(pids(&two)[0], pids(&one)[0]);
}

#[test]
fn scale_during_a_reload_counts_for_both_generations() {
    let place = Place::new();
    place.gate("v1");
    (0..3).for_each(|slot| place.open(1, slot));
    let master = place.pool("count = 1\nstart_timeout = '1h'", "").start();
    let reload = master.begin(&["reload"]);
    let of = |status: &Value, generation: u64| workers(status).iter().filter(|it| it["generation"] == generation).count();
    master.wait("one starts", |status| of(status, 2) == 1);
    master.ok(&["scale", "3"]);
    master.wait("three of each", |status| of(status, 1) == 3 && of(status, 2) == 3);
    (0..3).for_each(|slot| master.place.open(2, slot));
    assert_eq!(reload.end().code, Some(0));
    assert_eq!(has(&master, 3)["generation"], 2);
}

#[test]
fn scaling_down_lets_requests_end() {
    let master = Place::new().pool("count = 2", "").start();
    // Until both workers have some.
    let mut requests = Vec::new();
    while !workers(&master.status()).iter().all(|worker| worker["open_connections"].as_u64() > Some(0)) {
        assert!(requests.len() < 100, "one worker takes them all: {:#}", master.status());
        requests.push(master.ask_for_later());
    }
    master.ok(&["scale", "1"]);
    let status = master.status();
    assert_eq!(workers(&status)[1]["state"], "draining", "{status:#}");
    for request in requests {
        let answer = request.answer();
        assert!(answer.contains("generation 1"), "{answer}");
    }
    has(&master, 1);
}
