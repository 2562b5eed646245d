//! A committed generation that the pool undoes by itself is told on the bus. The real master, on a real bus.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::bus::Bus;
use super::upgrade::{Master, NAME, call};

/// The PIDs of the ready workers of a generation, from the status document.
fn pids(bus: &Bus, generation: u64) -> Vec<i32> {
    let status: Value =
        serde_json::from_str(call(bus, "GetStatus").json()["data"][0].as_str().expect("JSON")).expect("a document");
    let workers = status["workers"].as_array().expect("an array").iter();
    let own = workers.filter(|worker| worker["generation"] == generation && worker["state"] == "ready");
    own.map(|worker| i32::try_from(worker["pid"].as_i64().expect("a number")).expect("a pid")).collect()
}

/// The releases of `GetHistory`.
fn history(bus: &Bus) -> Value {
    serde_json::from_str(call(bus, "GetHistory").json()["data"][0].as_str().expect("JSON")).expect("releases")
}

#[test]
fn undo_goes_back_and_the_history_tells_who_asked() {
    let bus = Bus::start();
    let master = Master::start(&bus, "10ms");
    let monitor = bus.monitor(&[NAME]);
    assert_eq!(call(&bus, "Reload").json()["data"][0], 2);
    let undo = |generation: &str| bus.busctl(&["call", NAME, "/org/ratoon1", "org.ratoon1.Manager", "Undo", "t", generation]);
    assert_eq!(undo("0").json()["data"][0], 3);
    assert_eq!(
        [monitor.signal("ReloadFinished"), monitor.signal("ReloadFinished")],
        [json!([2, "committed", ""]), json!([3, "committed", ""])]
    );
    assert_eq!(undo("2").json()["data"][0], 4);
    let told = history(&bus);
    let releases = told.as_array().expect("an array");
    let each = |field: &str| releases.iter().map(|release| release[field].clone()).collect::<Vec<_>>();
    // Each release is there once, with the last generation that it had.
    assert_eq!((each("generation"), each("release")), (vec![4.into(), 3.into()], vec![2.into(), 1.into()]), "{told:#}");
    assert_eq!(each("ended"), [Value::Null, "undone".into()], "{told:#}");
    let by = format!("user {} on D-Bus", rustix::process::geteuid().as_raw());
    assert!(each("asked_by").iter().all(|asked| asked == by.as_str()), "{told:#}");
    assert!(releases.iter().all(|release| release["program"].is_string() && release["directory"].is_string()), "{told:#}");
    let said = undo("9").bad();
    assert!(said.contains("generation 9"), "{said}");
    drop(master);
}

#[test]
fn undone_follows_the_second_reload_finished() {
    let bus = Bus::start();
    let master = Master::start(&bus, "10ms");
    master.configure("10ms", "[reload]\nprobation = '0s'\n");
    let monitor = bus.monitor(&[NAME]);
    assert_eq!(call(&bus, "Reload").json()["data"][0], 2);
    assert_eq!(monitor.signal("ReloadFinished"), json!([2, "committed", ""]));
    master.until("both workers of generation 2 are ready", || pids(&bus, 2).len() == 2);
    for pid in pids(&bus, 2) {
        kill_process(Pid::from_raw(pid).expect("a pid"), Signal::SEGV).expect("the worker lives");
    }
    let why = "every slot has failed within 30s of the commit (signal SIGSEGV";
    let told = [monitor.signal("ReloadFinished"), monitor.signal("ReloadFinished"), monitor.signal("Undone")];
    assert_eq!(told[0], json!([3, "committed", ""]));
    assert_eq!((&told[1][0], &told[1][1]), (&json!(2), &json!("undone")), "{told:?}");
    assert_eq!((&told[2][0], &told[2][1]), (&json!(2), &json!(1)), "{told:?}");
    assert!(told[1][2].as_str().is_some_and(|reason| reason.starts_with(why)) && told[1][2] == told[2][2], "{told:?}");
}
