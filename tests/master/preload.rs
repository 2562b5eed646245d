//! `worker.preload`: the application is loaded once, and the workers are forked from the process that has loaded it.

use std::path::{Path, PathBuf};

use super::harness::master::{last_failure, pids, wait_for_end_of, workers};
use super::harness::processes::{children, facts, lives, signal};
use super::harness::{Master, Place, Signal, Value, http};
use super::upgrade::upgrade;

/// The application: a line in `loaded` for each time that it is loaded.
const APPLICATION: &str = r#"
import os

LOADED = os.getpid()
with open("../loaded", "a") as file:
    file.write("%d\n" % LOADED)
exec(open("while-loading").read())
"#;

/// The program of the workers, which loads the application, too, where it is not loaded. It says READY=1 when it accepts.
const WORKER: &str = r#"#!/usr/bin/env python3
import http.server, json, os, signal, socket, sys

import app

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/exit"):
            print("exits as it was asked to", file=sys.stderr, flush=True)
            os._exit(7)
        files = {}
        for number in os.listdir("/proc/self/fd"):
            try:
                files[number] = os.readlink("/proc/self/fd/" + number)
            except OSError:
                pass
        text = json.dumps({
            "version": open("version").read(), "loaded": app.LOADED, "pid": os.getpid(), "parent": os.getppid(),
            "session": os.getsid(0), "environment": dict(os.environ), "argv": sys.argv, "files": files,
        }).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *words):
        pass

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
server.socket = socket.socket(fileno=3)
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
server.serve_forever()
"#;

/// A preload process that breaks the protocol as its argument says.
const HOSTILE: &str = r#"#!/usr/bin/env python3
import contextlib, os, socket, sys, time

import ratoon
from ratoon.preload import _fork, _protocol, _run

how = sys.argv[1]
channel = socket.socket(fileno=int(os.environ["RATOON_FORK"]))
ratoon.notify(READY=1)

def confirm(worker):
    channel.send(_protocol.confirmed(worker))

def fork(master):
    """Returns in a child of the master."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return False
    if os.fork():
        os._exit(0)
    os.setsid()
    while os.getppid() != master:
        time.sleep(0.001)
    return True

while True:
    message, descriptors, _, _ = socket.recv_fds(channel, 1 << 17, 253)
    if not message:
        os._exit(0)
    request = _protocol.parse(message)
    if how == "die":
        os._exit(3)
    elif how == "never":
        pass
    elif how == "stranger":
        confirm(request.worker)
    elif how == "own-child":
        if os.fork() == 0:
            confirm(request.worker)
            time.sleep(1000)
    elif how == "nonsense":
        channel.send(b"\xff" * 4000)
    elif how == "descriptors":
        socket.send_fds(channel, [_protocol.confirmed(request.worker)], [0])
    elif how == "hang-up":
        channel.close()
        time.sleep(1000)
    elif how == "flood":
        with contextlib.suppress(OSError):
            while True:
                channel.send(_protocol.failed(999999, 11))
        time.sleep(1000)
    elif how == "refuse":
        channel.send(_protocol.failed(request.worker, 11))
    elif how == "die-half-way":
        # Between the fork and the confirmation.
        fork(request.master) or os._exit(3)
        os._exit(0)
    elif how == "twice":
        for _ in range(2):
            if fork(request.master):
                confirm(request.worker)
                _fork._place(request.roles, descriptors)
                _fork._set_environment(request)
                _run.run(request.program, request.argv)
                os._exit(0)
    for descriptor in descriptors:
        os.close(descriptor)
"#;

pub fn library() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/src")
}

/// A release whose application does this while it is loaded.
pub fn release(place: &Place, name: &str, while_loading: &str) {
    std::fs::create_dir_all(place.path(name)).expect("a release");
    place.program(&format!("{name}/worker"), WORKER);
    place.program(&format!("{name}/hostile"), HOSTILE);
    place.write(&format!("{name}/app.py"), APPLICATION);
    place.write(&format!("{name}/version"), name);
    place.write(&format!("{name}/while-loading"), while_loading);
}

/// The keys of a pool of two with this preload process.
pub fn keys(preload: &str, more: &str) -> String {
    format!(
        "count = 2\npreload = {preload}\nenvironment = {{ PYTHONPATH = {:?}, PYTHONDONTWRITEBYTECODE = '1' }}\n{more}",
        library()
    )
}

pub const PRELOAD: &str = "['/usr/bin/python3', '-m', 'ratoon.preload', 'app']";

pub fn place() -> Place {
    let place = Place::new();
    for name in ["v1", "v2"] {
        let _ = std::fs::remove_dir_all(place.path(name));
        release(&place, name, "");
    }
    place
}

pub fn start(more: &str) -> Master {
    place().pool(&keys(PRELOAD, more), "").start()
}

/// How often the application was loaded.
pub fn loaded(master: &Master) -> usize {
    std::fs::read_to_string(master.place.path("loaded")).map_or(0, |text| text.lines().count())
}

pub fn preload(status: &Value) -> u32 {
    status["preload"]["pid"].as_u64().unwrap_or_else(|| panic!("no preload process: {status:#}")) as u32
}

/// A worker's answer.
pub fn asked(master: &Master) -> Value {
    serde_json::from_str(&master.get("/")).expect("JSON")
}

/// Ends the worker that answers next, and waits until all are ready again.
pub fn crash(master: &Master) -> Value {
    let before = master.status()["worker_crashes"].as_u64();
    let _ = http::get(&master.address(), "/exit");
    master.wait("it is replaced", |status| {
        status["worker_crashes"].as_u64() > before && status["workers_ready"] == status["workers_configured"]
    })
}

#[test]
fn workers_are_forked_from_one_process_that_has_loaded() {
    let master = start("watchdog = '1min'");
    let status = master.status();
    assert_eq!((loaded(&master), &status["preload"]["state"]), (1, &"ready".into()), "{status:#}");
    assert!(status["preload"]["memory_pss"].as_u64() > Some(1 << 20), "{status:#}");
    let answer = asked(&master);
    assert_eq!(answer["loaded"], preload(&status), "{answer:#}");
    assert_eq!((&answer["parent"], &answer["session"]), (&master.pid.into(), &answer["pid"]), "{answer:#}");
    let worker = workers(&status).iter().find(|worker| worker["pid"] == answer["pid"]).expect("a worker of the pool");
    let environment = &answer["environment"];
    for (name, value) in [
        ("LISTEN_FDS", "1".to_owned()),
        ("LISTEN_PID", answer["pid"].to_string()),
        ("WATCHDOG_PID", answer["pid"].to_string()),
        ("WATCHDOG_USEC", "60000000".to_owned()),
        ("RATOON_WORKER", worker["id"].to_string()),
        ("RATOON_SLOT", worker["slot"].to_string()),
        ("RATOON_SCOREBOARD", "4".to_owned()),
    ] {
        assert_eq!(environment[name], value, "{name} in {environment:#}");
    }
    assert!(environment["NOTIFY_SOCKET"].as_str().expect("a path").ends_with(&worker["id"].to_string()), "{environment:#}");
    assert_eq!(environment["RATOON_FORK"], Value::Null);
    let files = answer["files"].as_object().expect("descriptors");
    let inherited: Vec<&str> =
        files.keys().map(String::as_str).filter(|number| number.parse::<u32>().is_ok_and(|it| it <= 4)).collect();
    assert_eq!(inherited, ["0", "1", "2", "3", "4"], "{files:#?}");
    assert_eq!(files["0"], "/dev/null");
    // The notify socket and the connection are its own; of the preload process nothing is left.
    assert!(files.len() <= 7, "{files:#?}");
    assert!(facts(preload(&status))["Seccomp"] == facts(pids(&status)[0])["Seccomp"]);
}

#[test]
fn forked_worker_has_the_cpus_of_its_slot() {
    let master = start("cpus = 'auto'");
    let (status, allowed) = (master.status(), |pid| facts(pid)["Cpus_allowed_list"].clone());
    let (own, of_preload) = (pids(&status).into_iter().map(allowed).collect::<Vec<_>>(), allowed(preload(&status)));
    assert_eq!((of_preload.clone(), own.len()), (allowed(master.pid), 2));
    if ratoon::config::usable_cpus() > 1 {
        assert!(own[0] != own[1] && !own.contains(&of_preload), "{own:?} of {of_preload}");
    }
}

#[test]
fn crashed_worker_is_forked_again_with_its_exit_status() {
    let master = start("");
    let before = preload(&master.status());
    let status = crash(&master);
    assert_eq!((preload(&status), loaded(&master)), (before, 1));
    assert_eq!(last_failure(&status)["how"], "exit 7", "{status:#}");
    master.wait("its output is told", |status| last_failure(status)["log_tail"].to_string().contains("as it was asked to"));
    let killed = pids(&master.status())[0];
    signal(killed, Signal::KILL);
    let status = master.wait("it is replaced", |status| !pids(status).contains(&killed) && status["workers_ready"] == 2);
    assert_eq!((&last_failure(&status)["how"], loaded(&master)), (&"signal SIGKILL".into(), 1));
}

#[test]
fn reload_loads_the_new_release_once_and_ends_the_old_process() {
    let master = start("");
    let old = preload(&master.status());
    master.place.current("v2");
    master.ok(&["reload"]);
    let status = master.wait_until_calm();
    assert_eq!(loaded(&master), 2);
    assert_ne!(preload(&status), old);
    let answer = asked(&master);
    assert_eq!((&answer["version"], &answer["loaded"]), (&"v2".into(), &preload(&status).into()));
    wait_for_end_of(old);
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
    assert!(!lives(preload(&status)));
}

#[test]
fn release_that_does_not_load_is_rolled_back_before_a_worker_starts() {
    for (while_loading, reason) in [
        ("raise KeyError('DATABASE_URL')", "exit 1 before it was ready"),
        ("os._exit(0)", "exit 0 before it was ready"),
        ("os.kill(os.getpid(), 11)", "signal SIGSEGV"),
        ("os.kill(os.getpid(), 9)", "signal SIGKILL before it was ready"),
        ("import time; time.sleep(1000)", "start timeout after 3s"),
    ] {
        let master = start("start_timeout = '3s'");
        let before = master.status();
        release(&master.place, "v2", while_loading);
        master.place.current("v2");
        let said = master.verb(&["reload"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains("preload process") && said.err.contains(reason), "{reason}: {said:?}");
        if while_loading.contains("DATABASE_URL") {
            assert!(said.err.contains("KeyError: 'DATABASE_URL'"), "{said:?}");
        }
        let status = master.wait_until_calm();
        assert_eq!((pids(&status), preload(&status)), (pids(&before), preload(&before)), "{status:#}");
        assert_eq!(status["last_reload"]["result"], "rolled-back");
        assert_eq!(asked(&master)["version"], "v1");
        // One load for each generation: no worker of the new one has tried it.
        assert_eq!(loaded(&master), 2);
        assert_eq!(status["degraded"], false);
    }
}

#[test]
fn workers_go_on_when_their_preload_process_is_killed() {
    let master = start("");
    let before = master.status();
    signal(preload(&before), Signal::KILL);
    let status = master.wait("it is known", |status| status["preload"]["state"] == "absent");
    assert_eq!((pids(&status), &status["workers_ready"], &status["degraded"]), (pids(&before), &2.into(), &false.into()));
    assert_eq!(status["worker_crashes"], 0);
    // The next start of a worker loads the application again, from the release of the generation.
    master.place.current("v2");
    let status = crash(&master);
    assert_eq!((loaded(&master), &status["preload"]["state"]), (2, &"ready".into()));
    assert_ne!(preload(&status), preload(&before));
    let versions: Vec<String> = (0..8).map(|_| asked(&master)["version"].to_string()).collect();
    assert!(versions.iter().all(|version| version == "\"v1\""), "{versions:?}");
}

#[test]
fn pool_falls_back_to_the_command_when_it_does_not_load_again() {
    let master = start("");
    let before = master.status();
    // The workers load it as it was meant to be loaded.
    release(&master.place, "v1", "import sys\nif 'preload' in str(sys.orig_argv): raise SystemExit(5)");
    signal(preload(&before), Signal::KILL);
    master.wait("it is known", |status| status["preload"]["state"] == "absent");
    let status = crash(&master);
    assert_eq!((&status["preload"]["state"], &status["degraded"]), (&"failed".into(), &true.into()), "{status:#}");
    let text = status["status_text"].as_str().expect("a text");
    assert!(text.contains("exit 5 before it was ready; workers are started without it"), "{text}");
    // A reload ends it.
    release(&master.place, "v1", "");
    master.ok(&["reload"]);
    let status = master.wait_until_calm();
    assert_eq!((&status["preload"]["state"], &status["degraded"]), (&"ready".into(), &false.into()), "{status:#}");
}

#[test]
fn preload_process_that_breaks_the_protocol_does_no_harm() {
    for (how, told) in [
        ("die", "exit 3"),
        ("die-half-way", "exit 3"),
        ("never", "it did not fork worker"),
        ("stranger", "no child of the master"),
        ("own-child", "no child of the master"),
        ("nonsense", "it has sent a reply that is too long"),
        ("descriptors", "it has sent descriptors"),
        ("hang-up", "it did not fork worker"),
        ("flood", "it sends replies that nobody waits for"),
    ] {
        let preload = format!("['./hostile', '{how}']");
        let master = place().pool(&keys(&preload, "start_timeout = '4s'"), "").start();
        let status = master.wait_until_ready();
        assert_eq!((&status["preload"]["state"], &status["degraded"]), (&"failed".into(), &true.into()), "{how}: {status:#}");
        let text = status["status_text"].as_str().expect("a text");
        assert!(text.contains(told), "{how}: {text}\n{}", master.log());
        assert_eq!(asked(&master)["version"], "v1");
        // The processes that it has forked besides are gone, too.
        master.wait("no stranger is left", |status| {
            let known = pids(status);
            children(master.pid).iter().all(|child| known.contains(child) || !lives(*child))
        });
    }
}

#[test]
fn second_process_for_one_worker_is_killed() {
    let master = place().pool(&keys("['./hostile', 'twice']", ""), "").start();
    let status = master.wait_until_ready();
    assert_eq!((&status["preload"]["state"], &status["degraded"]), (&"ready".into(), &false.into()), "{status:#}");
    master.wait_for_log("that nobody asked for: SIGKILL");
    let status = master.wait("only the workers are left", |status| {
        let known: Vec<u32> = pids(status).into_iter().chain([preload(status)]).collect();
        children(master.pid).iter().all(|child| known.contains(child) || !lives(*child))
    });
    assert_eq!(status["workers_ready"], 2);
}

#[test]
fn start_whose_workers_cannot_be_forked_ends() {
    let preload = "['./hostile', 'refuse']";
    let master = place().pool(&keys(preload, "preload_fallback = false"), "").launch();
    assert_eq!(master.end().code(), Some(1), "{}", master.log());
    assert!(master.log().contains("fork: Resource temporarily unavailable"), "{}", master.log());
}

#[test]
fn upgraded_master_forks_from_the_same_process() {
    let master = start("");
    let before = master.status();
    for _ in 0..2 {
        upgrade(&master);
        assert_eq!(pids(&master.wait_until_calm()), pids(&before), "{}", master.log());
    }
    let status = crash(&master);
    assert_eq!((preload(&status), loaded(&master)), (preload(&before), 1), "{status:#}");
    assert_eq!(asked(&master)["loaded"], preload(&before));
}
