//! `reload.watch`: a release that is worse than the one before is undone after its commit.

use std::time::Instant;

use super::canary::start;
use super::harness::master::{pids, workers};
use super::harness::{Master, Signal, TIMEOUT, Value, eventually, processes};
use super::upgrade::upgrade;

/// Asks until the last reload has this result; how many of the answers came from v2.
fn ask_until(master: &Master, result: &str) -> u32 {
    let deadline = Instant::now() + TIMEOUT;
    let mut answers = 0;
    loop {
        for _ in 0..20 {
            answers += u32::from(master.try_get("/").expect("no request is lost").body.contains("v2"));
        }
        if master.status()["last_reload"]["result"] == result {
            return answers;
        }
        assert!(Instant::now() < deadline, "it is not {result}\n{}\n{:#}", master.log(), master.status());
    }
}

/// Answers of the release that serves: what the one that comes is measured by.
fn ask(master: &Master, count: u32) {
    for _ in 0..count {
        master.try_get("/").expect("no request is lost");
    }
}

/// Checks that generation 2 is undone and that the release of generation 1 serves, everywhere.
#[track_caller]
fn is_undone(master: &Master, why: &str) {
    let status = master.wait("only the undo's workers are left", |status| {
        workers(status).len() == 4 && workers(status).iter().all(|worker| worker["generation"] == 3 && worker["state"] == "ready")
    });
    let last = &status["last_reload"];
    assert_eq!(
        (&last["generation"], &last["result"], &status["watch"]),
        (&2.into(), &"undone".into(), &Value::Null),
        "{status:#}"
    );
    assert!(last["reason"].as_str().is_some_and(|reason| reason.contains(why)), "{status:#}");
    let release = |at: usize| {
        let release = &status["releases"][at];
        (release["generation"].as_u64(), release["release"].as_u64(), release["ended"].as_str())
    };
    assert_eq!([release(0), release(1)], [(Some(3), Some(1), None), (Some(2), Some(2), Some("undone"))], "{status:#}");
    assert_eq!(status["releases"][0]["asked_by"], "reload.watch");
    assert_eq!(status["reloads"]["undone"]["count"], 1, "{status:#}");
    assert!(master.get("/").contains("v1"));
    let check = master.verb(&["status", "--check"]);
    assert_eq!(check.code, Some(1), "{check:?}");
    assert!(check.out.contains("undone") && check.out.contains("generation 2 was undone: "), "{check:?}");
    assert!(master.log().contains("error: generation 2 is undone: "), "{}", master.log());
    master.systemd().wait("the undo in STATUS", |messages| {
        messages.iter().any(|message| message.contains("generation 2 was undone: ")).then_some(())
    });
}

#[test]
fn release_that_answers_500_is_undone_and_everybody_is_told() {
    let hook = "on_rollback = ['sh', '-c', 'cat >PLACE/told.new && mv PLACE/told.new PLACE/told']";
    let master = start(&format!("watch = '1h'\n{hook}"), 10);
    ask(&master, 200);
    let reload = master.begin(&["reload", "--watch"]);
    master.wait_for_log("generation 2 is serving");
    let watch = master.wait("the watch", |status| status["watch"]["generation"] == 2)["watch"].take();
    assert_eq!(
        (&watch["state"], &watch["before"], &watch["compares"]),
        (&"watching".into(), &1.into(), &true.into()),
        "{watch:#}"
    );
    assert!(watch["left_ms"].as_u64() > Some(3_500_000), "{watch:#}");
    assert!(ask_until(&master, "undone") >= 50);
    let said = reload.end();
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("watching generation 2 for another ") && said.err.contains("generation 2 undone: "), "{said:?}");
    is_undone(&master, " requests failed, 0 of ");
    let read = || std::fs::read_to_string(master.place.path("told")).ok();
    let told: Value = serde_json::from_str(&eventually("the command is told", read, || master.log())).expect("JSON");
    assert_eq!((&told["result"], &told["generation"], &told["serving"]["generation"]), (&"undone".into(), &2.into(), &3.into()));
    let v1 = std::fs::canonicalize(master.place.path("v1")).expect("a path");
    assert_eq!(told["serving"]["directory"].as_str(), v1.to_str(), "{told:#}");
    // The disk is read again at the next reload, and its commit ends the trouble.
    master.place.current("v1");
    master.ok(&["reload"]);
    assert_eq!(master.verb(&["status", "--check"]).code, Some(0));
}

#[test]
fn good_release_passes_its_watch() {
    let master = start("watch = '2s'", 0);
    ask(&master, 20);
    let reload = master.begin(&["reload", "--watch", "--json"]);
    master.wait_for_log("generation 2 is serving");
    ask(&master, 60);
    let said = reload.end();
    assert_eq!(said.code, Some(0), "{said:?}");
    let outcome: Value = serde_json::from_str(&said.out).expect("one line of JSON");
    assert_eq!((&outcome["result"], &outcome["generation"]), (&"committed".into(), &2.into()));
    master.wait_for_log("generation 2 has passed its watch of 2s");
    assert_eq!(master.verb(&["status", "--check"]).code, Some(0));
    assert!(master.get("/").contains("v2"));
}

#[test]
fn release_of_which_every_worker_dies_is_undone_without_a_watch() {
    let master = start("", 0);
    let reload = master.begin(&["reload", "--watch"]);
    master.wait_for_log("generation 2 is serving");
    let all = master.wait("the new generation alone", |status| workers(status).len() == 4);
    let own = workers(&all).iter().all(|worker| worker["generation"] == 2);
    assert!(own && all["watch"]["compares"] == false, "{all:#}");
    pids(&all).into_iter().for_each(|pid| processes::signal(pid, Signal::SEGV));
    let said = reload.end();
    assert_eq!(said.code, Some(1), "{said:?}");
    is_undone(&master, "every slot has failed within 30s of the commit (signal SIGSEGV");
}

#[test]
fn nothing_is_undone_with_off() {
    let master = start("watch = 'off'", 0);
    master.ok(&["reload", "--watch"]);
    let all = master.wait("the new generation alone", |status| workers(status).len() == 4);
    pids(&all).into_iter().for_each(|pid| processes::signal(pid, Signal::SEGV));
    let status = master.wait("all are replaced", |status| status["worker_crashes"] == 4 && status["workers_ready"] == 4);
    assert_eq!((&status["generation"], &status["last_reload"]["result"]), (&2.into(), &"committed".into()), "{status:#}");
}

#[test]
fn watch_goes_on_in_a_new_master() {
    let master = start("watch = '1h'", 10);
    ask(&master, 200);
    let reload = master.begin(&["reload", "--watch"]);
    master.wait_for_log("generation 2 is serving");
    master.wait("the figures of the generation before", |status| status["watch"]["old"]["requests"].as_u64() >= Some(200));
    master.wait("the old workers are gone", |status| workers(status).len() == 4);
    upgrade(&master);
    let watch = master.wait("the watch", |status| status["watch"]["generation"] == 2)["watch"].take();
    assert!(watch["old"]["requests"].as_u64() >= Some(200) && watch["left_ms"].is_u64(), "{watch:#}");
    ask_until(&master, "undone");
    let said = reload.end();
    assert_eq!(said.code, Some(1), "{said:?}");
    is_undone(&master, " requests failed, 0 of ");
}

#[test]
fn undo_that_fails_leaves_the_watched_release_and_is_told() {
    let master = start("watch = '1h'", 2);
    ask(&master, 50);
    let reload = master.begin(&["reload", "--watch"]);
    master.wait_for_log("generation 2 is serving");
    // The release before no longer starts.
    master.place.write("v1/version", "");
    std::fs::remove_file(master.place.path("v1/fails")).expect("removed");
    ask_until(&master, "rolled-back");
    let said = reload.end();
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("generation 2 undo failed: ") && said.err.contains("was to be undone"), "{said:?}");
    let status = master.status();
    assert_eq!((&status["generation"], &status["watch"]["state"]), (&2.into(), &"undo-failed".into()), "{status:#}");
    let check = master.verb(&["status", "--check"]);
    assert!(check.code == Some(1) && check.out.contains("undo failed"), "{check:?}");
}
