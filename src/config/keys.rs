//! Look-up in the table of keys: the contents of a table, and the key that an unknown one probably means.

use super::error::quoted;
use super::row::{Key, Table};
use super::table::TABLES;

/// The table of this name.
pub(super) fn table(name: &str) -> Option<&'static Table> {
    TABLES.iter().find(|table| table.name == name)
}

/// The tables in the table `name` (`""`: the top), each with its own name and its full name.
pub(super) fn tables_of(name: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    TABLES.iter().filter_map(move |table| {
        let (above, own) = table.name.rsplit_once('.').unwrap_or(("", table.name));
        (above == name).then_some((own, table.name))
    })
}

/// The names in the table `name`: its keys, then the tables in it.
pub(super) fn names(name: &str) -> impl Iterator<Item = &'static str> {
    let keys = table(name).map_or(&[][..], |table| table.keys);
    keys.iter().map(|key| key.name).chain(tables_of(name).map(|(own, _)| own))
}

/// The error for a `key` that is not in `table` (`""`: the top); it names the key that was probably meant.
pub(super) fn unknown(table: &str, key: &str, is_table: bool) -> String {
    let shown = quoted(key);
    let bracketed = format!("[{}]", shown.trim_matches('"'));
    let guess = guess(table, key, is_table);
    if table.is_empty() && is_table {
        return match guess {
            Some(meant) if meant.contains('.') && !is_table_name(&meant) => {
                format!("unknown table {bracketed}; did you mean {meant}?")
            }
            Some(meant) => format!("unknown table {bracketed}; did you mean [{meant}]?"),
            None => format!("unknown table {bracketed}; the tables are {}", list()),
        };
    }
    if key == table {
        return format!("[{table}] stands above already; leave out \"{table}.\"");
    }
    let here = if table.is_empty() { String::new() } else { format!(" of [{table}]") };
    match guess {
        Some(meant) => match meant.rsplit_once('.') {
            Some((in_table, name)) if in_table == table => {
                format!("unknown key {shown} in [{table}]; did you mean \"{name}\"?")
            }
            _ if is_table_name(&meant) => format!("{shown} is not a key{here}; did you mean the table [{meant}]?"),
            _ => format!("{shown} is not a key{here}; did you mean {meant}?"),
        },
        None if table.is_empty() => {
            format!("{shown} is not a key; every key is in one of the tables {}", list())
        }
        None => format!("unknown key {shown} in [{table}]; its keys are {}", names(table).collect::<Vec<_>>().join(", ")),
    }
}

/// The full name of the key or table that was probably meant.
fn guess(table: &str, key: &str, is_table: bool) -> Option<String> {
    let wanted = plain(key);
    let nearest_table = || nearest(&wanted, TABLES.iter().map(|table| (table.name.to_owned(), plain(table.name))));
    if table.is_empty()
        && is_table
        && let Some(meant) = nearest_table()
    {
        return Some(meant);
    }
    let full = |table: &str, name: &str| format!("{table}.{name}");
    let all = || TABLES.iter().flat_map(|table| names(table.name).map(move |name| (table.name, name)));
    let same = |(_, known): &(&str, &str)| plain(known) == wanted;
    if let Some((table, name)) = all().filter(|(of, _)| *of == table).find(same) {
        return Some(full(table, name));
    }
    if let Some(table) = TABLES.iter().find(|table| plain(table.name) == wanted) {
        return Some(table.name.to_owned());
    }
    let keys = || TABLES.iter().flat_map(|table| table.keys);
    if let Some(meant) = keys().find(|key: &&Key| key.other_names.split(' ').any(|name| name == wanted)) {
        return Some(meant.full.to_owned());
    }
    if let Some((table, name)) = all().find(same) {
        return Some(full(table, name));
    }
    if table.is_empty()
        && let Some(meant) = nearest_table()
    {
        return Some(meant);
    }
    let named = |(table, name)| (full(table, name), plain(name));
    nearest(&wanted, all().filter(|(of, _)| *of == table).map(named)).or_else(|| nearest(&wanted, all().map(named)))
}

/// The name with the smallest edit distance, if that is at most a third of the length of `wanted` (at least 1).
fn nearest(wanted: &str, known: impl Iterator<Item = (String, String)>) -> Option<String> {
    if wanted.len() > 40 {
        return None;
    }
    let allowed = (wanted.chars().count() / 3).max(1);
    known
        .map(|(full, plain)| (strsim::osa_distance(wanted, &plain), full))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, full)| full)
}

/// A name in lower case without `_` and `-`: `startTimeout`, `start-timeout` and `start_timeout` are the same.
fn plain(key: &str) -> String {
    key.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect()
}

fn is_table_name(name: &str) -> bool {
    table(name).is_some()
}

/// The names of all tables: `[worker], [worker.limits]`.
fn list() -> String {
    TABLES.iter().map(|table| format!("[{}]", table.name)).collect::<Vec<_>>().join(", ")
}
