//! The JSON Schema against the reader: the schema accepts what the reader accepts, and refuses what the reader refuses.

use proptest::prelude::*;

use super::hostile::{every_key, odd_values};
use super::*;

/// The compiled schema.
fn validator() -> jsonschema::Validator {
    jsonschema::draft7::new(&schema()).unwrap()
}

/// The file as JSON, as an editor's validator sees it.
fn json(text: &str) -> serde_json::Value {
    serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap()
}

#[test]
fn schema_is_a_valid_schema_of_draft_7() {
    assert!(jsonschema::draft7::meta::is_valid(&schema()));
}

#[test]
fn schema_takes_the_example_with_every_key() {
    let (validator, file) = (validator(), json(&every_key()));
    let errors: Vec<_> = validator.iter_errors(&file).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn schema_takes_every_form_of_a_value() {
    let validator = validator();
    for line in [
        "environment = [\"A=1\", \"B=2\"]",
        "environment = { A = 1 }",
        "environment_file = \"-/etc/default/web\"",
        "start_timeout = 20",
        "start_timeout = \"1h 30min\"",
        "start_timeout = \"1.5s\"",
        "watchdog = 0",
        "watchdog = \"infinity\"",
        "settle = 0",
        "stop_signal = 3",
        "stop_signal = \"RTMIN+1\"",
        "user = 33",
        "stdin = \"socket\"",
        "nonblocking = true",
        "limits.memory_max = \"infinity\"",
        "limits.memory_max = 4096",
        "[reload]\nsurge = 1",
        "[reload]\nsurge = \"50 %\"",
        "[status]\nlisten = \"[::1]:80\"",
        "[status]\nlisten = \"/run/x.sock\"",
    ] {
        let text = format!("[worker]\ncommand = [\"web\"]\n{line}");
        read(&text).unwrap();
        assert!(validator.is_valid(&json(&text)), "{line}");
    }
}

#[test]
fn schema_refuses_what_the_reader_refuses() {
    let validator = validator();
    for line in [
        "start_timeuot = \"10s\"",
        "workers = 3",
        "[releod]\nsurge = 3",
        "[restart]\nstop_timeout = 3",
        "count = 0",
        "count = 10001",
        "count = \"4\"",
        "ready = \"nofity\"",
        "stdin = \"/dev/null\"",
        "nonblocking = \"true\"",
        "nonblocking = 1",
        "settle = \"off\"",
        "start_timeout = 0",
        "start_timeout = \"0s\"",
        "start_timeout = \"10x\"",
        "start_timeout = \"infinity\"",
        "start_timeout = -5",
        "watchdog = true",
        "stop_signal = \"\"",
        "stop_signal = 65",
        "user = \"a b\"",
        "user = -1",
        "user = 4294967295",
        "directory = \"\"",
        "environment = { \"A-B\" = \"1\" }",
        "environment = [\"A\"]",
        "environment_file = \"-\"",
        "limits = 3",
        "limits.memory_max = \"512MB\"",
        "limits.nofile = 15",
        "limits.cpu_weight = 0",
        "[reload]\nsurge = \"101%\"",
        "[reload]\ncheck = []",
        "[status]\nlisten = \"localhost:80\"",
    ] {
        let text = format!("[worker]\ncommand = [\"web\"]\n{line}");
        read(&text).unwrap_err();
        assert!(!validator.is_valid(&json(&text)), "{line}");
    }
    assert!(!validator.is_valid(&json("[worker]\ncount = 3")));
    assert!(!validator.is_valid(&json("")));
}

#[test]
fn schema_has_text_and_default_of_each_key() {
    let schema = schema();
    for key in super::super::table::TABLES.iter().flat_map(|table| table.keys) {
        let pointer = format!("/properties/{}", key.full.replace('.', "/properties/"));
        let value = schema.pointer(&pointer).unwrap_or_else(|| panic!("{pointer}"));
        let text = value["description"].as_str().unwrap();
        assert!(text.len() > 10 && !text.contains('`') && !text.contains("  "), "{pointer}: {text}");
        assert!(value.get("default").is_some() || text.contains("Default: "), "{pointer}: {text}");
    }
    assert_eq!(schema["properties"]["worker"]["properties"]["start_timeout"]["default"], "10s");
    assert_eq!(schema["properties"]["restart"]["properties"]["limit"]["default"], Restart::default().limit);
}

proptest! {
    #[test]
    fn schema_takes_what_the_reader_takes(text in odd_values()) {
        if read(&text).is_ok() {
            prop_assert!(validator().is_valid(&json(&text)), "{text}");
        }
    }
}
