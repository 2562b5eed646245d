//! A private bus, and the real tool to look at it.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

/// Longer than anything here takes on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// What the system bus of Debian allows to whom.
const POLICY: &str = r#"
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Monitoring"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Debug.Stats"/>
    <allow send_destination="org.freedesktop.PolicyKit1"/>
  </policy>
"#;

pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A message bus with the policy of a system bus and the shipped policy of Ratoon.
pub struct Bus {
    directory: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Bus {
    pub fn start() -> Self {
        let mut bus = Self::prepared();
        bus.up();
        bus
    }

    /// Everything but the daemon.
    pub fn prepared() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Other users connect too.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let bus = Self { directory, daemon: None };
        bus.configure(true);
        bus
    }

    /// Writes the configuration, with or without the shipped policy.
    pub fn configure(&self, shipped: bool) {
        let socket = self.socket();
        let shipped = if shipped {
            let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/dbus/org.ratoon1.conf");
            // The shipped file speaks of root; who tests as another user gets the same.
            let user = own_uid();
            format!("<include>{}</include><policy user=\"{user}\"><allow own_prefix=\"org.ratoon1\"/></policy>", policy.display())
        } else {
            String::new()
        };
        let user = own_uid();
        let text = format!(
            "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \
             \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n<busconfig><type>system</type>\
             <listen>unix:path={}</listen><auth>EXTERNAL</auth>{POLICY}\
             <policy user=\"{user}\"><allow own=\"org.freedesktop.PolicyKit1\"/></policy>{shipped}</busconfig>",
            socket.display()
        );
        std::fs::write(self.directory.path().join("bus.conf"), text).unwrap();
    }

    pub fn socket(&self) -> PathBuf {
        // In a directory of its own, which may come later than the waiting for it.
        self.directory.path().join("run/bus")
    }

    pub fn address(&self) -> String {
        format!("unix:path={}", self.socket().display())
    }

    /// Starts the daemon and returns when it listens.
    pub fn up(&mut self) {
        std::fs::create_dir_all(self.socket().parent().unwrap()).unwrap();
        let config = self.directory.path().join("bus.conf");
        let mut daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nopidfile", "--nosyslog", "--print-address"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("dbus-daemon, of the package of that name");
        let mut line = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("unix:path="), "dbus-daemon did not start: {line}");
        self.daemon = Some(daemon);
    }

    /// Kills the daemon; its socket stays behind.
    pub fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// The daemon reads its configuration anew.
    pub fn reload(&self) {
        self.busctl(&["call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "ReloadConfig"]).good();
    }

    /// `busctl`, ready to be given arguments.
    pub fn command(&self) -> Command {
        self.command_as(None)
    }

    /// The same as another user (who must not be root).
    pub fn command_as(&self, uid: Option<u32>) -> Command {
        let mut command = match uid {
            Some(uid) if own_uid() == 0 => {
                let mut command = Command::new("setpriv");
                command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "busctl"]);
                command
            }
            _ => Command::new("busctl"),
        };
        command.arg(format!("--address={}", self.address())).args(["--no-pager", "--json=short"]).env("LC_ALL", "C");
        command
    }

    pub fn busctl(&self, arguments: &[&str]) -> Ran {
        Ran(self.command().args(arguments).output().expect("busctl, of the package systemd"))
    }

    /// Starts `busctl monitor` and returns when it listens.
    pub fn monitor(&self, arguments: &[&str]) -> Monitor {
        let mut process =
            self.command().arg("monitor").args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stderr.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("Monitoring"), "{line}");
        let (sender, lines) = channel();
        let output = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let message: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        Monitor { process, lines }
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            self.kill();
        }
    }
}

/// A tool that runs.
pub struct Running(pub Child);

impl Running {
    /// Waits for its end.
    pub fn ran(self) -> Ran {
        Ran(self.0.wait_with_output().unwrap())
    }
}

/// What a tool said.
pub struct Ran(pub Output);

impl Ran {
    /// Its output, when it succeeded.
    #[track_caller]
    pub fn good(&self) -> String {
        assert!(self.0.status.success(), "{}", String::from_utf8_lossy(&self.0.stderr));
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    /// Its output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.good()).unwrap()
    }

    /// Its complaint, when it failed.
    #[track_caller]
    pub fn bad(&self) -> String {
        assert!(!self.0.status.success(), "{}", String::from_utf8_lossy(&self.0.stdout));
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }
}

/// The name of the error that a monitored message is.
pub fn error_name(message: &Value) -> &str {
    message["error_name"].as_str().or(message["errorName"].as_str()).unwrap_or_default()
}

/// A running `busctl monitor`.
pub struct Monitor {
    process: Child,
    lines: Receiver<Value>,
}

impl Monitor {
    /// The next message that fits.
    #[track_caller]
    pub fn until(&self, fits: impl Fn(&Value) -> bool) -> Value {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(TIMEOUT) {
                Ok(message) if fits(&message) => return message,
                Ok(message) => seen.push(message),
                Err(_) => panic!("no such message, but {seen:#?}"),
            }
        }
    }

    /// The arguments of the next signal of that name.
    #[track_caller]
    pub fn signal(&self, member: &str) -> Value {
        self.until(|message| message["type"] == "signal" && message["member"] == member)["payload"]["data"].clone()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
