//! The cases: how a change of each key is seen after a reload.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;

use super::super::harness::master::{Notification, pids, workers};
use super::super::harness::{Master, Signal, Value, eventually, http, processes};

/// A worker that serves nothing and says nothing.
const SILENT: &str = "exec sleep 1000";
const STEPS: (&str, &str) = ("reload.steps", "['1']");
/// A worker that counts five requests each 0.1 s; from the third generation on every second one fails.
const FAILING: &str = r#"exec /usr/bin/python3 -c '
import os, socket, time
notify, requests = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), 0
while True:
    requests += 5
    failed = requests // 2 if int(os.environ["RATOON_GENERATION"]) > 2 else 0
    text = "X_RATOON_COUNTERS={\"requests\": %d, \"responses_5xx\": %d}" % (requests, failed)
    notify.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
    time.sleep(0.1)
'"#;
/// Writes its status page: 50 answers a second, which take 16 times as long from the third generation on.
const SLOWER: &str = r#"exec /usr/bin/python3 -c '
import os, struct, time
page, answers = int(os.environ["RATOON_SCOREBOARD"]), 0
log = 224 if int(os.environ["RATOON_GENERATION"]) > 2 else 160
os.pwrite(page, struct.pack("=Q", os.getpid()), 8 * 8)
while True:
    answers += 5
    os.pwrite(page, struct.pack("=Q", answers), 17 * 8)
    os.pwrite(page, struct.pack("=3Q", answers, answers * log, answers * log * log), 25 * 8)
    time.sleep(0.1)
'"#;
const NO_WATCH: (&str, &str) = ("reload.watch", "'off'");
const RUNNING: &[(&str, &str)] = &[("worker.ready", "'running'"), ("worker.settle", "'10ms'")];
/// Where Python finds the library of this source; and no compiled copy of a module, whose text changes.
const PYTHON_LIBRARY: &str =
    concat!("{ PYTHONPATH = '", env!("CARGO_MANIFEST_DIR"), "/clients/python/src', PYTHONDONTWRITEBYTECODE = '1' }");
pub type Seen = Box<dyn Fn(&Master, &Notification) -> bool>;

/// How a change of one key is seen. `PLACE` in values and scripts is the directory of the test.
pub struct Case {
    /// Other keys, before and after the change.
    pub with: Vec<(&'static str, &'static str)>,
    pub before: Option<&'static str>,
    pub after: &'static str,
    /// Other keys that change, too.
    pub also: Vec<(&'static str, &'static str)>,
    /// A shell script that becomes the worker; it ends in `exec chaos`.
    pub script: &'static str,
    /// Whether the changed value is in force, after the reload with this answer.
    pub seen: Seen,
    /// `seen` is no mere look: it is not asked before the change.
    pub acts: bool,
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

/// Whether it has no worker any more.
fn becomes_idle(master: &Master) -> bool {
    master.wait("it is idle", |status| status["state"] == "idle" && workers(status).is_empty());
    true
}

/// Whether a worker whose request never ends gets no new connections.
fn is_avoided(master: &Master) -> bool {
    let address = master.address();
    let mut request = TcpStream::connect(&address).expect("a connection");
    request.write_all(b"GET /hang HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("written");
    let mut others = Vec::new();
    let avoided = || {
        // The first that waits for it wakes the master.
        others.push(TcpStream::connect(&address).expect("a connection"));
        workers(&master.status()).iter().any(|worker| worker["avoided"] == "request").then_some(())
    };
    eventually("it is avoided", avoided, || master.log());
    true
}

pub fn case(key: &str) -> Option<Case> {
    let is_root = rustix::process::geteuid().is_root();
    Some(match key {
        "worker.command" => Case::to("['./worker', 'changed']", |master, _| of_worker(master, "cmdline").contains("changed")),
        "worker.directory" => Case::to("'PLACE/v2'", |master, _| link_of_worker(master, "cwd").ends_with("/v2")),
        "worker.environment" => Case::to("{ SEEN = 'x' }", |master, _| of_worker(master, "environ").contains("SEEN=x")),
        "worker.environment_file" => {
            Case::to("'PLACE/variables'", |master, _| of_worker(master, "environ").contains("FROM_FILE=x"))
        }
        "worker.count" => Case::to("2", |master, _| master.status()["workers_ready"] == 2),
        "worker.min" => Case::to("0", |master, _| becomes_idle(master)).with(&[("scale.idle", "'100ms'"), NO_WATCH]).acts(),
        "scale.idle" => {
            Case::to("'100ms'", |master, _| becomes_idle(master)).from("'1h'").with(&[("worker.min", "0"), NO_WATCH]).acts()
        }
        "worker.max" => Case::to("9", |master, _| master.status()["workers_max"] == 9),
        "scale.target" => scale("'60%'", "target_percent", 60.into()),
        "scale.up_after" => scale("'5s'", "up_after_ms", 5_000.into()),
        "scale.down_after" => scale("'10s'", "down_after_ms", 10_000.into()),
        "scale.step" => scale("3", "step", "3".into()),
        "worker.preload" => Case::to("['/bin/false']", |_, said| said.err.contains("preload process")),
        "worker.preload_fallback" => Case::to("false", |master, _| {
            let state = |is: &'static str| move |status: &Value| status["preload"]["state"] == is;
            let process = master.wait("it can fork", state("ready"))["preload"]["pid"].as_u64().expect("a pid");
            master.place.write("v1/loaded.py", "raise SystemExit(3)");
            processes::signal(process as u32, Signal::KILL);
            master.wait("it is gone", state("absent"));
            processes::signal(newest(master), Signal::KILL);
            master.wait("it is not forked", |status| status["failures"].to_string().contains("not forked: preload process"));
            true
        })
        .with(&[
            ("worker.command", "['/usr/bin/python3', 'PLACE/host.py']"),
            (
                "worker.preload",
                "['/usr/bin/python3', '-c', 'open(\"loaded.py\", \"a\").close(); from ratoon.preload import __main__', 'loaded']",
            ),
            ("worker.environment", PYTHON_LIBRARY),
            ("worker.settle", "'10ms'"),
        ])
        .acts(),
        "worker.ready" => Case::to("'notify'", |_, said| said.err.contains("start timeout"))
            .from("'running'")
            .with(&[("worker.settle", "'10ms'"), ("worker.start_timeout", "'3s'")])
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
        "worker.adapter" => {
            Case::to("'rack'", |master, _| of_worker(master, "environ").contains("RUBYOPT=-rratoon/adapter")).from("'none'")
        }
        "worker.adapter_library" => Case::to("'PLACE/two.so'", |master, _| of_worker(master, "environ").contains("/two.so"))
            .from("'PLACE/one.so'")
            .with(&[("worker.adapter", "'bind'")]),
        "worker.balance" => Case::to("'per-slot'", |master, _| {
            let sockets: Vec<_> = current(master).iter().map(|pid| link(*pid, "fd/3")).collect();
            sockets.len() == 2 && sockets[0] != sockets[1]
        })
        .with(&[("worker.count", "2")]),
        "worker.balance_hung" => Case::to("'300ms'", |master, _| is_avoided(master))
            .from("'off'")
            .with(&[("worker.count", "2"), ("worker.balance", "'per-slot'")])
            .acts(),
        // Needs two CPUs.
        "worker.cpus" => Case::to("'auto'", |master, _| {
            let of = |slot: usize| processes::facts(pids(&master.status())[slot])["Cpus_allowed_list"].clone();
            of(0) != of(1)
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
        "restart.interval" => Case::to("'3s'", |master, _| {
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
                .with(&[TWO, ("worker.start_timeout", "'3s'")])
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
        "reload.on_rollback" => Case::to("['touch', 'PLACE/told']", |master, _| {
            master.place.write("broken", "");
            assert_eq!(master.verb(&["reload"]).code, Some(1));
            let told = || master.place.path("told").exists().then_some(true);
            eventually("the command has run", told, || master.log())
        })
        .with(&[("reload.check", "['test', '!', '-e', 'PLACE/broken']")])
        .acts(),
        "reload.keep" => Case::to("1", |master, _| {
            // Each kept release has its directory open.
            let kept = || {
                let open = fs::read_dir(format!("/proc/{}/fd", master.pid)).expect("fd").flatten();
                open.filter(|fd| fs::read_link(fd.path()).is_ok_and(|path| path.ends_with("v1"))).count()
            };
            assert!(kept() >= 1);
            eventually("one release is kept", || (kept() == 1).then_some(true), || kept().to_string())
        })
        .acts(),
        "reload.probe" => Case::to("'GET /crash'", |_, said| said.code == Some(1) && said.err.contains("probe")),
        "reload.probe_status" => {
            Case::to("'404'", |_, said| said.code == Some(1) && said.err.contains("probe")).with(&[("reload.probe", "'GET /'")])
        }
        "reload.probe_timeout" => Case::to("'50ms'", |_, said| said.code == Some(1) && said.err.contains("probe"))
            .from("'20s'")
            .with(&[("reload.probe", "'GET /sleep?ms=500'")]),
        "reload.probe_host" => Case::to("'other.example'", |_, said| said.code == Some(1) && said.err.contains("probe"))
            .with(RUNNING)
            .with(&[("reload.probe", "'GET /'")])
            .script("exec /usr/bin/python3 PLACE/host.py"),
        "reload.steps" => Case::to("['1']", |master, _| master.log().contains("canary of generation 3: 1/2 workers"))
            .with(&[TWO, ("reload.step_time", "'10ms'")]),
        "reload.step_time" => Case::to("'2s'", |master, _| took_ms(master) >= 2000).from("'10ms'").with(&[TWO, STEPS]),
        "reload.promote_timeout" => {
            let case = Case::to("'100ms'", |_, said| said.err.contains("nobody promoted the canary within 100ms"));
            let case = case.with(&[TWO, STEPS, ("reload.step_time", "'10ms'")]);
            Case { also: vec![("reload.step_time", "'manual'")], ..case }
        }
        "reload.judge.error_ratio" => Case::to("'1%'", |_, said| said.code == Some(1) && said.err.contains("the canary failed"))
            .from("'100%'")
            .with(RUNNING)
            .with(&[TWO, STEPS, ("reload.step_time", "'4s'")])
            .script(FAILING),
        "reload.judge.min_requests" => {
            Case::to("1000000", |master, _| master.log().contains("of 1000000 requests, so there is no verdict"))
                .with(RUNNING)
                .with(&[TWO, STEPS, ("reload.step_time", "'4s'"), ("reload.judge.error_ratio", "'100%'")])
                .script(FAILING)
        }
        "reload.judge.latency_ratio" => {
            Case::to("2.0", |_, said| said.code == Some(1) && said.err.contains("its answers take 16.0 times as long"))
                .from("'off'")
                .with(RUNNING)
                .with(&[TWO, STEPS, ("reload.step_time", "'4s'")])
                .script(SLOWER)
        }
        "reload.judge_command" => Case::to("['false']", |_, said| said.err.contains("reload.judge_command \"false\": exit 1"))
            .with(&[TWO, STEPS, ("reload.step_time", "'10ms'")]),
        "reload.watch" => Case::to("'1h'", |master, _| master.status()["watch"]["compares"] == true),
        "start.fallback" => Case::to("'none'", |_, said| said.err.contains("counts at the next start of the instance")),
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

/// A setting of an elastic pool.
fn scale(after: &'static str, field: &'static str, shown: Value) -> Case {
    Case::to(after, move |master, _| master.status()["scale"][field] == shown).with(&[("worker.max", "9")])
}

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
