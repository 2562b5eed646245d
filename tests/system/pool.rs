//! The pool under systemd: socket activation, reloads that commit and reloads that fail, the watchdog, the end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::time::Duration;

use crate::Case;
use crate::container::{Container, text, wait_for};
use crate::instance::{BROKEN, Broken, Instance, pids};
use crate::load::{Load, answers};

pub const CASES: &[Case] = &[
    ("a_first_connection_starts_it", a_first_connection_starts_it),
    ("a_reload_brings_the_new_release_and_loses_nothing", a_reload_brings_the_new_release_and_loses_nothing),
    ("a_failing_release_is_rolled_back_and_says_why", a_failing_release_is_rolled_back_and_says_why),
    ("a_crash_after_a_failed_reload_starts_the_old_program", a_crash_after_a_failed_reload_starts_the_old_program),
    ("a_stop_serves_what_was_accepted", a_stop_serves_what_was_accepted),
    ("a_restart_loses_no_connection", a_restart_loses_no_connection),
    ("the_watchdog_is_fed_and_bites", the_watchdog_is_fed_and_bites),
    ("a_master_that_dies_comes_back", a_master_that_dies_comes_back),
    ("it_needs_no_root", it_needs_no_root),
    ("the_journal_tells_it_all", the_journal_tells_it_all),
    ("flood_of_a_worker_hides_no_line_of_the_master", flood_of_a_worker_hides_no_line_of_the_master),
    ("undo_brings_the_old_release_back", undo_brings_the_old_release_back),
    ("fifty_reloads_under_load", fifty_reloads_under_load),
];

fn a_first_connection_starts_it(c: &Container) {
    let web = Instance::new(c, "web", 4);
    assert_eq!(web.property("ActiveState"), "inactive");
    let answer = web.get().expect("an answer to the connection that starts it");
    assert!(answer.contains("generation 1") && answer.contains("version v1"), "{answer}");
    wait_for("READY=1", || (web.property("ActiveState") == "active").then_some(()));
    assert_eq!(web.property("StatusText"), "generation 1: 4/4 ready");
    let shown = c.ok(&["systemctl", "status", &web.service()]);
    assert!(shown.contains("generation 1: 4/4 ready"), "{shown}");
    let status = web.status();
    assert_eq!(status["master"]["pid"], web.main_pid());
    assert_eq!(status["sockets"][0]["name"], "web");
    assert_eq!(status["sockets"][0]["address"], web.address);
}

fn a_reload_brings_the_new_release_and_loses_nothing(c: &Container) {
    let web = Instance::new(c, "swap", 4);
    web.start();
    let (life, before) = (web.life(), pids(&web.settled()));
    web.good_release("v2");
    let load = Load::start(web.load(&["--new", "4", "--keep-alive", "4"]));
    load.wait_for(1000);
    web.point_to("v2");
    web.reload_ok();
    assert_eq!(web.property("StatusText"), "generation 2: 4/4 ready");
    let status = web.settled();
    assert!(pids(&status).iter().all(|pid| !before.contains(pid)), "{status:#}");
    assert_eq!(status["last_reload"]["result"], "committed");
    assert!(web.get().expect("an answer").contains("version v2"));
    load.wait_for(load.requests() + 1000);
    let report = load.stop();
    assert_eq!(report["failed"], 0, "{report:#}");
    assert_eq!(answers(&report).into_keys().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(web.life(), life, "the service was active all the time");
}

fn a_failing_release_is_rolled_back_and_says_why(c: &Container) {
    let web = Instance::new(c, "broken", 2);
    web.start();
    let (life, before) = (web.life(), pids(&web.settled()));
    for Broken { label, reason, result, .. } in BROKEN {
        let load = Load::start(web.load(&["--new", "2", "--keep-alive", "2"]));
        load.wait_for(100);
        web.point_to(label);
        let cursor = c.cursor();
        let said = web.reload();
        assert!(!said.status.success(), "{label}: a reload to a broken release reported success");
        assert_eq!(web.property("ReloadResult"), "exit-code", "{label}");
        let shown = text(&c.run(&["systemctl", "status", "--lines=20", &web.service()]).stdout);
        assert!(shown.contains(reason), "{label}: no {reason:?} in systemctl status: {shown}");
        let journal = c.story(&cursor);
        assert!(journal.contains(reason), "{label}: no {reason:?} in the journal: {journal}");
        let shown = c.ok(&["ratoon", "status", web.name]);
        assert!(shown.contains(reason), "{label}: no {reason:?} in ratoon status: {shown}");
        let status = web.settled();
        assert_eq!((pids(&status), &status["generation"]), (before.clone(), &1.into()), "{label}");
        assert_eq!(status["last_reload"]["result"], result, "{label}");
        let report = load.stop();
        assert_eq!(report["failed"], 0, "{label}: {report:#}");
        assert_eq!(answers(&report).into_keys().collect::<Vec<_>>(), [1], "{label}");
    }
    // A mistake in the configuration is refused before anything is started.
    web.configure("cuont = 3\n");
    let said = web.reload();
    assert!(!said.status.success());
    let journal = c.journal(&web.service());
    assert!(journal.contains("cuont") && journal.contains("count"), "{journal}");
    assert_eq!(pids(&web.settled()), before);
    // And with all of it mended the next one commits.
    web.configure("");
    web.point_to("v1");
    web.reload_ok();
    assert!(pids(&web.settled()).iter().all(|pid| !before.contains(pid)));
    assert_eq!(web.life(), life, "the service was active all the time");
}

fn a_crash_after_a_failed_reload_starts_the_old_program(c: &Container) {
    let web = Instance::new(c, "pinned", 2);
    web.start();
    web.point_to("fails");
    assert!(!web.reload().status.success());
    let before = pids(&web.settled());
    c.kill("KILL", before[0]);
    wait_for("it is gone", || (!pids(&web.status()).contains(&before[0])).then_some(()));
    let new = pids(&web.settled())[0];
    // It runs where the old one ran, though `current` leads elsewhere.
    assert_eq!(c.ok(&["readlink", &format!("/proc/{new}/cwd")]), "/srv/pinned/releases/v1");
    wait_for("an answer of the new one", || web.get().expect("an answer").contains(&format!("pid {new} ")).then_some(()));
    assert!(web.get().expect("an answer").contains("version v1"));
}

fn a_stop_serves_what_was_accepted(c: &Container) {
    let web = Instance::new(c, "drain", 2);
    web.start();
    // Accepted, and nothing sent yet: the hardest to keep.
    let mut held = c.connect(&web.address).expect("a connection");
    wait_for("it is accepted", || {
        let workers = web.status()["workers"].clone();
        let open = workers.as_array()?.iter().filter_map(|worker| worker["open_connections"].as_u64()).sum::<u64>();
        (open == 1).then_some(())
    });
    c.ok(&["systemctl", "stop", "--no-block", &web.service()]);
    wait_for("the stop", || (web.property("ActiveState") == "deactivating").then_some(()));
    held.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    held.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
    let mut answer = String::new();
    held.read_to_string(&mut answer).expect("an answer and then the end");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.to_lowercase().contains("connection: close"), "{answer}");
    wait_for("the end", || (web.property("ActiveState") == "inactive").then_some(()));
    assert_eq!(web.property("Result"), "success");
    assert_eq!(web.property("ExecMainStatus"), "0");
}

fn a_restart_loses_no_connection(c: &Container) {
    let web = Instance::new(c, "restart", 2);
    web.start();
    // New connections wait in the queue of the socket, which is systemd's; keep-alive ones are told to close.
    let load = Load::start(web.load(&["--new", "4", "--keep-alive", "4"]));
    load.wait_for(500);
    for _ in 0..3 {
        c.ok(&["systemctl", "restart", &web.service()]);
        load.wait_for(load.requests() + 500);
    }
    let report = load.stop();
    assert_eq!(report["failed"], 0, "{report:#}");
}

fn the_watchdog_is_fed_and_bites(c: &Container) {
    let web = Instance::new(c, "watched", 1);
    web.drop_in("[Service]\nWatchdogSec=1s\n");
    web.start();
    let mut fed = BTreeSet::new();
    wait_for("five messages to the watchdog", || {
        fed.insert(web.property("WatchdogTimestampMonotonic"));
        (fed.len() >= 5).then_some(())
    });
    assert_eq!(web.property("NRestarts"), "0");
    // A loop that stands still is noticed, and the instance comes back.
    let stopped = web.main_pid();
    c.kill("STOP", stopped);
    wait_for("the restart", || (web.property("NRestarts") == "1").then_some(()));
    wait_for("it serves again", || {
        (web.property("StatusText") == "generation 1: 1/1 ready" && web.main_pid() != stopped).then_some(())
    });
    assert!(c.journal(&web.service()).contains("Watchdog timeout"));
}

fn a_master_that_dies_comes_back(c: &Container) {
    let web = Instance::new(c, "fallen", 2);
    web.start();
    let before = pids(&web.settled());
    c.kill("KILL", web.main_pid());
    // Without its master the unit is no more: systemd kills the workers.
    wait_for("the workers are gone", || before.iter().all(|pid| !c.path(&format!("/proc/{pid}")).exists()).then_some(()));
    // A connection waits in the queue while nobody is there.
    assert!(web.get().expect("an answer").contains("generation 1"));
    wait_for("it is active again", || (web.property("ActiveState") == "active").then_some(()));
    assert_eq!(web.property("NRestarts"), "1");
    assert!(pids(&web.settled()).iter().all(|pid| !before.contains(pid)));
}

fn it_needs_no_root(c: &Container) {
    c.ok(&["useradd", "--system", "web-user"]);
    let web = Instance { address: "127.0.0.1:80".into(), ..Instance::new(c, "rootless", 2) };
    c.write("/etc/systemd/system/ratoon@rootless.socket.d/low.conf", "[Socket]\nListenStream=\nListenStream=127.0.0.1:80\n");
    web.drop_in("[Service]\nUser=web-user\nCapabilityBoundingSet=\n");
    c.ok(&["systemctl", "restart", &web.socket()]);
    web.start();
    assert!(web.get().expect("an answer on a port below 1024").contains("generation 1"));
    let status = web.settled();
    for pid in pids(&status).into_iter().chain([web.main_pid()]) {
        assert_eq!(c.ok(&["stat", "--format=%U", &format!("/proc/{pid}")]), "web-user");
    }
    // The kernel's figures are there without root's rights.
    assert!(status["workers"][0]["memory_rss"].is_u64() && status["workers"][0]["open_connections"].is_u64(), "{status:#}");
    web.reload_ok();
    // What a worker printed before it failed is there although this user cannot read the journal.
    web.release("tells", Some("printf '#!/bin/sh\\necho out; echo \"<3>last words\" >&2; exit 3\\n' >worker; chmod 755 worker"));
    web.point_to("tells");
    assert!(!web.reload().status.success());
    let failure = web.settled()["failures"].as_array().and_then(|all| all.last().cloned()).expect("a failure");
    assert_eq!(failure["log_tail"], serde_json::json!(["out", "last words"]), "{failure:#}");
    // Anybody may look, not everybody may touch.
    c.ok(&["runuser", "-u", "nobody", "--", "ratoon", "status", "rootless"]);
    assert!(!c.run(&["runuser", "-u", "nobody", "--", "ratoon", "scale", "rootless", "1"]).status.success());
    assert_eq!(web.status()["workers_configured"], 2);
    // A crash leaves nothing that the next start would stumble over.
    web.point_to("v1");
    c.kill("KILL", web.main_pid());
    wait_for("it is back", || (web.property("NRestarts") == "1" && web.property("ActiveState") == "active").then_some(()));
    web.settled();
}

fn the_journal_tells_it_all(c: &Container) {
    let web = Instance::new(c, "logged", 1);
    web.release("talks", Some("printf '#!/bin/sh\\necho I am the worker\\necho \"<3>it is bad\"\\nexec /opt/ratoon/hello\\n' >worker; chmod 755 worker"));
    web.point_to("talks");
    web.start();
    let worker = pids(&web.settled())[0].to_string();
    web.point_to("fails");
    assert!(!web.reload().status.success());
    let entries = || {
        let lines = c.ok(&["journalctl", "--no-pager", "--output=json", "--unit", &web.service()]);
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<serde_json::Value>>()
    };
    let said = wait_for("the worker's line", || entries().into_iter().find(|entry| entry["MESSAGE"] == "I am the worker"));
    assert_eq!((&said["SYSLOG_IDENTIFIER"], &said["_PID"]), (&"logged/0".into(), &worker.as_str().into()), "{said:#}");
    // What it puts before a line is how grave it is, as in sd-daemon(3).
    assert_eq!(said["PRIORITY"], "6", "{said:#}");
    let bad = wait_for("its second line", || entries().into_iter().find(|entry| entry["MESSAGE"] == "it is bad"));
    assert_eq!((&bad["PRIORITY"], &bad["_PID"]), (&"3".into(), &worker.as_str().into()), "{bad:#}");
    let master = web.main_pid().to_string();
    let rolled_back = wait_for("the master's word on the reload", || {
        entries().into_iter().find(|entry| {
            entry["_PID"] == master.as_str() && entry["MESSAGE"].as_str().is_some_and(|message| message.contains("exit 3"))
        })
    });
    assert_eq!(rolled_back["RATOON_INSTANCE"], "logged", "{rolled_back:#}");
    assert!(rolled_back["RATOON_GENERATION"].is_string() && rolled_back["MESSAGE_ID"].is_string(), "{rolled_back:#}");
    // The same by a verb, the master and the workers apart.
    let logs = c.ok(&["ratoon", "logs", "logged"]);
    let (master, workers) = logs.split_once("workers:").expect("two parts");
    assert!(master.contains("exit 3") && !master.contains("I am the worker"), "{logs}");
    assert!(workers.contains("I am the worker"), "{logs}");
    assert!(c.ok(&["ratoon", "logs", "logged", "0"]).contains("it is bad"));
}

fn flood_of_a_worker_hides_no_line_of_the_master(c: &Container) {
    let web = Instance::new(c, "flooded", 1);
    // The journal keeps few lines of the unit in an hour, so that a flood uses them up.
    c.write(
        "/etc/systemd/system/ratoon@flooded.service.d/limit.conf",
        "[Service]\nLogRateLimitIntervalSec=1h\nLogRateLimitBurst=20\n",
    );
    c.ok(&["systemctl", "daemon-reload"]);
    let flood =
        "printf '#!/bin/sh\nseq -f \"line %%g\" 5000\necho \"<3>over\"\nexec /opt/ratoon/hello\n' >worker; chmod 755 worker";
    web.release("floods", Some(flood));
    web.point_to("floods");
    web.start();
    web.settled();
    web.point_to("fails");
    assert!(!web.reload().status.success());
    let entries = |of: &str| c.ok(&["journalctl", "--no-pager", "--output=cat", "--unit", &web.service(), of]);
    wait_for("the end of the flood", || entries("SYSLOG_IDENTIFIER=flooded/0").contains("over").then_some(()));
    assert!(!entries("SYSLOG_IDENTIFIER=flooded/0").contains("line 5000"), "the journal has kept everything");
    // The journal counts each priority on its own: the master's errors are there.
    wait_for("the master's error", || entries("SYSLOG_IDENTIFIER=ratoon").contains("rolled back").then_some(()));
    // `--follow` begins with the last lines of both, and goes on with new ones.
    let script = "ratoon logs flooded --follow --lines 3 >/tmp/followed & follower=$!
        until grep -q 'rolled back' /tmp/followed && grep -q '^workers:' /tmp/followed; do sleep 0.1; done
        echo 'something new' | systemd-cat --identifier flooded/0
        until grep -q 'something new' /tmp/followed; do sleep 0.1; done
        kill $follower; grep -c 'line ' /tmp/followed";
    let lines = c.ok(&["timeout", "60", "sh", "-c", script]);
    assert!(lines.trim().parse::<u32>().is_ok_and(|lines| lines <= 3), "{lines}: {}", c.ok(&["cat", "/tmp/followed"]));
}

/// An undo brings the old release back under systemd, which stays active.
fn undo_brings_the_old_release_back(c: &Container) {
    let web = Instance::new(c, "undone", 2);
    web.start();
    let before = web.settled()["release"]["directory"].clone();
    web.release("next", Some("cp /opt/ratoon/hello worker"));
    web.point_to("next");
    assert!(web.reload().status.success());
    let after = web.settled();
    assert_ne!(after["release"]["directory"], before, "{after:#}");
    let said = c.ok(&["ratoon", "undo", "undone", "--wait", "drained"]);
    assert!(said.contains("generation 3 (release of generation 1) is serving: 2/2 ready"), "{said}");
    let back = web.settled();
    assert_eq!(back["release"]["directory"], before, "{back:#}");
    assert!(web.property("StatusText").starts_with("generation 3 (release of generation 1): 2/2 ready"));
    assert_eq!(web.property("ActiveState"), "active");
    // The next reload reads the disk again.
    assert!(web.reload().status.success());
    assert_eq!(web.settled()["release"]["directory"], after["release"]["directory"]);
}

/// 50 reloads, 20 of them failing, each of the four ways five times, under 16 clients and at least 200,000 requests.
fn fifty_reloads_under_load(c: &Container) {
    let web = Instance::new(c, "fifty", 4);
    web.start();
    let life = web.life();
    let mut broken = BROKEN.iter().cycle();
    // Which processes may have answered for a generation.
    let mut committed = BTreeMap::<u64, BTreeSet<u64>>::new();
    let mut seen = web.settled();
    committed.insert(1, pids(&seen).into_iter().collect());
    let load = Load::start(web.load(&["--new", "8", "--keep-alive", "8"]));
    load.wait_for(100);
    for round in 0..50 {
        // Two of five fail.
        if round % 5 % 2 == 1 {
            let &Broken { label, reason, result, .. } = broken.next().expect("a cycle");
            web.point_to(label);
            assert!(!web.reload().status.success(), "round {round}: {label} was reported a success");
            let status = web.settled();
            assert_eq!((pids(&status), &status["generation"]), (pids(&seen), &seen["generation"]), "round {round}: {label}");
            let told = &status["last_reload"];
            assert_eq!(told["result"], result, "round {round}: {label}");
            assert!(told["reason"].as_str().is_some_and(|told| told.contains(reason)), "round {round}: {label}: {told}");
        } else {
            let label = format!("r{round}");
            web.good_release(&label);
            web.point_to(&label);
            web.reload_ok();
            let status = web.settled();
            let answer = web.get().expect("an answer");
            assert!(status["generation"].as_u64() > seen["generation"].as_u64(), "round {round}");
            assert!(pids(&status).iter().all(|pid| !pids(&seen).contains(pid)), "round {round}");
            assert!(answer.contains(&format!("version {label}")), "round {round}: {answer}");
            let generation = status["generation"].as_u64().expect("a number");
            committed.insert(generation, pids(&status).into_iter().collect());
            seen = status;
        }
        load.wait_for(load.requests() + 100);
    }
    load.wait_for(200_000);
    let report = load.stop();
    println!("{} requests in {} s, {} failed", report["answered"], report["seconds"], report["failed"]);
    assert_eq!(report["failed"], 0, "{report:#}");
    assert!(report["answered"].as_u64() >= Some(200_000), "{report:#}");
    assert_eq!(committed.len(), 31);
    for (generation, by) in answers(&report) {
        let may =
            committed.get(&generation).unwrap_or_else(|| panic!("generation {generation} was never committed, but answered"));
        assert!(by.keys().all(|pid| may.contains(pid)), "generation {generation}: {by:?} answered, its workers were {may:?}");
    }
    assert_eq!(answers(&report).len(), 31, "every committed generation served");
    // Nobody failed but the workers of the broken releases.
    for failure in web.status()["failures"].as_array().expect("failures") {
        assert!(!committed.contains_key(&failure["generation"].as_u64().expect("a number")), "{failure:#}");
    }
    assert_eq!(web.life(), life, "the service was active all the time");
}
