//! `ratoon -H`: the verbs on another machine, which is the same one here, by a real sshd.

use crate::Case;
use crate::container::{Container, text, wait_for};
use crate::instance::Instance;

pub const CASES: &[Case] = &[
    ("remote_verbs_say_what_they_say_there", say_what_they_say_there),
    ("remote_reload_is_withdrawn_when_its_asker_is_killed", reload_is_withdrawn),
    ("remote_hosts_are_shown_in_one_table", hosts_are_shown_in_one_table),
];

/// Hosts whose keys root knows, and one that it does not know.
const KNOWN: [&str; 2] = ["root@127.0.0.1", "root@127.0.0.2"];
const UNKNOWN: &str = "root@127.0.0.3";

/// An sshd that lets root in by a key.
fn with_sshd(c: &Container) {
    c.ok(&["systemctl", "start", "ssh.service"]);
    let script = "mkdir -pm 700 /root/.ssh && cd /root/.ssh && { [ -f id_ed25519 ] || ssh-keygen -q -t ed25519 -N '' -f id_ed25519; } \
                  && cp id_ed25519.pub authorized_keys && for host in 127.0.0.1 127.0.0.2; do \
                  echo \"$host $(cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub)\"; done >known_hosts";
    c.ok(&["sh", "-c", script]);
}

fn say_what_they_say_there(c: &Container) {
    with_sshd(c);
    let web = Instance::new(c, "far", 2);
    web.start();
    web.settled();
    let far = |words: &[&str]| c.run(&[&["ratoon", "-H", KNOWN[0]], words].concat());
    let check = far(&["status", "--check", "far"]);
    assert_eq!((check.status.code(), text(&check.stdout).as_str()), (Some(0), "far healthy: generation 1: 2/2 ready"));
    web.good_release("v2");
    web.point_to("v2");
    let reload = far(&["reload", "far"]);
    assert_eq!(reload.status.code(), Some(0), "{}", text(&reload.stderr));
    assert_eq!(web.settled()["generation"], 2);
    // A reason, and the exit status that goes with it.
    web.point_to("fails");
    let refused = far(&["reload", "far"]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("generation 3"), "{}", text(&refused.stderr));
    let nobody = far(&["status", "no such"]);
    assert_eq!(nobody.status.code(), Some(2));
    assert!(text(&nobody.stderr).contains("\"no such\""), "{}", text(&nobody.stderr));
    // The colours of a terminal, as there.
    let line = format!("env TERM=xterm ratoon -H {} status far", KNOWN[0]);
    let shown = c.run(&["script", "-qec", &line, "/dev/null"]);
    let shown = text(&shown.stdout);
    assert!(shown.contains("\u{1b}[32m") && !shown.contains("Connection to"), "{shown}");
    // ssh's own failures are no answers of Ratoon.
    let unknown = c.run(&["ratoon", "-H", UNKNOWN, "status", "far"]);
    let said = text(&unknown.stderr);
    assert_eq!(unknown.status.code(), Some(2), "{said}");
    assert!(said.contains("Host key verification failed") && said.contains("ssh did not reach root@127.0.0.3"), "{said}");
}

/// The process of `ratoon -H` is killed, as at a pipeline's end: the reload on the other machine is rolled back.
fn reload_is_withdrawn(c: &Container) {
    with_sshd(c);
    let web = Instance::new(c, "hung", 1);
    let worker = "command = [\"./worker\"]\ndirectory = \"/srv/hung/current\"\ncount = 1\nstart_timeout = \"10min\"\n";
    c.write("/etc/ratoon/hung.toml", &format!("[worker]\n{worker}"));
    web.release("hangs", Some("printf '#!/bin/sh\\nexec sleep 1000\\n' >worker; chmod +x worker"));
    web.start();
    web.settled();
    web.point_to("hangs");
    let script = format!("ratoon -H {} reload hung >/dev/null 2>&1 & echo $!", KNOWN[0]);
    let asker = c.ok(&["sh", "-c", &script]);
    wait_for("the reload", || (web.status()["state"] == "reloading").then_some(()));
    c.kill("KILL", asker.parse().expect("a number"));
    let result = wait_for("its end", || web.status()["last_reload"]["result"].as_str().map(str::to_owned));
    assert_eq!(result, "aborted");
    assert_eq!(web.settled()["generation"], 1);
}

fn hosts_are_shown_in_one_table(c: &Container) {
    with_sshd(c);
    let web = Instance::new(c, "both", 1);
    web.start();
    web.settled();
    let all = |words: &[&str]| c.run(&[&["ratoon", "-H", KNOWN[0], "-H", KNOWN[1]], words].concat());
    let status = all(&["status", "both"]);
    let shown = text(&status.stdout);
    assert_eq!(status.status.code(), Some(0), "{shown}");
    let rows: Vec<_> = shown.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    for (row, host) in rows.iter().zip(KNOWN) {
        assert_eq!(row[..5], [host, "both", "running", "1", "1/1"], "{shown}");
    }
    assert_eq!(rows.len(), 2, "{shown}");
    let list = text(&all(&["list"]).stdout);
    assert!(KNOWN.iter().all(|host| list.lines().any(|line| line.starts_with(host) && line.contains(" both "))), "{list}");
    // The worst exit status counts, and the reason stands in the row.
    let some = c.run(&["ratoon", "-H", KNOWN[0], "-H", UNKNOWN, "status", "both", "--json"]);
    assert_eq!(some.status.code(), Some(2));
    let json: serde_json::Value = serde_json::from_slice(&some.stdout).expect("JSON");
    assert_eq!((&json[0]["status"]["workers_ready"], &json[1]["status"]), (&1.into(), &serde_json::Value::Null));
    assert_eq!(json[1]["error"], "ssh: Host key verification failed.");
    let reload = all(&["reload", "both"]);
    assert_eq!(reload.status.code(), Some(2));
    assert!(text(&reload.stderr).contains("name one host"), "{}", text(&reload.stderr));
    // `top` draws until q.
    let on_terminal = format!("stty rows 24 cols 100; TERM=xterm ratoon -H {} -H {} top both", KNOWN[0], KNOWN[1]);
    let line = format!("printf q | script -qec '{on_terminal}' /dev/null");
    let top = c.run(&["sh", "-c", &line]);
    assert!(top.status.success() && text(&top.stdout).contains(KNOWN[1]), "{}", text(&top.stdout));
}
