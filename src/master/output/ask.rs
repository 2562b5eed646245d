//! The first and the last lines of a worker from the journal: `journalctl` in a child, within bounds.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::tail::{Printed, Tail};
use super::{HEAD_LINES, TAIL_LINES};
use crate::sys::awaited::spawn_awaited;
use crate::sys::process::PidFd;

/// How long one question may take.
const WITHIN: Duration = Duration::from_secs(2);
/// How much of an answer is read, bytes.
const ANSWER_MAX: u64 = 1024 * 1024;

/// Where control groups are mounted: journald's names of groups begin behind it.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The first and the last lines that this process has printed since then, and those of its control group, which is one worker's
/// alone (the main process of a worker may be a shell whose child prints). A stream's identifier says nothing: the old and the new
/// worker of a slot share it.
pub(super) fn journalctl(program: &OsStr, pid: u32, group: Option<&Path>, since: SystemTime) -> Printed {
    const BOTH: usize = HEAD_LINES + TAIL_LINES;
    let end = Instant::now() + WITHIN;
    let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
    // To the microsecond: a process may have had this number in the same second.
    let mut which = vec![format!("--since=@{}.{:06}", since.as_secs(), since.subsec_micros())];
    which.extend(["_TRANSPORT=stdout".to_owned(), format!("_PID={pid}")]);
    if let Some(group) = group.and_then(|group| group.strip_prefix(CGROUPS).ok()).and_then(Path::to_str) {
        which.extend(["+".to_owned(), "_TRANSPORT=stdout".to_owned(), format!("_SYSTEMD_CGROUP=/{group}")]);
    }
    // Newest first: with --since and without --reverse, journalctl 252 gives the first lines in place of the last.
    let last = lines(program, &["--reverse".to_owned(), format!("--lines={BOTH}")], &which, BOTH, end);
    let mut tail = Tail::default();
    if last.len() < BOTH {
        last.iter().rev().for_each(|line| tail.push(line));
        return tail.printed();
    }
    // Oldest first, and no more is read than is wanted: `--lines=+N` is not known to each journalctl.
    lines(program, &[], &which, HEAD_LINES, end).iter().for_each(|line| tail.push(line));
    last.iter().take(TAIL_LINES).rev().for_each(|line| tail.push(line));
    tail.printed()
}

/// At most so many lines of the answer to one question.
fn lines(program: &OsStr, order: &[String], which: &[String], count: usize, end: Instant) -> Vec<Vec<u8>> {
    let mut command = Command::new(program);
    command.args(["--quiet", "--no-pager"]).args(order).arg("--output=cat").args(which);
    let child = spawn_awaited(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()));
    // No journalctl: the lines are in the journal all the same.
    let Ok((mut child, _awaited)) = child else { return Vec::new() };
    // Without a descriptor to spare it is the loop that reaps it.
    let pidfd = PidFd::open(child.id()).ok();
    let answer = child.stdout.take().map(|out| read_until(out, count, end)).unwrap_or_default();
    if let Some(pidfd) = pidfd {
        // It has said all, or too much, or its time is over: in each case nothing more is wanted of it.
        let _ = pidfd.signal(libc::SIGKILL);
        let _ = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED));
    }
    let lines = answer.split(|byte| *byte == b'\n').filter(|line| !line.iter().all(u8::is_ascii_whitespace));
    lines.take(count).map(<[u8]>::to_vec).collect()
}

/// Everything up to so many lines with something in them, the end of file, [`ANSWER_MAX`] bytes or the given time.
fn read_until(out: std::process::ChildStdout, lines: usize, end: Instant) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut out = out.take(ANSWER_MAX);
    let mut buffer = [0; 8192];
    let mut found = 0;
    loop {
        let Some(left) = end.checked_duration_since(Instant::now()) else { return answer };
        let left = Timespec::try_from(left).ok();
        let mut fds = [PollFd::new(out.get_ref(), PollFlags::IN)];
        match poll(&mut fds, left.as_ref()) {
            Ok(0) => return answer,
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return answer,
        }
        match out.read(&mut buffer) {
            Ok(0) => return answer,
            Ok(n) => {
                let former = answer.len();
                answer.extend_from_slice(&buffer[..n]);
                found += buffer[..n]
                    .iter()
                    .enumerate()
                    .filter(|(at, byte)| **byte == b'\n' && !ends_empty(&answer, former + at))
                    .count();
                if found >= lines {
                    return answer;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return answer,
        }
    }
}

/// Whether the line that ends here is empty.
fn ends_empty(answer: &[u8], at: usize) -> bool {
    at.checked_sub(1).is_none_or(|before| answer[before] == b'\n')
}
