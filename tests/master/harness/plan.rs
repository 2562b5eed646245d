//! How a master is started: its flags, its environment, what "systemd" hands over, and its standard streams.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::io::fcntl_dupfd_cloexec;

use super::systemd::Systemd;
use super::{Master, Place, RATOON, processes};

/// The first descriptor that is handed over.
const FIRST: i32 = 3;
/// Descriptors wait here until they get their numbers in the child: above all that it could overwrite.
const WAITING_ROOM: i32 = 200;

/// A master that is not started yet.
pub struct Plan {
    pub place: Place,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    systemd: Option<Systemd>,
    sockets: Vec<(String, OwnedFd)>,
    strays: Vec<(i32, OwnedFd)>,
    shell: Option<&'static str>,
    program: PathBuf,
    listens: bool,
    stderr: Option<Stdio>,
    ignored: Vec<i32>,
    blocked: Vec<i32>,
    session: bool,
    terminal: Option<OwnedFd>,
}

impl Plan {
    /// For `pool.toml` of this place, on a free port of 127.0.0.1, with a systemd that is told.
    pub fn new(place: Place) -> Plan {
        let systemd = Systemd::listening(&place.path("systemd"));
        let config = place.path("pool.toml");
        Plan {
            place,
            arguments: ["--name".into(), "pool".into(), "--config".into(), config.into()].into(),
            environment: Vec::new(),
            systemd: Some(systemd),
            sockets: Vec::new(),
            strays: Vec::new(),
            shell: None,
            program: RATOON.into(),
            listens: false,
            stderr: None,
            ignored: Vec::new(),
            blocked: Vec::new(),
            session: false,
            terminal: None,
        }
    }

    /// With these arguments of `ratoon run` alone: no name, no configuration.
    pub fn bare(place: Place) -> Plan {
        let mut plan = Plan::new(place);
        plan.arguments.clear();
        plan
    }

    /// One more argument of `ratoon run`.
    pub fn argument(mut self, argument: impl Into<OsString>) -> Plan {
        self.arguments.push(argument.into());
        self
    }

    /// `--listen ADDR`, instead of a free port.
    pub fn listen(mut self, address: &str) -> Plan {
        self.listens = true;
        self.arguments.splice(0..0, ["--listen".into(), address.into()]);
        self
    }

    /// No socket at all.
    pub fn listens_nowhere(mut self) -> Plan {
        self.listens = true;
        self
    }

    /// A variable of the master's environment.
    pub fn environment(mut self, name: &str, value: impl Into<OsString>) -> Plan {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// No systemd at all.
    pub fn without_systemd(mut self) -> Plan {
        self.systemd = None;
        self
    }

    /// A systemd that does not read what it is told.
    pub fn deaf_systemd(mut self) -> Plan {
        self.systemd = Some(Systemd::deaf(&self.place.path("deaf")));
        self
    }

    /// A socket that systemd hands over.
    pub fn socket(mut self, name: &str, socket: impl Into<OwnedFd>) -> Plan {
        self.sockets.push((name.to_owned(), socket.into()));
        self
    }

    /// A descriptor that whoever started the master forgot to close, at this number.
    pub fn stray(mut self, number: i32, descriptor: impl Into<OwnedFd>) -> Plan {
        self.strays.push((number, descriptor.into()));
        self
    }

    /// A shell script that starts the master (`"$0" "$@"`); with sockets it has to say `LISTEN_PID`.
    pub fn shell(mut self, script: &'static str) -> Plan {
        self.shell = Some(script);
        self
    }

    /// A program of the place that becomes the master; its arguments are the master's.
    #[allow(dead_code, reason = "not every test program that shares the harness uses it")]
    pub fn program(mut self, name: &str) -> Plan {
        self.program = self.place.path(name);
        self
    }

    /// Where the master and its workers write, instead of a file.
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Plan {
        self.stderr = Some(stderr.into());
        self
    }

    /// Signals that are ignored when the master starts.
    pub fn ignoring(mut self, signals: &[i32]) -> Plan {
        self.ignored = signals.to_vec();
        self
    }

    /// Signals that are blocked when the master starts.
    pub fn blocking(mut self, signals: &[i32]) -> Plan {
        self.blocked = signals.to_vec();
        self
    }

    /// In a session of its own, without a controlling terminal.
    #[allow(dead_code, reason = "not every test program that shares the harness uses it")]
    pub fn session(mut self) -> Plan {
        self.session = true;
        self
    }

    /// In a session of its own, with this as its controlling terminal.
    #[allow(dead_code, reason = "not every test program that shares the harness uses it")]
    pub fn terminal(mut self, terminal: OwnedFd) -> Plan {
        self.terminal = Some(terminal);
        self.session()
    }

    /// Starts it, and waits for nothing.
    pub fn launch(mut self) -> Master {
        let log = self.place.path("log");
        let mut command = self.command();
        match self.stderr.take() {
            Some(stderr) => command.stdout(Stdio::null()).stderr(stderr),
            None => {
                let file = File::create(&log).expect("log");
                command.stdout(file.try_clone().expect("log")).stderr(file)
            }
        };
        let child = command.spawn().expect("ratoon");
        // The descriptors of the test's own; the master has its copies.
        self.sockets.clear();
        self.strays.clear();
        self.terminal = None;
        Master::new(child, self.place, self.systemd)
    }

    /// Starts it, and waits until all workers are ready.
    #[track_caller]
    pub fn start(self) -> Master {
        let told = self.systemd.as_ref().is_some_and(Systemd::listens);
        let master = self.launch();
        master.wait_until_ready();
        if told {
            master.systemd().wait_for("READY=1", 1);
        }
        master
    }

    fn command(&self) -> Command {
        // Only who has forked knows the number that stands in LISTEN_PID.
        let script = self.shell.or((!self.sockets.is_empty()).then_some("LISTEN_PID=$$ exec \"$0\" \"$@\""));
        let mut command = match script {
            None => Command::new(&self.program),
            Some(script) => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", script]).arg(&self.program);
                shell
            }
        };
        command.arg("run");
        if !self.listens && self.sockets.is_empty() {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(&self.arguments);
        for name in
            ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "JOURNAL_STREAM"]
        {
            command.env_remove(name);
        }
        command.env("RUNTIME_DIRECTORY", self.place.path("run"));
        command.env(processes::MARK, self.place.root());
        // The machine's own bus is none of the tests' business.
        let no_bus = format!("unix:path={}", self.place.path("no-bus").display());
        command.env("DBUS_SYSTEM_BUS_ADDRESS", &no_bus).env("DBUS_SESSION_BUS_ADDRESS", &no_bus);
        if let Some(systemd) = &self.systemd {
            command.env("NOTIFY_SOCKET", systemd.path());
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        self.hand_over(&mut command);
        command
    }

    /// Sockets from descriptor 3 on, and how signals are when the master begins.
    fn hand_over(&self, command: &mut Command) {
        if !self.sockets.is_empty() {
            let names: Vec<&str> = self.sockets.iter().map(|(name, _)| name.as_str()).collect();
            command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        }
        let sockets = (FIRST..).zip(self.sockets.iter().map(|(_, socket)| socket));
        let strays = self.strays.iter().map(|(number, stray)| (*number, stray));
        let waiting: Vec<(i32, OwnedFd)> = sockets
            .chain(strays)
            .map(|(number, descriptor)| (number, fcntl_dupfd_cloexec(descriptor, WAITING_ROOM).expect("a descriptor")))
            .collect();
        let (ignored, blocked) = (self.ignored.clone(), self.blocked.clone());
        let (session, terminal) = (self.session, self.terminal.as_ref().map(|it| it.as_raw_fd()));
        let in_the_child = move || {
            for (number, descriptor) in &waiting {
                // SAFETY: numbers only; what had the target's number is std's, closed at the exec that follows.
                if unsafe { libc::dup2(descriptor.as_raw_fd(), *number) } < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            // SAFETY: no memory is involved; the descriptor is open until the exec, which follows.
            if session && unsafe { libc::setsid() < 0 || terminal.is_some_and(|it| libc::ioctl(it, libc::TIOCSCTTY, 0) < 0) } {
                return Err(std::io::Error::last_os_error());
            }
            // SAFETY: SIG_DFL runs no code. The test program itself may have been started by nohup(1).
            unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) };
            for number in &ignored {
                // SAFETY: SIG_IGN runs no code.
                unsafe { libc::signal(*number, libc::SIG_IGN) };
            }
            // SAFETY: the set is initialised by sigemptyset before it is used, and lives on our stack.
            unsafe {
                let mut set = std::mem::MaybeUninit::uninit();
                libc::sigemptyset(set.as_mut_ptr());
                for number in &blocked {
                    libc::sigaddset(set.as_mut_ptr(), *number);
                }
                libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
            }
            Ok(())
        };
        // SAFETY: between fork and exec it makes system calls only, and allocates nothing.
        unsafe { command.pre_exec(in_the_child) };
    }
}
