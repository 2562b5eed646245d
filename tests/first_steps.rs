//! The first minutes of a new user, on a terminal with a time zone: `examples/run`, then the session at the top of README.md,
//! line by line. Both programs are the debug build, as the README says.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longer than a build on a busy machine; nothing waits for it but a test that fails.
const TIMEOUT: Duration = Duration::from_secs(600);
/// How long the output of a program that has ended may take to arrive.
const LAST_OUTPUT: Duration = Duration::from_secs(10);

/// A program on a terminal of its own.
struct OnTerminal {
    child: Child,
    keys: File,
    shown: Arc<Mutex<String>>,
}

impl OnTerminal {
    /// Starts it as the leader of a session, with Berlin's time.
    fn start(command: &mut Command) -> OnTerminal {
        let (mut ours, mut theirs) = (-1, -1);
        // SAFETY: both numbers are written before it returns 0; no name, modes and size are asked for.
        let made = unsafe { libc::openpty(&mut ours, &mut theirs, std::ptr::null_mut(), std::ptr::null(), std::ptr::null()) };
        assert_eq!(made, 0, "openpty: {}", std::io::Error::last_os_error());
        // SAFETY: openpty has just made both descriptors, and nothing else owns them.
        let (ours, theirs) = unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
        let lead = || {
            rustix::process::setsid()?;
            // SAFETY: 0 is the terminal; the call takes a number and no memory.
            if unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        };
        let end = || theirs.try_clone().expect("a descriptor");
        command.stdin(end()).stdout(end()).stderr(end()).env("TZ", "Europe/Berlin").env("TERM", "xterm");
        for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "JOURNAL_STREAM", "CARGO_TARGET_DIR"] {
            command.env_remove(name);
        }
        // SAFETY: between fork and exec it makes two system calls and allocates nothing.
        let child = unsafe { command.pre_exec(lead) }.spawn().expect("the program");
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut terminal, copy) = (ours.try_clone().expect("a descriptor"), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = terminal.read(&mut buffer) {
                *copy.lock().expect("no panic") += &String::from_utf8_lossy(&buffer[..count]);
            }
        });
        OnTerminal { child, keys: ours, shown }
    }

    /// What was written so far, without colours and movements of the cursor.
    fn shown(&self) -> String {
        let written = self.shown.lock().expect("no panic").replace('\r', "");
        let mut parts = written.split("\x1b[");
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            // A control sequence ends with its first letter.
            text += part.trim_start_matches(|it: char| !it.is_ascii_alphabetic()).get(1..).unwrap_or_default();
        }
        text
    }

    /// Waits until this was written; the end of the program before is a failure.
    fn wait_for(&mut self, text: &str) -> String {
        let mut deadline = Instant::now() + TIMEOUT;
        let mut ended = None;
        loop {
            if ended.is_none() {
                ended = self.child.try_wait().expect("wait");
                // What it wrote last is still on its way through the terminal.
                if ended.is_some() {
                    deadline = Instant::now() + LAST_OUTPUT;
                }
            }
            let shown = self.shown();
            if shown.contains(text) {
                return shown;
            }
            assert!(Instant::now() < deadline, "{text}: not written in time (the program's end: {ended:?})\n{shown}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Types Ctrl-C, and waits for a successful end.
    fn interrupt(mut self) {
        self.keys.write_all(b"\x03").expect("the terminal");
        let deadline = Instant::now() + TIMEOUT;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end\n{}", self.shown());
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(status.success(), "{status}\n{}", self.shown());
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A program of the debug build.
fn built(name: &str) -> PathBuf {
    let path = tree("target/debug").join(name);
    assert!(path.exists(), "{} is missing: cargo build --all-features --bins --examples", path.display());
    path
}

/// An address that nothing listens on.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").to_string()
}

/// What is typed in the README's session, by the blocks before "How it fits together".
fn session() -> Vec<String> {
    let page = fs::read_to_string(tree("README.md")).expect("README.md");
    let (top, _) = page.split_once("## How it fits together").expect("the section after the session");
    top.lines().filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned).collect()
}

#[test]
fn examples_run_serves_on_a_terminal_with_a_zone() {
    let place = tempfile::tempdir().expect("a directory");
    let address = free_address();
    let mut command = Command::new(tree("examples/run"));
    command.arg(&address).env("RUNTIME_DIRECTORY", place.path().join("hello"));
    for bus in ["DBUS_SYSTEM_BUS_ADDRESS", "DBUS_SESSION_BUS_ADDRESS"] {
        command.env(bus, "unix:path=/no-bus");
    }
    let mut run = OnTerminal::start(&mut command);
    run.wait_for("in a second terminal:");
    let shown = run.wait_for("curl -fsS");
    assert!(shown.contains(&format!("2/2 ready on {address}")), "{shown}");
    assert!(!shown.contains("message bus"), "a machine without D-Bus is no fault\n{shown}");
    run.interrupt();
}

#[test]
fn readme_session_works_on_a_terminal_with_a_zone() {
    let place = tempfile::tempdir().expect("a directory");
    let path = |name: &str| place.path().join(name);
    for directory in ["bin", "releases/1.0", "releases/1.1"] {
        fs::create_dir_all(path(directory)).expect("a directory");
    }
    symlink(built("ratoon"), path("bin/ratoon")).expect("a symlink");
    symlink(built("examples/load"), path("bin/load")).expect("a symlink");
    symlink(built("examples/hello"), path("releases/1.0/server")).expect("a symlink");
    fs::write(path("server.text"), "#!/bin/sh\necho 'no database at db.example.com'\nexit 3\n").expect("a file");
    // By another process: a descriptor open for writing that a fork inherits would make exec fail with "text file busy".
    let mut copy = Command::new("install");
    copy.args(["-m", "0755"]).arg(path("server.text")).arg(path("releases/1.1/server"));
    assert!(copy.status().expect("install").success());
    symlink("releases/1.0", path("current")).expect("a symlink");

    let address = free_address();
    let typed: Vec<String> =
        session().iter().map(|line| line.replace("127.0.0.1:8080", &address).replace("--time 10", "--time 3")).collect();
    let [run, rest @ ..] = typed.as_slice() else { panic!("the README types nothing") };
    assert!(run.starts_with("ratoon run ") && rest.len() >= 6, "{typed:?}");
    let programs = format!("{}:{}", path("bin").display(), std::env::var("PATH").expect("PATH"));
    let shell = |line: &str| {
        let mut command = Command::new("bash");
        command.args(["-c", line]).current_dir(place.path()).env("PATH", &programs).env("RUNTIME_DIRECTORY", path("web"));
        command
    };
    let mut master = OnTerminal::start(&mut shell(&format!("exec {run}")));
    master.wait_for(&format!("generation 1 is serving: 2/2 ready on {address}"));

    // The second terminal: one shell, which is told each line and waits for the load at the end.
    let mut lines = rest.join("\n");
    lines += "\nwait; echo the session is over\n";
    let mut second = OnTerminal::start(&mut shell(&lines));
    let shown = second.wait_for("the session is over");
    for part in
        ["web running, generation 1, 2/2 ready", "generation 2 is serving: 2/2 ready", "rolled back: worker", "no database at"]
    {
        assert!(shown.contains(part), "{part}\n{shown}\n{}", master.shown());
    }
    let answers = shown.lines().filter(|line| line.starts_with("keep-alive ") || line.starts_with("new ")).collect::<Vec<_>>();
    assert_eq!(answers.len(), 2, "{shown}");
    for line in answers {
        assert_eq!(line.split_whitespace().nth(3), Some("0"), "requests failed\n{shown}");
    }
    assert!(shown.lines().any(|line| line == "1"), "the exit status of the failed reload\n{shown}");
    master.interrupt();
}
