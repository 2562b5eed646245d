//! Notifications to the master: `sd_notify(3)` datagrams to `NOTIFY_SOCKET`, and the watchdog's pings.
//!
//! Law: a notification never blocks the worker for ever. Messages that must arrive (`READY=1`, `STOPPING=1`, information) wait up
//! to 5 s for room in the master's queue; messages that are repeated (`STATUS=`, `WATCHDOG=1`) don't wait.
//! The message types are those of the `sd-notify` crate. The sending is done here, since that crate blocks and cannot reach abstract
//! sockets.

use std::ffi::OsStr;
use std::fmt::Write;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

pub use sd_notify::NotifyState;

use crate::scoreboard::text::cut;

/// How long a message that must arrive waits for room in the queue.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest status text in bytes; longer texts are cut. The master takes datagrams of at most 4096 bytes, as systemd does.
const STATUS_MAX: usize = 1024;

/// Sends all `states` in one datagram and waits up to 5 s for room. Without `NOTIFY_SOCKET` it does nothing.
pub fn notify(states: &[NotifyState<'_>]) -> io::Result<()> {
    to_master(states, Some(TIMEOUT))
}

/// Sends all `states` in one datagram without waiting: fails with [`io::ErrorKind::WouldBlock`] when the master's queue is full.
pub fn notify_now(states: &[NotifyState<'_>]) -> io::Result<()> {
    to_master(states, None)
}

/// Sends `text` as the worker's status (`STATUS=`). Line breaks become spaces; long texts are cut to 1024 bytes. Does not wait:
/// fails when the master's queue is full.
pub fn status(text: &str) -> io::Result<()> {
    notify_now(&[NotifyState::Status(&one_line(text))])
}

/// Sends `STOPPING=1`: the worker exits of its own accord, and the master starts a replacement at once.
pub fn stopping() -> io::Result<()> {
    notify(&[NotifyState::Stopping])
}

fn to_master(states: &[NotifyState<'_>], patience: Option<Duration>) -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(socket) if !socket.is_empty() => send(&socket, states, patience),
        _ => Ok(()),
    }
}

fn send(socket: &OsStr, states: &[NotifyState<'_>], patience: Option<Duration>) -> io::Result<()> {
    let mut message = String::new();
    for state in states {
        let _ = writeln!(message, "{state}"); // a String takes every write
    }
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let datagram = UnixDatagram::unbound()?;
    match patience {
        Some(patience) => datagram.set_write_timeout(Some(patience))?,
        None => datagram.set_nonblocking(true)?,
    }
    datagram.send_to_addr(message.as_bytes(), &address).map(drop)
}

/// Replaces control characters with spaces, since a line break would begin another assignment, and cuts the text to 1024 bytes.
pub(super) fn one_line(text: &str) -> String {
    cut(text, STATUS_MAX).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Pings the master's watchdog at half of its timeout, from a task of this runtime: a runtime that hangs sends no ping.
pub(super) fn feed_watchdog(runtime: &tokio::runtime::Handle) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else { return };
    runtime.spawn(async move {
        let mut tick = tokio::time::interval((limit / 2).max(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            // An error is ignored: when the queue is full, the next ping still arrives in time.
            let _ = notify_now(&[NotifyState::Watchdog]);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 4096];
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }

    #[test]
    fn speaks_to_paths_and_to_abstract_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), &[NotifyState::Ready, NotifyState::Status("up")], Some(TIMEOUT)).unwrap();
        assert_eq!(received(&by_path), "READY=1\nSTATUS=up\n");

        let name = format!("ratoon-notify-{}", std::process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(OsStr::new(&format!("@{name}")), &[NotifyState::Watchdog], None).unwrap();
        assert_eq!(received(&by_name), "WATCHDOG=1\n");
    }

    #[test]
    fn a_full_queue_does_not_hang_the_worker() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _silent = UnixDatagram::bind(&path).unwrap();
        let full = (0..100_000).find_map(|_| send(path.as_os_str(), &[NotifyState::Watchdog], None).err());
        assert_eq!(full.expect("the queue has an end").kind(), io::ErrorKind::WouldBlock);
        let patient = send(path.as_os_str(), &[NotifyState::Ready], Some(Duration::from_millis(20)));
        assert_eq!(patient.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_status_is_one_line_of_bounded_length() {
        assert_eq!(one_line("up\nREADY=1\r\t\0"), "up READY=1   ");
        let long = one_line(&"ä".repeat(2000));
        assert_eq!((long.len(), long.chars().count()), (1024, 512));
    }
}
