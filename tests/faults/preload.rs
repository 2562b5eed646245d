//! Fault × phase of a preload process (`worker.preload`): it is killed, hangs or exits while it loads, while it forks, between a fork
//! and its confirmation, and while its workers serve; in the first generation and in that of a reload, which is under load.
//!
//! Of every cell: no request is lost while a worker of the generation before serves; the outcome is told; then the instance ends with
//! 0, and no process and no file is left.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use super::harness::master::{last_failure, pids, workers};
use super::harness::{Master, Place, Signal, Value, eventually, processes};
use super::matrix::Load;

/// The application. A process that reaches the phase which the file `wanted` names writes the pid of its preload process to `reached`,
/// and waits for the file `open`. At SIGTERM the preload process exits.
const APPLICATION: &str = r#"
import os, signal, time
from ratoon import preload
from ratoon.preload import _fork

LOADED = os.getpid()
signal.signal(signal.SIGTERM, lambda *_: os._exit(3))

def reach(phase):
    if open("../wanted").read() != os.environ["VERSION"] + phase:
        return
    with open("../reached.%d" % os.getpid(), "w") as file:
        file.write("%d" % LOADED)
    os.rename("../reached.%d" % os.getpid(), "../reached")
    while not os.path.exists("../open"):
        time.sleep(0.01)

wait = _fork._wait_for
def confirm(master):
    wait(master)
    reach("confirm")
_fork._wait_for = confirm
preload.before_fork(lambda: reach("fork"))
reach("load")
"#;

/// A worker that answers requests, and accepts no more after SIGTERM.
const WORKER: &str = r#"#!/usr/bin/env python3
import os, signal, socket
import app
listener, drains = socket.socket(fileno=3), []
listener.settimeout(0.02)
signal.signal(signal.SIGTERM, lambda *_: drains.append(1))
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
while not drains:
    try:
        client = listener.accept()[0]
    except (TimeoutError, BlockingIOError):
        continue
    with client:
        client.settimeout(10)
        if client.recv(65536):
            client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nok\n")
"#;

/// How the preload process fails once it has reached the phase.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Killed,
    Hung,
    Exits,
}

impl Fault {
    fn strike(self, pid: u32) {
        let signal = match self {
            Fault::Killed => Signal::KILL,
            Fault::Hung => Signal::STOP,
            Fault::Exits => Signal::TERM,
        };
        processes::signal(pid, signal);
    }

    /// A part of the reason that is told.
    fn told(self, phase: &str) -> &'static str {
        match self {
            Fault::Killed => "signal SIGKILL",
            Fault::Hung if phase == "load" => "start timeout after 6s",
            Fault::Hung => "in time",
            Fault::Exits => "exit 3",
        }
    }
}

/// The phase of the preload process at the fault.
const PHASES: [&str; 3] = ["load", "fork", "confirm"];

fn keys(version: &str, more: &str) -> String {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/src");
    format!(
        "count = 2\npreload = ['/usr/bin/python3', '-m', 'ratoon.preload', 'app']\n\
         environment = {{ PYTHONPATH = {library:?}, PYTHONDONTWRITEBYTECODE = '1', VERSION = '{version}' }}\n{more}"
    )
}

/// A hung process is given up after the start timeout. In the other cells that is longer than the test waits for anything.
fn timeout(fault: Fault) -> &'static str {
    if fault == Fault::Hung { "start_timeout = '6s'" } else { "start_timeout = '10min'" }
}

/// A place whose preload processes stop in this phase.
fn place(wanted: &str) -> Place {
    let place = Place::new();
    std::fs::remove_dir_all(place.path("v1")).expect("v1");
    for version in ["v1", "v2"] {
        std::fs::create_dir(place.path(version)).expect("a release");
        place.program(&format!("{version}/worker"), WORKER);
        place.write(&format!("{version}/app.py"), APPLICATION);
    }
    place.write("wanted", wanted);
    place
}

/// Waits until the phase is reached. Returns the preload process.
fn reached(master: &Master) -> u32 {
    let read = || std::fs::read_to_string(master.place.path("reached")).ok()?.parse().ok();
    eventually("the phase is reached", read, || master.log())
}

fn serves(status: &Value) -> bool {
    status["state"] == "running"
        && workers(status).len() == 2
        && workers(status).iter().all(|worker| worker["state"] == "ready" && worker["generation"] == status["generation"])
}

/// The end of a cell.
fn end(master: Master) {
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
    let mark = format!("{}={}", processes::MARK, master.place.root().display());
    eventually("no process is left", || processes::with_environment(&mark).is_empty().then_some(()), || master.log());
    let left = std::fs::read_dir(master.place.path("run")).into_iter().flatten().flatten().count();
    assert_eq!(left, 0, "{}", master.log());
}

/// The process of the first generation does not get as far as a worker: the workers start without it, and that is told.
fn first_generation(fault: Fault, phase: &str) {
    let master = place(&format!("v1{phase}")).pool(&keys("v1", timeout(fault)), "").launch();
    fault.strike(reached(&master));
    let status = master.wait("it is given up", |status| status["preload"]["state"] == "failed");
    assert!(status["status_text"].as_str().is_some_and(|text| text.contains(fault.told(phase))), "{status:#}\n{}", master.log());
    // A direct start loads the application, too; a process that has not confirmed yet does it now, when nobody waits for it.
    master.place.write("open", "");
    let status = master.wait("workers are started without it", serves);
    assert_eq!((&status["degraded"], &status["preload"]["pid"]), (&true.into(), &Value::Null), "{status:#}");
    end(master);
}

/// The process of a reload: the reload is rolled back, and the generation before serves on.
fn generation_of_a_reload(fault: Fault, phase: &str) {
    let master = place(&format!("v2{phase}")).pool(&keys("v1", "start_timeout = '10min'"), "").start();
    let before = master.wait("the first generation serves", serves);
    master.place.current("v2");
    master.place.configure(&keys("v2", timeout(fault)), "");
    let load = Load::start(&master);
    let reload = master.begin(&["reload"]);
    fault.strike(reached(&master));
    let said = reload.end();
    assert!(said.code == Some(1) && said.err.contains(fault.told(phase)), "{said:?}\n{}", master.log());
    master.place.write("open", "");
    let status = master.wait("the first generation serves", serves);
    let facts = |status: &Value| (pids(status), status["preload"].clone()["pid"].clone(), status["degraded"].clone());
    assert_eq!(facts(&status), facts(&before), "{}", master.log());
    assert_eq!(status["last_reload"]["result"], "rolled-back");
    assert_eq!(load.stop(), 0, "requests lost\n{}", master.log());
    end(master);
}

/// The workers serve on; the next start of a worker gets another preload process, if the first one does not fork any more.
fn while_workers_serve(fault: Fault) {
    let master = place("never").pool(&keys("v1", timeout(fault)), "").start();
    let before = master.wait("it serves", serves);
    let old = before["preload"]["pid"].as_u64().expect("a preload process") as u32;
    fault.strike(old);
    if fault != Fault::Hung {
        let status = master.wait("it is known", |status| status["preload"]["state"] == "absent");
        assert_eq!((pids(&status), &status["degraded"]), (pids(&before), &false.into()), "{status:#}");
    }
    let killed = pids(&before)[0];
    processes::signal(killed, Signal::KILL);
    let status = master.wait("another is forked", |status| serves(status) && !pids(status).contains(&killed));
    assert!(pids(&status).contains(&pids(&before)[1]), "{status:#}\n{}", master.log());
    assert_eq!((&status["preload"]["state"], &status["degraded"]), (&"ready".into(), &false.into()), "{status:#}");
    assert_ne!(status["preload"]["pid"], old);
    assert!(!processes::lives(old), "{}", master.log());
    end(master);
}

/// The process of the old generation goes while a reload loads: the reload does not need it.
fn while_a_reload_loads(fault: Fault) {
    let master = place("v2load").pool(&keys("v1", "start_timeout = '10min'"), "").start();
    let before = master.wait("the first generation serves", serves);
    master.place.current("v2");
    master.place.configure(&keys("v2", "start_timeout = '10min'"), "");
    let load = Load::start(&master);
    let reload = master.begin(&["reload"]);
    reached(&master);
    let old = before["preload"]["pid"].as_u64().expect("a preload process") as u32;
    fault.strike(old);
    master.place.write("open", "");
    let said = reload.end();
    assert_eq!(said.code, Some(0), "{said:?}\n{}", master.log());
    let status = master.wait("the second generation serves", |status| serves(status) && status["generation"] == 2);
    assert_eq!((&status["preload"]["state"], &status["degraded"]), (&"ready".into(), &false.into()), "{status:#}");
    assert_eq!(load.stop(), 0, "requests lost\n{}", master.log());
    // A hung process ends by SIGKILL when its stop timeout is over.
    if fault == Fault::Hung {
        processes::signal(old, Signal::CONT);
    }
    end(master);
}

/// All phases at once: their processes wait most of the time.
fn run(fault: Fault) {
    let cells: [&(dyn Fn() + Sync); 4] = [
        &|| PHASES.iter().for_each(|phase| first_generation(fault, phase)),
        &|| PHASES.iter().for_each(|phase| generation_of_a_reload(fault, phase)),
        &|| while_workers_serve(fault),
        &|| while_a_reload_loads(fault),
    ];
    std::thread::scope(|scope| {
        for cell in cells {
            scope.spawn(cell);
        }
    });
}

#[test]
fn preload_process_is_killed_in_each_phase() {
    run(Fault::Killed);
}

#[test]
fn preload_process_hangs_in_each_phase() {
    run(Fault::Hung);
}

#[test]
fn preload_process_exits_in_each_phase() {
    run(Fault::Exits);
}

/// A preload process whose children confirm after they have executed a set-user-ID program.
const OTHER_USER: &str = r#"#!/usr/bin/env python3
import os, socket, time
import ratoon
from ratoon.preload import _protocol

channel = socket.socket(fileno=int(os.environ["RATOON_FORK"]))
ratoon.notify(READY=1)
CONFIRM = "import os, socket, sys, time\nsocket.socket(fileno=%d).send(b'ratoon-fork=1\\0confirmed=%d\\0')\ntime.sleep(1000)"
while True:
    message, descriptors, _, _ = socket.recv_fds(channel, 1 << 17, 253)
    if not message:
        os._exit(0)
    request = _protocol.parse(message)
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        continue
    if os.fork():
        os._exit(0)
    while os.getppid() != request.master:
        time.sleep(0.001)
    os.set_inheritable(channel.fileno(), True)
    os.execv("../python-of-root", ["python3", "-c", CONFIRM % (channel.fileno(), request.worker)])
"#;

#[test]
#[ignore = "needs root"]
fn worker_of_another_user_is_not_believed() {
    let place = place("never");
    place.program("v1/other-user", OTHER_USER);
    std::fs::set_permissions(place.root(), std::fs::Permissions::from_mode(0o755)).expect("a mode");
    place.install("4755", &std::fs::canonicalize("/usr/bin/python3").expect("python3"), "python-of-root");
    chown(place.path("python-of-root"), Some(0), Some(0)).expect("root");
    std::fs::set_permissions(place.path("python-of-root"), std::fs::Permissions::from_mode(0o4755)).expect("a mode");
    let keys = keys("v1", "user = 'nobody'\nstart_timeout = '10min'")
        .replace("'/usr/bin/python3', '-m', 'ratoon.preload', 'app'", "'./other-user'");
    let master = place.pool(&keys, "").launch();
    let status = master.wait("workers are started without it", |status| status["preload"]["state"] == "failed" && serves(status));
    assert!(master.log().contains("a process of another user has confirmed a worker"), "{}", master.log());
    assert!(!last_failure(&status).is_null(), "{status:#}");
    let known = pids(&status);
    eventually(
        "no stranger is left",
        || {
            let gone = |child: &u32| known.contains(child) || !processes::lives(*child);
            processes::children(master.pid).iter().all(gone).then_some(())
        },
        || master.log(),
    );
    end(master);
}
