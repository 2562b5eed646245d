//! Varlink with systemd's own tool, varlinkctl(1). systemd 252 has none yet: there a call is sent as bytes.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};

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

/// The reply to a call that is sent as bytes, from outside of the container.
fn call_by_hand(web: &Instance, method: &str) -> Value {
    let mut stream = UnixStream::connect(web.c.path(&socket(web))).expect("the socket");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    stream.write_all(format!("{}\0", json!({ "method": method })).as_bytes()).expect("a call");
    let mut reply = Vec::new();
    BufReader::new(stream).read_until(0, &mut reply).expect("a reply");
    reply.pop();
    serde_json::from_slice(&reply).expect("JSON")
}

fn varlinkctl_reads_and_changes_an_instance(c: &Container) {
    let web = Instance::new(c, "varlink", 2);
    web.start();
    web.settled();
    if !has_tool(c) {
        assert_eq!(call_by_hand(&web, "io.systemd.service.Ping"), json!({ "parameters": {} }));
        let status = call_by_hand(&web, "org.ratoon1.Manager.GetStatus");
        assert_eq!(status["parameters"]["status"]["generation"], 1);
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
    if !has_tool(c) {
        println!("systemd {} has no varlinkctl: no call as another user is made there", c.version.number);
        return;
    }
    let web = Instance::new(c, "vruled", 2);
    web.start();
    web.settled();
    let path = socket(&web);
    let as_nobody = |method: &str, parameters: &str| {
        let said = c.run(&["runuser", "-u", "nobody", "--", "varlinkctl", "call", &path, method, parameters]);
        (said.status.success(), text(&said.stdout) + &text(&said.stderr))
    };
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
