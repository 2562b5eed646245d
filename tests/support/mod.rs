//! Ratoon as a user runs it, for tests: the real program in a directory of its own, asked through its control socket, and the
//! load generator beside it.

pub mod load;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Long enough for a machine under load; nothing waits for it but a test that fails.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A running `ratoon run`; killed, with its workers, when dropped.
pub struct Master {
    child: Child,
    directory: tempfile::TempDir,
}

impl Master {
    /// Starts it on a free port of 127.0.0.1 and waits until all workers are ready.
    pub fn start(configuration: &str) -> Master {
        // A path with a space, which every user can read.
        let everybody = fs::Permissions::from_mode(0o755);
        let directory = tempfile::Builder::new().prefix("a pool").permissions(everybody).tempdir().expect("a directory");
        let file = directory.path().join("pool.toml");
        // Servers of others take long to start on a machine on which many tests run: as long as a test waits, unless it says so.
        let patient = format!("[worker]\nstart_timeout = '{}s'\n", TIMEOUT.as_secs());
        let patient = if configuration.contains("start_timeout") { "[worker]\n" } else { &patient };
        fs::write(&file, configuration.replacen("[worker]\n", patient, 1)).expect("pool.toml");
        fs::create_dir(directory.path().join("run")).expect("run");
        let log = fs::File::create(directory.path().join("log")).expect("log");
        let child = Command::new(env!("CARGO_BIN_EXE_ratoon"))
            .args(["run", "--name", "pool", "--listen", "127.0.0.1:0", "--config"])
            .arg(&file)
            .env("RUNTIME_DIRECTORY", directory.path().join("run"))
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("ratoon");
        let mut master = Master { child, directory };
        master.wait("the first generation is ready", |status| {
            status["generation"] == 1 && status["workers_ready"] == status["workers_configured"]
        });
        master
    }

    /// A verb of the command line, with this master's control socket.
    pub fn ask(&self, verb: &[&str]) -> Output {
        let control = self.directory.path().join("run/control");
        Command::new(env!("CARGO_BIN_EXE_ratoon")).args(verb).arg("--control").arg(control).output().expect("ratoon")
    }

    /// A verb that must succeed.
    pub fn ok(&self, verb: &[&str]) {
        let said = self.ask(verb);
        assert!(said.status.success(), "ratoon {verb:?}: {}\n{}\n{}", said.status, stderr(&said), self.log());
    }

    /// The status document; `None` while nobody answers.
    pub fn status(&self) -> Option<Value> {
        serde_json::from_slice(&self.ask(&["status", "--json"]).stdout).ok()
    }

    /// Waits until the status document says so, and gives it.
    pub fn wait(&mut self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + TIMEOUT;
        let mut last = None;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("wait") {
                panic!("{what}: the master ended ({status})\n{}", self.log());
            }
            last = self.status();
            if let Some(status) = last.as_ref()
                && is_so(status)
            {
                return last.expect("just seen");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{what}: not within {TIMEOUT:?}: {last:#?}\n{}", self.log());
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        self.status().expect("it runs")["sockets"][0]["address"].as_str().expect("an address").into()
    }

    /// SIGTERM, and how it ended.
    pub fn stop(mut self) -> ExitStatus {
        signal(self.child.id(), Signal::TERM);
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it and its workers wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // A second TERM ends at once, and the workers with it.
            signal(self.child.id(), Signal::TERM);
            signal(self.child.id(), Signal::TERM);
            let deadline = Instant::now() + Duration::from_secs(5);
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A program that `cargo build --examples` made.
pub fn example(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_ratoon")).with_file_name("examples").join(name);
    assert!(path.exists(), "{} is missing: cargo build --all-features --examples", path.display());
    path
}

/// Sends a signal to a process of the test's own.
pub fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    let _ = kill_process(pid, signal);
}

/// What a program wrote to standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
