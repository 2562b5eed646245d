//! The lists of keys in the manual pages and in the example come from the table of keys.
//!
//! `RATOON_WRITE_PAGES=1 cargo test --lib pages` writes the lists anew; without the variable a difference fails the test.

use std::fmt::Write;

use super::super::row::{DefaultValue, Key, Table, plain};
use super::super::table::TABLES;
use super::*;

/// The default of a key, or what holds without the key, as the pages say it; with the markup of doc comments.
fn default(key: &Key) -> String {
    match key.default {
        DefaultValue::Value(value) => format!("Default: `{value}`."),
        DefaultValue::None(words) => format!("Default: {words}."),
    }
}

/// The lines of a doc comment, with the default.
fn lines(key: &Key) -> Vec<String> {
    let mut lines: Vec<String> = key.doc.iter().map(|line| line.trim().to_owned()).collect();
    if key.full != "worker.command" {
        lines.push(default(key));
    }
    lines
}

/// A line of a doc comment in roff: literals bold, a manual page's name bold before its section, emphasis in italics.
fn roff(line: &str) -> String {
    let mut text = String::new();
    for (number, part) in line.trim().split('`').enumerate() {
        let escaped = part.replace('\\', "\\e").replace('-', "\\-");
        match escaped.split_once('(') {
            _ if number % 2 == 0 => {
                for (number, part) in escaped.split('*').enumerate() {
                    text += if number % 2 == 0 { part.to_owned() } else { format!("\\fI{part}\\fR") }.as_str();
                }
            }
            Some((page, section)) if section.len() == 2 => write!(text, "\\fB{page}\\fR({section}").unwrap(),
            _ => write!(text, "\\fB{escaped}\\fR").unwrap(),
        }
    }
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

/// The sections of ratoon.toml(5).
fn manual() -> String {
    let mut page = String::new();
    for Table { name, about, keys, .. } in TABLES {
        writeln!(page, ".SH [{name}]").unwrap();
        about.iter().for_each(|line| writeln!(page, "{}", roff(line)).unwrap());
        for key in *keys {
            writeln!(page, ".TP\n.B {}", key.name).unwrap();
            lines(key).iter().for_each(|line| writeln!(page, "{}", roff(line)).unwrap());
        }
        for (own, full) in keys::tables_of(name) {
            writeln!(page, ".TP\n.B {own}\nThe table\n.BR [{full}] .").unwrap();
        }
    }
    page
}

/// The rows of the flags' table in ratoon(1).
fn flags() -> String {
    let mut rows = String::new();
    for key in TABLES.iter().flat_map(|table| table.keys) {
        if let Some(flag) = &key.flag {
            let names: Vec<String> = flag.names().map(|name| format!("--{name}").replace('-', "\\-")).collect();
            writeln!(rows, "{}|{}", names.join(", "), key.full).unwrap();
        }
    }
    rows
}

/// The text as comment lines of at most 118 columns.
fn comment(text: &str) -> String {
    let mut lines = vec!["#".to_owned()];
    for word in plain(text).split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= 118 => write!(line, " {word}").unwrap(),
            _ => lines.push(format!("# {word}")),
        }
    }
    lines.join("\n") + "\n"
}

/// The tables of the example file: a key shows its default or, without one, its example.
fn example() -> String {
    let mut tables: Vec<String> = Vec::new();
    for Table { name, about, keys, .. } in TABLES {
        let mut text = comment(&about.join(" "));
        writeln!(text, "[{name}]").unwrap();
        for key in *keys {
            let value = match (key.example, &key.default) {
                (Some(example), _) => example,
                (None, DefaultValue::Value(value)) => value,
                (None, DefaultValue::None(_)) => panic!("{} needs an example", key.full),
            };
            let is_shown = matches!(key.default, DefaultValue::Value(default) if default == value);
            let words = if is_shown { lines(key)[..key.doc.len()].join(" ") } else { lines(key).join(" ") };
            let off = if key.full == "worker.command" { "" } else { "#" };
            writeln!(text, "{}{off}{} = {value}\n", comment(&words), key.name).unwrap();
        }
        tables.push(text.trim_end().to_owned() + "\n");
    }
    tables.join("\n")
}

/// Compares the part of `path` between two marks with `wanted`, or writes it.
fn compare(path: &str, from: &str, to: &str, wanted: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(from).unwrap_or_else(|| panic!("{} has no {from:?}", path.display()));
    let end =
        if to.is_empty() { rest.len() } else { rest.find(to).unwrap_or_else(|| panic!("{} has no {to:?}", path.display())) };
    if rest[..end] == *wanted {
        return;
    }
    if std::env::var_os("RATOON_WRITE_PAGES").is_some() {
        std::fs::write(&path, format!("{before}{from}{wanted}{}", &rest[end..])).unwrap();
        return;
    }
    panic!("{} is not of the table of keys; RATOON_WRITE_PAGES=1 cargo test --lib pages writes it anew", path.display());
}

#[test]
fn manual_page_lists_the_table() {
    compare("packaging/man/ratoon.toml.5", ".\\\" The table of keys.\n", ".\\\" End of the table of keys.\n", &manual());
}

#[test]
fn manual_page_of_the_program_lists_the_flags() {
    compare("packaging/man/ratoon.1", "lb l.\n", ".TE\n", &flags());
}

#[test]
fn example_lists_the_table() {
    compare("examples/web.toml", "# \"512M\", \"2G\" (1M is 1048576 bytes).\n\n", "", &example());
}
