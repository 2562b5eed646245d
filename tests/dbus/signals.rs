//! What is told without being asked.

use std::time::{Duration, UNIX_EPOCH};

use ratoon::api::{Change, Reply, WorkerView};
use ratoon::pool::{Outcome, Phase, PoolState};
use serde_json::{Value, json};

use super::bus::{Bus, Monitor};
use super::instance::{Instance, worker};

fn exited(id: u64) -> Change {
    Change::WorkerExited { id, slot: 0, generation: 1, how: "exit 1".into(), failed: true }
}

/// The next change of properties at `path`: interface and what changed.
#[track_caller]
fn changed(monitor: &Monitor, path: &str) -> (String, Value) {
    let fits = |message: &Value| message["member"] == "PropertiesChanged" && message["path"] == path;
    let data = monitor.until(fits)["payload"]["data"].clone();
    assert_eq!(data[2], json!([]));
    let values = data[1].as_object().unwrap().iter().map(|(name, value)| (name.clone(), value["data"].clone()));
    (data[0].as_str().unwrap().to_owned(), values.collect())
}

#[test]
fn changes_of_the_manager_are_told_and_nothing_else() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    let monitor = bus.monitor(&[instance.name()]);
    instance.publish(|summary| {
        summary.state = PoolState::Reloading;
        summary.status_text = "reloading to generation 2: 0/2 ready".into();
    });
    let manager = |values: Value| ("org.ratoon1.Manager".to_owned(), values);
    let expected = json!({"State": "reloading", "StatusText": "reloading to generation 2: 0/2 ready"});
    assert_eq!(changed(&monitor, "/org/ratoon1"), manager(expected));
    // What is published anew but is the same is no change.
    instance.publish(|_| {});
    instance.publish(|summary| {
        summary.state = PoolState::Running;
        summary.generation = 2;
        summary.last_reload = Some((2, Outcome::Committed, "".into(), UNIX_EPOCH + Duration::from_micros(99)));
    });
    let expected = json!({"State": "running", "Generation": 2, "LastReload": [2, "committed", "", 99]});
    assert_eq!(changed(&monitor, "/org/ratoon1"), manager(expected));
    instance.publish(|summary| {
        summary.degraded = true;
        summary.crashes = 11;
        summary.workers_ready = 1;
        summary.workers_configured = 3;
    });
    let expected = json!({"Degraded": true, "Crashes": 11, "WorkersReady": 1, "WorkersConfigured": 3});
    assert_eq!(changed(&monitor, "/org/ratoon1"), manager(expected));
    assert_eq!(instance.property(&bus, "Degraded")["data"], true);
}

#[test]
fn reloads_and_exits_are_told() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    let monitor = bus.monitor(&[instance.name()]);
    instance.change(Change::ReloadStarted { generation: 2 });
    instance.change(Change::ReloadFinished { generation: 2, outcome: Outcome::RolledBack, reason: "exit 1".into() });
    instance.change(Change::Undone { generation: 3, release: 1, reason: "7 of 60 requests failed".into() });
    instance.change(exited(1));
    assert_eq!(monitor.signal("ReloadStarted"), json!([2]));
    assert_eq!(monitor.signal("ReloadFinished"), json!([2, "rolled-back", "exit 1"]));
    assert_eq!(monitor.signal("Undone"), json!([3, 1, "7 of 60 requests failed"]));
    assert_eq!(monitor.signal("WorkerExited"), json!([1, 1, "exit 1"]));
}

#[test]
fn worker_objects_come_change_and_go() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    let monitor = bus.monitor(&[instance.name()]);
    instance.change(Change::Worker(WorkerView { pid: 0, ..worker(3, Phase::Starting) }));
    let added = monitor.signal("InterfacesAdded");
    assert_eq!(added[0], "/org/ratoon1/worker/3");
    let properties = &added[1]["org.ratoon1.Worker"];
    assert_eq!((&properties["State"]["data"], &properties["Pid"]["data"]), (&json!("starting"), &json!(0)));
    assert_eq!(properties["MemoryCurrent"]["data"], u64::MAX);

    let path = "/org/ratoon1/worker/3";
    let told = |values: Value| ("org.ratoon1.Worker".to_owned(), values);
    instance.change(Change::Worker(worker(3, Phase::Starting)));
    assert_eq!(changed(&monitor, path), told(json!({"Pid": 1002})));
    instance.change(Change::Worker(WorkerView { status_text: "warm".into(), ..worker(3, Phase::Ready) }));
    assert_eq!(changed(&monitor, path), told(json!({"State": "ready", "StatusText": "warm"})));
    // Many texts: the first may wait, the last is told in the end.
    for text in ["a", "b", "c", "done"] {
        instance.change(Change::Worker(WorkerView { status_text: text.into(), ..worker(3, Phase::Ready) }));
    }
    while changed(&monitor, path) != told(json!({"StatusText": "done"})) {}

    instance.change(exited(3));
    assert_eq!(monitor.signal("WorkerExited"), json!([3, 1, "exit 1"]));
    assert_eq!(monitor.signal("InterfacesRemoved"), json!([path, ["org.ratoon1.Worker"]]));
    let gone = bus.busctl(&["get-property", instance.name(), path, "org.ratoon1.Worker", "State"]).bad();
    assert!(gone.contains("there is no object /org/ratoon1/worker/3"), "{gone}");
}

#[test]
fn texts_that_dbus_can_not_carry_do_not_end_the_connection() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    let monitor = bus.monitor(&[instance.name()]);
    instance.publish(|summary| {
        summary.status_text = "a\0b".into();
        summary.last_reload = Some((2, Outcome::Refused, "c\0d".into(), UNIX_EPOCH));
    });
    let expected = json!({"StatusText": "a\u{fffd}b", "LastReload": [2, "refused", "c\u{fffd}d", 0]});
    assert_eq!(changed(&monitor, "/org/ratoon1").1, expected);
    instance.change(Change::Worker(WorkerView { status_text: "\0".into(), ..worker(3, Phase::Starting) }));
    assert_eq!(monitor.signal("InterfacesAdded")[1]["org.ratoon1.Worker"]["StatusText"]["data"], "\u{fffd}");
    instance.change(Change::Worker(WorkerView { status_text: "\0\0".into(), ..worker(3, Phase::Ready) }));
    let expected = json!({"State": "ready", "StatusText": "\u{fffd}\u{fffd}"});
    assert_eq!(changed(&monitor, "/org/ratoon1/worker/3").1, expected);
    instance.change(Change::ReloadFinished { generation: 2, outcome: Outcome::Refused, reason: "\0".into() });
    assert_eq!(monitor.signal("ReloadFinished"), json!([2, "refused", "\u{fffd}"]));
    instance.change(Change::WorkerExited { id: 3, slot: 0, generation: 1, how: "\0".into(), failed: true });
    assert_eq!(monitor.signal("WorkerExited"), json!([3, 1, "\u{fffd}"]));
    // An error, too; and a document.
    let call = instance.calling(&bus, &["Abort"]);
    instance.asked().2.unwrap().send(Reply::Failed("e\0f".into())).unwrap();
    assert!(call.ran().bad().contains("e\u{fffd}f"));
    instance.order(|world| world.document.status_text = "g\0h".into());
    let status = instance.call(&bus, &["GetStatus"]).json();
    assert!(status["data"][0].as_str().unwrap().contains("g\\u0000h"), "{status}");
}

#[test]
fn missed_notices_are_made_good() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    let monitor = bus.monitor(&["--match=type=signal,member=InterfacesRemoved"]);
    // In one turn of the loop more than the channel holds; the exit of worker 1 is among the lost.
    instance.order(|world| {
        world.change(exited(1));
        for _ in 0..2000 {
            world.change(Change::Worker(worker(2, Phase::Ready)));
        }
        world.change(Change::Worker(worker(3, Phase::Ready)));
    });
    assert_eq!(monitor.signal("InterfacesRemoved"), json!(["/org/ratoon1/worker/1", ["org.ratoon1.Worker"]]));
    let tree = bus.busctl(&["tree", "--list", instance.name()]).good();
    assert!(tree.contains("/org/ratoon1/worker/2\n/org/ratoon1/worker/3"), "{tree}");
    assert!(!tree.contains("/org/ratoon1/worker/1"), "{tree}");
}
