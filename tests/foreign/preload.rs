//! Servers that know nothing of Ratoon, forked from a preload process: the programs of the libraries for Python and Ruby.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::support::signal;
use super::{Loses, a_worker_s_life, ask, pids, pool, venv};

/// The pool of a server that is forked, and never started by its command.
fn forked(command: &str, preload: &str, more: &str, loses: Loses) {
    a_worker_s_life(&format!("command = {command}\npreload = {preload}\npreload_fallback = false\n{more}"), loses);
}

/// The life of a pool without load: it answers, is reloaded, and a worker that is killed is forked again.
fn served(worker: &str) {
    let mut master = pool("tests/workers", 2, worker);
    master.ok(&["reload"]);
    let status = master.wait("the new generation alone is left", |status| {
        status["generation"] == 2 && status["workers_ready"] == 2 && pids(status).len() == 2
    });
    let (killed, preload) = (pids(&status)[0], &status["preload"]["pid"]);
    signal(killed, Signal::KILL);
    master.wait("another is forked in its place", |status| {
        status["workers_ready"] == 2 && !pids(status).contains(&killed) && status["preload"]["pid"] == *preload
    });
    let (mut open, _) = ask(&master.address(), "/");
    let mut answer = Vec::new();
    while !answer.windows(12).any(|text| text == b"generation 2") {
        let mut piece = [0; 1024];
        let length = open.read(&mut piece).expect("an answer");
        assert!(length > 0, "{:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..length]);
    }
    assert!(master.stop().success());
}

/// A pool whose workers tell by their information which process has loaded the application: the preload process of their generation,
/// after a reload and after a crash, too.
fn told(worker: &str) {
    let mut master = pool("tests/workers", 2, worker);
    let loaded = |status: &Value, generation: u64| {
        let preload = &status["preload"]["pid"];
        let workers = status["workers"].as_array().expect("workers");
        let tells = |worker: &Value| worker["generation"] == generation && worker["info"]["loaded"] == *preload;
        workers.len() == 2 && status["workers_ready"] == 2 && preload.is_u64() && workers.iter().all(tells)
    };
    master.wait("all are forked", |status| loaded(status, 1));
    master.ok(&["reload"]);
    let status = master.wait("the new generation is forked, too", |status| loaded(status, 2));
    let killed = pids(&status)[0];
    signal(killed, Signal::KILL);
    master.wait("another is forked in its place", |status| loaded(status, 2) && !pids(status).contains(&killed));
    assert!(master.stop().success());
}

/// A preload process of Python that imports these modules.
fn python(modules: &str) -> String {
    format!("[{:?}, '-m', 'ratoon.preload', {modules}]", venv("python"))
}

/// A preload process of Ruby with these options.
fn ruby(options: &str) -> String {
    format!("['ruby', {:?}, {options}]", Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/ruby/exe/ratoon-preload"))
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn forked_gunicorn() {
    let command = format!("[{:?}, '--no-control-socket', 'app:wsgi']", venv("gunicorn"));
    forked(&command, &python("'app'"), "", Loses::Nothing);
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn forked_uvicorn() {
    let command = format!("[{:?}, '--fd', '3', '--no-access-log', 'app:asgi']", venv("uvicorn"));
    forked(&command, &python("'app'"), "ready = 'running'", Loses::UnreadConnections);
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn forked_hypercorn() {
    // Without --workers 0 hypercorn starts a Python of its own for its one worker, which loads the application again.
    let command = format!("[{:?}, '--workers', '0', '--bind', 'fd://3', 'app:asgi']", venv("hypercorn"));
    let preload = python("'app', 'hypercorn.__main__'");
    served(&format!("command = {command}\npreload = {preload}\npreload_fallback = false"));
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn forked_granian() {
    // It takes no descriptor, so it binds an address of its own, and its one worker is a fork of it.
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let command =
        format!("[{:?}, '--interface', 'wsgi', '--host', '127.0.0.1', '--port', '{port}', 'app:wsgi']", venv("granian"));
    let preload = python("'app'");
    let worker = format!("command = {command}\npreload = {preload}\npreload_fallback = false\nready = 'running'");
    let mut master = pool("tests/workers", 1, &worker);
    let mut answered = |what: &str, others: Option<u32>| {
        master.wait(what, |status| {
            // The application was loaded by the preload process.
            let expected = format!("pid {} generation 1", status["preload"]["pid"]);
            status["workers_ready"] == 1 && others != pids(status).first().copied() && answer(port).ends_with(&expected)
        })
    };
    let status = answered("it is forked", None);
    let killed = pids(&status)[0];
    signal(killed, Signal::KILL);
    answered("another is forked in its place", Some(killed));
    assert!(master.stop().success());
}

/// The answer of a server to a request; empty if there is none.
fn answer(port: u16) -> String {
    let mut text = String::new();
    if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let _ = stream.read_to_string(&mut text);
    }
    text
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn forked_celery() {
    let command = format!("[{:?}, '--app', 'tasks', 'worker', '--pool', 'solo', '--loglevel', 'warning']", venv("celery"));
    let preload = python("'tasks'");
    told(&format!("command = {command}\npreload = {preload}\npreload_fallback = false\nready = 'running'"));
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn forked_puma() {
    let command = r#"["puma", "--bind-to-activated-sockets=only", "--config", "puma.rb"]"#;
    forked(command, &ruby("'-r', 'puma/cli'"), "", Loses::Nothing);
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn forked_unicorn() {
    let command = r#"["unicorn", "--config-file", "unicorn.rb", "config.ru"]"#;
    // Under load unicorn serves until no connection waits, whoever else accepts: no load here.
    let preload = ruby("'-r', 'rack', '-r', 'kgio'");
    served(&format!("command = {command}\npreload = {preload}\npreload_fallback = false\nstop_signal = 'SIGQUIT'"));
}
