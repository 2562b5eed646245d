//! Servers that know nothing of Ratoon, forked from a preload process: the programs of the libraries for Python and Ruby.

use std::io::Read as _;
use std::path::Path;

use rustix::process::Signal;

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
    forked(&command, &python("'app', 'gunicorn.app.wsgiapp'"), "", Loses::Nothing);
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn forked_uvicorn() {
    let command = format!("[{:?}, '--fd', '3', '--no-access-log', 'app:asgi']", venv("uvicorn"));
    forked(&command, &python("'app', 'uvicorn'"), "ready = 'running'", Loses::UnreadConnections);
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
