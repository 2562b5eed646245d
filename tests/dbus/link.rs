//! Being on the bus: names, their refusal, and a bus that goes and comes.

use super::bus::{Bus, TIMEOUT, own_uid};
use super::instance::Instance;

fn queued(bus: &Bus) -> usize {
    let bus_name = "org.freedesktop.DBus";
    let call = ["call", bus_name, "/org/freedesktop/DBus", bus_name, "ListQueuedOwners", "s", "org.ratoon1"];
    bus.busctl(&call).json()["data"][0].as_array().unwrap().len()
}

#[test]
fn two_instances_share_the_base_name() {
    let bus = Bus::start();
    let first = Instance::new(&bus, "web");
    let second = Instance::new(&bus, "2nd.api");
    assert_eq!(second.name(), "org.ratoon1._32nd_2eapi");
    assert_eq!(queued(&bus), 2);
    assert_eq!(second.property(&bus, "Instance")["data"], "2nd.api");
    let base = ["get-property", "org.ratoon1", "/org/ratoon1", "org.ratoon1.Manager", "Instance"];
    assert_eq!(bus.busctl(&base).json()["data"], "web");
    first.end();
    assert_eq!(queued(&bus), 1);
    assert_eq!(bus.busctl(&base).json()["data"], "2nd.api");
    bus.busctl(&["get-property", "org.ratoon1.web", "/org/ratoon1", "org.ratoon1.Manager", "Instance"]).bad();
}

#[test]
fn the_names_come_back_after_a_restart_of_the_bus() {
    let mut bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    for _ in 0..3 {
        let caller = instance.calling(&bus, &["Reload"]);
        let (requester, _, _reply) = instance.asked();
        bus.kill();
        // With the bus goes who waited for an answer over it.
        assert_eq!(instance.gone(), requester);
        caller.ran().bad();
        bus.up();
        let lines = instance.until_log("on the message bus as org.ratoon1.web");
        assert_eq!(lines.len(), 2, "{lines:#?}");
        assert!(lines[0].contains("the message bus is gone"), "{lines:#?}");
        assert_eq!(instance.property(&bus, "State")["data"], "running");
        assert_eq!(queued(&bus), 1);
    }
    // What happened meanwhile is known afterwards.
    bus.kill();
    instance.publish(|summary| summary.generation = 9);
    bus.up();
    instance.until_log("on the message bus as");
    assert_eq!(instance.property(&bus, "Generation")["data"], 9);
}

#[test]
fn a_bus_that_is_not_there_is_said_once_and_joined_when_it_comes() {
    let mut bus = Bus::prepared();
    let instance = Instance::start(&bus, "web", own_uid());
    let lines = instance.until_log("no message bus at unix:path=");
    assert!(lines[0].contains("No such file"), "{lines:#?}");
    bus.up();
    let lines = instance.until_log("on the message bus as org.ratoon1.web");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert_eq!(instance.property(&bus, "State")["data"], "running");
}

#[test]
fn an_instance_ends_without_a_bus() {
    let bus = Bus::prepared();
    let instance = Instance::start(&bus, "web", own_uid());
    instance.until_log("no message bus");
    instance.end();
}

#[test]
fn a_refused_name_is_explained_and_taken_when_the_policy_is_there() {
    let bus = Bus::prepared();
    bus.configure(false);
    let mut bus = bus;
    bus.up();
    let instance = Instance::start(&bus, "web", own_uid());
    let lines = instance.until_log("refuses the name org.ratoon1.web");
    let line = lines.last().unwrap();
    assert!(line.contains("org.ratoon1.conf") && line.contains("systemctl reload dbus"), "{line}");
    bus.configure(true);
    bus.reload();
    let lines = instance.until_log("now on the message bus as org.ratoon1.web");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert_eq!(instance.property(&bus, "State")["data"], "running");
    assert_eq!(queued(&bus), 1);
}

#[test]
fn a_taken_name_is_explained_and_taken_over_when_it_is_free() {
    let bus = Bus::start();
    let first = Instance::new(&bus, "web");
    let second = Instance::start(&bus, "web", own_uid());
    let lines = second.until_log("belongs to another process");
    assert!(lines[0].contains("another instance of this name"), "{lines:#?}");
    first.end();
    second.until_log("now on the message bus as org.ratoon1.web");
    assert_eq!(queued(&bus), 1);
}

#[test]
fn a_bus_that_says_nothing_holds_nothing_up() {
    let directory = Bus::prepared();
    std::fs::create_dir_all(directory.socket().parent().unwrap()).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(directory.socket()).unwrap();
    let instance = Instance::start(&directory, "web", own_uid());
    let (connection, _) = listener.accept().unwrap();
    // The loop turns.
    let (sender, receiver) = std::sync::mpsc::channel();
    instance.order(move |_| sender.send(()).unwrap());
    receiver.recv_timeout(TIMEOUT).unwrap();
    // A bus that then dies is tried again.
    drop(connection);
    let (_connection, _) = listener.accept().unwrap();
    instance.end();
}
