//! The snapshot: a pool is the same after writing and reading, and a damaged snapshot is refused with the reason, or harmless.

use std::time::Duration;

use serde_json::{Value, json};

use super::table::states;
use super::world::World;
use super::{ms, settings};
use crate::pool::{Event, Pool};

fn resume(world: &World, snapshot: Value) -> Result<Pool, String> {
    let pool: Pool = serde_json::from_value(snapshot).map_err(|error| error.to_string())?;
    pool.resume(world.now)
}

fn snapshot(world: &World) -> Value {
    serde_json::to_value(&world.pool).expect("plain data")
}

#[test]
fn every_state_is_the_same_behind_the_hand_over() {
    for (name, state) in states() {
        println!("{name}");
        let mut world = state();
        world.hand_over();
        world.pass(ms(250));
        world.hand_over();
    }
}

/// A function that damages a snapshot.
type Damage<'a> = &'a dyn Fn(&mut Value);

#[test]
fn contradictions_are_refused_in_a_sentence() {
    let world = World::new(settings(2));
    let whole = snapshot(&world);
    // An id that no worker has.
    const STRANGER: u64 = 7_777_777_777_777;
    let slot = |saved: &mut Value, key: &str| saved["generations"]["1"]["slots"][0][key] = json!(STRANGER);
    let reload = json!({
        "number": 2, "stage": "Preparing", "purpose": "Reload", "requesters": {"waiting": [], "unattended": true}, "canary": null,
        "target": 2, "started": 0, "unsettled": 0, "draining_for_surge": {},
    });
    let begun = |saved: &mut Value, key: &str, value: Value| {
        saved["last_number"] = json!(2);
        saved["reload"] = reload.clone();
        saved["reload"][key] = value;
    };
    let table: [(&str, Damage); 17] = [
        ("generation 7 is missing", &|saved| saved["current"] = json!(7)),
        ("worker 1 of the saved pool is of generation 3, which is missing", &|saved| {
            saved["workers"]["1"]["generation"] = json!(3);
        }),
        ("generation 2 is missing", &|saved| begun(saved, "stage", json!("Starting"))),
        ("900 started slots of 0", &|saved| begun(saved, "started", json!(900))),
        ("is to generation 7, and the last one is 2", &|saved| begun(saved, "number", json!(7))),
        ("makes room", &|saved| begun(saved, "draining_for_surge", json!({STRANGER.to_string(): 1}))),
        ("dancing", &|saved| saved["workers"]["1"]["phase"] = json!("dancing")),
        ("slot of generation 1 of the saved pool is 7777777777777, which is missing", &|saved| slot(saved, "worker")),
        ("slot of generation 1", &|saved| slot(saved, "successor")),
        ("slot of generation 1", &|saved| slot(saved, "stand_in")),
        ("worker of a deadline", &|saved| {
            saved["timers"].as_array_mut().unwrap().push(json!([{"Stop": STRANGER}, {"secs": 1, "nanos": 0}]));
        }),
        ("says 2 ready of 2 workers, but has 0 of 2", &|saved| saved["generations"]["1"]["ready"] = json!(2)),
        ("is Retired where it must be Current", &|saved| saved["generations"]["1"]["role"] = json!("Retired")),
        ("1 cannot be the last worker", &|saved| saved["last_worker"] = json!(1)),
        ("cannot be the last worker", &|saved| saved["last_worker"] = json!(u64::MAX)),
        ("cannot be the last generation", &|saved| saved["last_number"] = json!(0)),
        ("random", &|saved| saved["random"] = json!(0)),
    ];
    assert!(resume(&world, whole.clone()).is_ok());
    for (why, damage) in table {
        let mut saved = whole.clone();
        damage(&mut saved);
        let refused = resume(&world, saved).expect_err(why);
        assert!(refused.contains(why), "{refused}");
    }
}

/// Collects the JSON pointers of all leaf values: null, booleans, numbers and strings.
fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| leaves(value, &format!("{path}/{key}"), found)),
        Value::Array(values) => values.iter().enumerate().for_each(|(at, value)| leaves(value, &format!("{path}/{at}"), found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => found.push(path.to_owned()),
    }
}

#[test]
fn damaged_snapshots_are_refused_or_harmless() {
    let (mut refused, mut harmless) = (0, 0);
    for (name, state) in states() {
        let world = state();
        let whole = snapshot(&world);
        let mut paths = Vec::new();
        leaves(&whole, "", &mut paths);
        for path in paths {
            for damage in [json!(0), json!(u64::MAX), json!(u32::MAX), json!(null), json!("x")] {
                let mut saved = whole.clone();
                *saved.pointer_mut(&path).expect("a leaf") = damage.clone();
                let Ok(mut pool) = resume(&world, saved) else {
                    refused += 1;
                    continue;
                };
                harmless += 1;
                println!("{name}: {path} is {damage}");
                let mut actions = Vec::new();
                let now = world.now + ms(100);
                for event in [Event::Due, Event::Reload(None), Event::Absent(Duration::MAX), Event::Stop { now: true }] {
                    pool.step(now, event, &mut actions);
                }
                let _ = (pool.deadline(), pool.status_text());
            }
        }
    }
    assert!(refused > 1000 && harmless > 1000, "{refused} {harmless}");
}
