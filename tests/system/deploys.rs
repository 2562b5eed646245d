//! Deploys that go wrong after the commit, and a machine that starts with a bad release on disk.

use crate::Case;
use crate::balance::open_again;
use crate::container::{Container, text, wait_for};
use crate::instance::{Instance, pids};
use crate::load::Load;
use crate::survive::{kill_master, next_master, survivor};

pub const CASES: &[Case] = &[
    ("a_release_that_answers_500_is_undone_by_the_watch", bad_release_is_undone),
    ("a_canary_of_one_of_eight_meets_a_ninth_of_the_requests_and_is_rolled_back", canary_of_one_of_eight),
    ("a_killed_master_gives_a_canary_s_part_back_to_the_old_workers", killed_master_amid_an_exact_canary),
    ("a_killed_master_rolls_a_canary_back_and_goes_on_with_a_watch", killed_master_amid_a_deploy),
    ("a_start_with_a_bad_release_on_disk_serves_the_last_good_one", last_good_release_serves),
];

/// The worker of a release: the example `chaos`, which answers each Nth request with 500.
fn chaos(web: &Instance, label: &str, fails_each: u32) {
    let fails = if fails_each > 0 { format!("echo fails_each={fails_each} >chaos") } else { String::new() };
    web.release(label, Some(&format!("ln -sf /opt/ratoon/chaos worker; echo {label} >version; {fails}")));
}

/// One request in ten fails: `systemctl reload` commits, and the watch takes the release back; no request is lost.
fn bad_release_is_undone(c: &Container) {
    let web = Instance::new(c, "watched", 4);
    web.configure("[reload]\nwatch = \"1h\"\n");
    chaos(&web, "good", 0);
    chaos(&web, "bad", 10);
    web.point_to("good");
    web.start();
    let life = web.life();
    let directory = web.settled()["release"]["directory"].clone();
    let load = Load::start(web.load(&["--new", "4", "--keep-alive", "4"]));
    load.wait_for(1000);
    web.point_to("bad");
    web.reload_ok();
    let status = wait_for("the undo", || {
        let status = web.status();
        (status["last_reload"]["result"] == "undone").then_some(status)
    });
    assert_eq!((&status["last_reload"]["generation"], &status["generation"]), (&2.into(), &3.into()), "{status:#}");
    assert_eq!(web.settled()["release"]["directory"], directory);
    none_is_lost(load, 1000);
    assert_eq!(web.life(), life, "the service was active all the time");
    let text_of_unit = web.property("StatusText");
    assert!(text_of_unit.contains("generation 2 was undone: ") && text_of_unit.contains("requests failed"), "{text_of_unit}");
    assert_eq!(c.run(&["ratoon", "status", "--check", "watched"]).status.code(), Some(1));
    wait_for("the entry in the journal", || {
        let said = c.run(&["journalctl", "--no-pager", "MESSAGE_ID=ee76190e143f4f90aa6f65b631bf2ac0", "RATOON_INSTANCE=watched"]);
        text(&said.stdout).contains("generation 2 is undone: ").then_some(())
    });
}

/// Ends the load: no request was lost, and some were answered with 500, which is a failure for the load generator.
fn none_is_lost(load: Load, at_least: u64) {
    let report = load.stop();
    let (answered, failed) = (report["answered"].as_u64().unwrap_or(0), report["failed"].as_u64().unwrap_or(0));
    for class in report["classes"].as_object().expect("classes").values() {
        let failures = class["failures"].as_object().expect("failures");
        assert!(failures.keys().all(|kind| kind == "wrong-status"), "{report:#}");
    }
    assert!(failed > 0 && answered > at_least, "{report:#}");
    println!("{answered} answered, {failed} with 500, none lost");
}

/// An instance with a socket for each slot and these keys, which serves the release "good".
fn per_slot<'c>(web: Instance<'c>, reload: &str) -> Instance<'c> {
    web.configure(&format!("balance = \"per-slot\"\n[reload]\n{reload}\n"));
    chaos(&web, "good", 0);
    chaos(&web, "bad", 10);
    web.point_to("good");
    open_again(&web, "ReusePort=yes\n");
    web
}

/// One request in ten fails: the canary, one worker beside eight, is rolled back by its requests, of which it got a ninth.
fn canary_of_one_of_eight(c: &Container) {
    let web = per_slot(Instance::new(c, "eighth", 8), "steps = [\"1\", \"100%\"]\nstep_time = \"1h\"");
    let before = pids(&web.settled());
    // A new connection for each request, so that the part of the connections is that of the requests.
    let load = Load::start(web.load(&["--new", "8"]));
    load.wait_for(500);
    web.point_to("bad");
    assert!(!web.reload().status.success());
    let status = web.settled();
    assert_eq!((&status["last_reload"]["result"], pids(&status)), (&"rolled-back".into(), before), "{status:#}");
    none_is_lost(load, 500);
    // "the canary failed: 12 of 130 requests failed, 0 of 1040 requests of the generation before"
    let reason = status["last_reload"]["reason"].as_str().expect("a reason");
    let numbers: Vec<u64> = reason.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [failed, of_canary, _, of_others] = numbers[..] else { panic!("{reason}") };
    println!("{failed} of {of_canary} requests of the canary failed, beside {of_others}");
    assert!(of_canary * 100 <= 14 * (of_canary + of_others), "more than 14 % of the requests: {reason}");
}

/// With `survive.conf`, in a step that waits for its time: the next master rolls the canary back, which first empties its queue.
fn killed_master_amid_an_exact_canary(c: &Container) {
    let web = per_slot(survivor(c, "exact", 4, ""), "steps = [\"25%\"]\nstep_time = \"1h\"");
    let before = pids(&web.settled());
    let load = Load::start(web.load(&["--new", "4", "--keep-alive", "4"]));
    load.wait_for(200);
    for _ in 0..2 {
        let reload = c.command(&["systemctl", "reload", &web.service()]).spawn().expect("systemctl");
        wait_for("the canary", || (web.status()["canary"]["waits"] == true).then_some(()));
        load.wait_for(load.requests() + 200);
        let master = kill_master(&web);
        assert!(!reload.wait_with_output().expect("systemctl").status.success());
        next_master(&web, master);
        let status = wait_for("the old workers alone", || Some(web.settled()).filter(|status| pids(status) == before));
        assert_eq!(
            (&status["last_reload"]["result"], &status["canary"]),
            (&"aborted".into(), &serde_json::Value::Null),
            "{status:#}"
        );
        load.wait_for(load.requests() + 200);
    }
    let report = load.stop();
    assert_eq!(report["failed"], 0, "{report:#}");
}

/// A rollback leaves the symlink on the bad release; the next start, as after a reboot, serves the good one.
fn last_good_release_serves(c: &Container) {
    let web = Instance::new(c, "rebooted", 2);
    web.start();
    web.settled();
    let record = "/var/lib/ratoon/rebooted/releases.json";
    wait_for("the record", || c.run(&["test", "-s", record]).status.success().then_some(()));
    assert_eq!(c.ok(&["stat", "--format=%a %U", record, "/var/lib/ratoon/rebooted"]), "600 root\n700 root");
    web.point_to("fails");
    assert!(!web.reload().status.success());
    let before = web.main_pid();
    let said = c.run(&["systemctl", "restart", &web.service()]);
    assert!(said.status.success(), "{}\n{}", text(&said.stderr), c.journal(&web.service()));
    assert_ne!(web.main_pid(), before);
    let status = web.settled();
    assert!(status["release"]["directory"].as_str().is_some_and(|directory| directory.ends_with("/v1")), "{status:#}");
    assert!(web.get().expect("an answer").contains("version v1"));
    let line = web.property("StatusText");
    assert!(
        line.contains("degraded: generation 1 cannot start: ") && line.contains("the last good release runs instead"),
        "{line}"
    );
    assert_eq!(c.run(&["ratoon", "status", "--check", "rebooted"]).status.code(), Some(1));
    // A worker that fails later starts again from the same release.
    let old = pids(&status);
    c.kill("KILL", old[0]);
    wait_for("another worker", || (pids(&web.settled()) != old).then_some(()));
    web.point_to("v1");
    web.reload_ok();
    assert_eq!(c.run(&["ratoon", "status", "--check", "rebooted"]).status.code(), Some(0), "{}", web.property("StatusText"));
}

/// With `survive.conf`: a canary that waits is rolled back by the next master, like any reload; a watch goes on.
fn killed_master_amid_a_deploy(c: &Container) {
    let web = survivor(c, "killed", 4, "");
    web.configure("[reload]\nwatch = \"1h\"\nsteps = [\"1\"]\nstep_time = \"manual\"\n");
    chaos(&web, "good", 0);
    chaos(&web, "bad", 10);
    let promoted = |label: &str| {
        web.point_to(label);
        let reload = c.command(&["systemctl", "reload", &web.service()]).spawn().expect("systemctl");
        wait_for("the canary", || (web.status()["canary"]["waits"] == true).then_some(()));
        c.ok(&["ratoon", "promote", "killed"]);
        assert!(reload.wait_with_output().expect("systemctl").status.success());
        web.settled()
    };
    let good = pids(&promoted("good"));
    web.point_to("bad");
    let reload = c.command(&["systemctl", "reload", &web.service()]).spawn().expect("systemctl");
    wait_for("the canary", || (web.status()["canary"]["waits"] == true).then_some(()));
    let master = kill_master(&web);
    assert!(!reload.wait_with_output().expect("systemctl").status.success());
    next_master(&web, master);
    let status = web.settled();
    assert_eq!((pids(&status), &status["canary"]), (good, &serde_json::Value::Null), "{status:#}");
    assert_eq!(status["last_reload"]["result"], "aborted", "{status:#}");
    // What the good release has counted is known to the next master.
    let load = || Load::start(web.load(&["--new", "2", "--keep-alive", "2"]));
    let first = load();
    first.wait_for(500);
    first.stop();
    promoted("bad");
    wait_for("the figures", || (web.status()["watch"]["old"]["requests"].as_u64() >= Some(500)).then_some(()));
    let master = kill_master(&web);
    next_master(&web, master);
    let watch = wait_for("the watch", || Some(web.status()["watch"].take()).filter(|watch| watch["generation"].is_u64()));
    assert!(watch["old"]["requests"].as_u64() >= Some(500) && watch["compares"] == true, "{watch:#}");
    let load = load();
    let status = wait_for("the undo", || {
        let status = web.status();
        (status["last_reload"]["result"] == "undone").then_some(status)
    });
    load.stop();
    assert!(status["releases"][0]["asked_by"] == "reload.watch", "{status:#}");
    assert!(web.settled()["release"]["directory"].as_str().is_some_and(|directory| directory.ends_with("/good")));
}
