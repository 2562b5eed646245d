//! A real systemd, booted as PID 1 of a container, and how a case talks to it.
//!
//! Law: what a container consists of dies with the test process, however that ends: `boot.sh` is PID 1 of a namespace of
//! its own and ends when our end of its standard input is closed.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Which systemd, and where its Debian root was put by `tests/setup`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub number: &'static str,
    pub release: &'static str,
}

pub const VERSIONS: [Version; 2] = [Version { number: "252", release: "bookworm" }, Version { number: "257", release: "trixie" }];

/// A booted container.
pub struct Container {
    pub version: Version,
    pid: u32,
    boot: Child,
    lifeline: Option<ChildStdin>,
    cgroup: PathBuf,
    _work: tempfile::TempDir,
}

impl Container {
    /// Boots, installs Ratoon as its package would, and waits until all units of the boot have started.
    pub fn boot(version: Version) -> Result<Container, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/roots").join(version.release);
        if !root.join("usr").is_dir() {
            return Err(format!("{} is missing: run tests/setup", root.display()));
        }
        let programs = Path::new(env!("CARGO_BIN_EXE_ratoon")).with_file_name("examples");
        if !programs.join("hello").exists() {
            return Err(format!("{} has no programs: cargo build --all-features --examples", programs.display()));
        }
        let work = tempfile::tempdir().map_err(|e| format!("a directory for the overlay: {e}"))?;
        let cgroup = make_cgroup(version.number)?;
        let mut boot = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc", "--"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/system/boot.sh"))
            .args([root.as_path(), work.path(), &cgroup, &programs])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| format!("unshare: {e}"))?;
        let lifeline = boot.stdin.take();
        let mut container = Container { version, pid: 0, boot, lifeline, cgroup, _work: work };
        container.pid = container.find_init()?;
        container.wait_for_boot()?;
        container.install()?;
        Ok(container)
    }

    /// The container's PID 1, as this process sees it: number 1 in a pid namespace below that of `boot.sh`.
    fn find_init(&mut self) -> Result<u32, String> {
        let name = self.cgroup.file_name().expect("made above").to_string_lossy().into_owned();
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.boot.try_wait() {
                return Err(format!("systemd-nspawn ended ({status}); it needs root and may mount"));
            }
            for entry in fs::read_dir("/proc").map_err(|e| e.to_string())?.flatten() {
                let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
                let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
                let is_init = read("status")
                    .lines()
                    .find_map(|line| line.strip_prefix("NSpid:"))
                    .is_some_and(|pids| pids.split_whitespace().count() >= 3 && pids.ends_with("\t1"));
                if is_init && read("comm").trim() == "systemd" && read("cgroup").contains(&name) {
                    return Ok(pid);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err("systemd did not come up within 60 s".into())
    }

    fn wait_for_boot(&self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let said = self.run(&["systemctl", "is-system-running", "--wait"]);
            let state = text(&said.stdout);
            if state == "running" {
                break;
            }
            if state == "degraded" || Instant::now() > deadline {
                let failed = text(&self.run(&["systemctl", "--failed", "--no-legend"]).stdout);
                return Err(format!("the boot ended {state:?} {}: {failed}", text(&said.stderr)));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let said = text(&self.run(&["systemctl", "--version"]).stdout);
        let expected = format!("systemd {} ", self.version.number);
        if said.starts_with(&expected) { Ok(()) } else { Err(format!("not {expected:?} but {said:?}")) }
    }

    /// What the package installs, from the tree.
    fn install(&self) -> Result<(), String> {
        let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
        let copy = |from: &Path, to: &str| {
            let to = self.path(to);
            fs::create_dir_all(to.parent().expect("absolute")).map_err(|e| e.to_string())?;
            fs::copy(from, &to).map_err(|e| format!("{} to {}: {e}", from.display(), to.display()))
        };
        copy(Path::new(env!("CARGO_BIN_EXE_ratoon")), "/usr/bin/ratoon")?;
        for (from, to) in [
            ("systemd/ratoon@.service", "/usr/lib/systemd/system/ratoon@.service"),
            ("systemd/ratoon@.socket", "/usr/lib/systemd/system/ratoon@.socket"),
            ("systemd/ratoon-leftovers@.service", "/usr/lib/systemd/system/ratoon-leftovers@.service"),
            ("systemd/ratoon@.service.d/survive.conf", "/usr/share/doc/ratoon/examples/survive.conf"),
            ("systemd/dbus/org.ratoon1.conf", "/usr/share/dbus-1/system.d/org.ratoon1.conf"),
            ("systemd/dbus/org.ratoon1.xml", "/usr/share/dbus-1/interfaces/org.ratoon1.xml"),
        ] {
            copy(&tree.join(from), to)?;
        }
        fs::create_dir_all(self.path("/etc/ratoon")).map_err(|e| e.to_string())?;
        self.ok(&["systemctl", "daemon-reload"]);
        self.ok(&["systemctl", "reload", "dbus.service"]);
        Ok(())
    }

    /// A path of the container, as this process can open it.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.pid))
    }

    /// Writes a file, with the directories above it.
    pub fn write(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().expect("absolute")).expect("directory");
        fs::write(&path, text).unwrap_or_else(|e| panic!("{inside}: {e}"));
    }

    /// A command in the container, not started yet.
    pub fn command(&self, argv: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--all", "--target", &self.pid.to_string(), "--"]).args(argv);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("SYSTEMD_PAGER", "").stdin(Stdio::null());
        command
    }

    /// Runs a command in the container to its end.
    pub fn run(&self, argv: &[&str]) -> Output {
        self.command(argv).output().unwrap_or_else(|e| panic!("nsenter: {e}"))
    }

    /// Runs a command that must succeed; gives what it wrote.
    pub fn ok(&self, argv: &[&str]) -> String {
        let output = self.run(argv);
        assert!(output.status.success(), "{argv:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// Sends a signal to a process of the container.
    pub fn kill(&self, signal: &str, pid: u64) {
        self.ok(&["sh", "-c", &format!("kill -{signal} {pid}")]);
    }

    /// A process of the container as this process sees it.
    pub fn outside(&self, pid: u64) -> u32 {
        let space = fs::read_link(format!("/proc/{}/ns/pid", self.pid)).expect("the container runs");
        let inside = format!("\t{pid}");
        let is_it = |outside: &u32| {
            let status = fs::read_to_string(format!("/proc/{outside}/status")).unwrap_or_default();
            let is_number = status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with(&inside));
            is_number && fs::read_link(format!("/proc/{outside}/ns/pid")).is_ok_and(|it| it == space)
        };
        let all = fs::read_dir("/proc").expect("/proc").flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        all.into_iter().find(is_it).unwrap_or_else(|| panic!("no process {pid}"))
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.ok(&["systemctl", "show", "--value", "--property", name, unit])
    }

    /// What the journal has of a unit, message texts only.
    pub fn journal(&self, unit: &str) -> String {
        self.ok(&["journalctl", "--no-pager", "--output=cat", "--unit", unit])
    }

    /// Connects to an address in the container's network.
    pub fn connect(&self, address: &str) -> io::Result<TcpStream> {
        // A thread of its own enters the network and ends; the socket stays there.
        std::thread::scope(|scope| {
            let dial = scope.spawn(|| {
                let network = fs::File::open(format!("/proc/{}/ns/net", self.pid))?;
                move_into_link_name_space(std::os::fd::AsFd::as_fd(&network), Some(LinkNameSpaceType::Network))?;
                TcpStream::connect(address)
            });
            dial.join().expect("no panic in there")
        })
    }

    /// One HTTP request on a new connection: the body of a 200.
    pub fn get(&self, address: &str) -> io::Result<String> {
        let mut stream = self.connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.into()),
            _ => Err(io::Error::other(format!("no 200: {answer:?}"))),
        }
    }

    /// What the journal has since a moment, for the report of a failed case.
    pub fn story(&self, cursor: &str) -> String {
        let after = format!("--after-cursor={cursor}");
        text(&self.run(&["journalctl", "--no-pager", "--output=short-monotonic", &after]).stdout)
    }

    /// Where the journal stands now.
    pub fn cursor(&self) -> String {
        let said = self.ok(&["journalctl", "--no-pager", "--lines=0", "--show-cursor"]);
        said.rsplit("cursor: ").next().unwrap_or_default().trim().into()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let _ = self.boot.wait();
        remove_cgroup(&self.cgroup);
    }
}

/// Waits for something that must come; polls, and fails the case after a generous time.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within 60 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Output without its last newline.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().into()
}

/// A cgroup of the container's own, with every controller that there is; those of runs that were killed are removed.
fn make_cgroup(version: &str) -> Result<PathBuf, String> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|e| e.to_string())?;
    let top = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .map(|fields| PathBuf::from(fields[1]))
        .ok_or("no cgroup2 is mounted on this machine")?;
    for entry in fs::read_dir(&top).map_err(|e| e.to_string())?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let of = name.strip_prefix("ratoon-system-").and_then(|rest| rest.rsplit('-').next());
        if of.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove_cgroup(&entry.path());
        }
    }
    let own = top.join(format!("ratoon-system-{version}-{}", std::process::id()));
    fs::create_dir(&own).map_err(|e| format!("{}: {e}; it needs root", own.display()))?;
    for controller in fs::read_to_string(top.join("cgroup.controllers")).unwrap_or_default().split_whitespace() {
        // Best effort: one that is in use elsewhere stays there, and what needs it is told by the case.
        let _ = fs::write(top.join("cgroup.subtree_control"), format!("+{controller}"));
    }
    Ok(own)
}

/// Removes a cgroup and those below it; one that is in use stays.
fn remove_cgroup(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}
