//! An instance of Ratoon in a container, set up as an administrator would: a configuration, a drop-in with the address, and
//! releases under `/srv/NAME` to which a `current` symlink points.

use std::io;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::Value;

use crate::container::{Container, text, wait_for};

/// A release that cannot serve.
pub struct Broken {
    /// The name of the release.
    pub label: &'static str,
    /// Its program, if it has one.
    worker: Option<&'static str>,
    /// What the report of a reload says of it.
    pub reason: &'static str,
    /// How the reload ends: what is seen before anything is started is refused.
    pub result: &'static str,
}

/// Four ways to be broken.
pub const BROKEN: [Broken; 4] = [
    Broken {
        label: "fails",
        worker: Some("#!/bin/sh\necho 'broken on purpose' >&2\nexit 3\n"),
        reason: "exit 3",
        result: "rolled-back",
    },
    Broken {
        label: "hangs",
        worker: Some("#!/bin/sh\nexec sleep 1000\n"),
        reason: "start timeout after 1s",
        result: "rolled-back",
    },
    Broken { label: "leaves", worker: Some("#!/bin/sh\nexit 0\n"), reason: "exit 0", result: "rolled-back" },
    Broken { label: "missing", worker: None, reason: "No such file or directory", result: "refused" },
];

/// An instance; stopped and removed when dropped.
pub struct Instance<'c> {
    pub c: &'c Container,
    pub name: &'static str,
    pub workers: u32,
    pub address: String,
}

impl<'c> Instance<'c> {
    /// Sets it up with the release "v1", and starts the socket alone.
    pub fn new(c: &'c Container, name: &'static str, workers: u32) -> Self {
        static PORT: AtomicU16 = AtomicU16::new(7100);
        let address = format!("127.0.0.1:{}", PORT.fetch_add(1, Ordering::Relaxed));
        let instance = Instance { c, name, workers, address };
        instance.good_release("v1");
        for broken in BROKEN {
            let script = broken.worker.map(|text| format!("cat >worker <<'END'\n{text}END\nchmod 755 worker"));
            instance.release(broken.label, script.as_deref());
        }
        instance.point_to("v1");
        instance.configure("");
        c.write(&instance.socket_drop_in(), &format!("[Socket]\nListenStream={}\n", instance.address));
        c.ok(&["systemctl", "daemon-reload"]);
        c.ok(&["systemctl", "start", &instance.socket()]);
        instance
    }

    /// Writes the configuration; `more` follows the keys of `[worker]`.
    pub fn configure(&self, more: &str) {
        let Instance { name, workers, .. } = self;
        self.c.write(
            &format!("/etc/ratoon/{name}.toml"),
            &format!(
                "[worker]\ncommand = [\"./worker\"]\ndirectory = \"/srv/{name}/current\"\ncount = {workers}\nstart_timeout = \"1s\"\n{more}"
            ),
        );
    }

    /// A drop-in of the service, before it is started. It comes after survive.conf in the alphabet, so that its lines count.
    pub fn drop_in(&self, text: &str) {
        self.c.write(&format!("/etc/systemd/system/{}.d/zz-case.conf", self.service()), text);
        self.c.ok(&["systemctl", "daemon-reload"]);
    }

    /// A release whose worker is `hello`, which tells its version.
    pub fn good_release(&self, label: &str) {
        self.release(label, Some(&format!("ln -sf /opt/ratoon/hello worker; echo {label} >version")));
    }

    /// A release, made by a line of shell in its directory.
    pub fn release(&self, label: &str, script: Option<&str>) {
        let directory = format!("/srv/{}/releases/{label}", self.name);
        self.c.ok(&["sh", "-ec", &format!("mkdir -p {directory}; cd {directory}\n{}", script.unwrap_or_default())]);
    }

    /// Where the `current` symlink leads.
    pub fn point_to(&self, label: &str) {
        let name = self.name;
        self.c.ok(&["ln", "-sfn", &format!("releases/{label}"), &format!("/srv/{name}/current")]);
    }

    pub fn service(&self) -> String {
        format!("ratoon@{}.service", self.name)
    }

    pub fn socket(&self) -> String {
        format!("ratoon@{}.socket", self.name)
    }

    fn socket_drop_in(&self) -> String {
        format!("/etc/systemd/system/{}.d/listen.conf", self.socket())
    }

    /// A property of the service.
    pub fn property(&self, name: &str) -> String {
        self.c.property(&self.service(), name)
    }

    /// The master's process.
    pub fn main_pid(&self) -> u64 {
        self.property("MainPID").parse().expect("a number")
    }

    /// Starts the service and waits for READY, as `systemctl` does.
    pub fn start(&self) {
        self.c.ok(&["systemctl", "start", &self.service()]);
    }

    /// `systemctl reload`.
    pub fn reload(&self) -> Output {
        self.c.run(&["systemctl", "reload", &self.service()])
    }

    /// `systemctl reload` that must commit.
    pub fn reload_ok(&self) {
        let said = self.reload();
        assert!(said.status.success(), "{}\n{}", text(&said.stderr), self.c.journal(&self.service()));
    }

    /// The status document.
    pub fn status(&self) -> Value {
        let said = self.c.run(&["ratoon", "status", self.name, "--json"]);
        serde_json::from_slice(&said.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&said.stderr)))
    }

    /// Waits until all workers are ready and none beside them is left.
    pub fn settled(&self) -> Value {
        wait_for("all workers are ready, old ones gone", || {
            let status = self.status();
            (status["workers_ready"] == self.workers && pids(&status).len() == self.workers as usize).then_some(status)
        })
    }

    /// One request on a new connection.
    pub fn get(&self) -> io::Result<String> {
        self.c.get(&self.address)
    }

    /// The load generator at its address, not started yet.
    pub fn load(&self, clients: &[&str]) -> Command {
        let mut command = self.c.command(&["/opt/ratoon/load", &self.address]);
        command.args(clients);
        command
    }

    /// What `systemctl show` has of its life: the same as long as it stays active, whatever reloads come.
    pub fn life(&self) -> String {
        self.c.ok(&[
            "systemctl",
            "show",
            "--property=MainPID,ActiveEnterTimestampMonotonic,InactiveEnterTimestampMonotonic,NRestarts,ActiveState",
            &self.service(),
        ])
    }
}

impl Drop for Instance<'_> {
    fn drop(&mut self) {
        let (service, socket) = (self.service(), self.socket());
        // A case that failed may have left a worker that does not end: the second signal is the last.
        let _ = self.c.run(&["systemctl", "stop", "--no-block", &socket, &service]);
        if std::thread::panicking() {
            let _ = self.c.run(&["systemctl", "kill", "--signal=KILL", &service]);
        }
        let _ = self.c.run(&["systemctl", "stop", &socket, &service]);
        let _ = self.c.run(&["systemctl", "reset-failed", &socket, &service]);
    }
}

/// The pids of all living workers, in the order of their slots.
pub fn pids(status: &Value) -> Vec<u64> {
    let workers = status["workers"].as_array().into_iter().flatten();
    workers.filter_map(|worker| worker["pid"].as_u64()).collect()
}
