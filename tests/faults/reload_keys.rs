//! A reload applies a change of every key of the configuration, or says that it does not: in its answer and in STATUS.
//!
//! The keys come from `ratoon schema`, which is made from the table of keys: a key without a case here fails the test.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::Mutex;

use super::harness::master::{Notification, pids, workers};
use super::harness::{Master, Place, Plan, RATOON, Signal, Value, eventually, http, processes};

/// A worker that serves nothing and says nothing.
const SILENT: &str = "exec sleep 1000";
const RUNNING: &[(&str, &str)] = &[("worker.ready", "'running'"), ("worker.settle", "'10ms'")];
/// Cases that run at a time.
const THREADS: usize = 4;

type Seen = Box<dyn Fn(&Master, &Notification) -> bool>;

/// How a change of one key is seen. `PLACE` in values and scripts is the directory of the test.
struct Case {
    /// Other keys, before and after the change.
    with: Vec<(&'static str, &'static str)>,
    before: Option<&'static str>,
    after: &'static str,
    /// Other keys that change, too.
    also: Vec<(&'static str, &'static str)>,
    /// A shell script that becomes the worker; it ends in `exec chaos`.
    script: &'static str,
    /// Whether the changed value is in force, after the reload with this answer.
    seen: Seen,
    /// `seen` is no mere look: it is not asked before the change.
    acts: bool,
}

impl Case {
    /// A change from the default to this value.
    fn to(after: &'static str, seen: impl Fn(&Master, &Notification) -> bool + 'static) -> Case {
        let seen = Box::new(seen);
        Case { with: Vec::new(), before: None, after, also: Vec::new(), script: "", seen, acts: false }
    }

    fn from(self, before: &'static str) -> Case {
        Case { before: Some(before), ..self }
    }

    fn with(mut self, keys: &[(&'static str, &'static str)]) -> Case {
        self.with.extend_from_slice(keys);
        self
    }

    fn script(self, script: &'static str) -> Case {
        Case { script, ..self }
    }

    fn acts(self) -> Case {
        Case { acts: true, ..self }
    }
}

fn case(key: &str) -> Option<Case> {
    let is_root = rustix::process::geteuid().is_root();
    Some(match key {
        "worker.command" => Case::to("['./worker', 'changed']", |master, _| of_worker(master, "cmdline").contains("changed")),
        "worker.directory" => Case::to("'PLACE/v2'", |master, _| link_of_worker(master, "cwd").ends_with("/v2")),
        "worker.environment" => Case::to("{ SEEN = 'x' }", |master, _| of_worker(master, "environ").contains("SEEN=x")),
        "worker.environment_file" => {
            Case::to("'PLACE/variables'", |master, _| of_worker(master, "environ").contains("FROM_FILE=x"))
        }
        "worker.count" => Case::to("2", |master, _| master.status()["workers_ready"] == 2),
        "worker.ready" => Case::to("'notify'", |_, said| said.err.contains("start timeout"))
            .from("'running'")
            .with(&[("worker.settle", "'10ms'"), ("worker.start_timeout", "'300ms'")])
            .script(SILENT),
        "worker.settle" => Case::to("'2s'", |master, _| took_ms(master) >= 2000)
            .from("'10ms'")
            .with(&[("worker.ready", "'running'"), ("reload.probation", "'0s'")])
            .script(SILENT),
        "worker.start_timeout" => Case::to("'300ms'", |_, said| said.err.contains("start timeout after 300ms"))
            .from("'1h'")
            .script("[ $RATOON_GENERATION -lt 3 ] || export CHAOS_HANG_BEFORE_READY=1"),
        "worker.stop_timeout" => Case::to("'300ms'", |master, _| {
            let worker = newest(master);
            master.ok(&["reload"]);
            is_gone(worker)
        })
        .from("'1h'")
        .script("export CHAOS_IGNORE_TERM=1")
        .acts(),
        "worker.stop_signal" => Case::to("'SIGUSR1'", |master, _| {
            master.ok(&["reload"]);
            exists_soon(master, "heard")
        })
        .with(RUNNING)
        .script("trap 'touch PLACE/heard; exit 0' USR1; trap 'exit 0' TERM; while :; do sleep 0.05; done")
        .acts(),
        "worker.watchdog" => Case::to("'30s'", |master, _| of_worker(master, "environ").contains("WATCHDOG_USEC=30000000")),
        "worker.user" if is_root => Case::to("'nobody'", |master, _| of_worker(master, "status").contains("Uid:\t65534")),
        "worker.group" if is_root => Case::to("'nogroup'", |master, _| of_worker(master, "status").contains("Gid:\t65534")),
        "worker.user" | "worker.group" => Case::to("'daemon'", |_, said| said.code == Some(1) && said.err.contains("worker.")),
        "worker.balance" => Case::to("'per-slot'", |master, _| {
            let sockets: Vec<_> = current(master).iter().map(|pid| link(*pid, "fd/3")).collect();
            sockets.len() == 2 && sockets[0] != sockets[1]
        })
        .with(&[("worker.count", "2")]),
        "worker.stdin" => Case::to("'socket'", |master, _| link_of_worker(master, "fd/0").starts_with("socket:")),
        "worker.nonblocking" => Case::to("true", |master, _| {
            let info = of_worker(master, "fdinfo/3");
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags").trim().to_owned();
            i32::from_str_radix(&flags, 8).expect("octal") & libc::O_NONBLOCK != 0
        })
        .with(RUNNING)
        .script(SILENT),
        "worker.limits.nofile" => Case::to("512", |master, _| {
            let limits = of_worker(master, "limits");
            limits.lines().any(|line| line.starts_with("Max open files") && line.split_whitespace().nth(3) == Some("512"))
        }),
        "worker.limits.memory_max" => limit("'1G'", "worker.limits.memory_max"),
        "worker.limits.memory_high" => limit("'1G'", "worker.limits.memory_high"),
        "worker.limits.tasks_max" => limit("1000", "worker.limits.tasks_max"),
        "worker.limits.cpu_weight" => limit("50", "worker.limits.cpu_weight"),
        "restart.initial" => {
            Case::to("'20ms'", |master, _| comes_back_twice(master)).from("'1h'").with(&[("restart.max", "'1h'"), TWO]).acts()
        }
        "restart.max" => Case::to("'30ms'", |master, _| comes_back_twice(master))
            .from("'1h'")
            .with(&[("restart.initial", "'20ms'"), ("restart.limit", "0"), TWO])
            .acts(),
        "restart.limit" => Case::to("0", |master, _| {
            kill_one(master);
            master.wait("degraded", |status| status["degraded"] == true);
            true
        })
        .from("1000")
        .with(&[TWO])
        .acts(),
        "restart.interval" => Case::to("'500ms'", |master, _| {
            kill_one(master);
            master.wait("degraded", |status| status["degraded"] == true);
            master.wait("no more degraded", |status| status["degraded"] == false);
            true
        })
        .from("'1h'")
        .with(&[("restart.limit", "0"), TWO])
        .acts(),
        "restart.give_up" => Case::to("'100ms'", |master, _| {
            master.place.write("broken", "");
            processes::signal(newest(master), Signal::KILL);
            master.end().code() == Some(1)
        })
        .script("[ ! -e PLACE/broken ] || exit 1")
        .acts(),
        "reload.surge" => {
            // The workers of a reload that were started at once, before it was rolled back.
            let started = |master: &Master| {
                let all = master.place.read("starts");
                let last = all.lines().last().expect("a start").to_owned();
                all.lines().filter(|line| **line == last).count()
            };
            Case::to("1", move |master, said| said.code == Some(1) && started(master) == 1)
                .from("'100%'")
                .with(&[TWO, ("worker.start_timeout", "'1s'")])
                .script(
                    "echo $RATOON_GENERATION >>PLACE/starts; [ $RATOON_GENERATION -lt 3 ] || export CHAOS_HANG_BEFORE_READY=1",
                )
        }
        "reload.probation" => Case::to("'2s'", |master, _| took_ms(master) >= 2000).from("'10ms'"),
        "reload.check" => Case::to("['touch', 'PLACE/checked']", |master, _| master.place.path("checked").exists()),
        "reload.memory" => {
            let case = Case::to("'refuse'", |_, said| said.err.contains("not enough memory for 10000 new workers"));
            let case = case.from("'ignore'").with(RUNNING);
            let case = case.script("exec /usr/bin/python3 -c 'import time; kept = bytes(16 << 20); time.sleep(1000)'");
            Case { also: vec![("worker.count", "10000")], ..case }
        }
        "hooks.before_reload" => Case::to("['touch', 'PLACE/hooked']", |master, _| master.place.path("hooked").exists()),
        "hooks.before_shutdown" => Case::to("['touch', 'PLACE/ended']", |master, _| {
            master.signal(Signal::TERM);
            master.end();
            master.place.path("ended").exists()
        })
        .acts(),
        "hooks.user" => {
            let hook = ("hooks.before_reload", "['sh', '-c', 'id -u >PLACE/out/user.$$']");
            let ran_as_nobody = |master: &Master| {
                let files = fs::read_dir(master.place.path("out")).expect("out").flatten();
                files.into_iter().any(|file| fs::read_to_string(file.path()).is_ok_and(|user| user.trim() == "65534"))
            };
            Case::to(
                "'nobody'",
                move |master, said| if is_root { ran_as_nobody(master) } else { said.err.contains("hooks.user") },
            )
            .with(&[hook])
        }
        "recycle.max_age" => Case::to("'100ms'", |master, _| is_recycled(master)).from("'1h'").acts(),
        "recycle.max_memory" => Case::to("'1M'", |master, _| is_recycled(master)).acts(),
        "recycle.max_requests" => Case::to("1", |master, _| {
            master.get("/");
            is_recycled(master)
        })
        .acts(),
        "status.listen" => Case::to("'PLACE/status'", |master, _| http::get(&status_address(master), "/healthz").is_ok()),
        "status.details" => Case::to("'everyone'", |master, _| {
            let status: Value = serde_json::from_str(&tcp_status(master, "localhost")).expect("JSON");
            status["details_hidden"] != true
        })
        .with(&[LISTEN]),
        "status.hosts" => {
            Case::to("['shown.example']", |master, _| !tcp_status(master, "shown.example").is_empty()).with(&[LISTEN])
        }
        _ => return None,
    })
}

const TWO: (&str, &str) = ("worker.count", "2");
/// Nothing else of the tests listens there: the address has the number of the test's process, see [`Trial::text`].
const LISTEN: (&str, &str) = ("status.listen", "'STATUS'");

/// A limit of a control group. Where the test's machine has delegated none, the answer and STATUS say so.
fn limit(after: &'static str, key: &'static str) -> Case {
    Case::to(after, move |master, said| {
        let answer = said.err.lines().any(|line| line.contains("warning") && line.contains(key) && line.contains("not applied"));
        let status = || master.status()["status_text"].as_str().is_some_and(|text| text.contains(key));
        let line = |it: &String| it.starts_with("STATUS=") && it.contains(key) && it.contains("not applied");
        answer && status() && master.systemd().messages().iter().any(line)
    })
}

/// The pids of the current generation's workers.
fn current(master: &Master) -> Vec<u32> {
    let status = master.status();
    let of_it = |worker: &&Value| worker["generation"] == status["generation"] && worker["state"] == "ready";
    workers(&status).iter().filter(of_it).filter_map(|worker| worker["pid"].as_u64()?.try_into().ok()).collect()
}

fn newest(master: &Master) -> u32 {
    *current(master).first().unwrap_or_else(|| panic!("no worker is ready: {:#}", master.status()))
}

fn of_worker(master: &Master, file: &str) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{}/{file}", newest(master))).expect(file)).into_owned()
}

fn link(pid: u32, file: &str) -> String {
    fs::read_link(format!("/proc/{pid}/{file}")).expect(file).display().to_string()
}

fn link_of_worker(master: &Master, file: &str) -> String {
    link(newest(master), file)
}

fn took_ms(master: &Master) -> u64 {
    master.status()["last_reload"]["duration_ms"].as_u64().expect("a reload")
}

fn is_gone(pid: u32) -> bool {
    eventually("the worker has ended", || (!processes::lives(pid)).then_some(true), String::new)
}

fn exists_soon(master: &Master, file: &str) -> bool {
    eventually(file, || master.place.path(file).exists().then_some(true), || master.log())
}

fn kill_one(master: &Master) -> u32 {
    let worker = newest(master);
    processes::signal(worker, Signal::KILL);
    worker
}

/// A worker that crashes twice in a row is replaced twice.
fn comes_back_twice(master: &Master) -> bool {
    for _ in 0..2 {
        let worker = kill_one(master);
        master.wait("another worker is ready", |status| status["workers_ready"] == 2 && !pids(status).contains(&worker));
    }
    true
}

fn is_recycled(master: &Master) -> bool {
    let worker = newest(master);
    let status = master.wait("the worker is recycled", |status| status["workers_ready"] == 1 && !pids(status).contains(&worker));
    status["worker_crashes"] == 0
}

fn status_address(master: &Master) -> String {
    master.place.path("status").display().to_string()
}

/// GET /status at `status.listen` over TCP with this `Host:`; empty when the answer is not 200.
fn tcp_status(master: &Master, host: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(master.place.read("address")).expect("status.listen");
    write!(stream, "GET /status HTTP/1.0\r\nHost: {host}\r\n\r\n").expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
    if head.contains(" 200 ") { body.to_owned() } else { String::new() }
}

/// Every key of the table, by its full name.
fn keys() -> Vec<String> {
    let schema = Command::new(RATOON).arg("schema").output().expect("ratoon").stdout;
    let schema: Value = serde_json::from_slice(&schema).expect("JSON");
    let (mut keys, mut tables) = (Vec::new(), vec![(String::new(), schema)]);
    while let Some((name, table)) = tables.pop() {
        for (key, value) in table["properties"].as_object().expect("a table") {
            let full = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            if value["properties"].is_object() {
                tables.push((full, value.clone()));
            } else {
                keys.push(full);
            }
        }
    }
    keys.sort();
    keys
}

/// One key's case, in a place of its own.
struct Trial<'a> {
    key: &'a str,
    case: Case,
    address: String,
}

impl Trial<'_> {
    fn text(&self, place: &Place, text: &str) -> String {
        text.replace("PLACE", &place.root().display().to_string()).replace("STATUS", &self.address)
    }

    fn configure(&self, place: &Place, value: Option<&str>, also: &[(&str, &str)]) {
        let usual = [("worker.command", "['./worker']"), ("worker.directory", "'PLACE/current'"), ("worker.count", "1")];
        let mut keys: BTreeMap<&str, &str> = usual.into_iter().collect();
        keys.extend(self.case.with.iter().copied().chain(also.iter().copied()));
        keys.extend(value.map(|value| (self.key, value)));
        let lines: String = keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        place.write("pool.toml", &self.text(place, &lines));
    }

    fn run(&self) {
        let place = Place::new();
        Command::new("chmod").args(["711"]).arg(place.root()).status().expect("chmod");
        fs::create_dir(place.path("out")).expect("out");
        Command::new("chmod").args(["1777"]).arg(place.path("out")).status().expect("chmod");
        place.release("v2", "");
        place.write("variables", "FROM_FILE=x\n");
        place.write("address", &self.address);
        if !self.case.script.is_empty() {
            place.wrap("v1", self.case.script);
        }
        self.configure(&place, self.case.before, &[]);
        let master = Plan::new(place).start();
        let said = master.ok(&["reload"]);
        assert!(self.case.acts || !(self.case.seen)(&master, &said), "{}: the value is there before the change", self.key);
        self.configure(&master.place, Some(self.case.after), &self.case.also);
        let said = master.verb(&["reload"]);
        assert!((self.case.seen)(&master, &said), "{} = {}: {said:?}\n{}", self.key, self.case.after, master.log());
    }
}

#[test]
fn reload_applies_a_change_of_every_key_or_says_that_it_does_not() {
    let keys = keys();
    assert!(keys.len() > 30, "{keys:?}");
    let (queue, failed) = (Mutex::new(keys.iter().enumerate()), Mutex::new(Vec::new()));
    let work = || {
        while let Some((index, key)) = { queue.lock().expect("no panic under the lock").next() } {
            let Some(case) = case(key) else {
                failed.lock().expect("no panic under the lock").push(format!(
                    "{key} has no case: write in `case` how a change of it is seen after a reload; what a reload cannot apply it must say"
                ));
                continue;
            };
            // An address for each process and case, where no other test listens.
            let address =
                format!("127.77.{}.{}:{}", 1 + index, 1 + std::process::id() % 250, 20_000 + std::process::id() % 10_000);
            let trial = Trial { key, case, address };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| trial.run())) {
                let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                failed.lock().expect("no panic under the lock").push(format!("{key}: {text}"));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().expect("no panic under the lock");
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}
