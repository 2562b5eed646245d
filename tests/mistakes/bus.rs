//! D-Bus and polkit: an instance serves without them, and says what is missing.

use std::collections::HashMap;

use super::dbus::{Bus, own_uid};
use super::harness::{Place, Plan, processes};
use super::{lines, plain, recorded};

/// A pool on this bus, called `pool`.
fn on(bus: &Bus) -> Plan {
    Place::new()
        .pool("count = 1", "")
        .environment("DBUS_SYSTEM_BUS_ADDRESS", bus.address())
        .environment("DBUS_SESSION_BUS_ADDRESS", bus.address())
}

#[test]
fn no_bus() {
    let master = Place::new().pool("count = 1", "").start();
    master.wait_for_log("no message bus");
    recorded!("no_bus", lines(&plain(&master.place, &master.log()), &["message bus"]));
}

#[test]
fn no_policy() {
    let mut bus = Bus::prepared();
    bus.configure(false);
    bus.up();
    let master = on(&bus).start();
    master.wait_for_log("refuses the name");
    let said = plain(&master.place, &master.log());
    let said = lines(&said, &["refuses the name"]);
    let said = said.lines().next().unwrap_or_default();
    // Two mistakes in one: the file is missing, or it does not know this user.
    match own_uid() {
        0 => recorded!("no_policy", said),
        _ => recorded!("no_policy_of_a_user", said),
    }
    assert_eq!(master.status()["workers_ready"], 1);
}

/// A polkit that allows nothing.
struct Polkit;

#[zbus::interface(name = "org.freedesktop.PolicyKit1.Authority")]
impl Polkit {
    async fn check_authorization(
        &self,
        _subject: (String, HashMap<String, zbus::OwnedVariant>),
        _action: String,
        _details: HashMap<String, String>,
        _flags: u32,
        _cancellation: String,
    ) -> (bool, bool, HashMap<String, String>) {
        (false, false, HashMap::new())
    }
}

/// `busctl` hides what it was told behind "Access denied", so another client asks.
#[tokio::test(flavor = "multi_thread")]
async fn polkit_says_no() {
    let bus = Bus::start();
    let address = bus.address();
    let polkit = zbus::connection::Builder::address(address.as_str()).build().await.expect("the bus");
    polkit.object_server().at("/org/freedesktop/PolicyKit1/Authority", Polkit).await.expect("an object");
    polkit.request_name("org.freedesktop.PolicyKit1").await.expect("a name");
    let master = on(&bus).start();
    master.wait_for_log("on the message bus");
    if own_uid() != 0 {
        println!("SKIPPED polkit_says_no: another user's call needs root; tests/run has it");
        return;
    }
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "dbus-send", "--print-reply"]);
    command.arg(format!("--bus={}", bus.address())).args([
        "--dest=org.ratoon1.pool",
        "/org/ratoon1",
        "org.ratoon1.Manager.Reload",
    ]);
    let output = command.env(processes::MARK, master.place.root()).output().expect("dbus-send, of the package dbus");
    assert!(!output.status.success());
    recorded!("polkit_denial", plain(&master.place, &String::from_utf8_lossy(&output.stderr)));
}
