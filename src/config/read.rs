//! Reads the text of a file into the types, key by key of `table.rs`.
//!
//! Law: a mistake does not hide the next one. A key that cannot be read keeps its default while reading goes on, and
//! [`Reading::finish`] gives a configuration only when nothing was wrong.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::error::{Error, Place, SHOWN, quoted};
use super::types::Config;
use super::values::own_words;
use super::{contradictions, keys};

const EXAMPLE: &str = "[worker]\n    command = [\"/usr/bin/my-server\", \"--flag\"]";

/// The state of reading one text: the problems so far, and the place of each key.
pub(super) struct Reading<'t> {
    text: &'t str,
    name: &'t Path,
    problems: Vec<(Place, String)>,
    places: BTreeMap<String, Range<usize>>,
}

impl<'t> Reading<'t> {
    pub(super) fn new(text: &'t str, name: &'t Path) -> Self {
        Self { text, name, problems: Vec::new(), places: BTreeMap::new() }
    }

    /// Reads the whole document. With `has_command` the command may be missing, because the flags give one.
    pub(super) fn document(&mut self, has_command: bool) -> Config {
        let mut config = Config::for_command(Vec::new());
        let table = match DeTable::parse(self.text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                self.syntax(&error);
                return config;
            }
        };
        self.table(&mut config, "", table);
        // A misspelt worker.command, or one in the wrong table, has been reported already.
        if !has_command && !self.places.contains_key("worker.command") && self.problems.is_empty() {
            let place = self.places.get("worker").cloned().map_or(Place::Whole, Place::At);
            self.problems.push((place, format!("the key worker.command is missing: what is to be run? Write\n    {EXAMPLE}")));
        }
        config
    }

    /// Reads the keys of the table `name` (`""`: the top) and of the tables in it; all other keys are unknown.
    fn table(&mut self, config: &mut Config, name: &str, mut table: DeTable<'_>) {
        for key in keys::table(name).map_or(&[][..], |table| table.keys) {
            let Some((_, value)) = table.remove_entry(key.name) else { continue };
            let place = value.span();
            if let Err(error) = (key.read)(config, ValueDeserializer::from(value)) {
                let place = error.span().unwrap_or_else(|| place.clone());
                self.problem(place, format!("{}: {}", key.full, own_words(error.message())));
            }
            self.places.insert(key.full.to_owned(), place);
        }
        for (key, full) in keys::tables_of(name) {
            let Some((_, value)) = table.remove_entry(key) else { continue };
            let place = value.span();
            self.places.insert(full.to_owned(), place.clone());
            match value.into_inner() {
                DeValue::Table(inner) => self.table(config, full, inner),
                DeValue::Array(_) => {
                    self.problem(place, format!("there is one table {full} only; write it once, as [{full}]"));
                }
                _ => self.problem(place, format!("{full} is a table, not a value; write its keys below a line [{full}]")),
            }
        }
        let mut left: Vec<_> = table.into_iter().collect();
        left.sort_by_key(|(key, _)| key.span().start);
        for (number, (key, value)) in left.into_iter().enumerate() {
            let is_table = matches!(value.get_ref(), DeValue::Table(_));
            // A hostile file may have a hundred thousand unknown keys; the later ones are counted, never shown.
            let message = if number < SHOWN { keys::unknown(name, key.get_ref(), is_table) } else { String::new() };
            self.problem(key.span(), message);
        }
    }

    /// Adds the contradictions, each at the first of its keys that the file has.
    pub(super) fn contradictions(&mut self, config: &Config) {
        if !self.problems.is_empty() {
            return;
        }
        for found in contradictions::find(config) {
            let place = found.keys.iter().find_map(|key| self.places.get(*key)).cloned().map_or(Place::Flags, Place::At);
            self.problems.push((place, found.message));
        }
    }

    /// The configuration, or all problems.
    pub(super) fn finish(self, config: Config) -> Result<Config, Error> {
        if self.problems.is_empty() { Ok(config) } else { Err(Error::of(self.name, self.text, self.problems)) }
    }

    fn problem(&mut self, place: Range<usize>, message: String) {
        self.problems.push((Place::At(place), message));
    }

    fn syntax(&mut self, error: &toml::de::Error) {
        let place = error.span().unwrap_or(0..0);
        let before = self.text.get(..place.start).unwrap_or_default();
        let words = self.text.get(place.clone()).unwrap_or_default();
        self.problem(place, syntax(error.message(), before.trim_end_matches([' ', '\t']), words));
    }
}

/// The message for a TOML syntax error at `words`, which follow `before`.
fn syntax(message: &str, before: &str, words: &str) -> String {
    let is_word = words.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '~' | '.' | '$'));
    let unquoted = message.contains("must be quoted") || (is_word && before.ends_with(['=', '[', ',']));
    // Typographic quotes, which editors for prose put in place of " and '.
    let smart = |c: char| matches!(c, '\u{2018}'..='\u{201f}' | '\u{ab}' | '\u{bb}');
    match message {
        _ if words.starts_with(smart) => "this is a quotation mark of prose; TOML takes \" or ' only".to_owned(),
        "duplicate key" if before.ends_with('[') => format!("[{words}] is written twice; write its keys below the first"),
        "duplicate key" => format!("the key {} is written twice; remove one", quoted(words.trim_matches('"'))),
        _ if unquoted && words.is_empty() => "a value is missing here".to_owned(),
        _ if unquoted && words.len() <= 200 && !words.contains(|c: char| c.is_control() || matches!(c, '"' | '\\')) => {
            format!("text is written in quotes: \"{words}\"")
        }
        _ if unquoted => "text is written in quotes".to_owned(),
        other if other.contains("recur") => "this is nested too deeply".to_owned(),
        other => format!("not TOML: {other}"),
    }
}
