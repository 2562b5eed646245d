use std::time::Duration;

use super::state::{Bytes, Document, Release, State};
use crate::config::{Config, Surge};

fn document(state: State) -> Vec<u8> {
    Document { format: super::state::FORMAT, least: super::state::LEAST, state, ..Document::default() }.write().unwrap()
}

#[test]
fn what_a_later_version_adds_is_ignored_and_what_an_earlier_one_lacks_has_a_default() {
    let text = br#"{"format":7,"least":1,"news":{"a":[1]},"state":{"instance":"web","later":true,
        "listeners":[{"name":"http","fd":"listener-0","mark":3}]}}"#;
    let document = Document::read(text).unwrap();
    assert_eq!(document.state.instance, "web");
    assert_eq!((document.state.listeners[0].name.as_str(), document.state.listeners[0].inherited), ("http", false));
    assert_eq!(Document::read(br#"{"format":1}"#).unwrap().state.instance, "");
}

#[test]
fn what_cannot_be_read_is_said_in_a_sentence() {
    for (text, why) in [
        (&b"no state"[..], "no JSON"),
        (b"{}", "no state of a master"),
        (b"[1]", "no state of a master"),
        (br#"{"format":9,"least":9}"#, "format 9"),
        (br#"{"format":1,"state":{"pool":7}}"#, "cannot be read"),
    ] {
        let error = Document::read(text).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_configuration_comes_through_as_it_was() {
    let mut config = Config::for_command(vec!["/bin/x".into(), "--flag".into()]);
    config.worker.watchdog = Some(Duration::from_millis(1500));
    config.worker.environment = vec![("A".into(), "b=c".into())];
    config.hooks.before_shutdown = Some(vec!["true".into()]);
    // What is seen from outside stands in the pool's part of the state: see `readable_by_older_masters`.
    config.worker.ready = crate::config::Ready::Notify;
    for surge in [Surge::Percent(25), Surge::Count(3)] {
        config.reload.surge = surge;
        let releases = [(3, Release { config: config.clone(), ..Release::default() })].into();
        let read = Document::read(&document(State { releases, ..State::default() })).unwrap();
        assert_eq!(read.state.releases[&3].config, config);
    }
}

#[test]
fn readiness_from_outside_is_notify_for_older_masters() {
    let text = serde_json::to_value(Config::for_command(vec!["/bin/x".into()])).unwrap();
    assert_eq!((&text["worker"]["ready"], text["reload"].get("probation")), (&"notify".into(), None));
}

#[test]
fn bytes_that_are_no_text_come_through() {
    for bytes in [&b"/usr/bin/ratoon"[..], b"\xff\x00/x", b""] {
        let text = serde_json::to_string(&Bytes::from(bytes)).unwrap();
        assert_eq!(serde_json::from_str::<Bytes>(&text).unwrap().into_vec(), bytes);
    }
}

#[test]
fn a_pool_whose_release_is_missing_is_refused_before_it_is_taken() {
    let workers = [(1, super::state::Process { generation: 4, ..Default::default() })].into();
    let why = super::restore::can_restore(State { workers, ..State::default() }).unwrap_err();
    assert!(why.contains("generation 4"), "{why}");
}

/// What masters of earlier commits wrote, byte for byte: with a draining worker, a record of a failure, a rolled back reload,
/// totals, and nearly every setting.
const RECORDED: [(&str, &[u8]); 2] =
    [("0daf0ad", include_bytes!("recorded/0daf0ad.json")), ("999baec", include_bytes!("recorded/999baec.json"))];

/// Keys of those that no program writes any more, and why they may go.
const GONE: [&str; 2] = [
    // Had no effect then.
    "balance", // Nobody waits over an exec.
    "askers",
];

/// Everything that `one` says `other` says too; more than that it may.
#[track_caller]
fn says_all_of(other: &serde_json::Value, one: &serde_json::Value, place: &str) {
    use serde_json::Value;
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            for (key, value) in one.iter().filter(|(key, _)| !GONE.contains(&key.as_str())) {
                let place = format!("{place}.{key}");
                says_all_of(other.get(key).unwrap_or_else(|| panic!("{place} is lost")), value, &place);
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            assert_eq!(one.len(), other.len(), "{place}");
            one.iter().zip(other).for_each(|(one, other)| says_all_of(other, one, place));
        }
        (one, other) => assert_eq!(one, other, "{place}"),
    }
}

#[test]
fn states_of_earlier_commits_are_read_whole() {
    for (commit, bytes) in RECORDED {
        let recorded: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        let document = Document::read(bytes).unwrap();
        assert_eq!((document.state.instance.as_str(), document.state.workers.len()), ("web", 4), "{commit}");
        // Written again it says what was read.
        let again = serde_json::from_slice(&document.write().unwrap()).unwrap();
        says_all_of(&again, &recorded, commit);
        super::restore::can_restore(document.state).unwrap();
        // So does the pool that is made of it, for a pool that was saved a moment later: all but the times.
        let mut state = Document::read(bytes).unwrap().state;
        let saved_at = std::time::Instant::now();
        let pool = crate::pool::Pool::restore(saved_at, std::mem::take(&mut state.pool)).unwrap();
        says_all_of(&serde_json::to_value(pool.save(saved_at)).unwrap(), &recorded["state"]["pool"], commit);
    }
}

#[test]
fn states_of_later_versions_are_read_with_all_that_is_known_of_them() {
    fn with_news(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(map) => {
                map.values_mut().for_each(with_news);
                // Not where the keys are names of workers, counters, descriptors.
                if map
                    .keys()
                    .any(|key| ["state", "instance", "slot", "pidfd", "config", "command", "totals"].contains(&key.as_str()))
                {
                    map.insert("of-later-times".to_owned(), serde_json::json!({"a": [1, null]}));
                }
            }
            serde_json::Value::Array(values) => values.iter_mut().for_each(with_news),
            _ => {}
        }
    }
    for (commit, bytes) in RECORDED {
        let recorded: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        let mut later = recorded.clone();
        with_news(&mut later);
        later["format"] = 99.into();
        later["version"] = "9.0.0".into();
        assert_ne!(later["state"]["releases"]["4"]["config"]["worker"]["of-later-times"], serde_json::Value::Null);
        let document = Document::read(later.to_string().as_bytes()).unwrap();
        says_all_of(
            &serde_json::from_slice(&document.write().unwrap()).unwrap(),
            &{
                let mut said = recorded;
                said["format"] = 99.into();
                said["version"] = "9.0.0".into();
                said
            },
            commit,
        );
        super::restore::can_restore(document.state).unwrap();
    }
}
