//! The saved form between versions: what is unknown or missing, and what contradicts itself.

use serde_json::{Value, json};

use super::table::states;
use super::world::World;
use super::{ms, settings};
use crate::pool::{ExitCause, Pool, Saved};

fn restore(world: &World, saved: Value) -> Result<Pool, String> {
    let saved: Saved = serde_json::from_value(saved).map_err(|error| error.to_string())?;
    Pool::restore(world.now, saved)
}

/// Puts a field that no version has into every object but those that are a single value (a span of time, a choice).
fn strange(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(strange);
            let single = fields.contains_key("nanos") || fields.len() == 1;
            let by_number = fields.keys().any(|key| key.starts_with(|first: char| first.is_ascii_digit()));
            if !single && !by_number && !fields.is_empty() {
                fields.insert("of_another_version".to_owned(), json!({"x": [1]}));
            }
        }
        Value::Array(values) => values.iter_mut().for_each(strange),
        _ => {}
    }
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

#[test]
fn what_another_version_says_besides_is_ignored() {
    for (name, state) in states() {
        println!("{name}");
        let world = state();
        let saved = world.pool.save(world.now);
        let mut value = serde_json::to_value(&saved).unwrap();
        strange(&mut value);
        let text = value.to_string();
        let restored = restore(&world, value).unwrap_or_else(|why| panic!("{why}: {text}"));
        assert_eq!(restored.save(world.now), saved);
    }
}

#[test]
fn what_another_version_leaves_out_has_a_default() {
    for (name, state) in states() {
        let world = state();
        let whole = serde_json::to_value(world.pool.save(world.now)).unwrap();
        for field in whole.as_object().unwrap().keys().cloned().collect::<Vec<_>>() {
            println!("{name} without {field}");
            let mut part = whole.clone();
            part.as_object_mut().unwrap().remove(&field);
            let restored = restore(&world, part);
            assert_eq!(restored.is_err(), field == "generations", "{restored:?}");
        }
    }
}

#[test]
fn unknown_words_are_read_as_the_most_harmless() {
    let mut world = World::new(settings(2));
    world.exit(1, ExitCause::Exit(1));
    let mut saved = serde_json::to_value(world.pool.save(world.now)).unwrap();
    let timers = saved["timers"].as_array_mut().unwrap();
    let before = timers.len();
    timers.push(json!({"for": "something-new", "at": 5, "worker": 2}));
    saved["generations"]["1"]["places"][0]["last_failure"]["how"] = json!({"how": "eaten", "by": "a grue"});
    let restored = restore(&world, saved).unwrap();
    assert_eq!(serde_json::to_value(restored.save(world.now)).unwrap()["timers"].as_array().unwrap().len(), before);
    assert!(restored.status_text().contains("(unknown)"), "{}", restored.status_text());
}

#[test]
fn contradictions_are_refused_in_a_sentence() {
    let world = World::new(settings(2));
    let whole = serde_json::to_value(world.pool.save(world.now)).unwrap();
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut saved = whole.clone();
        change(&mut saved);
        restore(&world, saved).expect_err("a contradiction")
    };
    assert_eq!(refused(&|saved| saved["current"] = json!(7)), "generation 7 is missing in the saved pool");
    assert_eq!(
        refused(&|saved| saved["workers"]["1"]["generation"] = json!(3)),
        "worker 1 of the saved pool is of generation 3, which is missing"
    );
    assert_eq!(
        refused(&|saved| saved["reload"] = json!({"number": 2, "stage": "starting"})),
        "generation 2 is missing in the saved pool"
    );
    assert!(refused(&|saved| saved["workers"]["1"]["phase"] = json!("dancing")).contains("dancing"));
    // What only leads nowhere is left out. (A number that no time holds.)
    const STRANGER: u64 = 7_777_777_777_777;
    let mut loose = whole.clone();
    loose["generations"]["1"]["places"][0]["successor"] = json!(STRANGER);
    loose["timers"].as_array_mut().unwrap().push(json!({"for": "stop", "worker": STRANGER, "at": 1}));
    loose["reload"] = json!({"number": 2, "stage": "preparing", "started": 900, "draining_for_surge": {STRANGER.to_string(): 1}});
    let restored = restore(&world, loose).unwrap();
    assert!(!format!("{restored:?}").contains(&STRANGER.to_string()));
}
