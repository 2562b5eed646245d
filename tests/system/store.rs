//! Faults of `survive.conf`: sockets, descriptors and workers that a dead master leaves in systemd's hands.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Case;
use crate::container::{Container, text, wait_for};
use crate::instance::{Instance, pids};
use crate::survive::{is_gone, kill_master, next_master, survivor, wanted};
use crate::upgrade::nothing_is_left;

pub const CASES: &[Case] = &[
    ("leftovers_end_workers_at_a_stop_in_auto_restart", leftovers_end_workers_at_a_stop_in_auto_restart),
    ("leftovers_look_again_after_a_stop_during_a_look", leftovers_look_again_after_a_stop_during_a_look),
    ("leftovers_let_a_stopped_unit_rest", leftovers_let_a_stopped_unit_rest),
    ("master_of_many_workers_comes_back", master_of_many_workers_comes_back),
    ("store_holds_what_is_needed_after_upgrades_in_reloads", store_holds_what_is_needed_after_upgrades_in_reloads),
    ("output_of_workers_outlives_a_master_that_is_not_root", output_of_workers_outlives_a_master_that_is_not_root),
    ("socket_that_only_workers_hold_degrades", socket_that_only_workers_hold_degrades),
    ("sockets_lost_with_the_state_start_no_generation", sockets_lost_with_the_state_start_no_generation),
    ("tcp_socket_outlives_a_restart_of_its_unit", tcp_socket_outlives_a_restart_of_its_unit),
    ("unix_socket_outlives_a_restart_of_its_unit", unix_socket_outlives_a_restart_of_its_unit),
];

/// The master is killed again and again for 1, 8 and 60 seconds; each time systemd starts `ratoon-leftovers@`.
fn leftovers_end_workers_at_a_stop_in_auto_restart(c: &Container) {
    let web = survivor(c, "loops", 2, "RestartSec=400ms");
    for seconds in [1, 8, 60] {
        c.ok(&["systemctl", "start", &web.socket(), &web.service()]);
        web.settled();
        let began = Instant::now();
        loop {
            let master = web.main_pid();
            if master != 0 {
                let _ = c.run(&["sh", "-c", &format!("kill -KILL {master}")]);
            }
            let is_over = began.elapsed() >= Duration::from_secs(seconds);
            if is_over && web.property("SubState") == "auto-restart" {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(120), "no start was awaited");
        }
        let _ = c.run(&["systemctl", "stop", &web.socket(), &web.service()]);
        wait_for("all workers are gone", || is_gone(&web).then_some(()));
        wait_for("the runtime directory is gone", || (!c.path("/run/ratoon/loops").exists()).then_some(()));
        let _ = c.run(&["systemctl", "reset-failed", &web.socket(), &web.service()]);
    }
    nothing_is_left(&web);
}

/// The stop comes while the unit `ratoon-leftovers@` of the master's death is starting, and while it is stopping after its look.
fn leftovers_look_again_after_a_stop_during_a_look(c: &Container) {
    let looks = "ratoon-leftovers@twice.service";
    let web = survivor(c, "twice", 2, "RestartSec=60s");
    for slow in ["ExecStartPost", "ExecStopPost"] {
        c.write(&format!("/etc/systemd/system/{looks}.d/slow.conf"), &format!("[Service]\n{slow}=/bin/sleep 5\n"));
        c.ok(&["systemctl", "daemon-reload"]);
        c.ok(&["systemctl", "start", &web.socket(), &web.service()]);
        web.settled();
        kill_master(&web);
        // systemd 252 does not start it at a death after which it restarts the service.
        c.ok(&["systemctl", "start", "--no-block", looks]);
        let control_process = || text(&c.run(&["cat", &format!("/proc/{}/comm", c.property(looks, "ControlPID"))]).stdout);
        wait_for("the added command runs", || (control_process() == "sleep").then_some(()));
        assert!(!is_gone(&web), "{slow}: the workers await the next master");
        c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
        wait_for(&format!("{slow}: all workers are gone"), || is_gone(&web).then_some(()));
        wait_for("the runtime directory is gone", || (!c.path("/run/ratoon/twice").exists()).then_some(()));
        let _ = c.run(&["systemctl", "reset-failed", &web.socket(), &web.service()]);
    }
    nothing_is_left(&web);
}

/// `ratoon-leftovers@` looks at the unit a second after each stop. systemd refuses to start a socket whose service is in any state but
/// inactive, failed or auto-restart, so the look must not change the state of a unit that is down.
fn leftovers_let_a_stopped_unit_rest(c: &Container) {
    let web = survivor(c, "rests", 1, "");
    let looks = || c.journal("ratoon-leftovers@rests.service").matches("Deactivated successfully").count();
    for ends_well in [true, false] {
        c.ok(&["systemctl", "start", &web.socket(), &web.service()]);
        web.settled();
        let before = looks();
        if !ends_well {
            kill_master(&web);
        }
        c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
        wait_for("the look after the stop", || (looks() > before).then_some(()));
        let journal = c.journal(&web.service());
        let rest = journal.rsplit("Stopped ratoon@rests.service").next().unwrap_or_default();
        assert!(!rest.contains("Deactivated"), "ends well: {ends_well}\n{journal}");
        assert!(is_gone(&web) && !c.path("/run/ratoon/rests").exists(), "ends well: {ends_well}\n{journal}");
        let _ = c.run(&["systemctl", "reset-failed", &web.service()]);
    }
    nothing_is_left(&web);
}

/// More descriptors than the usual soft limit of 1024 open files; in the store one of each worker.
fn master_of_many_workers_comes_back(c: &Container) {
    let web = Instance::new(c, "crowd", 400);
    c.write(
        "/etc/ratoon/crowd.toml",
        "[worker]\ncommand = [\"/bin/sleep\", \"1000\"]\ncount = 400\nstart_timeout = \"2min\"\nready = \"running\"\nsettle = \"0s\"\nstop_timeout = \"1s\"\n",
    );
    let directory = format!("/etc/systemd/system/{}.d", web.service());
    c.ok(&["install", "-D", "-m", "644", "/usr/share/doc/ratoon/examples/survive.conf", &format!("{directory}/survive.conf")]);
    web.drop_in("");
    web.start();
    let before = pids(&web.settled());
    let in_store = || web.property("NFileDescriptorStore").parse::<u32>().expect("a number");
    wait_for("the store has all", || (in_store() == wanted(&web.status())).then_some(()));
    let open = c.ok(&["sh", "-c", &format!("ls /proc/{}/fd | wc -l", web.main_pid())]);
    assert!(open.trim().parse::<u32>().is_ok_and(|open| open > 1024), "{open}");
    for _ in 0..3 {
        let master = kill_master(&web);
        next_master(&web, master);
        let after = web.settled();
        assert_eq!((pids(&after), &after["worker_crashes"]), (before.clone(), &0.into()));
    }
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
    nothing_is_left(&web);
}

/// Upgrades while the descriptors of a reload are still on their way to systemd.
fn store_holds_what_is_needed_after_upgrades_in_reloads(c: &Container) {
    let web = survivor(c, "keeps", 40, "");
    for _ in 0..5 {
        c.ok(&["systemctl", "reload", "--no-block", &web.service()]);
        c.ok(&["ratoon", "upgrade", web.name]);
    }
    wait_for("the reloads are over", || (web.property("ActiveState") == "active").then_some(()));
    let status = web.settled();
    let in_store = || web.property("NFileDescriptorStore").parse::<u32>().expect("a number");
    let (deadline, expected) = (Instant::now() + Duration::from_secs(20), wanted(&status));
    while in_store() != expected {
        assert!(Instant::now() < deadline, "{} descriptors in the store, not {expected}", in_store());
        std::thread::sleep(Duration::from_millis(20));
    }
    // And they are the right ones. (On a busy machine some of forty workers may have been too slow to start in time.)
    let before = web.settled();
    let master = kill_master(&web);
    next_master(&web, master);
    let after = web.settled();
    assert_eq!((pids(&after), &after["worker_crashes"]), (pids(&before), &before["worker_crashes"]));
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
    nothing_is_left(&web);
}

/// systemd starts no socket of a service that is active, nor one whose address the workers hold: from the restart on, no unit has it.
fn tcp_socket_outlives_a_restart_of_its_unit(c: &Container) {
    let web = survivor(c, "holds", 2, "");
    let before = web.settled();
    let _ = c.run(&["systemctl", "restart", &web.socket()]);
    let master = kill_master(&web);
    next_master(&web, master);
    let after = web.settled();
    assert_eq!((pids(&after), &after["sockets"]), (pids(&before), &before["sockets"]), "{}", c.journal(&web.service()));
    assert!(web.get().expect("an answer").contains("generation 1"));
    let why = format!("ratoon@holds.socket does not hold {}, only this pool does: {}", web.address, to_type(&web));
    degraded_is_told(&web, &why);
    // A reload and another death change nothing of it.
    web.good_release("v2");
    web.point_to("v2");
    web.reload_ok();
    let master = kill_master(&web);
    next_master(&web, master);
    assert!(web.get().expect("an answer").contains("version v2"));
    assert_eq!(web.settled()["degraded"], true);
    // The command in the message mends it.
    c.ok(&["systemctl", "stop", &web.service()]);
    c.ok(&["systemctl", "restart", &web.socket(), &web.service()]);
    assert_eq!(web.settled()["degraded"], false);
    assert!(web.get().expect("an answer").contains("version v2"));
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
    nothing_is_left(&web);
}

/// A master that is not root relays the lines of its workers. They go on to print while it is dead, and their last lines are known
/// whether they end then or under the next master.
fn output_of_workers_outlives_a_master_that_is_not_root(c: &Container) {
    c.ok(&["useradd", "--system", "printer"]);
    let web = Instance::new(c, "printed", 2);
    let script = "#!/bin/sh\ntrap 'echo dying on purpose; exit 7' USR1\nwhile :; do echo tick; sleep 0.05; done\n";
    web.release("ticks", Some(&format!("cat >worker <<'END'\n{script}END\nchmod 755 worker")));
    web.point_to("ticks");
    web.configure("ready = \"running\"\nsettle = \"0s\"\n");
    let directory = format!("/etc/systemd/system/{}.d", web.service());
    c.ok(&["install", "-D", "-m", "644", "/usr/share/doc/ratoon/examples/survive.conf", &format!("{directory}/survive.conf")]);
    web.drop_in("[Service]\nUser=printer\nCapabilityBoundingSet=\n");
    web.start();
    let before = web.settled();
    let has_line = |fields: &[&str], line: &str| {
        wait_for("the line in the journal", || {
            let said = c.run(&[&["journalctl", "--no-pager", "--output=cat"], fields].concat());
            String::from_utf8_lossy(&said.stdout).lines().any(|it| it == line).then_some(())
        });
    };
    has_line(&["SYSLOG_IDENTIFIER=printed/0", "RATOON_SLOT=0", &format!("RATOON_WORKER={}", before["workers"][0]["id"])], "tick");
    let failure = |crashes: u64| {
        wait_for("the failure", || {
            let status = web.status();
            let last = status["failures"].as_array().and_then(|all| all.last().cloned());
            // The lines come a moment after the failure.
            last.filter(|last| status["worker_crashes"] == crashes && last["log_tail"] != serde_json::json!([]))
        })
    };
    let said_last = |failure: &serde_json::Value| {
        let lines = failure["log_tail"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert_eq!(lines.last(), Some(&"dying on purpose".into()), "{failure:#}\n{}", c.journal(&web.service()));
        has_line(
            &[&format!("RATOON_WORKER={}", failure["worker"]), &format!("RATOON_SLOT={}", failure["slot"])],
            "dying on purpose",
        );
    };
    // Killed, and restarted: no worker ends by a line that nobody reads.
    let master = kill_master(&web);
    next_master(&web, master);
    c.ok(&["systemctl", "restart", &web.service()]);
    let after = web.settled();
    assert_eq!((pids(&after), &after["worker_crashes"]), (pids(&before), &0.into()), "{after:#}");
    c.kill("USR1", pids(&after)[0]);
    said_last(&failure(1));
    // A worker that ends while there is no master.
    let second = pids(&web.settled())[1];
    let master = kill_master(&web);
    c.kill("USR1", second);
    next_master(&web, master);
    said_last(&failure(2));
    web.settled();
    // Beside the usual ones: the script that the release is. The pipes of the workers are in the bundle.
    let all = wanted(&web.status()) + 1;
    wait_for("the store has all", || (web.property("NFileDescriptorStore") == all.to_string()).then_some(()));
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
    nothing_is_left(&web);
}

/// Drops descriptors from the store, as the master would say it: root may speak for any process.
fn drop_from_store(web: &Instance<'_>, names: &[&str]) {
    let in_store = || web.property("NFileDescriptorStore").parse::<u32>().expect("a number");
    let all = wanted(&web.settled());
    wait_for("the store has all", || (in_store() == all).then_some(()));
    for name in names {
        let told = ["FDSTOREREMOVE=1".to_owned(), format!("FDNAME=ratoon-{name}")];
        let (master, told) = (format!("--pid={}", web.main_pid()), told.each_ref().map(String::as_str));
        web.c.ok(&[&["env", "NOTIFY_SOCKET=/run/systemd/notify", "systemd-notify", &master], &told[..]].concat());
    }
    wait_for("the store has less", || (in_store() + names.len() as u32 == all).then_some(()));
}

/// The address of the socket unit was changed, and neither the unit nor the store has the state and the socket that the workers serve.
fn sockets_lost_with_the_state_start_no_generation(c: &Container) {
    let web = survivor(c, "bereft", 2, "");
    let before = pids(&web.settled());
    drop_from_store(&web, &["state-0", "state-1", "listener-0"]);
    let moved = format!("/etc/systemd/system/{}.d/moved.conf", web.socket());
    c.write(&moved, "[Socket]\nListenStream=\nListenStream=127.0.0.1:7998\n");
    c.ok(&["systemctl", "daemon-reload"]);
    let master = kill_master(&web);
    let why = "no listening socket is here, and only the workers of the earlier program hold one; they serve on";
    let why = format!("{why}. To start anew: {}", to_type(&web));
    wait_for("the reason in STATUS", || web.property("StatusText").contains(&why).then_some(()));
    assert_ne!(web.main_pid(), master);
    assert!(c.journal(&web.service()).contains(&why), "{}", c.journal(&web.service()));
    // The workers serve on, and no others were started.
    assert!(web.get().expect("the workers serve on").contains("generation 1"));
    before.iter().for_each(|pid| assert!(c.path(&format!("/proc/{pid}")).exists(), "worker {pid} has ended"));
    // The command in the message mends it, at the new address.
    c.ok(&["systemctl", "stop", &web.service()]);
    assert_eq!(web.property("Result"), "success", "{}", c.journal(&web.service()));
    c.ok(&["systemctl", "restart", &web.socket(), &web.service()]);
    let status = web.settled();
    assert_eq!((&status["degraded"], &status["sockets"][0]["address"]), (&false.into(), &"127.0.0.1:7998".into()), "{status:#}");
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
    c.ok(&["rm", &moved]);
    nothing_is_left(&web);
}

/// Neither a unit nor the store has the socket that the workers serve: it is dropped from the store, and the socket unit was restarted.
fn socket_that_only_workers_hold_degrades(c: &Container) {
    let web = survivor(c, "alone", 2, "");
    drop_from_store(&web, &["listener-0"]);
    let before = web.settled();
    let _ = c.run(&["systemctl", "restart", &web.socket()]);
    let master = kill_master(&web);
    next_master(&web, master);
    let after = web.settled();
    assert_eq!((pids(&after), &after["sockets"]), (pids(&before), &serde_json::json!([])), "{}", c.journal(&web.service()));
    assert!(web.get().expect("the workers serve on").contains("generation 1"));
    degraded_is_told(&web, &format!("only the present workers hold {}: {}", web.address, to_type(&web)));
    // No generation is committed that would have fewer sockets.
    let refused = web.reload();
    assert!(!refused.status.success());
    let last = web.status()["last_reload"].clone();
    assert_eq!(last["result"], "refused", "{last:#}");
    assert!(last["reason"].as_str().is_some_and(|why| why.contains(&web.address) && why.contains(&to_type(&web))), "{last:#}");
    assert!(web.get().expect("the workers serve on").contains("generation 1"));
    // The command in the message mends it.
    c.ok(&["systemctl", "stop", &web.service()]);
    c.ok(&["systemctl", "restart", &web.socket(), &web.service()]);
    assert_eq!(web.settled()["degraded"], false);
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
    nothing_is_left(&web);
}

/// What an administrator is told to type.
fn to_type(web: &Instance<'_>) -> String {
    let name = web.name;
    format!("`systemctl stop ratoon@{name}`, then `systemctl restart ratoon@{name}.socket ratoon@{name}`")
}

/// All are ready, and the reason of the degradation stands in STATUS, in the status document, in `ratoon status` and on the bus.
fn degraded_is_told(web: &Instance<'_>, why: &str) {
    let whole = format!("2/2 ready, degraded: {why}");
    wait_for("the reason in STATUS", || web.property("StatusText").ends_with(&whole).then_some(()));
    let status = web.status();
    assert_eq!(status["degraded"], true);
    assert!(status["status_text"].as_str().is_some_and(|text| text.ends_with(&whole)), "{status:#}");
    let shown = web.c.ok(&["ratoon", "status", web.name]);
    assert!(shown.contains("degraded") && shown.contains(why), "{shown}");
    let name = format!("org.ratoon1.{}", web.name);
    let property = |of: &str| {
        let said = web.c.run(&["busctl", "get-property", &name, "/org/ratoon1", "org.ratoon1.Manager", of]);
        String::from_utf8_lossy(&said.stdout).trim_end().to_owned()
    };
    wait_for("the reason on the bus", || property("StatusText").contains(why).then_some(()));
    assert_eq!(property("Degraded"), "b true");
}

/// A path can be bound anew beside the workers' socket, which nobody reaches then.
fn unix_socket_outlives_a_restart_of_its_unit(c: &Container) {
    let web = survivor(c, "paths", 2, "");
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
    let path = "/run/paths.sock";
    let listen = format!("/etc/systemd/system/{}.d/zz-path.conf", web.socket());
    c.write(&listen, &format!("[Socket]\nListenStream=\nListenStream={path}\n"));
    c.ok(&["systemctl", "daemon-reload"]);
    c.ok(&["systemctl", "start", &web.socket(), &web.service()]);
    web.settled();
    let _ = c.run(&["systemctl", "restart", &web.socket()]);
    let master = kill_master(&web);
    next_master(&web, master);
    wait_for("the path answers", || answers(&c.path(path)).then_some(()));
    web.settled();
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
    nothing_is_left(&web);
}

/// A worker answers behind this path.
fn answers(path: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(path) else { return false };
    let mut answer = String::new();
    let asked = stream
        .set_read_timeout(Some(Duration::from_secs(2)))
        .and_then(|()| stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"));
    asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200")
}
