//! Varlink with systemd's own tool, varlinkctl(1). systemd 252 has none yet: there perl(1) sends a call as bytes.

use std::process::Output;

use serde_json::Value;

use crate::Case;
use crate::container::{Container, text, wait_for};
use crate::instance::Instance;

pub const CASES: &[Case] = &[
    ("varlinkctl_reads_and_changes_an_instance", varlinkctl_reads_and_changes_an_instance),
    ("polkit_allows_varlink_calls_by_unit_and_verb", polkit_allows_varlink_calls_by_unit_and_verb),
];

/// The socket of an instance.
fn socket(web: &Instance) -> String {
    format!("/run/ratoon/{}/varlink", web.name)
}

/// Whether this systemd has varlinkctl(1).
fn has_tool(c: &Container) -> bool {
    c.version.number != "252"
}

fn call(web: &Instance, method: &str, parameters: &str) -> Output {
    web.c.run(&["varlinkctl", "--json=short", "call", &socket(web), method, parameters])
}

/// A client without varlinkctl: socket, method, parameters. It prints the reply.
const CLIENT: &str = r#"use IO::Socket::UNIX; my $socket = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die; $socket->autoflush(1);
print $socket qq({"method": "$ARGV[1]", "parameters": $ARGV[2]}\0); local $/ = "\0"; my $reply = <$socket>; chop $reply; print $reply;"#;

/// Whether a call by this user succeeds, and all that its client printed.
fn call_as(web: &Instance, user: &str, method: &str, parameters: &str) -> (bool, String) {
    let (path, run) = (socket(web), ["runuser", "-u", user, "--"]);
    if has_tool(web.c) {
        let said = web.c.run(&[&run[..], &["varlinkctl", "--json=short", "call", &path, method, parameters]].concat());
        return (said.status.success(), text(&said.stdout) + &text(&said.stderr));
    }
    let said = web.c.run(&[&run[..], &["perl", "-e", CLIENT, &path, method, parameters]].concat());
    let reply: Value = serde_json::from_slice(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    (reply["error"].is_null(), reply.to_string())
}

fn varlinkctl_reads_and_changes_an_instance(c: &Container) {
    let web = Instance::new(c, "varlink", 2);
    web.start();
    web.settled();
    assert!(call_as(&web, "root", "io.systemd.service.Ping", "{}").0);
    let (read, status) = call_as(&web, "root", "org.ratoon1.Manager.GetStatus", "{}");
    assert!(read && status.contains("\"generation\":1"), "{status}");
    if !has_tool(c) {
        return;
    }
    let path = socket(&web);
    assert!(c.ok(&["varlinkctl", "info", &path]).contains("org.ratoon1.Manager"));
    for interface in ["org.ratoon1.Manager", "io.systemd.service", "org.varlink.service"] {
        let told = c.run(&["varlinkctl", "introspect", &path, interface]);
        assert!(told.status.success() && told.stderr.is_empty(), "{}", text(&told.stderr));
        c.write("/tmp/told.varlink", &text(&told.stdout));
        c.ok(&["varlinkctl", "validate-idl", "/tmp/told.varlink"]);
    }
    let ping = call(&web, "io.systemd.service.Ping", "{}");
    assert!(ping.status.success(), "{}", text(&ping.stderr));
    // A reload that is committed, and one that is rolled back with its reason.
    web.good_release("v2");
    web.point_to("v2");
    let reload = call(&web, "org.ratoon1.Manager.Reload", "{}");
    assert!(text(&reload.stdout).contains("\"generation\":2"), "{} {}", text(&reload.stdout), text(&reload.stderr));
    web.point_to("fails");
    let refused = call(&web, "io.systemd.service.Reload", "{}");
    let said = text(&refused.stdout) + &text(&refused.stderr);
    assert!(!refused.status.success() && said.contains("org.ratoon1.Manager.NotCommitted"), "{said}");
    let history = text(&call(&web, "org.ratoon1.Manager.GetHistory", "{}").stdout);
    assert!(history.contains("\"generation\":2") && history.contains("\"generation\":1"), "{history}");
    // The first event of the stream.
    let stream = format!("varlinkctl --more --json=short call {path} org.ratoon1.Manager.Monitor '{{}}' | head -n 1");
    assert!(c.ok(&["sh", "-c", &stream]).contains("\"event\":\"summary\""));
    // The next program of the master has the socket, too.
    let upgrade = call(&web, "org.ratoon1.Manager.Upgrade", "{}");
    assert!(upgrade.status.success(), "{}", text(&upgrade.stderr));
    wait_for("an answer of the next program", || call(&web, "io.systemd.service.Ping", "{}").status.success().then_some(()));
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
    assert!(!c.path(&path).exists());
}

fn polkit_allows_varlink_calls_by_unit_and_verb(c: &Container) {
    let web = Instance::new(c, "vruled", 2);
    web.start();
    web.settled();
    let as_nobody = |method: &str, parameters: &str| call_as(&web, "nobody", method, parameters);
    let (allowed, said) = as_nobody("org.ratoon1.Manager.Reload", "{}");
    assert!(!allowed && said.contains("org.ratoon1.Manager.A"), "denied, or not authenticated: {said}");
    assert!(as_nobody("io.systemd.service.Ping", "{}").0);
    c.write(
        "/etc/polkit-1/rules.d/50-ratoon-varlink.rules",
        r#"polkit.addRule(function(action, subject) {
    if (action.id == "org.freedesktop.systemd1.manage-units" && subject.user == "nobody" &&
        action.lookup("unit") == "ratoon@vruled.service" && action.lookup("verb") == "reload") {
        return polkit.Result.YES;
    }
});
"#,
    );
    // polkitd reads its rules again when it sees that they changed.
    wait_for("the rule", || as_nobody("org.ratoon1.Manager.Reload", "{}").0.then_some(()));
    assert!(web.settled()["generation"].as_u64() > Some(1));
    let (allowed, said) = as_nobody("org.ratoon1.Manager.Scale", r#"{"workers": 3}"#);
    assert!(!allowed, "{said}");
    c.ok(&["rm", "/etc/polkit-1/rules.d/50-ratoon-varlink.rules"]);
}
