//! Who the master and its workers are: a user's own manager with the session bus, `User=` in a drop-in, a root master with
//! `worker.user`. Each keeps its name on the bus, its control groups, its lines in the journal, its ports.

use std::fs;
use std::process::Output;

use serde_json::Value;

use crate::Case;
use crate::container::{Container, text, wait_for};
use crate::instance::{Instance, pids};

pub const CASES: &[Case] = &[
    ("an_instance_of_a_user_is_on_the_session_bus", an_instance_of_a_user_is_on_the_session_bus),
    ("a_user_of_its_own_keeps_name_groups_lines_and_port", a_user_of_its_own_keeps_name_groups_lines_and_port),
    ("a_root_master_starts_workers_of_another_user", a_root_master_starts_workers_of_another_user),
];

/// Whose process it is.
fn owner(c: &Container, pid: u64) -> String {
    c.ok(&["stat", "--format=%U", &format!("/proc/{pid}")])
}

/// The control group of a process, as the container names it.
fn group(c: &Container, pid: u64) -> String {
    let text = fs::read_to_string(c.path(&format!("/proc/{pid}/cgroup"))).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().to_owned()
}

/// Each worker is in a control group of its own below that of the unit, and the master in another.
#[track_caller]
fn groups_are_delegated(c: &Container, unit: &str, master: u64, status: &Value) {
    let own = group(c, master);
    assert!(own.ends_with(&format!("/{unit}/master")), "the master is in {own}");
    for worker in status["workers"].as_array().expect("workers") {
        let own = group(c, worker["pid"].as_u64().expect("a pid"));
        assert!(own.ends_with(&format!("/{unit}/w-{}", worker["id"])), "{worker:#} is in {own}");
    }
}

/// What a worker printed is in the journal under its own name, and with this field.
#[track_caller]
fn lines_are_in_the_journal(c: &Container, name: &str, field: &str) {
    let identifier = format!("SYSLOG_IDENTIFIER={name}/0");
    wait_for("the worker's line in the journal", || {
        let said = c.run(&["journalctl", "--no-pager", "--output=cat", &identifier, field]);
        text(&said.stdout).contains("I am the worker").then_some(())
    });
}

/// A worker that prints a line, in a directory that is this user's.
fn application(c: &Container, directory: &str, user: &str) {
    let script = "#!/bin/sh\necho I am the worker\nexec /opt/ratoon/hello\n";
    c.write(&format!("{directory}/server"), script);
    c.ok(&["chmod", "755", &format!("{directory}/server")]);
    c.ok(&["chown", "--recursive", user, directory]);
}

/// A manager of a user, with the bus of a session as the package dbus-user-session would bring it.
struct Session<'c> {
    c: &'c Container,
    user: &'static str,
    uid: String,
}

impl<'c> Session<'c> {
    fn new(c: &'c Container, user: &'static str) -> Self {
        c.ok(&["useradd", "--create-home", user]);
        for (unit, text) in [
            ("dbus.socket", "[Socket]\nListenStream=%t/bus\n"),
            (
                "dbus.service",
                "[Unit]\nRequires=dbus.socket\n[Service]\nExecStart=/usr/bin/dbus-daemon --session --address=systemd: --nofork --nopidfile\n",
            ),
        ] {
            c.write(&format!("/etc/systemd/user/{unit}"), text);
        }
        for name in ["ratoon@.service", "ratoon@.socket"] {
            let text = fs::read_to_string(format!("{}/systemd/user/{name}", env!("CARGO_MANIFEST_DIR"))).expect("a unit");
            c.write(&format!("/usr/lib/systemd/user/{name}"), &text);
        }
        let uid = c.ok(&["id", "--user", user]);
        c.ok(&["systemctl", "start", &format!("user@{uid}.service")]);
        let session = Session { c, user, uid };
        session.ok(&["systemctl", "--user", "start", "dbus.socket"]);
        session
    }

    fn run(&self, words: &[&str]) -> Output {
        let runtime = format!("XDG_RUNTIME_DIR=/run/user/{}", self.uid);
        let home = format!("HOME=/home/{}", self.user);
        let bus = format!("DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/{}/bus", self.uid);
        let before = ["runuser", "-u", self.user, "--", "env", "-u", "XDG_CONFIG_HOME", &runtime, &home, &bus];
        self.c.run(&[&before, words].concat())
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        let said = self.run(words);
        assert!(said.status.success(), "{words:?}: {}{}", text(&said.stdout), text(&said.stderr));
        text(&said.stdout)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let _ = self.c.run(&["systemctl", "stop", &format!("user@{}.service", self.uid)]);
    }
}

fn an_instance_of_a_user_is_on_the_session_bus(c: &Container) {
    let session = Session::new(c, "someone");
    application(c, "/home/someone/app", "someone");
    let address = "127.0.0.1:7990";
    let next = session.ok(&[
        "ratoon",
        "init",
        "mine",
        "--listen",
        address,
        "--workers",
        "2",
        "--directory",
        "/home/someone/app",
        "--",
        "./server",
    ]);
    // What it says is what is typed.
    for line in [
        "systemctl --user daemon-reload",
        "systemctl --user enable --now ratoon@mine.socket",
        "systemctl --user start ratoon@mine",
    ] {
        assert!(next.contains(&format!("  {line}")), "{line} is not in {next}");
        session.ok(&line.split(' ').collect::<Vec<_>>());
    }
    assert!(c.get(address).expect("an answer").contains("generation 1"));
    let status = || -> Value {
        let said = session.run(&["ratoon", "status", "mine", "--json"]);
        serde_json::from_slice(&said.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&said.stderr)))
    };
    let before = status();
    let master = before["master"]["pid"].as_u64().expect("a pid");
    for pid in pids(&before).into_iter().chain([master]) {
        assert_eq!(owner(c, pid), "someone");
    }
    groups_are_delegated(c, "ratoon@mine.service", master, &before);
    // A master that is not root relays them.
    lines_are_in_the_journal(c, "mine", &format!("RATOON_WORKER={}", before["workers"][0]["id"]));
    // On the session's bus, and on no other.
    let generation = ["get-property", "org.ratoon1.mine", "/org/ratoon1", "org.ratoon1.Manager", "Generation"];
    let read = || text(&session.run(&[&["busctl", "--user"], &generation[..]].concat()).stdout);
    wait_for("its name on the session's bus", || (read() == "t 1").then_some(()));
    assert!(!c.run(&[&["busctl"], &generation[..]].concat()).status.success());
    session.ok(&["busctl", "--user", "call", "org.ratoon1.mine", "/org/ratoon1", "org.ratoon1.Manager", "Reload"]);
    assert_eq!(read(), "t 2");
    // Its program is replaced in place: the groups are its own as before.
    session.ok(&["ratoon", "upgrade", "mine"]);
    let after = wait_for("only the new generation is left", || Some(status()).filter(|it| pids(it).len() == 2));
    assert_eq!(after["master"]["pid"], master);
    groups_are_delegated(c, "ratoon@mine.service", master, &after);
    // By its own manager; a release that cannot start is reported there too.
    session.ok(&["systemctl", "--user", "reload", "ratoon@mine"]);
    c.write("/home/someone/app/server", "#!/bin/sh\nexit 3\n");
    assert!(!session.run(&["systemctl", "--user", "reload", "ratoon@mine"]).status.success());
    let shown = text(&session.run(&["systemctl", "--user", "status", "ratoon@mine"]).stdout);
    assert!(shown.contains("exit 3"), "{shown}");
    assert!(c.get(address).expect("an answer").contains("generation 3"));
    // Root sees it in the list, and does not mean it unless he says so.
    assert!(c.ok(&["ratoon", "list"]).contains("mine"));
    assert!(!c.run(&["ratoon", "reload", "mine"]).status.success());
    session.ok(&["systemctl", "--user", "stop", "ratoon@mine.socket", "ratoon@mine.service"]);
}

fn a_user_of_its_own_keeps_name_groups_lines_and_port(c: &Container) {
    c.ok(&["useradd", "--system", "app-user"]);
    application(c, "/srv/own", "app-user");
    // The user is found out: the directory is his.
    let next = c.ok(&[
        "ratoon",
        "init",
        "own",
        "--listen",
        "127.0.0.1:81",
        "--workers",
        "2",
        "--directory",
        "/srv/own",
        "--",
        "./server",
    ]);
    assert!(next.contains("It will run as app-user, who owns /srv/own"), "{next}");
    for line in [
        "systemctl daemon-reload",
        "systemctl reload dbus",
        "systemctl enable --now ratoon@own.socket",
        "systemctl start ratoon@own",
    ] {
        assert!(next.contains(&format!("  {line}")), "{line} is not in {next}");
        c.ok(&line.split(' ').collect::<Vec<_>>());
    }
    assert!(c.get("127.0.0.1:81").expect("an answer on a port below 1024").contains("generation 1"));
    let status: Value = serde_json::from_str(&c.ok(&["ratoon", "status", "own", "--json"])).expect("JSON");
    let master: u64 = c.property("ratoon@own.service", "MainPID").parse().expect("a number");
    for pid in pids(&status).into_iter().chain([master]) {
        assert_eq!(owner(c, pid), "app-user");
    }
    groups_are_delegated(c, "ratoon@own.service", master, &status);
    lines_are_in_the_journal(c, "own", &format!("RATOON_WORKER={}", status["workers"][0]["id"]));
    lines_are_in_the_journal(c, "own", "RATOON_SLOT=0");
    lines_are_in_the_journal(c, "own", &format!("_PID={master}"));
    let generation = ["busctl", "get-property", "org.ratoon1.own", "/org/ratoon1", "org.ratoon1.Manager", "Generation"];
    wait_for("its name on the system's bus", || (text(&c.run(&generation).stdout) == "t 1").then_some(()));
    // Its program is replaced in place.
    c.ok(&["ratoon", "upgrade", "own"]);
    assert_eq!(c.property("ratoon@own.service", "MainPID"), master.to_string());
    groups_are_delegated(c, "ratoon@own.service", master, &status);
    wait_for("its name on the system's bus again", || (text(&c.run(&generation).stdout) == "t 1").then_some(()));
    // Its own user may change it, without polkit; others may not.
    let reload = ["busctl", "call", "org.ratoon1.own", "/org/ratoon1", "org.ratoon1.Manager", "Reload"];
    c.ok(&[&["runuser", "-u", "app-user", "--"], &reload[..]].concat());
    assert!(!c.run(&[&["runuser", "-u", "nobody", "--"], &reload[..]].concat()).status.success());
    assert_eq!(c.ok(&generation), "t 2");
    c.ok(&["systemctl", "disable", "--now", "ratoon@own.socket"]);
    c.ok(&["systemctl", "stop", "ratoon@own.service"]);
}

fn a_root_master_starts_workers_of_another_user(c: &Container) {
    c.ok(&["useradd", "--system", "--groups", "adm", "pool-user"]);
    let web = Instance::new(c, "lesser", 2);
    web.release("talks", Some("printf '#!/bin/sh\\necho I am the worker\\nexec /opt/ratoon/hello\\n' >worker; chmod 755 worker"));
    web.point_to("talks");
    web.configure("user = \"pool-user\"\n");
    web.start();
    let status = web.settled();
    let master = web.main_pid();
    assert_eq!(owner(c, master), "root");
    for pid in pids(&status) {
        assert_eq!(owner(c, pid), "pool-user");
        let facts = fs::read_to_string(c.path(&format!("/proc/{pid}/status"))).expect("a process");
        let field = |name: &str| facts.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
        // All of the user's groups, none of root's, and none of the master's rights.
        let adm = c.ok(&["sh", "-c", "getent group adm | cut -d: -f3"]);
        assert!(field("Groups:").split(' ').any(|group| group == adm) && !field("Groups:").split(' ').any(|group| group == "0"));
        assert_eq!((field("CapEff:").as_str(), field("CapPrm:").as_str()), ("0000000000000000", "0000000000000000"));
    }
    groups_are_delegated(c, &web.service(), master, &status);
    lines_are_in_the_journal(c, "lesser", &format!("_PID={}", pids(&status)[0]));
    // It hears them, reloads them, ends them; and a user that is not there is refused by name.
    web.reload_ok();
    web.settled();
    web.configure("user = \"no-such-user\"\n");
    let before = pids(&web.status());
    assert!(!web.reload().status.success());
    assert!(web.property("StatusText").contains("there is no user \"no-such-user\""), "{}", web.property("StatusText"));
    assert_eq!(pids(&web.settled()), before);
}
