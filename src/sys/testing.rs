//! Helpers for tests with real processes. They never sleep: they wait for events, with a deadline.

use std::ffi::CString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::time::Timespec;

use super::process::{Ended, PidFd};
use super::spawn::{Plan, Program, SpawnRequest};

/// The longest wait for an event, far more than any event takes on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until a descriptor is readable.
pub fn wait_readable(fd: impl AsFd) {
    let mut poll = [PollFd::new(&fd, PollFlags::IN)];
    let deadline = Timespec { tv_sec: DEADLINE.as_secs() as i64, tv_nsec: 0 };
    let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut poll, Some(&deadline))).unwrap();
    assert_eq!(ready, 1, "nothing happened within {DEADLINE:?}");
}

/// Waits until a process has exited and reaps it.
pub fn ended(pidfd: &PidFd) -> Ended {
    wait_readable(pidfd);
    pidfd.wait().unwrap().expect("readable means ended")
}

/// A process that is killed at the end of the test, also when the test fails.
pub struct Guard(pub PidFd);

impl Drop for Guard {
    fn drop(&mut self) {
        if self.0.signal(libc::SIGKILL).is_ok() {
            wait_readable(&self.0);
            let _ = self.0.wait();
        }
    }
}

/// A plan that runs an executable, in `/`, with no environment and no sockets.
pub fn plan(program: &Path, arguments: &[&str]) -> Plan {
    let argv = std::iter::once(program.to_str().unwrap()).chain(arguments.iter().copied());
    Plan {
        program: Program::pin(program).unwrap(),
        argv: argv.map(|argument| CString::new(argument).unwrap()).collect(),
        env: Vec::new(),
        directory: Arc::new(File::open("/").unwrap().into()),
        listeners: Vec::new(),
        identity: None,
        nofile: None,
        die_with_parent: None,
    }
}

/// A plan that runs a shell script.
pub fn shell(script: &str) -> Plan {
    Plan { env: vec![c"PATH=/usr/bin:/bin".to_owned()], ..plan(Path::new("/bin/sh"), &["-c", script]) }
}

/// A worker without values of its own.
pub fn request<'a>() -> SpawnRequest<'a> {
    SpawnRequest {
        tag: 1,
        argv: None,
        plan_env: None,
        env: Vec::new(),
        stdin: None,
        stdout: None,
        stderr: None,
        listeners: None,
        scoreboard: None,
        fork: None,
        cgroup: None,
        small: false,
        watchdog_pid: false,
        cpus: None,
    }
}

/// The output of processes, line by line.
pub struct Output {
    lines: BufReader<File>,
    write: Option<OwnedFd>,
}

impl Output {
    pub fn new() -> Output {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        Output { lines: BufReader::new(read.into()), write: Some(write) }
    }

    /// The end of the pipe to print to.
    pub fn end(&self) -> BorrowedFd<'_> {
        self.write.as_ref().unwrap().as_fd()
    }

    /// Takes the end of the pipe to print to.
    pub fn write_end(&mut self) -> OwnedFd {
        self.write.take().unwrap()
    }

    /// Closes this process's copy of the end to print to, so that the end of file comes when all printing processes have exited.
    pub fn started(&mut self) {
        self.write = None;
    }

    pub fn line(&mut self) -> String {
        if self.lines.buffer().is_empty() {
            wait_readable(self.lines.get_ref());
        }
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end_matches('\n').to_owned()
    }

    /// Reads all output until the end of file.
    pub fn rest(&mut self) -> String {
        let mut bytes = self.lines.buffer().to_vec();
        let pause = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        let until = std::time::Instant::now() + DEADLINE;
        loop {
            // A child's resources, copies of the pipe's end among them, can be freed once it has executed its program.
            super::spawn::sweep();
            let mut poll = [PollFd::new(self.lines.get_ref(), PollFlags::IN)];
            if rustix::io::retry_on_intr(|| rustix::event::poll(&mut poll, Some(&pause))).unwrap() == 0 {
                assert!(std::time::Instant::now() < until, "no end of file within {DEADLINE:?}");
                continue;
            }
            let mut piece = [0; 4096];
            match self.lines.get_mut().read(&mut piece).unwrap() {
                0 => return String::from_utf8(bytes).unwrap(),
                length => bytes.extend_from_slice(&piece[..length]),
            }
        }
    }
}

/// The numbers of a process's open descriptors.
pub fn descriptors_of(pid: u32) -> Vec<i32> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut numbers: Vec<i32> = entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

/// A descriptor with one of the lowest free numbers, as a library would open it.
pub fn low() -> Arc<OwnedFd> {
    Arc::new(File::open("/dev/zero").unwrap().into())
}

/// Writes an executable file. When this returns, the file is closed and has mode 755.
pub fn executable(path: &Path, text: &str) -> PathBuf {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path.to_path_buf()
}

/// Runs a test in a process of its own. Returns `true` in that process, which then runs the test's body, and `false` in the first
/// process, once that process has passed.
///
/// For tests of properties of a whole process: children, environment, inherited descriptors.
pub fn alone(test: &str) -> bool {
    const MARK: &str = "RATOON_TEST_ALONE";
    if std::env::var_os(MARK).is_some_and(|name| name == test) {
        return true;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(MARK, test)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

/// Whether a descriptor is close-on-exec.
pub fn is_close_on_exec(fd: impl AsFd) -> bool {
    rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC)
}
