//! A user without rights reads nothing of a secret that a worker or `reload.check` has printed, on the bus, by `systemctl` and by
//! `ratoon status`. The control socket's other paths are in `tests/faults/readers.rs`.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use crate::Case;
use crate::container::{Container, text, wait_for};
use crate::instance::Instance;
use crate::upgrade::nothing_is_left;

pub const CASES: &[Case] = &[("printed_secrets_are_not_for_everyone", printed_secrets_are_not_for_everyone)];

const SECRET: &str = "s3cret";
const STRANGER: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

fn as_stranger(c: &Container, command: &[&str]) -> String {
    let said = c.run(&[&STRANGER[..], command].concat());
    text(&said.stdout) + &text(&said.stderr)
}

/// All that a stranger can ask for, each with the command.
fn public(c: &Container, web: &Instance<'_>) -> Vec<(String, String)> {
    let name = format!("org.ratoon1.{}", web.name);
    let manager = ["org.ratoon1.Manager", "GetStatus"];
    let mut commands: Vec<Vec<String>> = Vec::new();
    let mut add = |command: &[&str]| commands.push(command.iter().map(|word| (*word).to_owned()).collect());
    add(&["systemctl", "status", "--full", &web.service()]);
    add(&["systemctl", "show", &web.service()]);
    add(&["ratoon", "status", web.name]);
    add(&["ratoon", "status", "--json", web.name]);
    add(&["busctl", "call", &name, "/org/ratoon1", manager[0], manager[1]]);
    add(&["busctl", "call", &name, "/org/ratoon1", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"]);
    for object in c.ok(&["busctl", "tree", "--list", &name]).lines() {
        add(&["busctl", "introspect", "--full", &name, object.trim()]);
        for interface in ["org.ratoon1.Manager", "org.ratoon1.Worker"] {
            add(&["busctl", "call", &name, object.trim(), "org.freedesktop.DBus.Properties", "GetAll", "s", interface]);
        }
    }
    let run = |command: Vec<String>| {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let said = as_stranger(c, &words);
        (words.join(" "), said)
    };
    commands.into_iter().map(run).collect()
}

fn printed_secrets_are_not_for_everyone(c: &Container) {
    let web = Instance::new(c, "discreet", 2);
    let prints = format!("echo postgres://app:{SECRET}@db; echo 'KeyError: {SECRET}' >&2");
    let fails = format!("cat >worker <<'END'\n#!/bin/sh\n{prints}\nexit 3\nEND\nchmod 755 worker");
    web.release("tells", Some(&fails));
    let crashes = "[ ! -e /srv/discreet/crash ] || ".to_owned() + &format!("{{ {prints}; exit 4; }}\nexec /opt/ratoon/hello");
    web.release("crashes", Some(&format!("cat >worker <<'END'\n#!/bin/sh\n{crashes}\nEND\nchmod 755 worker; echo v1 >version")));
    web.point_to("crashes");
    web.start();
    let name = format!("org.ratoon1.{}", web.name);
    wait_for("its name on the bus", || c.run(&["busctl", "status", &name]).status.success().then_some(()));
    // Signals go to everyone.
    let rule = format!("type='signal',sender='{name}'");
    let mut monitor = c.command(&["busctl", "--match", &rule, "monitor"]);
    let mut monitor = monitor.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("busctl");
    let mut line = String::new();
    BufReader::new(monitor.stderr.take().expect("piped")).read_line(&mut line).expect("a line");
    assert!(line.starts_with("Monitoring"), "{line}");

    // A worker that fails in a reload, one that crashes and cannot start again for a while, and a check that fails.
    web.point_to("tells");
    assert!(text(&c.run(&["ratoon", "reload", web.name]).stderr).contains(SECRET), "the requester is told");
    web.point_to("crashes");
    c.ok(&["touch", "/srv/discreet/crash"]);
    let worker = web.status()["workers"][0]["pid"].as_u64().expect("a pid");
    c.kill("KILL", worker);
    wait_for("the crash of its successor", || {
        let status = web.status();
        status["failures"].as_array()?.iter().any(|failure| failure["how"] == "exit 4").then_some(())
    });
    let after_a_crash = public(c, &web);
    c.ok(&["rm", "/srv/discreet/crash"]);
    web.configure(&format!("[reload]\ncheck = [\"sh\", \"-c\", \"{}; exit 9\"]\n", prints.replace('\'', "")));
    assert!(text(&c.run(&["ratoon", "reload", web.name]).stderr).contains(SECRET), "the requester is told");
    let last = web.status()["last_reload"].clone();
    assert!(last["output"].to_string().contains(SECRET) && last["result"] == "refused", "{last:#}");
    let after_a_check = public(c, &web);

    for (command, said) in after_a_crash.iter().chain(&after_a_check) {
        assert!(!said.contains(SECRET), "{command}: {said}");
    }
    // They were let to ask, and the journal, which they may not read, has it.
    let asked = |part: &str, known: &str| {
        let all = after_a_check.iter().filter(|(command, _)| command.contains(part));
        assert!(all.clone().any(|(_, said)| said.contains(known)), "{part}: {:?}", all.collect::<Vec<_>>());
    };
    for part in ["introspect", "GetAll", "GetStatus", "ratoon status", "systemctl status", "systemctl show"] {
        asked(part, "exit 9");
    }
    assert!(c.journal(&web.service()).contains(SECRET));
    let mut signals = String::new();
    for line in BufReader::new(monitor.stdout.take().expect("piped")).lines() {
        signals += &(line.expect("a line") + "\n");
        // The last event that is waited for, to its end.
        let last = signals.rsplit_once("Member=ReloadFinished").map(|(_, last)| last);
        if last.is_some_and(|last| last.contains("exit 9") && last.trim_end().ends_with("};")) {
            break;
        }
    }
    let _ = monitor.kill();
    let _ = monitor.wait();
    assert!(signals.contains("exit 3") && signals.contains("exit 9") && signals.contains("exit 4"), "{signals}");
    assert!(!signals.contains(SECRET), "{signals}");
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
    nothing_is_left(&web);
}
