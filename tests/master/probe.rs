//! `reload.probe`: a release answers on private sockets before its generation starts.

use std::path::Path;

use super::harness::http::over_unix;
use super::harness::master::{pids, workers};
use super::harness::{Master, Place, TIMEOUT, Value};

/// An HTTP server that says READY=1 as soon as it accepts. `/up` is answered with the status and the text of the file `up`; a probed
/// worker writes `probed`, in the directory above.
const SERVER: &str = r#"#!/usr/bin/env python3
import http.server, os, signal, socket, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if "RATOON_PROBE" in os.environ and self.headers["user-agent"] != "ratoon-probe":
            os._exit(9)
        status, text = (200, open("version").read())
        if self.path == "/up":
            line = open("up").read()
            status, text = int(line[:3]), line[4:]
            print("asked for /up", file=sys.stderr, flush=True)
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *words):
        pass

if "RATOON_PROBE" in os.environ:
    with open("../probed", "a") as file:
        file.write("%s %s\n" % (os.environ["RATOON_PROBE"], os.environ["RATOON_PROBE_ADDRESSES"]))
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
server.socket = socket.socket(fileno=3)
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
server.serve_forever()
"#;

const TABLE: &str = "[reload]\nprobe = 'GET /up'\nprobation = '0s'";

/// A release whose `/up` is answered with this status and text.
fn release(place: &Place, name: &str, up: &str) {
    std::fs::create_dir_all(place.path(name)).expect("a release");
    place.program(&format!("{name}/worker"), SERVER);
    place.write(&format!("{name}/version"), name);
    place.write(&format!("{name}/up"), up);
}

fn start(table: &str) -> Master {
    let place = Place::new();
    for name in ["v1", "v2"] {
        let _ = std::fs::remove_dir_all(place.path(name));
        release(&place, name, "200 up");
    }
    place.pool("count = 2", table).start()
}

fn probed(master: &Master) -> usize {
    std::fs::read_to_string(master.place.path("probed")).map_or(0, |text| text.lines().count())
}

#[test]
fn good_release_is_probed_once_and_then_serves() {
    let master = start(TABLE);
    assert_eq!(probed(&master), 1, "the first generation is probed, too");
    let line = master.place.read("probed");
    assert_eq!(line.trim_end(), format!("1 {}", master.address()), "the address for which the private socket stands in");
    assert!(master.get("/").contains("v1"));
    master.place.current("v2");
    let said = master.ok(&["reload"]);
    assert!(said.out.contains("is serving"), "{said:?}");
    master.wait_until_calm();
    assert!(master.get("/").contains("v2"));
    assert_eq!(probed(&master), 2);
    assert!(!Path::new(&master.place.path("run/notify/probe-1-0")).exists());
}

#[test]
fn lazy_error_refuses_the_reload_with_status_body_and_output() {
    let master = start(TABLE);
    let before = master.status();
    release(&master.place, "v2", "500 no table users\nsecond line");
    master.place.current("v2");
    let said = master.verb(&["reload"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let reason = "the probe failed: worker 4: GET /up was answered with 500 Internal Server Error; 200 to 399 pass";
    for part in [reason, "no table users", "| asked for /up"] {
        assert!(said.err.contains(part), "{part:?} is not in {said:?}");
    }
    assert!(!said.err.contains("second line"), "{said:?}");
    let status = master.wait_until_calm();
    let last = &status["last_reload"];
    assert_eq!((&last["result"], &last["reason"]), (&"refused".into(), &reason.into()), "{status:#}");
    assert_eq!(last["detail"], "no table users");
    assert_eq!((pids(&status), &status["failures"]), (pids(&before), &serde_json::json!([])), "{status:#}");
    assert!(master.get("/").contains("v1"));
    // A corrected release is taken.
    release(&master.place, "v2", "204 ");
    master.ok(&["reload"]);
}

#[test]
fn probe_that_dies_is_a_failure_with_its_output() {
    let master = start(TABLE);
    master.place.program("v2/worker", "#!/bin/sh\necho 'KeyError: PORT' >&2\nexit 3\n");
    master.place.current("v2");
    let said = master.verb(&["reload"]);
    assert_eq!(said.code, Some(1));
    for part in ["refused: the probe failed: worker 4: exit 3 before it was ready", "KeyError: PORT"] {
        assert!(said.err.contains(part), "{part:?} is not in {said:?}");
    }
    assert_eq!(master.status()["failures"][0]["how"], "exit 3");
}

#[test]
fn worker_that_ignores_its_stop_signal_fails_the_probe() {
    let master = start(TABLE);
    master.place.program("v2/worker", &SERVER.replace("lambda *_: os._exit(0)", "signal.SIG_IGN"));
    let file = master.place.read("pool.toml").replace("count = 2", "count = 2\nstop_timeout = '200ms'");
    master.place.write("pool.toml", &file);
    master.place.current("v2");
    let said = master.verb(&["reload"]);
    assert!(said.err.contains("refused: the probe failed: worker 4: stop timeout after 200ms"), "{said:?}");
}

#[test]
fn first_start_whose_probe_fails_ends_with_the_reason() {
    let place = Place::new();
    let _ = std::fs::remove_dir_all(place.path("v1"));
    release(&place, "v1", "503 not yet");
    let master = place.pool("count = 2", TABLE).launch();
    let status = master.end();
    assert_eq!(status.code(), Some(1), "{}", master.log());
    let log = master.log();
    for part in ["cannot start: the probe failed: worker 3: GET /up was answered with 503 Service Unavailable", "not yet"] {
        assert!(log.contains(part), "{part:?} is not in\n{log}");
    }
    assert_eq!(probed(&master), 3);
}

fn post_probe(master: &Master) -> (u16, Value) {
    let answer = over_unix(&master.control(), "POST", "/probe", TIMEOUT).expect("an answer");
    (answer.status, serde_json::from_str(&answer.body).expect("JSON"))
}

#[test]
fn probe_alone_touches_nothing() {
    let master = start(&format!("{TABLE}\n[hooks]\nbefore_reload = ['sh', '-c', 'touch ../hooked']"));
    let before = master.status();
    release(&master.place, "v2", "500 no table");
    master.place.current("v2");
    let (status, answer) = post_probe(&master);
    assert_eq!((status, &answer["result"], &answer["detail"]), (409, &"failed".into(), &"no table".into()), "{answer:#}");
    assert!(answer["reason"].as_str().is_some_and(|why| why.contains("answered with 500")), "{answer:#}");
    let said = master.verb(&["check", "--probe"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("answered with 500") && said.err.contains("no table"), "{said:?}");
    release(&master.place, "v2", "200 up");
    assert_eq!(post_probe(&master).1["result"], "passed");
    assert!(master.ok(&["check", "--probe"]).out.contains("the probe has passed"));
    let after = master.wait("the probed workers are gone", |status| workers(status).len() == 2);
    for field in ["generation", "last_reload", "failures", "state", "worker_crashes"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert_eq!(pids(&after), pids(&before));
    assert!(!master.place.path("current/../hooked").exists() && !master.place.path("hooked").exists(), "a hook has run");
}

#[test]
fn connect_probe_needs_a_worker_that_accepts() {
    let master = start("[reload]\nprobe = 'connect'\nprobe_timeout = '300ms'\nprobation = '0s'");
    // Ready by its word, and it never accepts.
    let deaf = SERVER.replace("server.serve_forever()", "signal.pause()");
    master.place.program("v2/worker", &deaf);
    let file = master.place.read("pool.toml").replace("count = 2", "count = 2\nready = 'notify'");
    master.place.write("pool.toml", &file);
    master.place.current("v2");
    let said = master.verb(&["reload"]);
    assert!(said.err.contains("connect was not accepted within 300ms"), "{said:?}");
    master.place.program("v2/worker", SERVER);
    master.ok(&["reload"]);
}
