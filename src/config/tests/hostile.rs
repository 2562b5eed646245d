//! For any bytes, reading ends with a configuration or with errors that can be shown.

use proptest::prelude::*;

use super::row::Table;
use super::table::TABLES;
use super::*;

/// The example that is shipped, which has every key.
const EXAMPLE: &str = include_str!("../../../examples/web.toml");

/// The lines of the example with every key uncommented.
pub(super) fn every_key() -> String {
    EXAMPLE.lines().map(uncommented).collect()
}

/// A line with its key uncommented: `#count = 4` is a key, `# Words.` is a comment.
fn uncommented(line: &str) -> String {
    let line = match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => key,
        _ => line,
    };
    format!("{line}\n")
}

/// Reads the text and formats its errors, as `ratoon check` and a status do.
fn try_to_read(text: &str) {
    match parse(text, Path::new("web.toml")) {
        Ok(config) => {
            assert!(!config.worker.command.is_empty());
            assert!((1..=COUNT_MAX).contains(&config.worker.workers()));
            assert!(config.restart.initial <= config.restart.max);
        }
        Err(error) => {
            let (whole, line) = (error.to_string(), error.summary());
            assert!(whole.len() < 20_000, "{whole}");
            assert!(!whole.chars().any(|c| c.is_control() && c != '\n'), "{whole:?}");
            assert!(!line.contains('\n') && !line.is_empty());
        }
    }
}

#[test]
fn the_example_is_fine_and_has_every_key() {
    let as_shipped = read(EXAMPLE).unwrap();
    assert_eq!(
        Config { worker: Worker { command: Vec::new(), ..as_shipped.worker.clone() }, ..as_shipped },
        Config::for_command(Vec::new())
    );
    let text = every_key();
    read(&text).unwrap();
    for Table { name: table, keys, .. } in TABLES {
        assert!(text.contains(&format!("\n[{table}]\n")), "no table [{table}]");
        let (_, below) = text.split_once(&format!("\n[{table}]\n")).unwrap();
        let below = below.split("\n[").next().unwrap();
        for key in keys.iter().map(|key| key.name) {
            assert!(below.lines().any(|line| line.starts_with(&format!("{key} = "))), "{table}.{key} is not in the example");
        }
    }
}

#[test]
fn the_example_shows_the_defaults_where_there_are_any() {
    let config = read(&every_key()).unwrap();
    let default = Config::for_command(config.worker.command.clone());
    assert_eq!(config.restart, Restart { give_up: config.restart.give_up, ..default.restart });
    assert_eq!(config.reload.surge, default.reload.surge);
    assert_eq!(config.worker.settle, default.worker.settle);
    assert_eq!(config.worker.start_timeout, default.worker.start_timeout);
    assert_eq!(config.worker.stop_timeout, default.worker.stop_timeout);
    assert_eq!(config.worker.stop_signal, default.worker.stop_signal);
    assert_eq!((config.worker.ready, config.worker.balance), (default.worker.ready, default.worker.balance));
}

/// A valid text with a part cut, inserted or doubled, or with another character.
fn mutated() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<char>().prop_map(String::from),
        "[\\[\\]{}=\"'.,#\\\\\n\t 0-9a-z_-]{1,6}",
        Just("\"\"\"".to_owned()),
        Just("99999999999999999999999999".to_owned()),
        Just("= -1\n".to_owned()),
        Just("\u{202e}\u{1b}[2J".to_owned()),
        Just("\\u0000".to_owned()),
        Just("\r".to_owned()),
    ];
    let change = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), piece);
    prop::collection::vec(change, 1..6).prop_map(|changes| {
        let mut text: Vec<char> = every_key().chars().collect();
        for (from, length, piece) in changes {
            let start = from.index(text.len() + 1);
            let end = (start + length.index(12)).min(text.len());
            text.splice(start..end, piece.chars());
        }
        text.into_iter().collect()
    })
}

/// `key = value` lines of known keys and odd values, in odd tables.
pub(super) fn odd_values() -> impl Strategy<Value = String> {
    let tables: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
    let keys: Vec<&str> = TABLES.iter().flat_map(|table| keys::names(table.name)).collect();
    let value = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| format!("{number:?}").to_lowercase()),
        any::<String>().prop_map(|text| toml::Value::String(text).to_string()),
        "\"[0-9.]{0,20} ?(us|ms|s|min|h|d|w|M|y|K|G|T|%|)\"",
        Just("[]".to_owned()),
        Just("[[], {}, 1, '', true]".to_owned()),
        Just("{ a = { b = 1 } }".to_owned()),
        Just("1979-05-27T07:32:00Z".to_owned()),
        Just("\"off\"".to_owned()),
        Just("true".to_owned()),
    ];
    let line = (prop::sample::select(tables), prop::sample::select(keys), value);
    prop::collection::vec(line, 1..8).prop_map(|lines| {
        let lines = lines.iter().map(|(table, key, value)| format!("{table}.{key} = {value}\n"));
        format!("worker.command = ['web']\n{}", lines.collect::<String>())
    })
}

proptest! {
    #[test]
    fn any_text(text in any::<String>()) {
        try_to_read(&text);
    }

    #[test]
    fn a_changed_file(text in mutated()) {
        try_to_read(&text);
    }

    #[test]
    fn any_value_of_any_key(text in odd_values()) {
        try_to_read(&text);
    }

    #[test]
    fn any_bytes_in_a_file(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.toml");
        std::fs::write(&path, &bytes).unwrap();
        if let Err(error) = load(&path) {
            prop_assert!(error.to_string().contains("web.toml"));
        }
    }
}
