//! The keys of the file as flags of `ratoon run`. A flag is read exactly as its key, and overrides it, at every reload too.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, ValueHint};

use super::row::{DefaultValue, Flag, Key, plain};
use super::table::TABLES;
use super::types::Config;

/// Flags and command of the command line, which override the file. For `#[command(flatten)]`.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Full names of keys, and the texts of their flags, which were checked.
    flags: Vec<(&'static str, String)>,
    command: Vec<String>,
}

/// Id of the argument for the words after `--`.
const COMMAND: &str = "command";
const HEADING: &str = "Configuration, over the file's";

/// Every key that has a flag.
fn all() -> impl Iterator<Item = (&'static Key, &'static Flag)> {
    TABLES.iter().flat_map(|table| table.keys).filter_map(|key| Some((key, key.flag.as_ref()?)))
}

impl Overrides {
    /// A command without flags.
    pub fn for_command(command: Vec<String>) -> Self {
        Self { command, ..Self::default() }
    }

    /// The command after `--`; empty without one.
    pub fn command(&self) -> &[String] {
        &self.command
    }

    /// Whether a command stands after `--`.
    pub fn has_command(&self) -> bool {
        !self.command.is_empty()
    }

    /// Overwrites values in `config` with those of the flags and the command.
    pub fn apply(&self, config: &mut Config) {
        for (name, text) in &self.flags {
            if let Some((_, flag)) = all().find(|(key, _)| key.full == *name) {
                // The text was checked when the command line was parsed.
                let _ = (flag.read)(config, text);
            }
        }
        if self.has_command() {
            config.worker.command.clone_from(&self.command);
        }
    }
}

impl Args for Overrides {
    fn augment_args(command: Command) -> Command {
        let words = Arg::new(COMMAND).help("The workers' program and its arguments").value_name("COMMAND").num_args(1..);
        command.args(all().map(|(key, flag)| argument(key, flag))).arg(words.last(true).help_heading(HEADING))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let texts =
            |key: &'static Key| matches.get_many::<String>(key.full).into_iter().flatten().map(|text| (key.full, text.clone()));
        let command = matches.get_many::<String>(COMMAND).into_iter().flatten().cloned().collect();
        Ok(Self { flags: all().flat_map(|(key, _)| texts(key)).collect(), command })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The clap argument of a flag.
fn argument(key: &'static Key, flag: &'static Flag) -> Arg {
    let mut names = flag.names();
    let hint = match flag.value_name() {
        "PATH" => ValueHint::AnyPath,
        "USER" => ValueHint::Username,
        _ => ValueHint::Other,
    };
    let words = (key.words)().join("|");
    // A switch without a value means `true`.
    let is_switch = words == "true|false";
    Arg::new(key.full)
        .long(names.next().unwrap_or(key.name))
        .visible_aliases(names)
        .help(help(key, flag))
        .help_heading(HEADING)
        .value_name(if words.is_empty() { flag.value_name().to_owned() } else { words })
        .value_hint(hint)
        .value_parser(ValueReader { key, flag })
        .hide_possible_values(true)
        .num_args(if is_switch { 0..=1 } else { 1..=1 })
        .require_equals(is_switch)
        .default_missing_values(is_switch.then_some("true"))
        .action(if flag.repeated { ArgAction::Append } else { ArgAction::Set })
        .allow_hyphen_values(flag.repeated && hint == ValueHint::AnyPath)
}

/// The first line of the key's doc comment, and the default.
fn help(key: &Key, flag: &Flag) -> String {
    let first = plain(key.doc.first().unwrap_or(&""));
    let first = first.trim_end_matches('.');
    match key.default {
        _ if flag.repeated => format!("{first}; may be repeated"),
        DefaultValue::Value(default) => format!("{first} [default: {}]", default.trim_matches('"')),
        DefaultValue::None(words) => format!("{first} [default: {}]", plain(words)),
    }
}

/// The value parser of the key `full` (such as `worker.ready`) for a flag of another subcommand. The key must have a flag.
pub fn value_reader(full: &str) -> impl TypedValueParser<Value = String> {
    let found = all().find(|(key, _)| key.full == full);
    found.map(|(key, flag)| ValueReader { key, flag }).unwrap_or_else(|| unreachable!("no flag sets {full}"))
}

/// Checks a flag's text with the reader of its key.
#[derive(Clone)]
struct ValueReader {
    key: &'static Key,
    flag: &'static Flag,
}

impl TypedValueParser for ValueReader {
    type Value = String;

    fn parse_ref(&self, command: &Command, argument: Option<&Arg>, value: &OsStr) -> Result<String, clap::Error> {
        let read = self.flag.read;
        let check = move |text: &str| read(&mut Config::default(), text).map(|()| text.to_owned());
        TypedValueParser::parse_ref(&check, command, argument, value)
    }

    /// The words of an enum, for completions.
    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let words = (self.key.words)();
        (!words.is_empty()).then(|| Box::new(words.iter().map(PossibleValue::new)) as Box<dyn Iterator<Item = PossibleValue>>)
    }
}
