//! What happens to systemd and to polkit while a pool serves: a manager that reads its units again or replaces itself, amid
//! a reload, and rules of an administrator.

use crate::Case;
use crate::container::{Container, text, wait_for};
use crate::instance::{Instance, pids};
use crate::load::Load;

pub const CASES: &[Case] = &[
    ("a_manager_that_reads_its_units_again_amid_a_reload_changes_nothing", units_are_read_again),
    ("a_manager_that_replaces_itself_amid_a_reload_changes_nothing", the_manager_is_replaced),
    ("an_address_changed_under_an_active_socket_degrades", an_address_is_changed),
    ("polkit_allows_by_unit_and_verb", polkit_allows_by_unit_and_verb),
];

fn units_are_read_again(c: &Container) {
    let web = Instance::new(c, "reread", 2);
    assert!(amid_a_reload(&web, "daemon-reload"), "systemctl reload did not see its reload through");
}

fn the_manager_is_replaced(c: &Container) {
    let web = Instance::new(c, "reexecuted", 2);
    // `systemctl` itself may lose its manager and say so: only what becomes of the reload is asked.
    amid_a_reload(&web, "daemon-reexec");
}

/// systemd closes the socket of the old address and opens none for the new one; the next master gets no socket.
fn an_address_is_changed(c: &Container) {
    let web = Instance::new(c, "moved", 2);
    web.start();
    assert_eq!(web.status()["degraded"], false);
    let drop_in = format!("/etc/systemd/system/{}.d/moved.conf", web.socket());
    c.write(&drop_in, "[Socket]\nListenStream=\nListenStream=127.0.0.1:7999\n");
    c.ok(&["systemctl", "daemon-reload"]);
    let before = web.main_pid();
    c.kill("KILL", before);
    let why = format!("systemd passed no socket for 127.0.0.1:7999, which {} names", web.socket());
    // The first master may say it, too, if its look at the socket unit came after the change.
    wait_for("the next master", || (![0, before].contains(&web.main_pid())).then_some(()));
    let status = wait_for("the reason", || {
        let said = c.run(&["ratoon", "status", "--json", web.name]);
        let status: serde_json::Value = serde_json::from_slice(&said.stdout).ok()?;
        let is_next = status["master"]["pid"] != before && status["status_text"].as_str()?.contains(&why);
        is_next.then_some(status)
    });
    assert_eq!((&status["degraded"], &status["sockets"]), (&true.into(), &serde_json::json!([])), "{status:#}");
    wait_for("the reason in STATUS", || web.property("StatusText").contains(&why).then_some(()));
    wait_for("the reason on the bus", || {
        let name = format!("org.ratoon1.{}", web.name);
        let said = c.run(&["busctl", "get-property", &name, "/org/ratoon1", "org.ratoon1.Manager", "StatusText"]);
        text(&said.stdout).contains(&why).then_some(())
    });
    // What it says to type mends it.
    c.ok(&["systemctl", "stop", &web.service()]);
    c.ok(&["systemctl", "restart", &web.socket()]);
    c.ok(&["systemctl", "start", &web.service()]);
    let status = web.settled();
    assert_eq!((&status["degraded"], &status["sockets"][0]["address"]), (&false.into(), &"127.0.0.1:7999".into()), "{status:#}");
    c.ok(&["rm", &drop_in]);
}

/// A reload that commits after systemd was told so, under load; whether `systemctl reload` said so too.
fn amid_a_reload(web: &Instance, verb: &str) -> bool {
    let c = web.c;
    let worker =
        format!("[worker]\ncommand = ['./worker']\ndirectory = '/srv/{}/current'\ncount = 2\nstart_timeout = '1h'", web.name);
    c.write(&format!("/etc/ratoon/{}.toml", web.name), &worker);
    web.start();
    let (life, before) = (web.life(), pids(&web.settled()));
    let script = format!("#!/bin/sh\nwhile [ ! -e /srv/{}/open ]; do sleep 0.05; done\nexec /opt/ratoon/hello\n", web.name);
    web.release("gated", Some(&format!("cat >worker <<'END'\n{script}END\nchmod 755 worker")));
    web.point_to("gated");

    let load = Load::start(web.load(&["--new", "2", "--keep-alive", "2"]));
    let mut reload = c.command(&["systemctl", "reload", &web.service()]).spawn().expect("systemctl");
    wait_for("the reload is under way", || (web.status()["state"] == "reloading").then_some(()));
    c.ok(&["systemctl", verb]);
    assert_eq!(web.property("ActiveState"), "reloading");
    assert_eq!(web.status()["state"], "reloading", "{:#}", web.status());
    c.write(&format!("/srv/{}/open", web.name), "");
    let told = reload.wait().expect("systemctl").success();
    wait_for("the commit", || (web.status()["last_reload"]["result"] == "committed").then_some(()));
    let after = web.settled();
    assert!(pids(&after).iter().all(|pid| !before.contains(pid)), "{after:#}");
    wait_for("systemd knows that it is over", || (web.property("ActiveState") == "active").then_some(()));
    assert_eq!(web.life(), life, "the service was active all the time");
    let report = load.stop();
    assert_eq!(report["failed"], 0, "{report:#}");
    // And systemd still hears the master.
    c.kill("KILL", pids(&after)[0]);
    wait_for("another worker", || web.status()["worker_crashes"].as_u64().filter(|crashes| *crashes == 1));
    web.settled();
    web.reload_ok();
    wait_for("its status line", || (web.property("StatusText") == "generation 3: 2/2 ready").then_some(()));
    told
}

fn polkit_allows_by_unit_and_verb(c: &Container) {
    let web = Instance::new(c, "ruled", 2);
    let other = Instance::new(c, "unruled", 2);
    for instance in [&web, &other] {
        instance.start();
        wait_for("its name", || {
            c.run(&["busctl", "status", &format!("org.ratoon1.{}", instance.name)]).status.success().then_some(())
        });
    }
    let call = |name: &str, arguments: &[&str]| {
        let name = format!("org.ratoon1.{name}");
        let call = ["runuser", "-u", "nobody", "--", "busctl", "call", &name, "/org/ratoon1", "org.ratoon1.Manager"];
        c.run(&[&call[..], arguments].concat())
    };
    let denied = call("ruled", &["Reload"]);
    assert!(!denied.status.success());
    assert!(text(&denied.stderr).contains("uthenti"), "{}", text(&denied.stderr));

    c.write(
        "/etc/polkit-1/rules.d/50-ratoon.rules",
        r#"polkit.addRule(function(action, subject) {
    if (action.id == "org.freedesktop.systemd1.manage-units" && subject.user == "nobody" &&
        action.lookup("unit") == "ratoon@ruled.service" && action.lookup("verb") == "reload") {
        return polkit.Result.YES;
    }
});
"#,
    );
    // polkitd reads its rules again when it sees that they changed.
    wait_for("the rule", || call("ruled", &["Reload"]).status.success().then_some(()));
    assert!(web.settled()["generation"].as_u64() > Some(1));
    for (name, arguments) in [("ruled", &["Scale", "u", "3"][..]), ("unruled", &["Reload"])] {
        let denied = call(name, arguments);
        assert!(!denied.status.success(), "{name} {arguments:?}: {}", text(&denied.stdout));
    }
    assert_eq!(other.settled()["generation"], 1);
    c.ok(&["rm", "/etc/polkit-1/rules.d/50-ratoon.rules"]);
}
