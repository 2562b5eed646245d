//! Reloads: the commit, and every way in which a new release can fail.
//!
//! Law: a failed reload changes nothing that a client or the next reload can see, but the failure's record.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use super::harness::master::{last_failure, pids, wait_for_end_of};
use super::harness::{Master, Place, Signal, Value};

#[test]
fn a_reload_brings_a_new_generation_and_drains_the_old() {
    let place = Place::new();
    place.release("v2", "");
    let master = place.pool("count = 2", "").start();
    let old = pids(&master.status());
    assert!(master.get("/").contains("version v1"));
    master.place.current("v2");
    let said = master.ok(&["reload"]);
    assert!(said.out.contains("generation 2 is serving"), "{said:?}");
    assert!(master.get("/").contains("generation 2 "));
    let status = master.wait_until_calm();
    assert!(master.get("/").contains("version v2"));
    assert!(old.iter().all(|pid| !pids(&status).contains(pid)), "{status:#}");
    old.into_iter().for_each(wait_for_end_of);
    let last = &status["last_reload"];
    assert_eq!((&last["generation"], &last["result"], &last["reason"]), (&2.into(), &"committed".into(), &"".into()));
    assert_eq!((&status["worker_crashes"], &status["failures"]), (&0.into(), &serde_json::json!([])), "{status:#}");
}

/// No good release takes so long on any machine.
const TIMEOUT: &str = "20s";

/// How a release fails, and what is said of it.
struct Failing<'a> {
    /// Makes `v2`.
    make: &'a dyn Fn(&Place),
    /// `worker.start_timeout`
    patience: &'a str,
    /// `last_reload.result`.
    result: &'a str,
    /// Somewhere in the reason.
    reason: &'a [&'a str],
    /// `failures[].how` of the last one.
    how: Option<&'a str>,
}

/// Reloads into a failing release and looks at everything that may be seen of it; then into one that is well.
fn fails(failing: Failing) {
    let place = Place::new();
    (failing.make)(&place);
    place.release("v3", "");
    let master = place.pool(&format!("count = 2\nstart_timeout = '{}'", failing.patience), "").start();
    let before = master.status();
    let heard = master.systemd().messages();

    master.place.current("v2");
    let said = master.verb(&["reload"]);
    assert_eq!(said.code, Some(1), "{said:?}\n{}", master.log());
    let status = master.wait_until_calm();
    let last = &status["last_reload"];
    let reason = last["reason"].as_str().unwrap_or_default();
    assert_eq!((&last["result"], &last["generation"]), (&failing.result.into(), &2.into()), "{status:#}");
    for part in failing.reason {
        assert!(reason.contains(part), "{part:?} is not in the reason {reason:?}");
        assert!(said.err.contains(part), "{part:?} is not in what was printed: {said:?}");
    }
    match failing.how {
        Some(how) => {
            let failure = last_failure(&status);
            assert_eq!((&failure["how"], &failure["generation"]), (&how.into(), &2.into()), "{status:#}");
            assert!(reason.contains(how), "{reason}");
        }
        None => assert_eq!(status["failures"], serde_json::json!([]), "{status:#}"),
    }
    unchanged(&master, &before, &status);
    // Neither word may be said for a reload that `ratoon reload` asked for, or systemd would take it for its own.
    let heard = master.systemd().messages().split_off(heard.len());
    assert!(!heard.iter().any(|it| it.contains("READY=") || it.contains("RELOADING=")), "{heard:#?}");

    // The next one is not the worse for it.
    master.place.current("v3");
    master.ok(&["reload"]);
    let status = master.wait_until_calm();
    assert!(master.get("/").contains("version v3"));
    assert_eq!(status["last_reload"]["result"], "committed", "{status:#}");
    assert_eq!(status["last_reload"]["generation"], status["generation"]);
}

/// The same workers serve the same generation, from the same release.
#[track_caller]
fn unchanged(master: &Master, before: &Value, after: &Value) {
    for key in ["generation", "workers_ready", "workers_configured", "degraded", "state", "instance"] {
        assert_eq!(after[key], before[key], "{key}: {after:#}");
    }
    assert_eq!(pids(after), pids(before), "{after:#}");
    let who = master.get("/");
    assert!(who.contains("generation 1 ") && who.contains("version v1"), "{who}");
}

#[test]
fn one_that_exits_with_1_at_start_is_rolled_back() {
    fails(Failing {
        make: &|place| place.release("v2", "exit_at_start=1"),
        patience: TIMEOUT,
        result: "rolled-back",
        reason: &["exit 1", "before it was ready"],
        how: Some("exit 1"),
    });
}

#[test]
fn one_that_exits_with_0_before_it_is_ready_is_rolled_back() {
    fails(Failing {
        make: &|place| place.release("v2", "exit_at_start=0"),
        patience: TIMEOUT,
        result: "rolled-back",
        reason: &["exit 0", "before it was ready"],
        how: Some("exit 0"),
    });
}

#[test]
fn one_that_dies_by_a_signal_is_rolled_back() {
    fails(Failing {
        make: &|place| place.release("v2", "signal_at_start=9"),
        patience: TIMEOUT,
        result: "rolled-back",
        reason: &["signal SIGKILL"],
        how: Some("signal SIGKILL"),
    });
}

#[test]
fn one_that_hangs_before_it_is_ready_is_rolled_back() {
    fails(Failing {
        make: &|place| place.release("v2", "hang_before_ready=1\nstatus=never"),
        patience: "1500ms",
        result: "rolled-back",
        reason: &["start timeout after 1s 500ms"],
        how: Some("start timeout after 1s 500ms"),
    });
}

#[test]
fn one_whose_program_is_missing_is_refused() {
    fails(Failing {
        make: &|place| std::fs::create_dir(place.path("v2")).expect("v2"),
        patience: TIMEOUT,
        result: "refused",
        reason: &["./worker", "No such file or directory"],
        how: None,
    });
}

#[test]
fn one_that_is_not_there_at_all_is_refused() {
    fails(Failing {
        make: &|_| {},
        patience: TIMEOUT,
        result: "refused",
        reason: &["worker.directory", "current", "No such file or directory"],
        how: None,
    });
}

#[test]
fn one_whose_program_may_not_be_executed_is_refused() {
    fails(Failing {
        make: &|place| {
            std::fs::create_dir(place.path("v2")).expect("v2");
            place.write("v2/worker", "#!/bin/sh\n");
        },
        patience: TIMEOUT,
        result: "refused",
        reason: &["./worker", "Permission denied"],
        how: None,
    });
}

#[test]
fn one_whose_program_is_a_directory_is_refused() {
    fails(Failing {
        make: &|place| std::fs::create_dir_all(place.path("v2/worker")).expect("v2/worker"),
        patience: TIMEOUT,
        result: "refused",
        reason: &["./worker", "is a directory"],
        how: None,
    });
}

#[test]
fn one_whose_program_is_no_executable_is_rolled_back() {
    fails(Failing {
        make: &|place| {
            std::fs::create_dir(place.path("v2")).expect("v2");
            place.program("v2/worker", "this is not a program\n");
        },
        patience: TIMEOUT,
        result: "rolled-back",
        reason: &["exec: Exec format error"],
        how: Some("exec: Exec format error"),
    });
}

#[test]
fn a_script_whose_interpreter_is_missing_is_rolled_back() {
    fails(Failing {
        make: &|place| {
            std::fs::create_dir(place.path("v2")).expect("v2");
            place.program("v2/worker", "#!/no/such/interpreter\n");
        },
        patience: TIMEOUT,
        result: "rolled-back",
        reason: &["exec: No such file or directory"],
        how: Some("exec: No such file or directory"),
    });
}

#[test]
fn what_a_failing_release_prints_is_shown_to_whoever_asked() {
    let place = Place::new();
    place.release("v2", "print=no database at 10.0.0.1\nexit_at_start=1");
    let master = place.pool("count = 1", "").start();
    master.place.current("v2");
    let said = master.verb(&["reload"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("no database at 10.0.0.1"), "{said:?}");
}

#[test]
fn a_failed_reload_s_number_is_not_taken_for_another_release() {
    let place = Place::new();
    let master = place.pool("count = 1", "").start();
    master.place.behave("v1", "exit_at_start=1");
    assert_eq!(master.verb(&["reload"]).code, Some(1));
    let failed = master.status()["last_reload"]["generation"].as_u64().expect("a number");
    master.place.behave("v1", "");
    master.ok(&["reload"]);
    // Workers of the failed one were told its number: no other generation has it.
    assert!(master.status()["generation"].as_u64() > Some(failed));
}

/// A reload to a release whose workers are not ready before the test says so, under way.
fn reload_under_way(words: &[&str]) -> (Master, super::harness::master::Verb) {
    let place = Place::new();
    place.release("v2", "");
    place.gate("v2");
    let master = place.pool("count = 1\nstart_timeout = '1h'", "").start();
    master.place.current("v2");
    let verb = master.begin(words);
    verb.wait_for_line("starting");
    (master, verb)
}

#[test]
fn reload_aborted_by_a_stop_fails_but_for_systemd() {
    for (words, code) in [(&["reload"][..], 1), (&["reload", "--exec-reload"], 0)] {
        let (master, verb) = reload_under_way(words);
        master.signal(Signal::TERM);
        let said = verb.end();
        assert_eq!(said.code, Some(code), "{words:?}: {said:?}");
        assert!(said.err.contains("aborted"), "{words:?}: {said:?}");
        assert!(master.end().success(), "{}", master.log());
    }
}

#[test]
fn reload_command_that_is_ended_fails_but_for_systemd() {
    for (words, code) in [(&["reload"][..], 1), (&["reload", "--exec-reload"], 0)] {
        let (_master, verb) = reload_under_way(words);
        let said = verb.signal(Signal::TERM);
        assert_eq!(said.code, Some(code), "{words:?}: {said:?}");
    }
    // Ctrl-C is no end of the instance.
    let (_master, verb) = reload_under_way(&["reload", "--exec-reload"]);
    assert_eq!(verb.signal(Signal::INT).code, Some(1));
}

#[test]
fn reload_aborted_by_an_administrator_fails_for_systemd_too() {
    let (master, verb) = reload_under_way(&["reload", "--exec-reload"]);
    master.ok(&["abort"]);
    assert_eq!(verb.end().code, Some(1));
}

#[test]
fn reload_finished_comes_after_the_summary_that_shows_it() {
    let master = Place::new().pool("count = 1", "").start();
    let mut stream = UnixStream::connect(master.control()).expect("the control socket");
    stream.set_read_timeout(Some(super::harness::TIMEOUT)).expect("a timeout");
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").expect("asked");
    let mut lines = BufReader::new(stream).lines().map(|line| line.expect("the stream goes on"));
    let (mut name, mut told) = (String::new(), 0);
    for generation in 2..12 {
        master.ok(&["reload"]);
        loop {
            let line = lines.next().expect("the stream goes on");
            if let Some(event) = line.strip_prefix("event: ") {
                name = event.to_owned();
            }
            let Some(data) = line.strip_prefix("data: ") else { continue };
            let data: Value = serde_json::from_str(data).expect("JSON");
            match name.as_str() {
                "summary" => told = data["generation"].as_u64().expect("a number"),
                "reload-finished" => {
                    assert_eq!((data["generation"].as_u64(), told), (Some(generation), generation), "not visible yet");
                    break;
                }
                _ => {}
            }
        }
    }
}
