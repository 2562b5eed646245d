//! Sends lines of workers to the journal as entries, by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL). For a master that
//! is not root, which could not read from the journal what its workers write to streams of their own.
//!
//! Law: sending never waits. A line that journald does not take because its socket is gone is lost and counted; a line for which
//! journald's queue has no room now stays pending.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

/// The socket where journald takes entries.
pub(in crate::master::output) const JOURNALD: &str = "/run/systemd/journal/socket";
/// The priority of a line without a prefix: info, as systemd sets it for the output of services.
const INFO: u8 = 6;
/// Bytes of the length in front of each pending entry.
const LENGTH: usize = 4;

/// The journal as a sink.
#[derive(Clone, Debug)]
pub(super) struct Native {
    pub journald: PathBuf,
    /// The instance's name.
    pub instance: String,
}

/// The worker that printed a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    pub worker: u64,
    /// `None` when the slot is not known.
    pub slot: Option<u32>,
}

/// The number of entries that journald took, and the number that were lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    pub taken: u64,
    pub lost: u64,
}

/// Makes a socket that is connected to journald's.
pub(super) fn connect(journald: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(journald)?)?;
    Ok(socket)
}

impl Native {
    /// Appends a line as an entry; an empty line is skipped. A prefix like `<3>` is the line's priority (sd-daemon(3)).
    pub fn push(&self, pending: &mut Vec<u8>, source: Option<Source>, line: &[u8]) {
        let (priority, message) = split(line);
        if message.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let at = pending.len();
        pending.extend_from_slice(&[0; LENGTH]);
        // A write into memory cannot fail.
        let _ = write!(pending, "PRIORITY={priority}\nRATOON_INSTANCE={0}\nSYSLOG_IDENTIFIER={0}", self.instance);
        if let Some(Source { worker, slot }) = source {
            let _ = match slot {
                Some(slot) => write!(pending, "/{slot}\nRATOON_SLOT={slot}\nRATOON_WORKER={worker}"),
                None => write!(pending, "\nRATOON_WORKER={worker}"),
            };
        }
        pending.extend_from_slice(b"\nMESSAGE=");
        pending.extend_from_slice(message);
        pending.push(b'\n');
        let length = u32::try_from(pending.len() - at - LENGTH).unwrap_or(u32::MAX);
        pending[at..at + LENGTH].copy_from_slice(&length.to_ne_bytes());
    }

    /// Sends the pending entries that journald takes now.
    pub fn send(&self, socket: impl AsFd, pending: &mut Vec<u8>) -> Sent {
        let (mut done, mut sent, mut connected) = (0, Sent::default(), false);
        while let Some((entry, end)) = entry(pending, done) {
            match rustix::net::send(&socket, entry, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(_) => sent.taken += 1,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                // journald was restarted, and has bound a new socket to the path.
                Err(Errno::CONNREFUSED | Errno::NOTCONN | Errno::CONNRESET | Errno::PIPE) if !connected => {
                    connected = true;
                    if SocketAddrUnix::new(&self.journald).and_then(|address| rustix::net::connect(&socket, &address)).is_ok() {
                        continue;
                    }
                    sent.lost += 1;
                }
                Err(_) => sent.lost += 1,
            }
            done = end;
        }
        pending.drain(..done);
        sent
    }
}

/// The priority from a line's prefix, and the rest of the line.
pub(super) fn split(line: &[u8]) -> (u8, &[u8]) {
    match line {
        [b'<', level @ b'0'..=b'7', b'>', message @ ..] => (level - b'0', message),
        message => (INFO, message),
    }
}

/// The entry at this offset, and the offset of the next one.
fn entry(pending: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let length = pending.get(at..)?.first_chunk::<LENGTH>()?;
    let end = (at + LENGTH).checked_add(u32::from_ne_bytes(*length) as usize)?;
    Some((pending.get(at + LENGTH..end)?, end))
}

/// The messages of the entries, one on each line, for another program to go on with.
pub(super) fn lines(pending: &[u8]) -> Vec<u8> {
    let (mut lines, mut at) = (Vec::new(), 0);
    while let Some((entry, end)) = entry(pending, at) {
        let message = entry.split_inclusive(|byte| *byte == b'\n').find_map(|field| field.strip_prefix(b"MESSAGE="));
        lines.extend_from_slice(message.unwrap_or_default());
        at = end;
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn native(dir: &Path) -> Native {
        Native { journald: dir.join("socket"), instance: "web".to_owned() }
    }

    fn heard(journald: &UnixDatagram) -> String {
        let mut buffer = [0; 4096];
        let length = journald.recv(&mut buffer).expect("an entry");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn native_sends_a_line_with_its_worker_and_priority() {
        let dir = tempfile::tempdir().expect("a directory");
        let native = native(dir.path());
        let journald = UnixDatagram::bind(&native.journald).expect("a socket");
        let socket = connect(&native.journald).expect("journald");
        let mut pending = Vec::new();
        let source = Source { worker: 17, slot: Some(3) };
        native.push(&mut pending, Some(source), b"<3>it is bad");
        native.push(&mut pending, Some(source), b" ");
        native.push(&mut pending, None, b"1 line was lost");
        assert_eq!(lines(&pending), b"it is bad\n1 line was lost\n");
        assert_eq!(native.send(&socket, &mut pending), Sent { taken: 2, lost: 0 });
        assert!(pending.is_empty());
        let fields = "PRIORITY=3\nRATOON_INSTANCE=web\nSYSLOG_IDENTIFIER=web/3\nRATOON_SLOT=3\nRATOON_WORKER=17\n";
        assert_eq!(heard(&journald), format!("{fields}MESSAGE=it is bad\n"));
        assert_eq!(heard(&journald), "PRIORITY=6\nRATOON_INSTANCE=web\nSYSLOG_IDENTIFIER=web\nMESSAGE=1 line was lost\n");
    }

    #[test]
    fn native_finds_another_journald_and_counts_what_none_took() {
        let dir = tempfile::tempdir().expect("a directory");
        let native = native(dir.path());
        let first = UnixDatagram::bind(&native.journald).expect("a socket");
        let socket = connect(&native.journald).expect("journald");
        drop(first);
        std::fs::remove_file(&native.journald).expect("its path");
        let mut pending = Vec::new();
        native.push(&mut pending, None, b"to nobody");
        assert_eq!(native.send(&socket, &mut pending), Sent { taken: 0, lost: 1 });
        let second = UnixDatagram::bind(&native.journald).expect("a socket");
        native.push(&mut pending, None, b"to another");
        assert_eq!(native.send(&socket, &mut pending), Sent { taken: 1, lost: 0 });
        assert!(heard(&second).ends_with("MESSAGE=to another\n"));
    }

    #[test]
    fn native_keeps_what_journald_has_no_room_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let native = native(dir.path());
        let journald = UnixDatagram::bind(&native.journald).expect("a socket");
        let socket = connect(&native.journald).expect("journald");
        let mut pending = Vec::new();
        for number in 0..10_000 {
            native.push(&mut pending, None, format!("line {number}").as_bytes());
        }
        let first = native.send(&socket, &mut pending);
        assert!(first.taken > 0 && first.lost == 0 && !pending.is_empty(), "{first:?}");
        heard(&journald);
        assert!(native.send(&socket, &mut pending).taken > 0, "there is room again");
    }
}
