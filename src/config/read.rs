//! From the text of a file to types, key by key.
//!
//! Law: a mistake does not hide the next one. What is misread keeps its default for the time of the reading, and
//! [`Reading::finish`] gives a configuration only when nothing was wrong.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::error::{Error, Place, SHOWN, quoted};
use super::lists::{Argv, HostNames, Paths, Variables};
use super::types::{Config, Details, Limits, MemoryCheck, Ready, Surge, Worker};
use super::values::{Count, Crashes, Files, OrInfinity, OrOff, Requests, Size, Tasks, Time, TimeOrZero, Weight, own_words};
use super::words::{Account, Address, FilePath, Signal};
use super::{Balance, contradictions, keys};

const EXAMPLE: &str = "[worker]\n    command = [\"/usr/bin/my-server\", \"--flag\"]";

/// The reading of one text: what was wrong so far, and where each key stands.
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

    /// The whole document. With `has_command` the command may be missing, as the flags give one.
    pub(super) fn document(&mut self, has_command: bool) -> Config {
        let mut config = Config::for_command(Vec::new());
        let table = match DeTable::parse(self.text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                self.syntax(&error);
                return config;
            }
        };
        let mut top = Section { name: String::new(), table, reading: self };
        let mut command = None;
        if let Some(section) = top.section("worker") {
            worker(section, &mut config.worker, &mut command);
        }
        if let Some(mut section) = top.section("restart") {
            let restart = &mut config.restart;
            section.read("initial", &mut restart.initial, |Time(value)| value);
            section.read("max", &mut restart.max, |Time(value)| value);
            section.read("limit", &mut restart.limit, |value: Crashes| narrow(value.0));
            section.read("interval", &mut restart.interval, |Time(value)| value);
            section.read("give_up", &mut restart.give_up, |value: OrOff<Time>| value.0.map(|Time(value)| value));
            section.end();
        }
        if let Some(mut section) = top.section("reload") {
            section.read("surge", &mut config.reload.surge, |value: Surge| value);
            section.read("probation", &mut config.reload.probation, |TimeOrZero(value)| Some(value));
            section.read("check", &mut config.reload.check, |Argv(value)| Some(value));
            section.read("memory", &mut config.reload.memory, |value: MemoryCheck| value);
            section.end();
        }
        if let Some(mut section) = top.section("hooks") {
            section.read("before_reload", &mut config.hooks.before_reload, |Argv(value)| Some(value));
            section.read("before_shutdown", &mut config.hooks.before_shutdown, |Argv(value)| Some(value));
            section.read("user", &mut config.hooks.user, |Account(value)| Some(value));
            section.end();
        }
        if let Some(mut section) = top.section("recycle") {
            let recycle = &mut config.recycle;
            section.read("max_age", &mut recycle.max_age, |value: OrOff<Time>| value.0.map(|Time(value)| value));
            section.read("max_memory", &mut recycle.max_memory, |value: OrOff<Size>| value.0.map(|Size(value)| value));
            section.read("max_requests", &mut recycle.max_requests, |value: OrOff<Requests>| value.0.map(|number| number.0));
            section.end();
        }
        if let Some(mut section) = top.section("status") {
            section.read("listen", &mut config.status.listen, |Address(value)| Some(value));
            section.read("details", &mut config.status.details, |value: Details| value);
            section.read("hosts", &mut config.status.hosts, |HostNames(value)| value);
            section.end();
        }
        top.end();
        match command {
            Some(command) => config.worker.command = command,
            None if has_command || self.places.contains_key("worker.command") => {}
            // Whoever misspelt the key, or put it in the wrong table, was told that.
            None if !self.problems.is_empty() => {}
            None => {
                let place = self.places.get("worker").cloned().map_or(Place::Whole, Place::At);
                self.problems
                    .push((place, format!("the key worker.command is missing: what is to be run? Write\n    {EXAMPLE}")));
            }
        }
        config
    }

    /// Adds what contradicts itself, at the first of its keys that the file has.
    pub(super) fn contradictions(&mut self, config: &Config) {
        if !self.problems.is_empty() {
            return;
        }
        for found in contradictions::find(config) {
            let place = found.keys.iter().find_map(|key| self.places.get(*key)).cloned().map_or(Place::Flags, Place::At);
            self.problems.push((place, found.message));
        }
    }

    /// The configuration, or everything that was wrong.
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

/// What is wrong with the TOML, which stands after `before` and is `words`.
fn syntax(message: &str, before: &str, words: &str) -> String {
    let is_word = words.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '~' | '.' | '$'));
    let unquoted = message.contains("must be quoted") || (is_word && before.ends_with(['=', '[', ',']));
    // Typographic quotes, which editors for prose put in place of " and '; a pair of them stands around or before the place of the error.
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

fn worker(mut section: Section<'_, '_, '_>, worker: &mut Worker, command: &mut Option<Vec<String>>) {
    section.read("command", command, |Argv(value)| Some(value));
    section.read("directory", &mut worker.directory, |FilePath(value)| Some(value));
    section.read("environment", &mut worker.environment, |Variables(value)| value);
    section.read("environment_file", &mut worker.environment_file, |Paths(value)| value);
    section.read("count", &mut worker.count, |value: Count| Some(narrow(value.0)));
    section.read("ready", &mut worker.ready, |value: Ready| value);
    section.read("settle", &mut worker.settle, |TimeOrZero(value)| value);
    section.read("start_timeout", &mut worker.start_timeout, |Time(value)| value);
    section.read("stop_timeout", &mut worker.stop_timeout, |Time(value)| value);
    section.read("stop_signal", &mut worker.stop_signal, |Signal(value)| value);
    section.read("watchdog", &mut worker.watchdog, |value: OrOff<Time>| value.0.map(|Time(value)| value));
    section.read("user", &mut worker.user, |Account(value)| Some(value));
    section.read("group", &mut worker.group, |Account(value)| Some(value));
    section.read("balance", &mut worker.balance, |value: Balance| value);
    if let Some(section) = section.section("limits") {
        limits(section, &mut worker.limits);
    }
    section.end();
}

fn limits(mut section: Section<'_, '_, '_>, limits: &mut Limits) {
    section.read("memory_max", &mut limits.memory_max, |value: OrInfinity<Size>| value.0.map(|Size(value)| value));
    section.read("memory_high", &mut limits.memory_high, |value: OrInfinity<Size>| value.0.map(|Size(value)| value));
    section.read("tasks_max", &mut limits.tasks_max, |value: OrInfinity<Tasks>| value.0.map(|number| number.0));
    section.read("cpu_weight", &mut limits.cpu_weight, |value: Weight| Some(value.0));
    section.read("nofile", &mut limits.nofile, |value: Files| Some(value.0));
    section.end();
}

/// For numbers whose range was checked.
fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// One table, from which keys are taken until only unknown ones are left.
struct Section<'r, 't, 'd> {
    /// `worker.limits`; empty for the top.
    name: String,
    table: DeTable<'d>,
    reading: &'r mut Reading<'t>,
}

impl<'t, 'd> Section<'_, 't, 'd> {
    /// Takes the key, if it is there, into `target`.
    fn read<V: Deserialize<'d>, T>(&mut self, key: &'static str, target: &mut T, get: impl FnOnce(V) -> T) {
        let Some((_, value)) = self.table.remove_entry(key) else { return };
        let name = self.full(key);
        let place = value.span();
        match V::deserialize(ValueDeserializer::from(value)) {
            Ok(value) => *target = get(value),
            Err(error) => {
                let place = error.span().unwrap_or_else(|| place.clone());
                self.reading.problem(place, format!("{name}: {}", own_words(error.message())));
            }
        }
        self.reading.places.insert(name, place);
    }

    /// Takes a table of this one, if it is there.
    fn section(&mut self, key: &'static str) -> Option<Section<'_, 't, 'd>> {
        let (_, value) = self.table.remove_entry(key)?;
        let name = self.full(key);
        let place = value.span();
        self.reading.places.insert(name.clone(), place.clone());
        match value.into_inner() {
            DeValue::Table(table) => Some(Section { name, table, reading: self.reading }),
            DeValue::Array(_) => {
                self.reading.problem(place, format!("there is one table {name} only; write it once, as [{name}]"));
                None
            }
            _ => {
                self.reading.problem(place, format!("{name} is a table, not a value; write its keys below a line [{name}]"));
                None
            }
        }
    }

    /// What is left is not known.
    fn end(self) {
        let mut left: Vec<_> = self.table.into_iter().collect();
        left.sort_by_key(|(key, _)| key.span().start);
        for (number, (key, value)) in left.into_iter().enumerate() {
            let is_table = matches!(value.get_ref(), DeValue::Table(_));
            // A hostile file has a hundred thousand; the later ones are counted, never shown.
            let message = if number < SHOWN { keys::unknown(&self.name, key.get_ref(), is_table) } else { String::new() };
            self.reading.problem(key.span(), message);
        }
    }

    fn full(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }
}
