//! The flags of `ratoon run`: they are read as their keys are, and override them.

use clap::Parser;

use super::row::{DefaultValue, Key};
use super::table::TABLES;
use super::*;

#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct Command {
    #[command(flatten)]
    flags: Overrides,
}

/// Reads the flags of a command line, whose words are separated by spaces.
fn flags(line: &str) -> Result<Overrides, String> {
    Command::try_parse_from(line.split_whitespace()).map(|command| command.flags).map_err(|error| error.to_string())
}

/// The configuration of a file's text and the flags.
fn both(text: &str, line: &str) -> Result<Config, String> {
    parse_with(text, Path::new("web.toml"), &flags(line).unwrap()).map_err(|error| error.to_string())
}

const FILE: &str = "[worker]\ncommand = ['web']\ncount = 3\nstop_timeout = '5s'\nenvironment_file = 'a'";

#[test]
fn nothing_said_changes_nothing() {
    assert_eq!(both(FILE, ""), read(FILE));
}

#[test]
fn every_flag_wins() {
    let all = "--workers 4 --directory /srv --env A=1 --env B=2=3 --environment-file /etc/a --environment-file -/etc/b \
               --ready running --settle 0 --start-timeout 1min --stop-timeout 2 --stop-signal INT --watchdog 3s --user web \
               --group 5 --balance per-slot --balance-hung 12s --memory-max 2G --memory-high 1G --tasks-max 7 --cpu-weight 8 --nofile 99 \
               --restart-initial 1ms --restart-max 2ms --restart-limit 3 --restart-interval 4s --give-up 5s --surge 50% \
               --probation 6s --reload-memory refuse --keep 7 --probe connect --probe-status 200-299 --probe-timeout 8s --probe-host a.example --step 1 --step 50% \
               --step-time manual --promote-timeout 2h --judge-error-ratio 2% --judge-min-requests 9 --judge-latency-ratio 3.5 --max-age 7h --max-memory 1M --max-requests 9 --status-listen [::1]:80 \
               --status-details everyone --status-host B.example. --status-hosts c -- prog --flag -x";
    let config = both(FILE, all).unwrap();
    let text = r#"
[worker]
command = ["prog", "--flag", "-x"]
count = 4
directory = "/srv"
environment_file = ["a", "/etc/a", "-/etc/b"]
ready = "running"
settle = 0
start_timeout = "1min"
stop_timeout = 2
stop_signal = "INT"
watchdog = "3s"
user = "web"
group = 5
balance = "per-slot"
balance_hung = "12s"
limits = { memory_max = "2G", memory_high = "1G", tasks_max = 7, cpu_weight = 8, nofile = 99 }
[restart]
initial = "1ms"
max = "2ms"
limit = 3
interval = "4s"
give_up = "5s"
[reload]
surge = "50%"
probation = "6s"
memory = "refuse"
keep = 7
probe = "connect"
probe_status = "200-299"
probe_timeout = "8s"
probe_host = "a.example"
steps = [1, "50%"]
step_time = "manual"
promote_timeout = "2h"
judge = { error_ratio = "2%", min_requests = 9, latency_ratio = 3.5 }
[recycle]
max_age = "7h"
max_memory = "1M"
max_requests = 9
[status]
listen = "[::1]:80"
details = "everyone"
hosts = ["b.example", "c"]
"#;
    let mut expected = read(text).unwrap();
    expected.worker.environment_override = vec![("A".into(), "1".into()), ("B".into(), "2=3".into())];
    assert_eq!(config, expected);
    assert_eq!(from_flags(&flags(all).unwrap()).unwrap().worker.count, Some(4));
}

/// The example of a key and the words of its enum, in TOML.
fn values(key: &Key) -> impl Iterator<Item = String> {
    let words =
        (key.words)().iter().map(|word| if matches!(*word, "true" | "false") { (*word).to_owned() } else { format!("{word:?}") });
    key.example.map(str::to_owned).into_iter().chain(words)
}

#[test]
fn each_key_means_the_same_in_the_file_and_as_a_flag() {
    let command = "worker.command = ['web']";
    let default = read(command).unwrap();
    for key in TABLES.iter().flat_map(|table| table.keys).filter(|key| key.full != "worker.command") {
        for value in values(key) {
            let config = read(&format!("{command}\n{} = {value}", key.full)).unwrap();
            let is_default = matches!(key.default, DefaultValue::Value(default) if default == value);
            assert_eq!(config == default, is_default, "{} = {value}", key.full);
            for name in key.flag.iter().filter(|flag| !flag.repeated).flat_map(|flag| flag.names()) {
                let flag = [format!("--{name}={}", value.trim_matches('"'))];
                let flags = Command::try_parse_from(flag).map(|command| command.flags).unwrap();
                let both = parse_with(command, Path::new("web.toml"), &flags).map_err(|error| error.to_string());
                assert_eq!(both.as_ref(), Ok(&config), "{name}");
            }
        }
    }
}

#[test]
fn a_variable_among_the_flags_wins_over_every_file() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a"), "A=file\nB=file\n").unwrap();
    let config = both(FILE, "--env A=flag").unwrap();
    let expected = vec![("A".to_owned(), "flag".to_owned()), ("B".to_owned(), "file".to_owned())];
    assert_eq!(config.environment(directory.path()), Ok(expected));
}

#[test]
fn off_among_the_flags_wins_too() {
    let text = "[worker]\ncommand = ['web']\nwatchdog = '3s'\n[recycle]\nmax_age = '1d'\nmax_requests = 5";
    let config = both(text, "--watchdog off --max-age 0 --max-requests infinity").unwrap();
    assert_eq!(config, Config::for_command(vec!["web".to_owned()]));
}

#[test]
fn a_command_among_the_flags_makes_the_files_unnecessary() {
    assert_eq!(both("", "-- prog").unwrap(), Config::for_command(vec!["prog".to_owned()]));
    assert!(both("[worker]\ncount = 3", "--workers 2").unwrap_err().contains("worker.command is missing"));
    assert_eq!(from_flags(&Overrides::for_command(vec!["prog".to_owned()])), Ok(Config::for_command(vec!["prog".to_owned()])));
    assert_eq!(
        from_flags(&Overrides::default()).unwrap_err().to_string(),
        "command line: there is nothing to run: name a configuration with --config FILE, or write the command after --, \
         for instance: ratoon run -- /usr/bin/my-server --flag"
    );
}

#[test]
fn a_mistake_in_the_file_is_one_though_a_flag_wins() {
    let said = both("[worker]\ncommand = ['web']\ncount = 0", "--workers 2").unwrap_err();
    assert!(said.starts_with("web.toml:3:9: worker.count: 0 is out of range"), "{said}");
}

#[test]
fn flags_that_contradict_the_file_or_each_other() {
    assert_eq!(
        both("[worker]\ncommand = ['web']\n[restart]\ninitial = '2s'", "--restart-max 1s").unwrap_err(),
        "web.toml:4:11: restart.initial (2s) is longer than restart.max (1s); make one at most the other\n  \
         4 | initial = '2s'\n    |           ^^^^"
    );
    let line = "--restart-initial 2s --restart-max 1s";
    let expected = "command line: restart.initial (2s) is longer than restart.max (1s); make one at most the other";
    assert_eq!(both("[worker]\ncommand = ['web']", line).unwrap_err(), expected);
    assert_eq!(from_flags(&flags(&format!("{line} -- prog")).unwrap()).unwrap_err().to_string(), expected);
}

#[test]
fn a_wrong_flag_is_told_as_its_key_would_be() {
    for (line, expected) in [
        ("--workers 0", "invalid value '0' for '--workers <N>': 0 is out of range; expected a number from 1 to 10000"),
        ("--workers four", "invalid value 'four' for '--workers <N>': \"four\" is text; expected a number from 1 to 10000"),
        (
            "--stop-timeout 10x",
            "invalid value '10x' for '--stop-timeout <TIME>': \"10x\" has the unknown unit \"x\"; expected a duration such as \
             \"500ms\", \"10s\", \"1h30min\" or 30 (seconds)",
        ),
        ("--env AB", "invalid value 'AB' for '--env <NAME=VALUE>': this is no assignment: it has no \"=\"; write \"NAME=value\""),
        (
            "--env LISTEN_FDS=1",
            "invalid value 'LISTEN_FDS=1' for '--env <NAME=VALUE>': the variable \"LISTEN_FDS\" is set by Ratoon itself for each \
             worker; remove it here",
        ),
    ] {
        let said = flags(line).unwrap_err();
        assert!(said.contains(expected), "{line}: {said}");
    }
}
