//! What everybody may read, with `busctl`.

use ratoon::pool::Phase;
use std::collections::BTreeMap;

use ratoon::status::tree;
use serde_json::{Value, json};

use super::bus::Bus;
use super::instance::{Instance, worker};

const SHIPPED: &str = include_str!("../../systemd/dbus/org.ratoon1.xml");

/// The text of one interface in introspection data.
fn interface<'a>(xml: &'a str, name: &str) -> &'a str {
    let from = xml.find(&format!("<interface name=\"{name}\">")).unwrap_or_else(|| panic!("no {name} in {xml}"));
    &xml[from..from + xml[from..].find("</interface>").unwrap()]
}

/// The properties of an interface and their types, as its text says.
fn promised(interface: &str) -> BTreeMap<String, String> {
    let properties = interface.split("<property ").skip(1).map(|text| {
        let value = |key: &str| text.split(&format!("{key}=\"")).nth(1).unwrap().split('"').next().unwrap().to_owned();
        (value("name"), value("type"))
    });
    properties.collect()
}

fn served(bus: &Bus, instance: &Instance, path: &str, interface: &str) -> BTreeMap<String, String> {
    let call = ["call", instance.name(), path, "org.freedesktop.DBus.Properties", "GetAll", "s", interface];
    let all = bus.busctl(&call).json();
    let properties = all["data"][0].as_object().unwrap();
    properties.iter().map(|(name, value)| (name.clone(), value["type"].as_str().unwrap().to_owned())).collect()
}

#[test]
fn the_shipped_xml_is_what_is_served() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    for (path, name) in [("/org/ratoon1", "org.ratoon1.Manager"), ("/org/ratoon1/worker/1", "org.ratoon1.Worker")] {
        let xml = bus.busctl(&["introspect", "--xml-interface", instance.name(), path]).good();
        assert_eq!(interface(&xml, name), interface(SHIPPED, name));
        let properties = promised(interface(SHIPPED, name));
        assert!(properties.len() > 10, "{properties:?}");
        assert_eq!(served(&bus, &instance, path, name), properties);
    }
    // Each method is there and takes what is said: one argument more is refused by its name.
    let manager = interface(SHIPPED, "org.ratoon1.Manager");
    let methods: Vec<&str> = manager.split("<method ").skip(1).collect();
    assert_eq!(methods.len(), 12);
    for method in methods {
        let method = method.split("</method>").next().unwrap().split("<method").next().unwrap();
        let name = method.split('"').nth(1).unwrap();
        let takes: String = method
            .split("<arg ")
            .skip(1)
            .filter(|arg| arg.contains("direction=\"in\""))
            .map(|arg| arg.split("type=\"").nth(1).unwrap().split('"').next().unwrap())
            .collect();
        let given = format!("{takes}s");
        let values = vec!["1"; given.len()];
        let refused = instance.call(&bus, &[&[name, &given], values.as_slice()].concat()).bad();
        assert!(refused.contains(&format!("{name} takes arguments of the types '{takes}', not '{given}'")), "{refused}");
    }
    instance.assert_unasked();
}

#[test]
fn busctl_introspects_and_walks_the_tree() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    let members = bus.busctl(&["introspect", instance.name(), "/org/ratoon1"]).good();
    for member in ["GetManagedObjects", "Reload", "WorkerExited", "WorkersReady", "GetMachineId"] {
        assert!(members.contains(member), "{member} is not in {members}");
    }
    let tree = bus.busctl(&["tree", "--list", instance.name()]).good();
    let expected = [
        "/",
        "/org",
        "/org/freedesktop",
        "/org/freedesktop/LogControl1",
        "/org/ratoon1",
        "/org/ratoon1/worker",
        "/org/ratoon1/worker/1",
        "/org/ratoon1/worker/2",
    ];
    assert_eq!(tree.lines().collect::<Vec<_>>(), expected);
    bus.busctl(&["call", instance.name(), "/anywhere", "org.freedesktop.DBus.Peer", "Ping"]).good();
    let machine = bus.busctl(&["call", instance.name(), "/org/ratoon1", "org.freedesktop.DBus.Peer", "GetMachineId"]);
    match std::fs::read_to_string("/etc/machine-id").or_else(|_| std::fs::read_to_string("/var/lib/dbus/machine-id")) {
        Ok(id) => assert_eq!(machine.json()["data"][0], id.trim()),
        Err(_) => assert!(machine.bad().contains("machine-id")),
    }
}

#[test]
fn the_manager_shows_the_summary() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    for (property, value) in [
        ("Version", json!({"type": "s", "data": env!("CARGO_PKG_VERSION")})),
        ("Instance", json!({"type": "s", "data": "web"})),
        ("State", json!({"type": "s", "data": "running"})),
        ("Degraded", json!({"type": "b", "data": false})),
        ("StatusText", json!({"type": "s", "data": "generation 1: 2/2 ready"})),
        ("Generation", json!({"type": "t", "data": 1})),
        ("WorkersConfigured", json!({"type": "u", "data": 2})),
        ("WorkersReady", json!({"type": "u", "data": 2})),
        ("Crashes", json!({"type": "t", "data": 0})),
        ("StartedAt", json!({"type": "t", "data": 1_234_567})),
        ("LastReload", json!({"type": "(tsst)", "data": [0, "", "", 0]})),
    ] {
        assert_eq!(instance.property(&bus, property), value);
    }
    instance.order(|world| {
        world.document.workers_ready = 2;
        world.document.status_text = "a \"quoted\" line\n".into();
    });
    let status = instance.call(&bus, &["GetStatus"]).json();
    assert_eq!(status["type"], "s");
    let document: tree::Document = serde_json::from_str(status["data"][0].as_str().unwrap()).unwrap();
    assert_eq!((document.workers_ready, document.status_text.as_str()), (2, "a \"quoted\" line\n"));
}

#[test]
fn a_large_status_arrives_whole() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    instance.order(|world| {
        let connection = tree::Connection { state: "idle".into(), ..tree::Connection::default() };
        world.document.workers = (1..=1000)
            .map(|id| tree::Worker { id, active_connections: vec![connection.clone(); 10], ..tree::Worker::default() })
            .collect();
    });
    let status = instance.call(&bus, &["GetStatus"]).json();
    let document: tree::Document = serde_json::from_str(status["data"][0].as_str().unwrap()).unwrap();
    assert_eq!(document.workers.len(), 1000);
    assert_eq!(document.workers[999].active_connections.len(), 10);
}

#[test]
fn workers_are_objects_with_the_kernels_figures() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    instance.order(|world| {
        world.document.workers =
            vec![tree::Worker { id: 1, memory_rss: Some(4096), cpu_usec: Some(3), requests: Some(0), ..tree::Worker::default() }];
    });
    let path = |id: u64| format!("/org/ratoon1/worker/{id}");
    let property = |id: u64, property: &str| {
        bus.busctl(&["get-property", instance.name(), &path(id), "org.ratoon1.Worker", property]).json()["data"].clone()
    };
    assert_eq!(property(1, "Id"), 1);
    assert_eq!(property(2, "Slot"), 1);
    assert_eq!(property(2, "Pid"), 1001);
    assert_eq!(property(1, "State"), "ready");
    assert_eq!(property(1, "StartedAt"), 7_000_000);
    assert_eq!(property(1, "MemoryCurrent"), 4096);
    assert_eq!(property(1, "CPUUsageNSec"), 3000);
    assert_eq!(property(1, "Requests"), 0);
    assert_eq!(property(1, "Connections"), u64::MAX);
    assert_eq!(property(2, "MemoryCurrent"), u64::MAX);

    let manager = "org.freedesktop.DBus.ObjectManager";
    let objects = bus.busctl(&["call", instance.name(), "/org/ratoon1", manager, "GetManagedObjects"]).json();
    assert_eq!(objects["type"], "a{oa{sa{sv}}}");
    let objects = objects["data"][0].as_object().unwrap();
    assert_eq!(objects.keys().collect::<Vec<_>>(), [&path(1), &path(2)]);
    let first = &objects[&path(1)]["org.ratoon1.Worker"];
    assert_eq!(first.as_object().unwrap().len(), 11);
    assert_eq!((&first["MemoryCurrent"]["data"], &first["Id"]["data"]), (&json!(4096), &json!(1)));
    assert_eq!(objects[&path(2)]["org.ratoon1.Worker"]["MemoryCurrent"]["data"], u64::MAX);
}

#[test]
fn a_thousand_workers_are_listed() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    instance.order(|world| {
        for id in 1..=1000 {
            world.change(ratoon::api::Change::Worker(worker(id, Phase::Ready)));
        }
    });
    let manager = "org.freedesktop.DBus.ObjectManager";
    let objects: Value = bus.busctl(&["call", instance.name(), "/org/ratoon1", manager, "GetManagedObjects"]).json();
    assert_eq!(objects["data"][0].as_object().unwrap().len(), 1000);
}

#[test]
fn the_log_level_is_read_and_set() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    let to = [instance.name(), "/org/freedesktop/LogControl1", "org.freedesktop.LogControl1"];
    let get = |property: &str| bus.busctl(&[&["get-property"], to.as_slice(), &[property]].concat()).json()["data"].clone();
    let set = |property: &str, kind: &str, value: &str| {
        bus.busctl(&[&["set-property"], to.as_slice(), &[property, kind, value]].concat())
    };
    assert_eq!((get("LogLevel"), get("LogTarget"), get("SyslogIdentifier")), (json!("info"), json!("journal"), json!("web")));
    set("LogLevel", "s", "debug").good();
    assert_eq!(get("LogLevel"), "debug");
    assert!(set("LogLevel", "s", "loud").bad().contains("loud is no level; info and debug are"));
    assert!(set("LogLevel", "u", "7").bad().contains("LogLevel is a string, not 'u'"));
    assert!(set("SyslogIdentifier", "s", "x").bad().contains("can only be read"));
    assert!(set("LogTarget", "s", "null").bad().contains("can't log to null"));
    set("LogTarget", "s", "journal").good();
    assert_eq!(get("LogLevel"), "debug");
}
