//! Tests of the configuration: what the file may say, and the exact error messages for what it may not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;

mod errors;
mod files;
mod flags;
mod hostile;
mod pages;
mod schema;

/// The configuration of the text, or its error message.
fn read(text: &str) -> Result<Config, String> {
    parse(text, Path::new("web.toml")).map_err(|error| error.to_string())
}

#[test]
fn bounds_of_the_number_of_workers_follow_from_three_keys() {
    let bounds = |min, count, max| {
        let mut config = Config::for_command(vec!["web".to_owned()]);
        (config.worker.min, config.worker.count, config.worker.max) = (min, count, max);
        (config.worker.bounds(), config.worker.workers())
    };
    assert_eq!(bounds(None, Some(3), None), ((3, 3), 3));
    assert_eq!(bounds(Some(2), Some(3), Some(8)), ((2, 8), 3));
    assert_eq!(bounds(Some(2), Some(3), None), ((2, 3), 3));
    assert_eq!(bounds(None, Some(3), Some(8)), ((3, 8), 3));
    assert_eq!(bounds(Some(0), Some(3), None), ((3, 3), 3), "all of them or none");
    assert_eq!(bounds(Some(0), Some(3), Some(8)), ((1, 8), 3), "none, or what the load needs");
}

#[test]
fn the_defaults_are_the_contracts() {
    let config = read("[worker]\ncommand = ['web']").unwrap();
    assert_eq!(config, Config::for_command(vec!["web".to_owned()]));
    assert_eq!(config.worker.start_timeout, Duration::from_secs(10));
    assert_eq!(config.worker.stop_timeout, Duration::from_secs(30));
    assert_eq!(config.worker.stop_signal, libc::SIGTERM);
    assert_eq!(config.worker.settle, Duration::from_secs(1));
    assert_eq!(config.worker.ready, Ready::Auto);
    assert_eq!((config.worker.count, config.worker.watchdog), (None, None));
    assert_eq!((config.restart.initial, config.restart.max), (Duration::from_millis(100), Duration::from_secs(30)));
    assert_eq!((config.restart.limit, config.restart.interval), (5, Duration::from_secs(60)));
    assert_eq!(config.restart.give_up, None);
    assert_eq!((config.worker.min, config.scale.idle), (None, Duration::from_secs(600)));
    assert_eq!((config.reload.surge, config.reload.probation), (Surge::Percent(100), None));
    assert_eq!(config.worker.workers(), usable_cpus());
}

#[test]
fn every_key_is_read() {
    let config = read(
        r#"
[worker]
command = ["web", "--port", "80"]
directory = "/srv/web/current"
environment = { B = "2", A = "1" }
environment_file = ["/etc/default/web", "-/etc/default/web.local"]
count = 4
min = 2
max = 16
ready = "running"
settle = "2s"
start_timeout = 20
stop_timeout = "1h30min"
stop_signal = "QUIT"
watchdog = "30s"
user = "www-data"
group = 33
balance = "per-slot"
balance_hung = "3s"

[worker.limits]
memory_max = "512M"
memory_high = "1.5M"
tasks_max = 100
cpu_weight = 50
nofile = 4096

[scale]
target = "60%"
up_after = 5
down_after = "10min"
step = 2
idle = "90s"

[restart]
initial = "50ms"
max = "1min"
limit = 3
interval = "10s"
give_up = "1h"

[reload]
surge = 1
probation = "5s"
check = ["web", "--check"]
memory = "refuse"
keep = 5
on_rollback = ["/usr/local/bin/back"]
probe = "GET /up"
probe_status = 204
probe_timeout = "3s"
probe_host = "Example.org"
steps = ["1", 3, "25%"]
step_time = "manual"
promote_timeout = "2h"
watch = "5min"
judge_command = ["/usr/local/bin/ask"]
judge = { error_ratio = "0.5%", min_requests = 100, latency_ratio = 1.5 }

[start]
fallback = "none"

[hooks]
before_reload = ["/usr/local/bin/warm"]
before_shutdown = ["/usr/local/bin/bye", ""]
user = "hooks"

[recycle]
max_age = "1d"
max_memory = "256M"
max_requests = 100000

[status]
listen = "127.0.0.1:9090"
details = "everyone"
hosts = ["Status.Example.org.", "b"]
"#,
    )
    .unwrap();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let expected = Config {
        worker: Worker {
            command: words(&["web", "--port", "80"]),
            directory: Some(PathBuf::from("/srv/web/current")),
            environment: vec![pair("B", "2"), pair("A", "1")],
            environment_file: vec![PathBuf::from("/etc/default/web"), PathBuf::from("-/etc/default/web.local")],
            environment_override: Vec::new(),
            count: Some(4),
            min: Some(2),
            max: Some(16),
            ready: Ready::Running,
            settle: Duration::from_secs(2),
            start_timeout: Duration::from_secs(20),
            stop_timeout: Duration::from_secs(5400),
            stop_signal: libc::SIGQUIT,
            watchdog: Some(Duration::from_secs(30)),
            user: Some("www-data".to_owned()),
            group: Some("33".to_owned()),
            limits: Limits {
                memory_max: Some(512 << 20),
                memory_high: Some(3 << 19),
                tasks_max: Some(100),
                cpu_weight: Some(50),
                nofile: Some(4096),
            },
            balance: Balance::PerSlot,
            balance_hung: Some(Duration::from_secs(3)),
            ..Worker::default()
        },
        scale: Scale {
            target: 60,
            up_after: Duration::from_secs(5),
            down_after: Duration::from_secs(600),
            step: Surge::Count(2),
            idle: Duration::from_secs(90),
        },
        restart: Restart {
            initial: Duration::from_millis(50),
            max: Duration::from_secs(60),
            limit: 3,
            interval: Duration::from_secs(10),
            give_up: Some(Duration::from_secs(3600)),
        },
        reload: Reload {
            surge: Surge::Count(1),
            probation: Some(Duration::from_secs(5)),
            check: Some(words(&["web", "--check"])),
            memory: MemoryCheck::Refuse,
            keep: 5,
            on_rollback: Some(words(&["/usr/local/bin/back"])),
            probe: Some(Probe::Get("/up".to_owned())),
            probe_status: StatusRange(204..=204),
            probe_timeout: Duration::from_secs(3),
            probe_host: "example.org".to_owned(),
            steps: vec![Surge::Count(1), Surge::Count(3), Surge::Percent(25)],
            step_time: None,
            promote_timeout: Duration::from_secs(7200),
            watch: Watch::For(Duration::from_secs(300)),
            judge_command: Some(words(&["/usr/local/bin/ask"])),
            judge: Judge { error_ratio: 5_000, min_requests: 100, latency_ratio: Some(1_500) },
        },
        start: Start { fallback: Fallback::None },
        hooks: Hooks {
            before_reload: Some(words(&["/usr/local/bin/warm"])),
            before_shutdown: Some(words(&["/usr/local/bin/bye", ""])),
            user: Some("hooks".to_owned()),
        },
        recycle: Recycle { max_age: Some(Duration::from_secs(86_400)), max_memory: Some(256 << 20), max_requests: Some(100_000) },
        status: Status {
            listen: Some("127.0.0.1:9090".to_owned()),
            details: Details::Everyone,
            hosts: words(&["status.example.org", "b"]),
        },
    };
    assert_eq!(config, expected);
}
