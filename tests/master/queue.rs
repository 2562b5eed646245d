//! Who asks for reloads, and what each is told: one runs, one waits, later requesters join the waiting one.

use super::harness::http::Asked;
use super::harness::master::{pids, workers};
use super::harness::{Master, Place, Signal, Value, eventually};

/// A pool of one whose workers of generations from 2 on wait for the test.
fn gated_pool() -> Master {
    let place = Place::new();
    place.gate("v1");
    place.open(1, 0);
    place.pool("count = 1\nstart_timeout = '1h'", "").start()
}

/// Waits until a worker of this generation starts.
#[track_caller]
fn starts(master: &Master, generation: u64) -> Value {
    master.wait(&format!("generation {generation} starts"), |status| {
        workers(status).iter().any(|worker| worker["generation"] == generation && worker["state"] == "starting")
    })
}

/// Asks for a reload while another runs; the loop has it when this returns.
#[track_caller]
fn joins(master: &Master) -> Asked {
    let asked = Asked::post(&master.control(), "/reload");
    // What is asked later is answered later.
    master.status();
    asked
}

/// How a reload that was asked for so ended.
#[track_caller]
fn told(asked: Asked) -> (u16, Value) {
    let answer = asked.answer();
    (answer.status, serde_json::from_str(&answer.body).expect("JSON"))
}

#[track_caller]
fn committed(asked: Asked, generation: u64) {
    let (status, said) = told(asked);
    assert_eq!((status, &said["result"], &said["generation"]), (200, &"committed".into(), &generation.into()), "{said}");
}

#[test]
fn a_requester_that_is_killed_takes_its_reload_with_it() {
    for signal in [Signal::KILL, Signal::TERM, Signal::INT] {
        let master = gated_pool();
        let before = pids(&master.status());
        let reload = master.begin(&["reload"]);
        starts(&master, 2);
        let said = reload.signal(signal);
        if signal != Signal::KILL {
            assert_eq!(said.code, Some(1), "{said:?}");
            assert!(said.err.contains("withdrawn"), "{said:?}");
        }
        let status = master.wait("rolled back", |status| status["last_reload"]["result"] == "aborted");
        assert!(status["last_reload"]["reason"].as_str().is_some_and(|it| it.contains("went away")), "{status:#}");
        let status = master.wait_until_calm();
        assert_eq!((pids(&status), &status["generation"]), (before, &1.into()), "{status:#}");
    }
}

#[test]
fn later_requesters_join_the_waiting_reload_and_each_is_told_of_its_own() {
    let master = gated_pool();
    let first = master.begin(&["reload"]);
    starts(&master, 2);
    let (second, third) = (joins(&master), joins(&master));
    master.place.open(2, 0);
    let first = first.end();
    assert!(first.code == Some(0) && first.out.contains("generation 2 is serving"), "{first:?}");
    starts(&master, 3);
    assert_eq!(master.status()["generation"], 2);
    master.place.open(3, 0);
    committed(second, 3);
    committed(third, 3);
    assert_eq!(master.wait_until_calm()["generation"], 3, "two waited for one reload");
}

#[test]
fn the_waiting_reload_runs_although_the_first_fails() {
    let place = Place::new();
    place.wrap("v1", "[ $RATOON_GENERATION != 2 ] || { while [ ! -e PLACE/fail ]; do sleep 0.01; done; exit 5; }");
    let master = place.pool("count = 1", "").start();
    let first = master.begin(&["reload"]);
    starts(&master, 2);
    let second = master.begin(&["reload"]);
    second.wait_for_line("another reload is under way");
    master.place.write("fail", "");
    let (first, second) = (first.end(), second.end());
    assert!(first.code == Some(1) && first.err.contains("exit 5"), "{first:?}");
    assert!(second.code == Some(0), "{second:?}");
    assert_eq!(master.status()["last_reload"]["result"], "committed");
}

/// A requester goes away, and the loop knows.
#[track_caller]
fn goes(master: &Master, asked: Asked) {
    let connections = || {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", master.pid)).into_iter().flatten().flatten();
        descriptors.filter(|it| std::fs::read_link(it.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))).count()
    };
    let before = connections();
    drop(asked);
    eventually("it is seen", || (connections() < before).then_some(()), || master.log());
    master.status();
}

#[test]
fn a_waiting_reload_goes_with_its_last_requester_and_not_before() {
    let master = gated_pool();
    let first = master.begin(&["reload"]);
    starts(&master, 2);
    let (second, third) = (joins(&master), joins(&master));
    // One of two that wait.
    goes(&master, second);
    master.place.open(2, 0);
    assert_eq!(first.end().code, Some(0));
    starts(&master, 3);
    master.place.open(3, 0);
    committed(third, 3);

    let first = master.begin(&["reload"]);
    starts(&master, 4);
    let second = joins(&master);
    goes(&master, second);
    master.place.open(4, 0);
    assert_eq!(first.end().code, Some(0));
    let status = master.wait_until_calm();
    assert_eq!(status["generation"], 4, "{status:#}");
    assert_eq!(status["last_reload"]["generation"], 4, "{status:#}");
}

#[test]
fn abort_rolls_back_and_says_whether_there_was_anything() {
    let master = gated_pool();
    let none = master.verb(&["abort"]);
    assert!(none.code == Some(1) && none.err.contains("no reload is under way"), "{none:?}");
    let before = pids(&master.status());
    let reload = master.begin(&["reload"]);
    starts(&master, 2);
    master.ok(&["abort"]);
    let said = reload.end();
    assert!(said.code == Some(1) && said.err.contains("aborted"), "{said:?}");
    let status = master.wait_until_calm();
    assert_eq!(status["last_reload"]["result"], "aborted");
    assert_eq!((pids(&status), &status["generation"]), (before, &1.into()), "{status:#}");
}

#[test]
fn who_cannot_ask_is_told_so_with_2() {
    let master = Place::new().pool("count = 1", "").start();
    master.signal(Signal::TERM);
    master.end();
    for verb in [&["reload"][..], &["status"], &["abort"], &["scale", "2"]] {
        let said = master.verb(verb);
        assert_eq!(said.code, Some(2), "{verb:?}: {said:?}");
        assert!(said.err.contains(master.control().to_str().expect("text")), "{said:?}");
    }
}

/// The messages to systemd from a SIGHUP on, once its reload is over.
fn told_of_a_reload(master: &Master, result: &str) -> Vec<String> {
    let before = master.systemd().messages().len();
    master.signal(Signal::HUP);
    master.wait(result, |status| status["last_reload"]["result"] == result && status["state"] == "running");
    master.systemd().wait("READY=1 again", |all| all[before..].contains(&"READY=1".to_owned()).then_some(()));
    master.systemd().messages().split_off(before)
}

#[test]
fn a_reload_by_signal_is_announced_to_systemd_and_always_ended() {
    let master = Place::new().pool("count = 1", "").start();
    let monotonic = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
    };
    for (chaos, result) in [("", "committed"), ("exit_at_start=1", "rolled-back")] {
        master.place.behave("v1", chaos);
        let (before, told, after) = (monotonic(), told_of_a_reload(&master, result), monotonic());
        let begun: Vec<&String> = told.iter().filter(|it| it.contains("RELOADING=1")).collect();
        let [begun] = begun[..] else { panic!("{told:#?}") };
        // In one datagram, or systemd does not know which reload is meant.
        let usec = begun.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("the time of the reload").trim();
        let usec: u64 = usec.parse().expect("microseconds");
        assert!((before..=after).contains(&usec), "{before} {usec} {after}");
        let at = |wanted: &str| told.iter().position(|it| it.starts_with(wanted)).expect("it was said");
        assert!(at("RELOADING=1") < at("READY=1"), "{told:#?}");
        assert_eq!(told.iter().filter(|it| *it == "READY=1").count(), 1, "{told:#?}");
    }
    // A configuration that is refused ends it too.
    master.place.write("pool.toml", "[worker");
    let told = told_of_a_reload(&master, "refused");
    assert!(told.iter().any(|it| it.starts_with("RELOADING=1")) && told.contains(&"READY=1".to_owned()), "{told:#?}");
}

#[test]
fn a_reload_before_the_first_generation_is_ready_makes_the_instance_ready() {
    let place = Place::new();
    place.gate("v1");
    let master = place.pool("count = 1\nstart_timeout = '1h'", "").launch();
    starts(&master, 1);
    let reload = master.begin(&["reload"]);
    starts(&master, 2);
    assert!(!master.systemd().messages().contains(&"READY=1".to_owned()));
    master.place.open(2, 0);
    assert_eq!(reload.end().code, Some(0));
    master.systemd().wait_for("READY=1", 1);
    let status = master.wait_until_calm();
    assert_eq!((&status["generation"], &status["state"]), (&2.into(), &"running".into()));
}

#[test]
fn a_reload_that_the_end_overtakes_is_told_so() {
    let master = gated_pool();
    let running = master.begin(&["reload"]);
    starts(&master, 2);
    let waiting = joins(&master);
    master.signal(Signal::TERM);
    let said = running.end();
    assert!(said.code == Some(1) && said.err.contains("stopping"), "{said:?}");
    let (status, said) = told(waiting);
    assert_eq!((status, &said["result"], &said["reason"]), (409, &"aborted".into(), &"the instance is stopping".into()));
    assert_eq!(master.end().code(), Some(0));
}

#[test]
fn many_requesters_at_once_get_at_most_two_reloads() {
    let master = gated_pool();
    let first = master.begin(&["reload"]);
    starts(&master, 2);
    let others: Vec<Asked> = (0..6).map(|_| joins(&master)).collect();
    master.place.open(2, 0);
    master.place.open(3, 0);
    assert_eq!(first.end().code, Some(0));
    others.into_iter().for_each(|asked| committed(asked, 3));
    assert_eq!(master.wait_until_calm()["generation"], 3);
}

#[test]
fn reload_tells_its_progress_line_by_line_in_a_log() {
    let master = gated_pool();
    let reload = master.begin(&["reload"]);
    reload.wait_for_line("reloading to generation 2");
    reload.wait_for_line("starting");
    master.place.open(2, 0);
    let said = reload.end();
    assert_eq!(said.code, Some(0));
    let lines: Vec<&str> = said.out.lines().collect();
    let at = |part: &str| lines.iter().position(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}: {lines:#?}"));
    assert!(at("reloading to generation 2") < at("starting") && at("starting") < at("ready after"), "{lines:#?}");
    assert!(!said.out.contains('\x1b'), "{said:?}");
    eventually("the old one is gone", || (pids(&master.status()).len() == 1).then_some(()), || master.log());
}
