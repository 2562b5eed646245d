//! Deploys that go wrong after the commit, and a machine that starts with a bad release on disk.

use std::time::Instant;

use serde_json::Value;

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
    ("a_killed_master_rolls_a_canary_back_in_its_second_step_and_while_it_is_judged", killed_master_in_later_steps),
    ("a_killed_master_begins_the_undo_of_its_watch_again", killed_master_amid_an_undo),
    ("a_release_as_good_as_the_old_one_passes_its_canary", good_release_passes),
    ("an_undo_under_load_brings_the_old_answers_back", undo_under_load),
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
        assert_eq!((&status["last_reload"]["result"], &status["canary"]), (&"aborted".into(), &Value::Null), "{status:#}");
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
    assert_eq!((pids(&status), &status["canary"]), (good, &Value::Null), "{status:#}");
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

/// With `survive.conf`: the second step waits, and later `reload.judge_command` is asked. Each time the next master rolls the canary back.
fn killed_master_in_later_steps(c: &Container) {
    let web = survivor(c, "steps", 4, "");
    let before = pids(&web.settled());
    let load = Load::start(web.load(&["--new", "2", "--keep-alive", "2"]));
    let amid = |keys: &str, is_there: &dyn Fn(&Value) -> bool| {
        web.configure(&format!("[reload]\nsteps = [\"1\", \"50%\"]\n{keys}\n"));
        let reload = c.command(&["systemctl", "reload", &web.service()]).spawn().expect("systemctl");
        wait_for("the step", || {
            let canary = web.status()["canary"].take();
            if canary["waits"] == true && canary["step"] == 1 && canary["manual"] == true {
                c.ok(&["ratoon", "promote", "steps"]);
            }
            is_there(&canary).then_some(())
        });
        let master = kill_master(&web);
        assert!(!reload.wait_with_output().expect("systemctl").status.success());
        next_master(&web, master);
        let status = wait_for("the old workers alone", || Some(web.settled()).filter(|status| pids(status) == before));
        assert_eq!((&status["last_reload"]["result"], &status["canary"]), (&"aborted".into(), &Value::Null), "{status:#}");
        load.wait_for(load.requests() + 100);
    };
    amid("step_time = \"manual\"", &|canary| canary["step"] == 2 && canary["waits"] == true);
    amid("step_time = \"100ms\"\njudge_command = [\"sleep\", \"47111\"]", &|canary| canary["asks_command"] == true);
    // The command of the dead master is of no use to anybody.
    let runs =
        "for file in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$file | grep -q '^sleep 4711[1]' && exit 0; done 2>/dev/null; exit 1";
    wait_for("the end of the command", || (!c.run(&["sh", "-c", runs]).status.success()).then_some(()));
    // What can be gone back to outlives the master, too.
    web.good_release("v2");
    web.point_to("v2");
    web.configure("");
    web.reload_ok();
    web.settled();
    let master = kill_master(&web);
    next_master(&web, master);
    c.ok(&["ratoon", "undo", "steps", "--wait", "drained"]);
    assert!((0..20).all(|_| web.get().expect("an answer").contains("version v1")));
    let report = load.stop();
    assert_eq!(report["failed"], 0, "{report:#}");
}

/// With `survive.conf`: the master dies while the workers of the release before start again. The next one begins the undo again, once.
fn killed_master_amid_an_undo(c: &Container) {
    let web = survivor(c, "amid-undo", 4, "");
    let hold = "/srv/amid-undo/releases/good/hold";
    let worker = "#!/bin/sh\nwhile [ -e hold ]; do sleep 0.1; done\nexec /opt/ratoon/chaos";
    web.release("good", Some(&format!("echo good >version; printf '{worker}\\n' >worker; chmod 755 worker")));
    chaos(&web, "bad", 10);
    let keys = "count = 4\nstart_timeout = \"2min\"\n[reload]\nwatch = \"1h\"";
    let command = "[worker]\ncommand = [\"./worker\"]\ndirectory = \"/srv/amid-undo/current\"";
    c.write("/etc/ratoon/amid-undo.toml", &format!("{command}\n{keys}\n"));
    web.point_to("good");
    web.reload_ok();
    web.settled();
    web.point_to("bad");
    web.reload_ok();
    c.ok(&["touch", hold]);
    let load = Load::start(web.load(&["--new", "2", "--keep-alive", "2"]));
    let starts = |status: &Value, generation: u64| {
        let mut workers = status["workers"].as_array().into_iter().flatten();
        status["watch"]["state"] == "undoing" && workers.any(|worker| worker["generation"] == generation)
    };
    wait_for("the workers of the undo", || starts(&web.status(), 4).then_some(()));
    let master = kill_master(&web);
    next_master(&web, master);
    wait_for("the undo again", || starts(&web.status(), 5).then_some(()));
    c.ok(&["rm", hold]);
    let status = wait_for("the undo", || Some(web.status()).filter(|status| status["last_reload"]["result"] == "undone"));
    assert_eq!((&status["last_reload"]["generation"], &status["generation"]), (&3.into(), &5.into()), "{status:#}");
    assert_eq!(status["releases"][0]["asked_by"], "reload.watch", "{status:#}");
    let status = web.settled();
    assert!(status["release"]["directory"].as_str().is_some_and(|directory| directory.ends_with("/good")));
    // The release that came back is known to the master after this one, too, although systemd had its script under another name.
    let master = kill_master(&web);
    next_master(&web, master);
    assert_eq!((pids(&web.settled()), &web.status()["generation"]), (pids(&status), &5.into()));
    none_is_lost(load, 100);
}

/// Canaries of a release as good as the old one, which fails one request in fifty as that does: none is rolled back. With `RATOON_CANARIES=100`
/// that many (five minutes), else five.
fn good_release_passes(c: &Container) {
    let canaries: u64 = std::env::var("RATOON_CANARIES").map_or(5, |number| number.parse().expect("RATOON_CANARIES: a number"));
    let web = per_slot(
        Instance::new(c, "passes", 8),
        "steps = [\"1\", \"100%\"]\nstep_time = \"1500ms\"\n[reload.judge]\nmin_requests = 20",
    );
    for label in ["good", "as-good"] {
        chaos(&web, label, 50);
    }
    web.point_to("good");
    web.c.ok(&["systemctl", "restart", &web.service()]);
    web.settled();
    let load = Load::start(web.load(&["--new", "8"]));
    load.wait_for(500);
    for turn in 0..canaries {
        web.point_to(if turn % 2 == 0 { "as-good" } else { "good" });
        web.reload_ok();
    }
    let status = web.settled();
    assert_eq!(status["generation"], canaries + 1, "{status:#}");
    none_is_lost(load, 500);
    let journal = c.journal(&web.service());
    let unjudged = journal.matches("so there is no verdict by their ratio").count();
    println!(
        "{canaries} canaries of a release as good as the old one: none rolled back, {unjudged} with too few requests for a verdict"
    );
    assert!((unjudged as u64) < canaries, "no canary was judged: {journal}");
}

/// `ratoon undo` after a commit, under load: what it returns after is answered by the release before. The times are told, not compared.
fn undo_under_load(c: &Container) {
    let web = Instance::new(c, "back", 4);
    web.good_release("v2");
    web.start();
    web.settled();
    let load = Load::start(web.load(&["--new", "4", "--keep-alive", "4"]));
    load.wait_for(200);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..3 {
        web.point_to("v2");
        let begun = Instant::now();
        c.ok(&["ratoon", "reload", "back", "--wait", "drained"]);
        times[0].push(begun.elapsed().as_millis());
        assert!(web.get().expect("an answer").contains("version v2"));
        web.point_to("fails");
        let begun = Instant::now();
        c.ok(&["ratoon", "undo", "back", "--wait", "drained"]);
        times[1].push(begun.elapsed().as_millis());
        assert!((0..20).all(|_| web.get().expect("an answer").contains("version v1")));
    }
    println!("under load: reloads took {:?} ms, undos {:?} ms, the end of the old workers included", times[0], times[1]);
    let report = load.stop();
    assert_eq!(report["failed"], 0, "{report:#}");
}
