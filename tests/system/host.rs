//! What the machine around the pool gives under systemd: cgroups, the journal, the kernel's figures.

use std::fs;

use crate::Case;
use crate::container::{Container, text, wait_for};
use crate::instance::{Instance, pids};

pub const CASES: &[Case] = &[
    ("each_worker_lives_and_ends_in_a_cgroup_of_its_own", each_worker_lives_and_ends_in_a_cgroup_of_its_own),
    ("the_last_lines_of_a_failed_worker_come_from_the_journal", the_last_lines_of_a_failed_worker_come_from_the_journal),
    ("the_journal_explains_a_rollback", the_journal_explains_a_rollback),
    ("a_journald_that_stops_or_restarts_stops_nothing", a_journald_that_stops_or_restarts_stops_nothing),
    ("a_journald_that_is_stopped_and_started_kills_no_worker", a_journald_that_is_stopped_and_started_kills_no_worker),
    ("the_kernel_counts_for_workers_that_say_nothing", the_kernel_counts_for_workers_that_say_nothing),
];

/// The group of a process, as the container names it.
fn group(c: &Container, pid: u64) -> String {
    let text = fs::read_to_string(c.path(&format!("/proc/{pid}/cgroup"))).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().to_owned()
}

/// How many processes with this command line there are.
fn running(c: &Container, words: &str) -> usize {
    let all = fs::read_dir(c.path("/proc")).expect("procfs").flatten();
    all.filter(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == words.as_bytes())).count()
}

/// A release whose worker is this shell script.
fn script(web: &Instance, label: &str, text: &str) {
    web.release(label, None);
    let path = format!("/srv/{}/releases/{label}/worker", web.name);
    web.c.write(&path, &format!("#!/bin/sh\n{text}\n"));
    web.c.ok(&["chmod", "755", &path]);
}

fn each_worker_lives_and_ends_in_a_cgroup_of_its_own(c: &Container) {
    let web = Instance::new(c, "groups", 2);
    // Each worker leaves a process that has left its session and its parent, and that hears no SIGTERM.
    script(&web, "leaves-some", "setsid sh -c 'trap \"\" TERM; while :; do sleep 4711; done' &\nexec /opt/ratoon/hello");
    web.point_to("leaves-some");
    web.configure("[worker.limits]\nmemory_max = \"512M\"\ntasks_max = 100\n");
    web.start();
    let status = web.settled();
    let unit = format!("/{}/", web.service());
    let master = group(c, web.main_pid());
    assert!(master.ends_with(&format!("{unit}master")), "the master is in {master}");
    for worker in status["workers"].as_array().expect("workers") {
        let own = group(c, worker["pid"].as_u64().expect("a pid"));
        assert!(own.ends_with(&format!("{unit}w-{}", worker["id"])), "worker {worker:#} is in {own}");
        assert!(worker["cpu_usec"].is_u64() && worker["memory_rss"].is_u64(), "{worker:#}");
    }
    wait_for("both workers' left-overs", || (running(c, "sleep\x004711\0") == 2).then_some(()));

    // With the drain all of a worker goes, what it has left behind too.
    let groups: Vec<String> = pids(&status).into_iter().map(|pid| group(c, pid)).collect();
    web.point_to("v1");
    web.reload_ok();
    web.settled();
    wait_for("nothing is left of the old generation", || (running(c, "sleep\x004711\0") == 0).then_some(()));
    for group in groups {
        let gone = c.path(&format!("/sys/fs/cgroup{group}"));
        wait_for("the old worker's cgroup is removed", || (!gone.exists()).then_some(()));
    }
    // Which limits work is the machine's affair; what does not is said.
    let said = c.journal(&web.service());
    let controllers = fs::read_to_string(c.path("/sys/fs/cgroup/cgroup.controllers")).expect("cgroup v2");
    for (controller, key) in [("memory", "memory_max"), ("pids", "tasks_max")] {
        let told = said.contains(&format!("worker.limits.{key} = "));
        if controllers.split_whitespace().any(|word| word == controller) {
            assert!(!told, "{said}");
        } else {
            println!("SKIPPED where worker.limits.{key} works: there is no {controller} controller here");
            assert_eq!(said.matches(&format!("worker.limits.{key} = ")).count(), 1, "{said}");
        }
    }
}

fn the_last_lines_of_a_failed_worker_come_from_the_journal(c: &Container) {
    let web = Instance::new(c, "lines", 1);
    web.start();
    web.settled();
    script(&web, "talks", "i=0; while [ $i -lt 100 ]; do echo line $i; i=$((i+1)); done; printf 'last words' >&2; exit 7");
    web.point_to("talks");
    let said = web.reload();
    assert!(!said.status.success());
    let failure = web.status()["failures"].as_array().and_then(|all| all.last().cloned()).expect("a failure");
    assert_eq!(failure["how"], "exit 7", "{failure:#}");
    let lines: Vec<&str> = failure["log_tail"].as_array().expect("lines").iter().filter_map(|line| line.as_str()).collect();
    let expected: Vec<String> = (81..100).map(|n| format!("line {n}")).chain(["last words".to_owned()]).collect();
    assert_eq!(lines, expected);
}

fn the_journal_explains_a_rollback(c: &Container) {
    let catalog = include_str!("../../systemd/ratoon.catalog");
    c.write("/usr/lib/systemd/catalog/ratoon.catalog", catalog);
    let warned = c.run(&["journalctl", "--update-catalog"]);
    assert!(warned.status.success() && !text(&warned.stderr).contains("ratoon"), "{}", text(&warned.stderr));
    let web = Instance::new(c, "explained", 1);
    web.start();
    web.settled();
    web.point_to("fails");
    assert!(!web.reload().status.success());
    let explained = wait_for("the entry", || {
        let said = c.ok(&["journalctl", "--no-pager", "--catalog", "--unit", &web.service()]);
        said.contains("A reload of pool explained was rolled back").then_some(said)
    });
    assert!(explained.contains("The reason: ") && explained.contains("exit 3"), "{explained}");
    // None of the fields that the texts name was missing in an entry that uses it.
    assert!(!explained.contains("@RATOON_"), "{explained}");
}

fn a_journald_that_stops_or_restarts_stops_nothing(c: &Container) {
    let web = Instance::new(c, "quiet", 2);
    web.start();
    let life = web.life();
    web.settled();
    let journald: u64 = c.property("systemd-journald.service", "MainPID").parse().expect("a number");
    web.good_release("v2");
    web.point_to("v2");
    // While it is stopped, asked directly: systemctl itself may wait for journald.
    c.kill("STOP", journald);
    let reloads: Vec<_> = (0..5).map(|_| c.run(&["ratoon", "reload", "quiet"])).collect();
    let answer = web.get();
    c.kill("CONT", journald);
    for said in reloads {
        assert!(said.status.success(), "{}", text(&said.stderr));
    }
    assert!(answer.expect("an answer").contains("version v2"));
    // Restarted: the master finds it again, and the workers' streams go on.
    c.ok(&["systemctl", "restart", "systemd-journald.service"]);
    web.reload_ok();
    let generation = web.status()["generation"].as_u64().expect("a number");
    wait_for("the master's word on it in the journal", || {
        let said = c.ok(&[
            "journalctl",
            "--no-pager",
            "--output=cat",
            "--unit",
            &web.service(),
            &format!("RATOON_GENERATION={generation}"),
        ]);
        (!said.is_empty()).then_some(())
    });
    assert_eq!(web.life(), life, "the service was active all the time");
}

fn a_journald_that_is_stopped_and_started_kills_no_worker(c: &Container) {
    let web = Instance::new(c, "prints", 2);
    script(&web, "ticks", "while :; do echo tick; sleep 0.05; done");
    web.point_to("ticks");
    web.configure("ready = \"running\"\nsettle = \"100ms\"\n");
    web.start();
    let before = pids(&web.settled());
    let prints = |pid: u64| {
        wait_for("its line in the journal", || {
            let said = c.run(&["journalctl", "--no-pager", "--output=cat", "--lines=1", &format!("_PID={pid}")]);
            text(&said.stdout).contains("tick").then_some(())
        });
    };
    before.iter().for_each(|pid| prints(*pid));
    c.ok(&["systemctl", "stop", "systemd-journald.service"]);
    c.ok(&["systemctl", "start", "systemd-journald.service"]);
    // A worker that starts now is heard by the new journald; the others are the same as before.
    c.kill("KILL", before[0]);
    wait_for("another worker", || web.status()["worker_crashes"].as_u64().filter(|crashes| *crashes >= 1));
    let status = web.settled();
    let after = pids(&status);
    assert!(after.contains(&before[1]) && status["worker_crashes"] == 1, "{status:#}");
    after.iter().filter(|pid| !before.contains(pid)).for_each(|pid| prints(*pid));
    // The stream of a worker that lives on cannot be made anew, and systemd 252 does not keep it over the stop: its lines are lost until it
    // is replaced, as the manual says.
    c.ok(&["ratoon", "recycle", "prints"]);
    let renewed = pids(&web.settled());
    assert!(!renewed.contains(&before[1]), "{renewed:?}");
    renewed.iter().for_each(|pid| prints(*pid));
    assert_eq!(web.status()["worker_crashes"], 1);
}

fn the_kernel_counts_for_workers_that_say_nothing(c: &Container) {
    let web = Instance::new(c, "counted", 2);
    web.start();
    web.settled();
    let open = |status: &serde_json::Value| -> Option<u64> {
        status["workers"].as_array().expect("workers").iter().map(|worker| worker["open_connections"].as_u64()).sum()
    };
    let before = open(&web.status()).expect("known, if only 0");
    assert_eq!(before, 0);
    let held: Vec<_> = (0..7).map(|_| c.connect(&web.address).expect("a connection")).collect();
    let status = wait_for("the workers have accepted all of them", || {
        let status = web.status();
        // The kernel's list of listening sockets is a moment older than that of connections.
        (open(&status) == Some(7) && status["sockets"][0]["queue"] == 0).then_some(status)
    });
    assert!(status["workers"].as_array().expect("workers").iter().all(|worker| worker["listening"] == true), "{status:#}");
    assert!(status["sockets"][0]["queue_max"].as_u64() > Some(0), "{status:#}");
    assert!(status["master"]["memory_pss"].as_u64() > Some(0), "{status:#}");
    drop(held);
    wait_for("none is left", || (open(&web.status()) == Some(0)).then_some(()));
}
