//! The unit files themselves.

use crate::Case;
use crate::container::{Container, text, wait_for};

pub const CASES: &[Case] = &[
    ("the_units_are_valid", the_units_are_valid),
    ("an_instance_without_an_address_is_refused_by_name", an_instance_without_an_address_is_refused_by_name),
    ("unit_sockets_have_no_delay", unit_sockets_have_no_delay),
    ("the_unit_is_as_closed_as_it_says", the_unit_is_as_closed_as_it_says),
    ("the_socket_outlives_a_service_that_cannot_start", the_socket_outlives_a_service_that_cannot_start),
    ("unit_start_that_cannot_succeed_fails_at_once", unit_start_that_cannot_succeed_fails_at_once),
    ("unit_type_notify_reload_is_told", unit_type_notify_reload_is_told),
    ("unit_with_dynamic_user_taken_back_starts_again", unit_with_dynamic_user_taken_back_starts_again),
    ("unit_credentials_reach_workers_of_its_user", unit_credentials_reach_workers_of_its_user),
];

fn the_units_are_valid(c: &Container) {
    c.write("/etc/systemd/system/ratoon@valid.socket.d/listen.conf", "[Socket]\nListenStream=127.0.0.1:7001\n");
    let said = c.run(&["systemd-analyze", "verify", "--man=no", "ratoon@valid.socket", "ratoon@valid.service"]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    assert_eq!(text(&said.stderr), "", "a warning is a mistake too");
}

fn an_instance_without_an_address_is_refused_by_name(c: &Container) {
    let said = c.run(&["systemctl", "start", "ratoon@nowhere.socket"]);
    assert!(!said.status.success());
    assert!(text(&said.stderr).contains("ratoon@nowhere.socket has a bad unit file setting"), "{}", text(&said.stderr));
    assert!(c.journal("ratoon@nowhere.socket").contains("Unit has no Listen setting"));
    // The service alone starts, for a pool may do without; who forgot the address is told where it goes.
    c.write(
        "/etc/ratoon/nowhere.toml",
        "[worker]\ncommand = [\"/bin/sleep\", \"1000\"]\ncount = 1\nready = \"running\"\nsettle = \"0s\"\n",
    );
    c.ok(&["systemctl", "start", "ratoon@nowhere.service"]);
    let journal = wait_for("a word on it", || {
        Some(c.journal("ratoon@nowhere.service")).filter(|journal| journal.contains("no listening socket"))
    });
    assert!(journal.contains("systemctl edit ratoon@nowhere.socket"), "{journal}");
    // This systemd is new enough.
    assert!(!journal.contains("is older than"), "{journal}");
    c.ok(&["systemctl", "stop", "ratoon@nowhere.service"]);
}

fn unit_sockets_have_no_delay(c: &Container) {
    let listen = "[Socket]\nListenStream=127.0.0.1:7004\nListenStream=[::1]:7004\n";
    c.write("/etc/systemd/system/ratoon@prompt.socket.d/listen.conf", listen);
    c.ok(&["systemctl", "daemon-reload"]);
    c.ok(&["systemctl", "start", "ratoon@prompt.socket"]);
    assert_eq!(c.property("ratoon@prompt.socket", "NoDelay"), "yes");
    let journal = c.journal("ratoon@prompt.socket");
    assert!(journal.contains("Listening on") && !journal.contains("failed"), "{journal}");
    c.ok(&["systemctl", "stop", "ratoon@prompt.socket"]);
}

fn the_unit_is_as_closed_as_it_says(c: &Container) {
    let exposure = |drop_in: &str| {
        c.write("/etc/systemd/system/ratoon@closed.service.d/user.conf", drop_in);
        c.ok(&["systemctl", "daemon-reload"]);
        // The last line: "→ Overall exposure level for ratoon@closed.service: 3.2 OK".
        let said = c.ok(&["systemd-analyze", "security", "--no-pager", "ratoon@closed.service"]);
        let level = said.rsplit("ratoon@closed.service: ").next().and_then(|rest| rest.split(' ').next());
        level.and_then(|level| level.parse::<f64>().ok()).unwrap_or_else(|| panic!("no level in {said}"))
    };
    let as_root = exposure("");
    let as_user = exposure("[Service]\nUser=nobody\nCapabilityBoundingSet=\n");
    println!("systemd-analyze security: {as_root} as shipped, {as_user} with User= and no capability");
    assert!(as_root <= 3.2 && as_user <= 2.1, "{as_root}, {as_user}");
}

fn the_socket_outlives_a_service_that_cannot_start(c: &Container) {
    // There is no /etc/ratoon/looping.toml.
    c.write("/etc/systemd/system/ratoon@looping.socket.d/listen.conf", "[Socket]\nListenStream=127.0.0.1:7002\n");
    c.write("/etc/systemd/system/ratoon@looping.service.d/fast.conf", "[Service]\nRestartSec=50ms\n");
    c.ok(&["systemctl", "daemon-reload"]);
    c.ok(&["systemctl", "start", "ratoon@looping.socket"]);
    let _first = c.connect("127.0.0.1:7002").expect("the socket listens");
    // More than the default limits of a service (5 starts in 10 s) and of a socket (20 activations in 2 s) allow.
    wait_for("25 restarts", || (c.property("ratoon@looping.service", "NRestarts").parse::<u32>().ok()? >= 25).then_some(()));
    // "running" while the service is started, "listening" in the moment between one start and the next; not "failed".
    let state = c.property("ratoon@looping.socket", "SubState");
    assert!(matches!(state.as_str(), "running" | "listening"), "{state}");
    let _second = c.connect("127.0.0.1:7002").expect("the socket still listens");
    // And the administrator can end it, with connections waiting. `systemctl` asks for one stop after the other; a restart of the service
    // that falls between the two starts the socket again (`Wants=`), and then a second stop ends both.
    wait_for("both are down", || {
        let _ = c.run(&["systemctl", "stop", "ratoon@looping.socket", "ratoon@looping.service"]);
        let state = |unit| c.property(unit, "ActiveState");
        let both = (state("ratoon@looping.service"), state("ratoon@looping.socket"));
        matches!((both.0.as_str(), both.1.as_str()), ("inactive" | "failed", "inactive")).then_some(())
    });
}

/// Without a socket, one worker that runs a line of shell and stays.
fn unit_start_that_cannot_succeed_fails_at_once(c: &Container) {
    let config = |command: &str| {
        let text = format!("[worker]\ncommand = [{command}]\ncount = 2\nready = \"running\"\n");
        c.write("/etc/ratoon/stillborn.toml", &text);
    };
    config("\"/bin/false\"");
    let said = c.run(&["systemctl", "start", "ratoon@stillborn.service"]);
    assert!(!said.status.success(), "{}", text(&said.stderr));
    // The master ended it, not systemd after TimeoutStartSec=.
    assert_eq!(c.property("ratoon@stillborn.service", "Result"), "exit-code");
    let why = "generation 1 cannot start: slot 0 exits at once (exit 1)";
    assert!(c.journal("ratoon@stillborn.service").contains(why), "{}", c.journal("ratoon@stillborn.service"));
    // The reason, and what to type, also while systemd waits before the next start.
    wait_for("the status line of a start that failed", || {
        let line = c.property("ratoon@stillborn.service", "StatusText");
        let typed = "; see: journalctl -eu ratoon@stillborn.service, ratoon check /etc/ratoon/stillborn.toml";
        (line.contains(why) && line.ends_with(typed)).then_some(())
    });
    // A corrected release is taken up by itself.
    config("\"/bin/sleep\", \"1000\"");
    wait_for("the corrected release", || (c.property("ratoon@stillborn.service", "ActiveState") == "active").then_some(()));
    let said = c.run(&["ratoon", "status", "--check", "stillborn"]);
    assert!(said.status.success() && text(&said.stdout).starts_with("stillborn healthy: "), "{}", text(&said.stdout));
    c.ok(&["systemctl", "stop", "ratoon@stillborn.service"]);
}

fn idle_instance(c: &Container, name: &str, line: &str, drop_in: &str) -> String {
    c.write(
        &format!("/etc/ratoon/{name}.toml"),
        &format!(
            "[worker]\ncommand = [\"/bin/sh\", \"-c\", \"{line}; exec sleep 1000\"]\ncount = 1\nready = \"running\"\nsettle = \"0s\"\n"
        ),
    );
    c.write(&format!("/etc/systemd/system/ratoon@{name}.service.d/case.conf"), &format!("[Service]\n{drop_in}\n"));
    c.ok(&["systemctl", "daemon-reload"]);
    format!("ratoon@{name}.service")
}

/// systemd 252 does not know the type, says so and keeps Type=notify.
fn unit_type_notify_reload_is_told(c: &Container) {
    let unit = idle_instance(c, "typed", ":", "Type=notify-reload");
    c.ok(&["systemctl", "start", &unit]);
    if c.property(&unit, "Type") == "notify-reload" {
        wait_for("a word on it", || c.journal(&unit).contains("two generations of each").then_some(()));
    } else {
        assert_eq!((c.version.number, c.property(&unit, "Type").as_str()), ("252", "notify"));
    }
    c.ok(&["systemctl", "stop", &unit]);
}

/// systemd leaves the symlink that it made for DynamicUser=, and cannot make the directory in its place.
fn unit_with_dynamic_user_taken_back_starts_again(c: &Container) {
    let unit = idle_instance(c, "dynamic", ":", "DynamicUser=yes");
    c.ok(&["systemctl", "start", &unit]);
    c.ok(&["systemctl", "stop", &unit]);
    idle_instance(c, "dynamic", ":", "");
    // As ratoon(1) says.
    let _ = c.run(&["systemctl", "start", &unit]);
    c.ok(&["systemctl", "stop", &unit]);
    let _ = c.run(&["systemctl", "reset-failed", &unit]);
    c.ok(&["systemctl", "clean", "--what=runtime", &unit]);
    c.ok(&["systemctl", "start", &unit]);
    c.ok(&["systemctl", "stop", &unit]);
}

fn unit_credentials_reach_workers_of_its_user(c: &Container) {
    c.write("/etc/token", "secret-of-the-unit");
    let line = "cat $CREDENTIALS_DIRECTORY/token >/run/ratoon/creds/seen";
    let unit = idle_instance(c, "creds", line, "User=nobody\nCapabilityBoundingSet=\nLoadCredential=token:/etc/token");
    c.ok(&["systemctl", "start", &unit]);
    let seen = || std::fs::read_to_string(c.path("/run/ratoon/creds/seen")).ok();
    wait_for("the worker has read it", || seen().filter(|it| it == "secret-of-the-unit"));
    c.ok(&["systemctl", "stop", &unit]);
}
