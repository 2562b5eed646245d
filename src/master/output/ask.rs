//! Reads the first and the last lines of a worker from the journal: `journalctl` in a child, limited in time and size.

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

/// How long the queries of one worker may take together.
const WITHIN: Duration = Duration::from_secs(2);
/// The most that is read of an answer, bytes.
const ANSWER_MAX: u64 = 1024 * 1024;

/// The mount point of the control groups; journald's names of groups leave it out.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The first and the last lines that this process has printed since then, and those of its control group, which belongs to this
/// worker alone (the main process may be a shell whose child prints). The identifier cannot tell workers apart: the old and the new
/// worker of a slot share it.
pub(super) fn journalctl(program: &OsStr, pid: u32, group: Option<&Path>, since: SystemTime) -> Printed {
    const BOTH: usize = HEAD_LINES + TAIL_LINES;
    let end = Instant::now() + WITHIN;
    let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
    // With microseconds: another process may have had this pid in the same second.
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
    // Oldest first; reading stops after the wanted lines, because not each journalctl knows `--lines=+N`.
    lines(program, &[], &which, HEAD_LINES, end).iter().for_each(|line| tail.push(line));
    last.iter().take(TAIL_LINES).rev().for_each(|line| tail.push(line));
    tail.printed()
}

/// At most `count` lines of the answer to one query.
fn lines(program: &OsStr, order: &[String], which: &[String], count: usize, end: Instant) -> Vec<Vec<u8>> {
    let mut command = Command::new(program);
    command.args(["--quiet", "--no-pager"]).args(order).arg("--output=cat").args(which);
    let child = spawn_awaited(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()));
    // Without journalctl there is no answer; the lines are still in the journal.
    let Ok((mut child, _awaited)) = child else { return Vec::new() };
    // Without a free descriptor the loop reaps the child.
    let pidfd = PidFd::open(child.id()).ok();
    let answer = child.stdout.take().map(|out| read_until(out, count, end)).unwrap_or_default();
    if let Some(pidfd) = pidfd {
        // The answer is complete, too long, or too late: the child is not needed any more.
        let _ = pidfd.signal(libc::SIGKILL);
        let _ = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED));
    }
    let lines = answer.split(|byte| *byte == b'\n').filter(|line| !line.iter().all(u8::is_ascii_whitespace));
    lines.take(count).map(<[u8]>::to_vec).collect()
}

/// Reads until there are `lines` lines that are not empty, the end of file, [`ANSWER_MAX`] bytes, or the end of the time.
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

/// Whether the line that ends at this offset is empty.
fn ends_empty(answer: &[u8], at: usize) -> bool {
    at.checked_sub(1).is_none_or(|before| answer[before] == b'\n')
}
