//! The exact text of every error: `snapshots/` holds the message for each of these texts.

use std::fmt::Write;
use std::path::Path;

use super::table::TABLES;
use super::{keys, parse, read};

/// Each text with its error message.
fn said(texts: &[&str]) -> String {
    let mut all = String::new();
    for text in texts {
        let answer = match read(text) {
            Ok(_) => panic!("nothing is wrong with {text:?}"),
            Err(error) => TABLES.iter().fold(error, |error, table| without_list(&error, table.name)),
        };
        writeln!(all, "~~~~~~~~\n{text}\n--------\n{answer}").unwrap();
    }
    all
}

/// The error message without the list of a table's keys, so that a new key changes no snapshot.
fn without_list(answer: &str, table: &str) -> String {
    let list = keys::names(table).collect::<Vec<_>>().join(", ");
    answer.replace(&format!("its keys are {list}\n"), &format!("its keys are (those of [{table}])\n"))
}

/// As [`said`], for lines of `[worker]` after its command.
fn said_of_worker(lines: &[&str]) -> String {
    let texts: Vec<String> = lines.iter().map(|line| format!("[worker]\ncommand = [\"web\"]\n{line}")).collect();
    said(&texts.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Compares with a snapshot that omits the expression, which would only repeat what the snapshot shows.
macro_rules! assert_said {
    ($name:literal, $said:expr) => {
        insta::with_settings!({omit_expression => true, prepend_module_to_snapshot => false}, {
            insta::assert_snapshot!($name, $said);
        });
    };
}

#[test]
fn unknown_keys() {
    assert_said!(
        "unknown_keys",
        said_of_worker(&[
            "start_timeuot = \"10s\"",
            "start-timeout = \"10s\"",
            "startTimeout = \"10s\"",
            "workers = 3",
            "xyzzy = 3",
            "memory_max = \"1G\"",
            "limits.memory-max = \"1G\"",
            "[reload]\nstop_timeout = 3",
            "[reload]\nworkers = 3",
            "[reload]\nxyzzy = 3",
            "[reload]\nExecStart = \"/bin/true\"",
            "[releod]\nsurge = 3",
            "[limits]\nmemory_max = 3",
            "[xyzzy]\nmemory_max = 3",
            "[workers]\ncount = 3",
        ])
    );
    assert_said!(
        "unknown_keys_at_the_top",
        said(&["workers = 3", "command = ['a']", "xyzzy = 3\n[worker]\n command=['a']", "limits = 3"])
    );
}

#[test]
fn missing_keys() {
    assert_said!("missing_keys", said(&["", "# nothing\n", "[worker]\ncount = 3", "\n[reload]\nsurge = 1"]));
}

#[test]
fn syntax() {
    assert_said!(
        "syntax",
        said_of_worker(&[
            "stop_timeout = 30s",
            "ready = notify",
            "ready = \"notify",
            "directory = /srv/web",
            "user = www-data",
            "count",
            "count =",
            "count = 3 4",
            "count: 3",
            "[restart",
            "[[restart]]\nlimit = 3",
            "restart = 3",
            "ready = True",
            "start_timeout = .5",
            "count = $COUNT",
            "user = 'a' b",
            "[worker]\ncount = 3",
            "count = 3\ncount = 4",
            "settle = \"1s\"\n[worker.limits]\nnofile = 100\n[restart]\nmax = \"1s\"\nmax = \"2s\"",
            "worker.count = 3\nlimits = { nofile = 100",
            "user = \"a\\qb\"",
            "tab\t\u{1b}[31m\u{7}",
            "# \u{1b}[2J",
            "environment = { A = \"1\", A = \"2\" }",
            "command.x = 3",
        ])
    );
}

#[test]
fn values() {
    assert_said!(
        "values",
        said_of_worker(&[
            "count = 0",
            "count = 100000",
            "count = -1",
            "count = 99999999999999999999999",
            "count = 9999999999999999999999999999999999999999999999999",
            "count = \"4\"",
            "count = \"auto\"",
            "count = 1.5",
            "count = true",
            "count = [1]",
            "count = { a = 1 }",
            "count = 2020-01-01",
            "ready = \"nofity\"",
            "ready = 1",
            "settle = \"off\"",
            "start_timeout = 0",
            "start_timeout = \"0s\"",
            "start_timeout = \"10x\"",
            "start_timeout = \"\"",
            "start_timeout = \"infinity\"",
            "start_timeout = -5",
            "start_timeout = \"-5s\"",
            "start_timeout = \"99y\"",
            "start_timeout = \"9999999h\"",
            "start_timeout = 1.5",
            "start_timeout = false",
            "start_timeout = [\"10s\"]",
            "watchdog = \"of\"",
            "watchdog = true",
            "stop_signal = \"SIGTREM\"",
            "stop_signal = \"\"",
            "stop_signal = 32",
            "stop_signal = \"SIGRTMIN+99\"",
            "stop_signal = 0",
            "stop_signal = 65",
            "user = \"\"",
            "user = \"a b\"",
            "user = -1",
            "user = 4294967295",
            "directory = \"\"",
            "directory = 3",
            "balance = \"per_slot\"",
            "limits.memory_max = \"512MB\"",
            "limits.memory_max = \"10%\"",
            "limits.memory_max = 0",
            "limits.memory_max = -1",
            "limits.tasks_max = 0",
            "limits.tasks_max = \"many\"",
            "limits.cpu_weight = 10001",
            "limits.nofile = 3",
            "limits.nofile = \"infinity\"",
            "[restart]\nlimit = -1",
            "[restart]\ngive_up = \"x\"",
            "[reload]\nsurge = 0",
            "[reload]\nsurge = \"0%\"",
            "[reload]\nsurge = \"101%\"",
            "[reload]\nsurge = \"half\"",
            "[reload]\nsurge = 0.5",
            "[recycle]\nmax_requests = \"1000\"",
            "[recycle]\nmax_age = \"1 fortnight\"",
            "[recycle]\nmax_memory = \"x\"",
            "[status]\nlisten = \"localhost:9090\"",
            "[status]\nlisten = 9090",
            "[status]\nlisten = \":9090\"",
            "[status]\nlisten = \"127.0.0.1\"",
            "[status]\nlisten = \"/\"",
            "[status]\ndetails = \"all\"",
            "[status]\ndetails = true",
            "[status]\nhosts = [\"a.example\", \"b.example:80\"]",
            "[status]\nhosts = 7",
        ])
    );
}

#[test]
fn commands_and_variables() {
    assert_said!(
        "commands",
        said(&[
            "[worker]\ncommand = \"node server.js\"",
            "[worker]\ncommand = \"node server.js > log\"",
            "[worker]\ncommand = \"\"",
            "[worker]\ncommand = []",
            "[worker]\ncommand = [\"\"]",
            "[worker]\ncommand = [\"web\", 8080]",
            "[worker]\ncommand = [\"web\", true]",
            "[worker]\ncommand = [\"web\", [\"a\"]]",
            "[worker]\ncommand = [\"web\", \"a\\u0000b\"]",
            "[worker]\ncommand = { program = \"web\" }",
            "[worker]\ncommand = 3",
        ])
    );
    assert_said!(
        "variables",
        said_of_worker(&[
            "environment = \"A=1\"",
            "environment = [\"A\"]",
            "environment = [\"A B=secret\"]",
            "environment = [\"=secret\"]",
            "environment = [\"export A=secret\"]",
            "environment = [3]",
            "environment = { \"A B\" = \"1\" }",
            "environment = { A = \"1\\u0000\" }",
            "environment = { A = true }",
            "environment = { A = [] }",
            "environment = { LISTEN_FDS = \"1\" }",
            "environment = [\"RATOON_SLOT=1\", \"B=2\"]",
            "environment.NOTIFY_SOCKET = \"/run/x\"",
            "environment_file = \"\"",
            "environment_file = [\"-\"]",
            "environment_file = 3",
            "environment_file = [\"/etc/a\", 3]",
        ])
    );
}

#[test]
fn contradictions() {
    assert_said!(
        "contradictions",
        said_of_worker(&[
            "[restart]\ninitial = \"1min\"",
            "[restart]\nmax = \"50ms\"",
            "[restart]\nmax = \"1s\"\ninitial = \"2s\"",
            "limits = { memory_high = \"2G\", memory_max = \"1G\" }",
            "ready = \"running\"\nsettle = \"10s\"",
            "limits.memory_max = \"1G\"\n[recycle]\nmax_memory = \"2G\"",
            "[reload]\nwatch = \"5min\"\nkeep = 1",
            "min = 5\nmax = 4",
            "count = 4\nmin = 5",
            "max = 3\ncount = 4",
        ])
    );
}

#[test]
fn all_at_once_in_the_order_of_the_file() {
    assert_said!(
        "all_at_once",
        said(&["[status]\nlisten = 3\n\n[worker]\nxyzzy = 1\ncount = 0\ncommand = [\"web\"]\n[hooks]\nbefore_reload = \"x\"\n"])
    );
}

#[test]
fn a_line_of_any_length_and_kind() {
    let long = "x".repeat(300);
    let after_command = |line: &str| {
        let error = read(&format!("[worker]\ncommand = [\"web\"]\n{line}")).unwrap_err();
        without_list(&error, "worker")
    };
    let said = [
        after_command(&format!("environment = {{ A = \"{long}\", B = true, C = \"{long}\" }}")),
        after_command(&format!("directory = \"ä\u{202e}ö\u{200b}\"; {long}")),
        after_command(&format!("{long} = 1")),
        after_command("\"a\\u0000\\n\\u001b\" = 1"),
        after_command("user = \"\u{1b}[31m\""),
        after_command(&format!("user = \"a b {long}\"")),
    ];
    assert!(said.iter().all(|said| !said.contains(['\u{1b}', '\u{202e}', '\u{200b}'])));
    assert_said!("long_lines", said.join("\n"));
}

#[test]
fn nesting_without_end() {
    let deep = 100_000;
    for text in [
        format!("{}a = 1", "a.".repeat(deep)),
        format!("[{}a]\nb = 1", "a.".repeat(deep)),
        format!("a = {}", "[".repeat(deep)),
        format!("a = {}{}", "[".repeat(deep), "]".repeat(deep)),
        format!("a = {}", "{a=".repeat(deep)),
    ] {
        let said = read(&text).unwrap_err();
        assert!(said.contains("nested too deeply"), "{said}");
    }
}

#[test]
fn more_mistakes_than_anybody_reads() {
    let text: String = (0..50_000).map(|number| format!("key{number} = 1\n")).collect();
    let said = read(&text).unwrap_err();
    assert_eq!(said.matches("is not a key").count(), 20);
    assert!(said.ends_with("\nand 49980 more"), "{said}");
}

#[test]
fn one_line_for_a_status() {
    let summary = |text: &str| parse(text, Path::new("web.toml")).unwrap_err().summary();
    assert_eq!(
        summary("[worker]\ncommand = ['web']\ncount = 0"),
        "web.toml:3:9: worker.count: 0 is out of range; expected a number from 1 to 10000"
    );
    assert_eq!(
        summary("[worker]\ncommand = ['web']\ncount = 0\nready = 1\n"),
        "web.toml:3:9: worker.count: 0 is out of range; expected a number from 1 to 10000 (and 1 more)"
    );
    assert_eq!(summary(""), "web.toml:1:1: the key worker.command is missing: what is to be run? Write");
}

#[test]
fn smart_quotes_of_an_editor_for_prose_are_named() {
    for text in ["[worker]\ncommand = [\u{201c}web\u{201d}]", "[worker]\ncommand = \u{2018}web\u{2019}"] {
        let said = read(text).unwrap_err();
        assert!(said.starts_with("web.toml:2:1"), "{said}");
        assert!(said.contains("this is a quotation mark of prose; TOML takes \" or ' only"), "{said}");
    }
}
