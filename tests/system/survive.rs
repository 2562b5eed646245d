//! The death of the master with `survive.conf`: the workers serve on, and the next master knows them again.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Case;
use crate::container::{Container, text, wait_for};
use crate::instance::{Instance, pids};
use crate::load::Load;
use crate::upgrade::{Gap, nothing_is_left};

pub const CASES: &[Case] = &[
    ("a_killed_master_is_followed_by_one_that_knows_its_workers", a_killed_master_is_followed_by_one_that_knows_its_workers),
    ("a_store_that_is_too_small_costs_no_worker", a_store_that_is_too_small_costs_no_worker),
    ("what_is_said_while_the_master_dies_is_heard", what_is_said_while_the_master_dies_is_heard),
    ("a_restart_keeps_the_workers_and_a_stop_ends_them", a_restart_keeps_the_workers_and_a_stop_ends_them),
    ("pause_outlives_its_master", pause_outlives_its_master),
    ("idleness_outlives_its_master", idleness_outlives_its_master),
    ("thirty_kills_under_load", thirty_kills_under_load),
];

/// An instance with the drop-in, started.
pub fn survivor<'c>(c: &'c Container, name: &'static str, workers: u32, more: &str) -> Instance<'c> {
    let web = Instance::new(c, name, workers);
    let directory = format!("/etc/systemd/system/{}.d", web.service());
    c.ok(&["install", "-D", "-m", "644", "/usr/share/doc/ratoon/examples/survive.conf", &format!("{directory}/survive.conf")]);
    web.drop_in(&format!("[Service]\n{more}\n"));
    web.start();
    web
}

/// Linux 6.15: the descriptor of a process tells how it ended, whoever reaped it.
fn pidfds_remember() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 15)
}

/// Waits for the master after this one.
pub fn next_master(web: &Instance<'_>, before: u64) -> u64 {
    wait_for("the next master is ready", || {
        let now = web.main_pid();
        (now != 0 && now != before && web.property("ActiveState") == "active").then_some(now)
    })
}

pub fn kill_master(web: &Instance<'_>) -> u64 {
    let master = web.main_pid();
    web.c.kill("KILL", master);
    master
}

fn a_killed_master_is_followed_by_one_that_knows_its_workers(c: &Container) {
    let web = survivor(c, "survives", 3, "");
    let before = web.settled();
    let master = kill_master(&web);
    // Nobody but systemd noticed.
    assert!(web.get().expect("an answer").contains("generation 1"));
    next_master(&web, master);
    let after = web.settled();
    assert_eq!(pids(&after), pids(&before));
    for key in ["generation", "start_time", "worker_crashes", "requests"] {
        assert!(key == "requests" || after[key] == before[key], "{key}: {after:#}");
    }
    assert!(after["requests"].as_u64() > before["requests"].as_u64(), "{after:#}");
    // It hears them, replaces the one that dies, and knows how it ended; also of one that dies while nobody looks.
    let killed = pids(&after)[0];
    c.kill("KILL", killed);
    wait_for("it is replaced", || (web.status()["worker_crashes"] == 1 && !pids(&web.settled()).contains(&killed)).then_some(()));
    // It is systemd's child now: how it ended is known where the kernel tells it by a pidfd.
    let how = || web.status()["failures"].as_array().expect("failures").last().expect("one")["how"].clone();
    let known = |how: &Value, expected: &str| assert!(how == expected || (how == "unknown" && !pidfds_remember()), "{how}");
    known(&how(), "signal SIGKILL");
    // Also of one that exits by itself, with a status that a zombie does not show.
    let leaver = pids(&web.settled())[1];
    c.kill("TERM", leaver);
    wait_for("it is replaced", || (web.status()["worker_crashes"] == 2 && !pids(&web.settled()).contains(&leaver)).then_some(()));
    known(&how(), "exit 0");
    let other = pids(&web.settled())[1];
    let master = kill_master(&web);
    c.kill("KILL", other);
    next_master(&web, master);
    wait_for("it is replaced too", || {
        (web.status()["worker_crashes"] == 3 && !pids(&web.settled()).contains(&other)).then_some(())
    });
    // A reload that was under way is rolled back, and who asked for it hears of a failure.
    let calm = pids(&web.settled());
    web.point_to("hangs");
    let asked = c.command(&["systemctl", "reload", &web.service()]).spawn().expect("systemctl");
    wait_for("the reload", || (web.status()["state"] == "reloading").then_some(()));
    let master = kill_master(&web);
    assert!(!asked.wait_with_output().expect("systemctl").status.success());
    next_master(&web, master);
    assert_eq!((pids(&web.settled()), &web.status()["generation"]), (calm, &1.into()));
    assert_eq!(web.status()["last_reload"]["result"], "aborted");
    web.good_release("v2");
    web.point_to("v2");
    web.reload_ok();
    assert!(web.get().expect("an answer").contains("version v2"));
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
    nothing_is_left(&web);
}

/// A pause, with connections that wait, over the death of the master, an upgrade and a restart; a stop ends it, and the next start reads the disk.
fn pause_outlives_its_master(c: &Container) {
    let web = survivor(c, "paused", 2, "");
    web.settled();
    let load = Load::start(web.load(&["--new", "3", "--keep-alive", "2"]));
    load.wait_for(100);
    let waits = |status: &Value| status["sockets"][0]["queue"].as_u64() >= Some(1);
    let text = |text: &str| text.contains(": paused, ") && text.contains(" (room for ");
    for round in 0..4 {
        c.ok(&["ratoon", "pause", "paused"]);
        wait_for("the clients wait", || waits(&web.status()).then_some(()));
        wait_for("systemd is told", || text(&web.property("StatusText")).then_some(()));
        if round % 2 == 0 {
            let master = kill_master(&web);
            next_master(&web, master);
        } else {
            c.ok(&["ratoon", "upgrade", "paused"]);
        }
        let status = web.status();
        assert_eq!((&status["paused"], status["workers"].as_array().map(Vec::len)), (&true.into(), Some(0)), "{status:#}");
        wait_for("the next master tells of it", || text(&web.property("StatusText")).then_some(()));
        assert_eq!(c.run(&["ratoon", "status", "--check", "paused"]).status.code(), Some(1));
        assert!(!web.reload().status.success(), "a reload in a pause");
        c.ok(&["ratoon", "resume", "paused"]);
        let status = web.settled();
        assert_eq!((&status["generation"], &status["worker_crashes"]), (&1.into(), &0.into()), "{status:#}");
        load.wait_for(load.requests() + 100);
    }
    c.ok(&["busctl", "call", "org.ratoon1.paused", "/org/ratoon1", "org.ratoon1.Manager", "Pause"]);
    wait_for("the clients wait", || waits(&web.status()).then_some(()));
    web.good_release("v2");
    web.point_to("v2");
    c.ok(&["systemctl", "restart", &web.service()]);
    wait_for("the next master", || (web.status()["paused"] == true).then_some(()));
    c.ok(&["systemctl", "stop", &web.service()]);
    c.ok(&["systemctl", "start", &web.service()]);
    web.settled();
    load.wait_for(load.requests() + 100);
    let report = load.stop();
    assert_eq!(report["failed"], 0, "{report:#}");
    assert!(web.get().expect("an answer").contains("version v2"));
    let journal = c.journal(&web.service());
    assert!(journal.contains("paused: 2 workers to drain, connections wait"), "{journal}");
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
    nothing_is_left(&web);
}

/// No workers over the death of the master and over an upgrade; a connection that comes while the master dies is answered, too.
fn idleness_outlives_its_master(c: &Container) {
    let web = survivor(c, "sleeps", 2, "");
    web.configure("min = 0\n[scale]\nidle = \"500ms\"\n[reload]\nwatch = \"off\"\n");
    web.reload_ok();
    let asleep = || {
        wait_for("no worker is left", || {
            let status = web.status();
            (status["state"] == "idle" && status["workers"].as_array().is_some_and(Vec::is_empty)).then_some(())
        });
        let text = "generation 2: idle, 0 workers, starts at the first connection";
        wait_for("systemd is told", || (web.property("StatusText") == text).then_some(()));
        assert_eq!(web.property("ActiveState"), "active");
    };
    for round in 0..4 {
        asleep();
        if round % 2 == 0 {
            let master = kill_master(&web);
            next_master(&web, master);
        } else {
            c.ok(&["ratoon", "upgrade", "sleeps"]);
        }
        asleep();
        c.ok(&["ratoon", "status", "--check", "sleeps"]);
        let shown = c.ok(&["busctl", "get-property", "org.ratoon1.sleeps", "/org/ratoon1", "org.ratoon1.Manager", "State"]);
        assert!(shown.contains("\"idle\""), "{shown}");
        assert!(web.get().expect("an answer").contains("generation 2"));
    }
    for _ in 0..3 {
        asleep();
        let master = std::thread::scope(|scope| {
            let request = scope.spawn(|| web.get());
            let master = kill_master(&web);
            assert!(request.join().expect("no panic").expect("an answer").contains("generation 2"));
            master
        });
        next_master(&web, master);
    }
    asleep();
    let journal = c.journal(&web.service());
    assert!(journal.contains("the instance was idle when the master before this one ended, and stays so"), "{journal}");
    assert!(journal.contains(" serves again: a worker was ready "), "{journal}");
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
    nothing_is_left(&web);
}

/// Room for the two files of the state, and for little else: not for the processes.
fn a_store_that_is_too_small_costs_no_worker(c: &Container) {
    let web = survivor(c, "small", 3, "");
    c.write(&format!("/etc/systemd/system/{}.d/too-small.conf", web.service()), "[Service]\nFileDescriptorStoreMax=4\n");
    c.ok(&["systemctl", "daemon-reload"]);
    c.ok(&["systemctl", "stop", &web.service()]);
    c.ok(&["systemctl", "start", &web.service()]);
    let before = pids(&web.settled());
    let master = kill_master(&web);
    next_master(&web, master);
    let after = web.settled();
    assert_eq!((pids(&after), &after["worker_crashes"]), (before.clone(), &0.into()), "{}", c.journal(&web.service()));
    // It is heard, watched and ended as ever.
    c.kill("KILL", before[0]);
    wait_for("it is replaced", || (!pids(&web.settled()).contains(&before[0])).then_some(()));
    web.good_release("v2");
    web.point_to("v2");
    web.reload_ok();
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
    nothing_is_left(&web);
}

/// READY=1 is said, and the master dies when it has looked at it, when it has written it down, and when it has taken it.
fn what_is_said_while_the_master_dies_is_heard(c: &Container) {
    let web = survivor(c, "hears", 2, "");
    let gate = "/srv/hears/gate";
    let wait = format!("#!/bin/sh\nwhile [ ! -e {gate} ]; do sleep 0.02; done\nexec /opt/ratoon/hello\n");
    web.release("gated", Some(&format!("cat >worker <<'END'\n{wait}END\nchmod 755 worker; echo gated >version")));
    web.point_to("gated");
    c.ok(&["sed", "-i", "s/start_timeout = .*/start_timeout = \"30s\"/", "/etc/ratoon/hears.toml"]);
    c.ok(&["touch", gate]);
    web.reload_ok();
    for (crashes, (calls, number)) in [("recvmsg", 1), ("pwrite64", 1), ("pwrite64", 2), ("recvmsg", 2)].into_iter().enumerate() {
        c.ok(&["rm", gate]);
        let before = pids(&web.settled());
        c.kill("KILL", before[0]);
        wait_for("another waits at the gate", || {
            let status = web.status();
            (status["worker_crashes"] == crashes + 1 && pids(&status).len() == 2 && pids(&status)[0] != before[0]).then_some(())
        });
        let starting = pids(&web.status());
        let master = web.main_pid();
        // A signal that nobody catches lets the call happen, and then ends the master.
        let inject = format!("inject={calls}:signal=ALRM:when={number}");
        let mut strace = Command::new("strace");
        strace.args(["-e", &format!("trace={calls}"), "-e", &inject, "-p", &loop_of(c.outside(master)).to_string()]);
        let mut strace = strace.stderr(Stdio::piped()).spawn().expect("strace");
        let mut said = BufReader::new(strace.stderr.take().expect("piped")).lines();
        let attached = said.by_ref().map_while(Result::ok).find(|line| line.contains("attached"));
        assert!(attached.is_some(), "strace ended");
        let rest = std::thread::spawn(move || said.map_while(Result::ok).collect::<Vec<_>>());
        c.ok(&["touch", gate]);
        next_master(&web, master);
        strace.wait().expect("strace");
        let seen = rest.join().expect("no panic in there").join("\n");
        assert!(seen.contains("SIGALRM"), "{seen}");
        let after = web.settled();
        assert_eq!((pids(&after), &after["worker_crashes"]), (starting, &(crashes + 1).into()), "{calls} {number}\n{seen}");
    }
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
    nothing_is_left(&web);
}

/// The thread of a master that does the work.
fn loop_of(master: u32) -> u32 {
    let threads = fs::read_dir(format!("/proc/{master}/task")).expect("it runs").flatten();
    let mut all = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    let is_it =
        |thread: &u32| fs::read_to_string(format!("/proc/{master}/task/{thread}/comm")).is_ok_and(|name| name == "ratoon-loop\n");
    all.find(is_it).expect("the loop's thread")
}

fn a_restart_keeps_the_workers_and_a_stop_ends_them(c: &Container) {
    let web = survivor(c, "restarts", 2, "TimeoutStopSec=2s");
    let before = pids(&web.settled());
    let load = Load::start(web.load(&["--new", "4", "--keep-alive", "4"]));
    load.wait_for(200);
    for _ in 0..3 {
        c.ok(&["systemctl", "restart", &web.service()]);
        assert_eq!(pids(&web.settled()), before);
        c.ok(&["ratoon", "upgrade", web.name]);
        assert_eq!(pids(&web.settled()), before);
        load.wait_for(load.requests() + 200);
    }
    let report = load.stop();
    assert_eq!(report["failed"], 0, "{report:#}");
    let journal = c.journal(&web.service());
    let told = journal.matches("2 workers of the master before this one found again").count();
    assert!(told == 3 && !journal.contains("master before this one died"), "{journal}");
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
    nothing_is_left(&web);
    // A master that hangs when it is told to stop, and one that was found dead.
    c.ok(&["systemctl", "start", &web.socket(), &web.service()]);
    web.settled();
    c.kill("STOP", web.main_pid());
    let _ = c.run(&["systemctl", "stop", &web.socket(), &web.service()]);
    wait_for("all is gone", || is_gone(&web).then_some(()));
    for pause in [0, 5, 20, 60, 120] {
        let _ = c.run(&["systemctl", "reset-failed", &web.socket(), &web.service()]);
        c.ok(&["systemctl", "start", &web.socket(), &web.service()]);
        web.settled();
        kill_master(&web);
        std::thread::sleep(Duration::from_millis(pause));
        let _ = c.run(&["systemctl", "stop", &web.socket(), &web.service()]);
        wait_for("all is gone", || is_gone(&web).then_some(()));
    }
}

pub fn is_gone(web: &Instance<'_>) -> bool {
    // Named by systemd as long as there is one.
    let group = format!("/sys/fs/cgroup{}", web.property("ControlGroup"));
    let group = if group.ends_with(".service") {
        group
    } else {
        format!("/sys/fs/cgroup/system.slice/system-ratoon.slice/{}", web.service())
    };
    !web.c.run(&["grep", "-q", "populated 1", &format!("{group}/cgroup.events")]).status.success()
}

/// 30 deaths: of masters that are idle, that start, that reload, whose workers drain; between them upgrades in place.
fn thirty_kills_under_load(c: &Container) {
    // One version at a time: the load takes all CPUs that there are.
    static LOAD: Mutex<()> = Mutex::new(());
    let _alone = LOAD.lock().unwrap_or_else(PoisonError::into_inner);
    let web = survivor(c, "mortal", 4, "");
    let load = Load::start(web.load(&["--new", "8", "--keep-alive", "8"]));
    load.wait_for(100);
    let mut gaps = Vec::new();
    let mut seed = 0x2545_F491_4F6C_DD1D_u64;
    for round in 0..30 {
        // Xorshift: the moments differ, and are the same in each run.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let moment = Duration::from_millis(seed % 60);
        let before = pids(&web.settled());
        let gap = Gap::watch(c.path("/run/ratoon/mortal/control"));
        let mut master = web.main_pid();
        match round % 5 {
            // While it reloads, or while the old workers drain.
            1 | 2 => c.ok(&["systemctl", "reload", "--no-block", &web.service()]),
            // While the one before it is still starting.
            3 => {
                master = kill_master(&web);
                wait_for("another", || (!matches!(web.main_pid(), 0) && web.main_pid() != master).then_some(()));
                String::new()
            }
            4 => c.ok(&["ratoon", "upgrade", web.name]),
            _ => String::new(),
        };
        std::thread::sleep(moment);
        if web.main_pid() != 0 {
            master = kill_master(&web);
        }
        next_master(&web, master);
        let after = pids(&web.settled());
        gaps.push(gap.end());
        assert!(matches!(round % 5, 1 | 2) || before == after, "round {round}: {before:?} {after:?}");
        load.wait_for(load.requests() + 500);
    }
    load.wait_for(200_000);
    let report = load.stop();
    gaps.sort();
    println!(
        "{} requests in {} s, {} failed; no master answered for {:?} at least, {:?} in the middle, {:?} at most",
        report["answered"], report["seconds"], report["failed"], gaps[0], gaps[15], gaps[29]
    );
    assert_eq!(report["failed"], 0, "{report:#}");
    assert_eq!(web.settled()["worker_crashes"], 0);
    // Nothing is kept of masters and workers that are gone.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (stored, status) = (web.property("NFileDescriptorStore").parse::<u32>().expect("a number"), web.status());
        if stored <= wanted(&status) {
            break;
        }
        // systemd 254 and later.
        let names = || text(&c.run(&["systemd-analyze", "fdstore", &web.service()]).stdout);
        assert!(Instant::now() < deadline, "{stored} are stored, {} are wanted\n{}\n{status:#}", wanted(&status), names());
        std::thread::sleep(Duration::from_millis(100));
    }
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
    nothing_is_left(&web);
}

/// The state (two files), what was said, the listening socket, the program and directory of each release that is kept; of each worker its
/// process, and a bundle for those of 32 slots. For a pool whose reloads were all committed.
pub fn wanted(status: &Value) -> u32 {
    let workers = pids(status).len() as u32;
    let kept = status["generation"].as_u64().unwrap_or(0).min(3) as u32;
    2 + 1 + 1 + 2 * kept + workers + workers.div_ceil(32)
}
