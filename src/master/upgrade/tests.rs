use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::{Config, Surge};
use crate::master::state::{Bytes, Document, Release, State};

fn document(state: State) -> Vec<u8> {
    Document::new(state, BTreeMap::new()).write().unwrap()
}

#[test]
fn unknown_fields_are_ignored_and_missing_ones_have_a_default() {
    let text = br#"{"format":3,"news":{"a":[1]},"state":{"instance":"web","later":true,
        "listeners":[{"name":"http","fd":"listener-0","mark":3}]}}"#;
    let document = Document::read(text).unwrap();
    assert_eq!(document.state.instance, "web");
    assert_eq!((document.state.listeners[0].name.as_str(), document.state.listeners[0].inherited), ("http", false));
    assert!(super::restore::can_restore(document.state).unwrap_err().contains("no pool"));
}

#[test]
fn what_cannot_be_read_is_said_in_a_sentence() {
    for (text, why) in [
        (&b"no state"[..], "no JSON"),
        (b"{}", "no state of a master"),
        (b"[1]", "no state of a master"),
        (br#"{"format":9}"#, "this master's state has format 9, and version"),
        (br#"{"format":2,"least":1,"state":{"instance":"web"}}"#, "has format 2"),
        (br#"{"format":1,"least":1}"#, "has format 1"),
        (br#"{"format":3,"state":{"pool":7}}"#, "cannot be read"),
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
    config.worker.ready = crate::config::Ready::Accepting;
    for surge in [Surge::Percent(25), Surge::Count(3)] {
        config.reload.surge = surge;
        let releases = [(3, Release { config: config.clone(), ..Release::default() })].into();
        let read = Document::read(&document(State { releases, ..State::default() })).unwrap();
        assert_eq!(read.state.releases[&3].config, config);
    }
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
    let workers = [(1, crate::master::state::Process { generation: 4, ..Default::default() })].into();
    let why = super::restore::can_restore(State { workers, ..State::default() }).unwrap_err();
    assert!(why.contains("generation 4"), "{why}");
}
