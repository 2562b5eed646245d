//! Which keys there are, and which one was meant by one that is not.

use super::error::quoted;

/// Every table with its keys, in the order of the documentation.
pub(super) const TABLES: &[(&str, &[&str])] = &[
    (
        "worker",
        &[
            "command",
            "directory",
            "environment",
            "environment_file",
            "count",
            "ready",
            "settle",
            "start_timeout",
            "stop_timeout",
            "stop_signal",
            "watchdog",
            "user",
            "group",
            "balance",
            "limits",
        ],
    ),
    ("worker.limits", &["memory_max", "memory_high", "tasks_max", "cpu_weight", "nofile"]),
    ("restart", &["initial", "max", "limit", "interval", "give_up"]),
    ("reload", &["surge", "probation", "check", "memory"]),
    ("hooks", &["before_reload", "before_shutdown", "user"]),
    ("recycle", &["max_age", "max_memory", "max_requests"]),
    ("status", &["listen", "details", "hosts"]),
];

/// What other programs call it (systemd's directives among them), without case, `_` and `-`.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("workers", "worker.count"),
    ("processes", "worker.count"),
    ("instances", "worker.count"),
    ("numworkers", "worker.count"),
    ("cmd", "worker.command"),
    ("exec", "worker.command"),
    ("program", "worker.command"),
    ("execstart", "worker.command"),
    ("cwd", "worker.directory"),
    ("chdir", "worker.directory"),
    ("workingdirectory", "worker.directory"),
    ("env", "worker.environment"),
    ("envfile", "worker.environment_file"),
    ("timeoutstartsec", "worker.start_timeout"),
    ("timeoutstopsec", "worker.stop_timeout"),
    ("gracefultimeout", "worker.stop_timeout"),
    ("killtimeout", "worker.stop_timeout"),
    ("killsignal", "worker.stop_signal"),
    ("watchdogsec", "worker.watchdog"),
    ("memorylimit", "worker.limits.memory_max"),
    ("limitnofile", "worker.limits.nofile"),
    ("cpushares", "worker.limits.cpu_weight"),
    ("restartsec", "restart.initial"),
    ("restartmaxdelaysec", "restart.max"),
    ("startlimitburst", "restart.limit"),
    ("startlimitintervalsec", "restart.interval"),
    ("maxsurge", "reload.surge"),
    ("maxrequestsperchild", "recycle.max_requests"),
    ("runtimemaxsec", "recycle.max_age"),
];

/// Says that `key` is none of `table` (`""`: the top), and which one was probably meant.
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
            None => format!("unknown table {bracketed}; the tables are {}", list(TABLES.iter().map(|(table, _)| *table))),
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
            format!("{shown} is not a key; every key is in one of the tables {}", list(TABLES.iter().map(|(t, _)| *t)))
        }
        None => format!("unknown key {shown} in [{table}]; its keys are {}", keys_of(table).join(", ")),
    }
}

/// The full name of the key or table that was probably meant.
fn guess(table: &str, key: &str, is_table: bool) -> Option<String> {
    let wanted = plain(key);
    let nearest_table = || nearest(&wanted, TABLES.iter().map(|(table, _)| ((*table).to_owned(), plain(table))));
    if table.is_empty()
        && is_table
        && let Some(meant) = nearest_table()
    {
        return Some(meant);
    }
    let all = || TABLES.iter().flat_map(|(table, keys)| keys.iter().map(move |key| (*table, *key)));
    let full = |table: &str, key: &str| format!("{table}.{key}");
    let same = |(_, known): &(&str, &str)| plain(known) == wanted;
    if let Some((table, key)) = all().filter(|(of, _)| *of == table).find(same) {
        return Some(full(table, key));
    }
    if let Some((table, _)) = TABLES.iter().find(|(table, _)| plain(table) == wanted) {
        return Some((*table).to_owned());
    }
    if let Some((_, meant)) = OTHER_NAMES.iter().find(|(name, _)| *name == wanted) {
        return Some((*meant).to_owned());
    }
    if let Some((table, key)) = all().find(same) {
        return Some(full(table, key));
    }
    if table.is_empty()
        && let Some(meant) = nearest_table()
    {
        return Some(meant);
    }
    let named = |(table, key)| (full(table, key), plain(key));
    nearest(&wanted, all().filter(|(of, _)| *of == table).map(named)).or_else(|| nearest(&wanted, all().map(named)))
}

/// The one that differs least, if that is little.
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

/// Without what spellings differ in: `startTimeout`, `start-timeout` and `start_timeout` are one.
fn plain(key: &str) -> String {
    key.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect()
}

fn is_table_name(name: &str) -> bool {
    TABLES.iter().any(|(table, _)| *table == name)
}

fn keys_of(table: &str) -> &'static [&'static str] {
    TABLES.iter().find(|(name, _)| *name == table).map_or(&[], |(_, keys)| keys)
}

fn list(tables: impl Iterator<Item = &'static str>) -> String {
    tables.map(|table| format!("[{table}]")).collect::<Vec<_>>().join(", ")
}
