//! The pool on the system bus, with `busctl` and `dbus-send` as clients; and without a bus.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::Value;

use crate::Case;
use crate::container::{Container, text, wait_for};
use crate::instance::{Instance, pids};

pub const CASES: &[Case] = &[
    ("the_bus_shows_the_pool", the_bus_shows_the_pool),
    ("the_bus_changes_the_pool", the_bus_changes_the_pool),
    ("the_bus_hears_of_a_reload", the_bus_hears_of_a_reload),
    ("a_failed_reload_has_a_name_on_the_bus", a_failed_reload_has_a_name_on_the_bus),
    ("a_polkit_rule_lets_a_group_reload", a_polkit_rule_lets_a_group_reload),
    ("the_bus_lists_all_instances", the_bus_lists_all_instances),
    ("the_bus_is_optional", the_bus_is_optional),
];

const MANAGER: &str = "org.ratoon1.Manager";

/// Starts it and waits until it is on the bus.
fn on_the_bus<'c>(c: &'c Container, name: &'static str) -> Instance<'c> {
    let web = Instance::new(c, name, 2);
    web.start();
    wait_for_name(&web);
    web
}

fn bus_name(web: &Instance) -> String {
    format!("org.ratoon1.{}", web.name)
}

fn wait_for_name(web: &Instance) {
    let name = bus_name(web);
    wait_for("its name on the bus", || web.c.run(&["busctl", "status", &name]).status.success().then_some(()));
}

fn manager_property(web: &Instance, property: &str) -> String {
    web.c.ok(&["busctl", "get-property", &bus_name(web), "/org/ratoon1", MANAGER, property])
}

fn the_bus_shows_the_pool(c: &Container) {
    let web = on_the_bus(c, "shown");
    let name = bus_name(&web);
    let shown = c.ok(&["busctl", "introspect", &name, "/org/ratoon1", MANAGER]);
    // Columns: name, type, signature, result.
    let rows: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    for member in [
        [".Reload", "method", "-", "t"],
        [".Abort", "method", "-", "-"],
        [".Scale", "method", "u", "-"],
        [".Recycle", "method", "t", "-"],
        [".Upgrade", "method", "-", "-"],
        [".GetStatus", "method", "-", "s"],
        [".ReloadStarted", "signal", "t", "-"],
        [".ReloadFinished", "signal", "tss", "-"],
        [".Undone", "signal", "tts", "-"],
        [".WorkerExited", "signal", "tts", "-"],
        [".LastReload", "property", "(tsst)", "(0"],
    ] {
        let there = rows.iter().any(|row| row.starts_with(&member[..3]) && (member[0] == ".LastReload" || row[3] == member[3]));
        assert!(there, "{member:?} is not in\n{shown}");
    }
    for (property, value) in [
        ("Instance", r#"s "shown""#),
        ("State", r#"s "running""#),
        ("Degraded", "b false"),
        ("StatusText", r#"s "generation 1: 2/2 ready""#),
        ("Generation", "t 1"),
        ("WorkersConfigured", "u 2"),
        ("WorkersReady", "u 2"),
        ("Crashes", "t 0"),
    ] {
        assert_eq!(manager_property(&web, property), value, "{property}");
    }
    let status = web.status();
    for worker in status["workers"].as_array().expect("workers") {
        let path = format!("/org/ratoon1/worker/{}", worker["id"]);
        assert!(c.ok(&["busctl", "tree", "--list", &name]).lines().any(|line| line == path), "{path}");
        let pid = c.ok(&["busctl", "get-property", &name, &path, "org.ratoon1.Worker", "Pid"]);
        assert_eq!(pid, format!("u {}", worker["pid"]));
    }
    let said = c.ok(&["busctl", "--json=short", "call", &name, "/org/ratoon1", MANAGER, "GetStatus"]);
    let said: Value = serde_json::from_str(&said).expect("JSON");
    let told: Value = serde_json::from_str(said["data"][0].as_str().expect("a string")).expect("the document");
    assert_eq!((&told["instance"], &told["generation"]), (&"shown".into(), &1.into()));
}

fn the_bus_changes_the_pool(c: &Container) {
    let web = on_the_bus(c, "changed");
    let name = bus_name(&web);
    let before = pids(&web.settled());
    let (life, call) =
        (web.life(), |arguments: &[&str]| c.run(&[&["busctl", "call", &name, "/org/ratoon1", MANAGER][..], arguments].concat()));
    assert_eq!(text(&call(&["Reload"]).stdout), "t 2");
    assert!(pids(&web.settled()).iter().all(|pid| !before.contains(pid)));
    assert!(call(&["Scale", "u", "3"]).status.success());
    wait_for("three workers", || (manager_property(&web, "WorkersReady") == "u 3").then_some(()));
    assert_eq!(web.life(), life, "the service was active all the time");
    // Who is not root needs what `systemctl reload` would ask of him.
    let refused = c.run(&["runuser", "-u", "nobody", "--", "busctl", "call", &name, "/org/ratoon1", MANAGER, "Scale", "u", "9"]);
    assert!(!refused.status.success());
    let seen =
        c.ok(&["runuser", "-u", "nobody", "--", "busctl", "get-property", &name, "/org/ratoon1", MANAGER, "WorkersConfigured"]);
    assert_eq!(seen, "u 3", "everyone may look");
}

/// The signals that an instance sends to everyone on the bus until the end of the reload that `reload` begins.
fn heard_during(web: &Instance, reload: impl FnOnce()) -> String {
    let rule = format!("type='signal',sender='{}'", bus_name(web));
    // As text: with --json 257 does not say when it begins.
    let mut monitor = web
        .c
        .command(&["busctl", "--match", &rule, "monitor"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("busctl");
    // "Monitoring bus message stream.": from there on nothing is missed.
    let mut line = String::new();
    BufReader::new(monitor.stderr.take().expect("piped")).read_line(&mut line).expect("a line");
    assert!(line.starts_with("Monitoring"), "{line}");
    reload();
    // A message: "… Member=ReloadFinished", then its arguments, `UINT64 2;` and `STRING "committed";`.
    let mut heard = String::new();
    for line in BufReader::new(monitor.stdout.take().expect("piped")).lines() {
        heard.push_str(line.expect("a line").trim());
        heard.push('\n');
        if heard.contains("Member=ReloadFinished") && heard.ends_with("};\n") {
            break;
        }
    }
    let _ = monitor.kill();
    let _ = monitor.wait();
    heard
}

fn the_bus_hears_of_a_reload(c: &Container) {
    let web = on_the_bus(c, "heard");
    let heard = heard_during(&web, || web.reload_ok());
    let after = |member: &str| heard.split_once(&format!("Member={member}\n")).map(|(_, rest)| rest).unwrap_or_default();
    assert!(after("ReloadStarted").contains("UINT64 2;"), "{heard}");
    assert!(after("ReloadFinished").contains("UINT64 2;\nSTRING \"committed\";"), "{heard}");
    assert!(heard.contains("Member=InterfacesAdded"), "no new worker: {heard}");
    // First the state, then the event.
    let before = heard.split_once("Member=ReloadFinished").map(|(before, _)| before).unwrap_or_default();
    let shows = |message: &str| {
        message.starts_with("PropertiesChanged\n")
            && message.contains("STRING \"org.ratoon1.Manager\";")
            && message.contains("STRING \"Generation\";\nVARIANT \"t\" {\nUINT64 2;")
    };
    assert!(before.split("Member=").any(shows), "told before it can be read: {heard}");
}

fn a_failed_reload_has_a_name_on_the_bus(c: &Container) {
    let web = on_the_bus(c, "failed");
    let before = pids(&web.settled());
    let destination = format!("--dest={}", bus_name(&web));
    let reload = || {
        let said = c.run(&["dbus-send", "--system", "--print-reply", &destination, "/org/ratoon1", "org.ratoon1.Manager.Reload"]);
        assert!(!said.status.success());
        text(&said.stderr)
    };
    web.point_to("fails");
    let mut said = String::new();
    let heard = heard_during(&web, || said = reload());
    assert!(said.contains("org.ratoon1.Error.RolledBack") && said.contains("exit 3"), "{said}");
    // Everyone hears how the worker failed, and nothing of what it printed: the caller alone may be told that.
    let all =
        c.ok(&["busctl", "call", &bus_name(&web), "/org/ratoon1", "org.freedesktop.DBus.Properties", "GetAll", "s", MANAGER]);
    for public in [&heard, &all] {
        assert!(public.contains("exit 3") && !public.contains("broken on purpose"), "{public}");
    }
    web.configure("cuont = 3\n");
    let said = reload();
    assert!(said.contains("org.ratoon1.Error.Refused") && said.contains("cuont"), "{said}");
    assert_eq!(pids(&web.settled()), before);
    let told = manager_property(&web, "LastReload");
    assert!(told.contains("refused") && told.contains("cuont"), "{told}");
}

fn a_polkit_rule_lets_a_group_reload(c: &Container) {
    c.ok(&["groupadd", "--system", "deploy"]);
    c.ok(&["useradd", "--system", "--groups", "deploy", "deployer"]);
    // As the package's example says: copied to where polkit looks. It notices by itself, but not when.
    c.write("/etc/polkit-1/rules.d/60-ratoon.rules", include_str!("../../packaging/polkit/60-ratoon.rules"));
    c.ok(&["systemctl", "restart", "polkit.service"]);
    let web = on_the_bus(c, "ruled");
    let name = bus_name(&web);
    let as_user = |user: &str, words: &[&str]| c.run(&[&["runuser", "-u", user, "--"], words].concat());
    let call = ["busctl", "call", &name, "/org/ratoon1", MANAGER, "Reload"];
    let said = as_user("deployer", &call);
    assert!(said.status.success(), "{}", text(&said.stderr));
    let systemctl = ["systemctl", "--no-ask-password", "reload", "ratoon@ruled.service"];
    let said = as_user("deployer", &systemctl);
    assert!(said.status.success(), "{}", text(&said.stderr));
    assert_eq!(manager_property(&web, "Generation"), "t 3");
    // No more than that, and nobody else.
    for (user, words) in [
        ("deployer", &["busctl", "call", &name, "/org/ratoon1", MANAGER, "Scale", "u", "9"][..]),
        ("deployer", &["systemctl", "--no-ask-password", "stop", "ratoon@ruled.service"]),
        ("nobody", &call),
        ("nobody", &systemctl),
    ] {
        let said = as_user(user, words);
        assert!(!said.status.success(), "{user} {words:?}: {}", text(&said.stdout));
    }
    assert_eq!((manager_property(&web, "Generation"), manager_property(&web, "WorkersReady")), ("t 3".into(), "u 2".into()));
}

fn the_bus_lists_all_instances(c: &Container) {
    let one = on_the_bus(c, "one");
    let other = on_the_bus(c, "two-2");
    assert_eq!(manager_property(&one, "Instance"), r#"s "one""#);
    assert_eq!(manager_property(&other, "Instance"), r#"s "two-2""#);
    let bus = "org.freedesktop.DBus";
    let queued = || c.ok(&["busctl", "call", bus, "/org/freedesktop/DBus", bus, "ListQueuedOwners", "s", "org.ratoon1"]);
    wait_for("both in the queue for org.ratoon1", || queued().starts_with("as 2 ").then_some(()));
}

fn the_bus_is_optional(c: &Container) {
    c.ok(&["systemctl", "stop", "dbus.socket", "dbus.service"]);
    let web = Instance::new(c, "silent", 2);
    web.start();
    assert_eq!(web.property("StatusText"), "generation 1: 2/2 ready");
    web.reload_ok();
    // The bus comes, goes, and comes again; the pool takes no notice but of its names.
    let life = web.life();
    c.ok(&["systemctl", "start", "dbus.socket"]);
    wait_for_name(&web);
    c.ok(&["systemctl", "restart", "dbus.service"]);
    wait_for_name(&web);
    assert_eq!(manager_property(&web, "Generation"), "t 2");
    assert_eq!(web.life(), life);
}
