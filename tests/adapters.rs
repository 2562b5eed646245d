//! `worker.adapter`: servers as their authors wrote them are workers that lose no request over reloads.
//!
//! Each test starts the real server, with the adapter that the key names and nothing else that is there for Ratoon.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "the other tests of real servers need more")]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::load::Load;
use support::{Master, example};
use tempfile::TempDir;

/// How often a pool is reloaded under load.
const RELOADS: u64 = 3;

const NODE: &str = "createServer((_, response) => response.end(`generation ${process.env.RATOON_GENERATION}\\n`)).listen(3000)";

/// A directory of the program, which every user can read.
fn place(files: &[(&str, &str)]) -> TempDir {
    let everybody = fs::Permissions::from_mode(0o755);
    let place = tempfile::Builder::new().prefix("the program").permissions(everybody).tempdir().expect("a directory");
    for (name, text) in files {
        fs::write(place.path().join(name), text).expect("a file");
    }
    place
}

/// Starts a pool of two workers, reloads it under load on new and kept connections, and asks that nothing is lost.
fn is_lossless(place: &TempDir, worker: &str) -> Value {
    let mut master = Master::start(&format!("[worker]\ndirectory = {:?}\ncount = 2\n{worker}\n", place.path()));
    let mut load = Command::new(example("load"));
    load.args([&master.address(), "--new", "4", "--keep-alive", "4"]);
    let load = Load::start(load);
    load.wait_for(100);
    for generation in 2..=RELOADS + 1 {
        master.ok(&["reload"]);
        master.wait("only the new generation is left", |status| {
            let workers = status["workers"].as_array().into_iter().flatten();
            workers.clone().count() == 2 && workers.clone().all(|worker| worker["generation"] == generation)
        });
        load.wait_for(load.requests() + 100);
    }
    let status = master.status().expect("a status");
    let report = load.stop();
    assert_eq!(report["failed"], 0, "{report:#}\n{}", master.log());
    assert!(master.stop().success());
    status
}

/// Whether each worker has the adapter of Node.js, which says so with READY=1.
fn has_adapter(status: &Value) -> bool {
    let workers = status["workers"].as_array().into_iter().flatten();
    workers.clone().all(|worker| worker["info"]["node"].is_string())
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn node_listens_as_written() {
    let place = place(&[("app.js", &format!("require('node:http').{NODE};"))]);
    let status = is_lossless(&place, r#"command = ["node", "app.js"]"#);
    assert!(has_adapter(&status) && status["requests"].as_u64() > Some(0), "{status:#}");
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn node_module_listens_as_written() {
    let place = place(&[("app.mjs", &format!("import {{ createServer }} from 'node:http';\n{NODE};"))]);
    let status = is_lossless(&place, r#"command = ["node", "app.mjs"]"#);
    assert!(has_adapter(&status), "{status:#}");
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn npm_start_listens_as_written() {
    let package = r#"{ "scripts": { "start": "node app.js" } }"#;
    let place = place(&[("app.js", &format!("require('node:http').{NODE};")), ("package.json", package)]);
    let worker = r#"
        command = ["npm", "start"]
        environment = { npm_config_update_notifier = "false", npm_config_cache = "/nonexistent", NODE_OPTIONS = "--no-deprecation" }"#;
    let status = is_lossless(&place, worker);
    assert!(has_adapter(&status), "{status:#}");
}

#[test]
#[ignore = "needs root, and what tests/setup installs; tests/run runs it"]
fn adapter_can_be_read_by_another_user() {
    let place = place(&[("app.js", &format!("require('node:http').{NODE};"))]);
    let status = is_lossless(&place, "command = ['node', 'app.js']\nuser = 'nobody'");
    assert!(has_adapter(&status), "{status:#}");
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn node_that_listens_on_the_descriptor_is_left_alone() {
    let text = "require('node:http').createServer((_, response) => response.end('generation 1')).listen({ fd: 3 });\n\
                process.on('SIGUSR2', () => process.exit(process.listenerCount('SIGTERM')));";
    let place = place(&[("app.js", text)]);
    let mut master = Master::start(&format!("[worker]\ndirectory = {:?}\ncount = 1\ncommand = ['node', 'app.js']", place.path()));
    let status = master.status().expect("a status");
    assert!(!has_adapter(&status), "{status:#}");
    let pid = status["workers"][0]["pid"].as_u64().expect("a pid").try_into().expect("a pid");
    support::signal(pid, rustix::process::Signal::USR2);
    let status = master.wait("it ends", |status| status["worker_crashes"] == 1);
    assert_eq!(status["failures"][0]["how"], "exit 0", "a signal handler of the adapter was counted: {status:#}");
}

const ASGI: &str = "
import os

async def app(scope, receive, send):
    assert scope['type'] == 'http'
    await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'content-length', b'12')]})
    await send({'type': 'http.response.body', 'body': b'generation %s' % os.environ['RATOON_GENERATION'].encode()})
";

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn uvicorn_and_hypercorn_are_started_with_their_adapter() {
    let place = place(&[("app.py", ASGI)]);
    for (server, arguments) in
        [("uvicorn", r#""--no-access-log", "--lifespan", "off", "app:app""#), ("hypercorn", r#""app:app""#)]
    {
        let worker = format!("command = [{:?}, {arguments}]\nadapter = 'asgi'\nready = 'notify'", venv(server));
        let status = is_lossless(&place, &worker);
        assert!(status["requests"].as_u64() > Some(0), "{server}: {status:#}");
    }
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn gunicorn_is_ready_when_its_application_is_loaded() {
    let text = "
import os

def app(environ, start_response):
    start_response('200 OK', [('Content-Length', '12')])
    return [b'generation %s' % os.environ['RATOON_GENERATION'].encode()]
";
    let place = place(&[("app.py", text)]);
    let worker = format!("command = [{:?}, '--threads', '8', 'app:app']\nadapter = 'asgi'\nready = 'notify'", venv("gunicorn"));
    let master = Master::start(&format!("[worker]\ndirectory = {:?}\ncount = 2\n{worker}\n", place.path()));
    // Loaded too late for READY=1 of gunicorn itself.
    fs::write(place.path().join("app.py"), "import time\ntime.sleep(1)\nraise RuntimeError('no database')").expect("a file");
    let said = master.ask(&["reload"]);
    assert_eq!(said.status.code(), Some(1), "{}", support::stderr(&said));
    assert!(support::stderr(&said).contains("no database"), "{}", support::stderr(&said));
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn puma_binds_as_written() {
    let text = "run lambda { |env| [200, { 'content-type' => 'text/plain' }, [\"generation #{ENV['RATOON_GENERATION']}\\n\"]] }";
    let place = place(&[("config.ru", text)]);
    is_lossless(
        &place,
        "command = ['puma', '--quiet', '--threads', '1:16']\nadapter = 'rack'\nready = 'notify'\nstart_timeout = '30s'",
    );
}

#[test]
#[ignore = "needs what tests/setup installs, and the library of clients/bind; tests/run runs it"]
fn bind_gives_the_socket_to_who_binds_its_address() {
    let library = Path::new(env!("CARGO_BIN_EXE_ratoon")).with_file_name("libratoon_bind.so");
    assert!(library.exists(), "{} is missing: cargo build --package ratoon-bind", library.display());
    // The program is told the port that the pool has, as its configuration would say it, and knows nothing of descriptors.
    let text = "
import os, socket, sys

address = socket.socket(fileno=os.dup(3)).getsockname()
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(address)
server.listen()
while True:
    client, _ = server.accept()
    client.recv(65536)
    client.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 12\\r\\nConnection: close\\r\\n\\r\\ngeneration 1')
    client.close()
";
    let place = place(&[("app.py", text)]);
    let mut master = Master::start(&format!(
        "[worker]\ndirectory = {:?}\ncount = 2\ncommand = ['python3', 'app.py']\nadapter = 'bind'",
        place.path()
    ));
    let mut load = Command::new(example("load"));
    load.args([&master.address(), "--new", "2"]);
    let load = Load::start(load);
    load.wait_for(20);
    assert_eq!(load.stop()["failed"], 0);
    master.wait("both have the socket", |status| status["workers_ready"] == 2);
}

/// A program of the virtual environment that `tests/setup` made.
fn venv(program: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin").join(program);
    assert!(path.exists(), "{} is missing: run tests/setup", path.display());
    path
}
