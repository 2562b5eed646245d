//! Messages to systemd: `READY=1`, `STATUS=`, `WATCHDOG=1`, `RELOADING=1`, `STOPPING=1` (sd_notify(3)).
//!
//! Law: no function here waits. A message that systemd does not take now is sent again a little later. A `RELOADING=1` is always
//! followed by a `READY=1`; without it, systemd before 259 makes `systemctl reload` hang for ever.

use std::ffi::OsString;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::sys::notify;

/// The shortest interval between status lines in which only a count has changed.
const CALM: Duration = Duration::from_millis(100);
/// The longest status line, bytes: PID 1 takes no datagram over 4096 bytes.
pub(in crate::master) const STATUS_MAX: usize = 1024;

/// The notify socket of systemd; without one, all messages are dropped.
pub struct Systemd {
    socket: Option<notify::Systemd>,
    /// Half of `WATCHDOG_USEC`, and when the next `WATCHDOG=1` is due.
    watchdog: Option<(Duration, Instant)>,
    /// The last status line.
    told: String,
    /// Messages that are not sent yet, in this order.
    pending: Vec<String>,
    /// When the next try is due.
    again: Option<Instant>,
    reloading: bool,
    /// When `EXTEND_TIMEOUT_USEC=` was sent last.
    extended: Option<(Instant, Duration)>,
}

impl Systemd {
    /// Reads the socket and the watchdog's interval from the master's environment.
    ///
    /// # Errors
    /// `NOTIFY_SOCKET` is not an address that can be used.
    pub fn new(env: impl Fn(&str) -> Option<OsString>, now: Instant) -> Result<Systemd, String> {
        let socket = match env("NOTIFY_SOCKET") {
            None => None,
            Some(value) => {
                Some(notify::Systemd::new(&value).map_err(|error| format!("NOTIFY_SOCKET={}: {error}", value.display()))?)
            }
        };
        let text = |name: &str| env(name).and_then(|value| value.into_string().ok());
        let for_us = text("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let period = text("WATCHDOG_USEC").and_then(|usec| usec.parse::<u64>().ok()).filter(|usec| *usec > 1 && for_us);
        let watchdog = period.filter(|_| socket.is_some()).map(|usec| (Duration::from_micros(usec / 2), now));
        Ok(Systemd { socket, watchdog, told: String::new(), pending: Vec::new(), again: None, reloading: false, extended: None })
    }

    /// Whether systemd has given a notify socket.
    pub fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// When [`Systemd::on_deadline`] is to be called next.
    pub fn deadline(&self) -> Option<Instant> {
        let ping = self.watchdog.map(|(_, at)| at);
        [ping, self.again].into_iter().flatten().min()
    }

    /// Sends `WATCHDOG=1` when it is due, and the messages that could not be sent before.
    pub fn on_deadline(&mut self, now: Instant) {
        if let Some((half, at)) = self.watchdog.as_mut()
            && *at <= now
        {
            *at = now + *half;
            // A lost ping is made up for by the next one: there are two in a watchdog period.
            self.send_now("WATCHDOG=1");
        }
        if self.again.is_some_and(|at| at <= now) {
            self.again = None;
            self.flush(now);
        }
    }

    /// Sends `WATCHDOG=1` at once, before a step that takes a while.
    pub fn ping(&self) {
        if self.watchdog.is_some() {
            self.send_now("WATCHDOG=1");
        }
    }

    /// Tells at once why the start waits, and that it may take at least this long from now on. Not sent again when systemd takes no message
    /// now: call it again and again.
    pub fn start_waits(&self, why: &str, at_least: Duration) {
        self.send_now(&format!("STATUS={}\nEXTEND_TIMEOUT_USEC={}", one_line(why), at_least.as_micros()));
    }

    /// Stores a descriptor in systemd's descriptor store, or drops the one with this name (`None`). Returns `false` when systemd
    /// takes no message now.
    pub fn store(&self, name: &str, fd: Option<BorrowedFd<'_>>) -> bool {
        let Some(socket) = &self.socket else { return true };
        let sent = match fd {
            // FDPOLL=0: at the exit of a process systemd would otherwise drop the pidfd, which is needed to learn how the process exited.
            Some(fd) => socket.send_with_fds(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), &[fd]),
            None => socket.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}")),
        };
        sent.unwrap_or(true)
    }

    /// Messages that are not sent yet.
    pub fn unsaid(&self) -> &[String] {
        &self.pending
    }

    /// Sends the messages that an earlier program could not send.
    pub fn still_to_say(&mut self, unsaid: Vec<String>) {
        for message in unsaid {
            let now = Instant::now();
            self.say(message, now);
        }
    }

    /// Sends `READY=1`: all workers of the first generation are ready.
    pub fn ready(&mut self, now: Instant) {
        self.say("READY=1".to_owned(), now);
    }

    /// Sends `RELOADING=1` for a reload without a requester.
    pub fn reloading(&mut self, now: Instant) {
        if let Some(usec) = monotonic_usec().filter(|_| !std::mem::replace(&mut self.reloading, true)) {
            self.say(format!("RELOADING=1\nMONOTONIC_USEC={usec}"), now);
        }
    }

    /// Sends `READY=1` at the end of any reload, if `RELOADING=1` was sent.
    pub fn reloaded(&mut self, now: Instant) {
        if std::mem::take(&mut self.reloading) {
            self.say("READY=1".to_owned(), now);
        }
    }

    /// Sends `STOPPING=1`, and extends the timeout by the longest time that the stop may take.
    pub fn stopping(&mut self, at_most: Duration, now: Instant) {
        self.say("STOPPING=1".to_owned(), now);
        self.extended = None;
        self.extend(at_most, now);
    }

    /// Asks systemd to extend its timeout by this time. Sent at most once a second unless the time is longer than before, so `by` must
    /// have a margin.
    pub fn extend(&mut self, by: Duration, now: Instant) {
        if self.extended.is_some_and(|(at, before)| by <= before && now.duration_since(at) < Duration::from_secs(1)) {
            return;
        }
        self.extended = Some((now, by));
        self.say(format!("EXTEND_TIMEOUT_USEC={}", by.as_micros()), now);
    }

    /// Sends the status line, if it has changed: at once, or after `CALM` when only a count has changed.
    pub fn status(&mut self, line: &str, at_once: bool, now: Instant) {
        if self.socket.is_none() || line == self.told {
            return;
        }
        self.told = line.to_owned();
        self.pending.retain(|pending| !pending.starts_with("STATUS="));
        self.pending.push(format!("STATUS={}", one_line(line)));
        if at_once {
            self.flush(now);
        } else if self.again.is_none() {
            self.again = Some(now + CALM);
        }
    }

    fn say(&mut self, message: String, now: Instant) {
        if self.socket.is_some() {
            self.pending.push(message);
            self.flush(now);
        }
    }

    fn flush(&mut self, now: Instant) {
        let pending = std::mem::take(&mut self.pending);
        let mut pending = pending.into_iter();
        while let Some(message) = pending.next() {
            if !self.send_now(&message) {
                self.pending = std::iter::once(message).chain(pending).collect();
                self.again = Some(now + CALM);
                return;
            }
        }
    }

    /// Sends a message. Returns `false` when systemd takes none now. A systemd that is gone gets nothing, and that is no error.
    fn send_now(&self, message: &str) -> bool {
        self.socket.as_ref().is_none_or(|socket| socket.send(message).unwrap_or(true))
    }
}

fn one_line(text: &str) -> String {
    crate::master::log::text::one_line(text.as_bytes(), STATUS_MAX)
}

/// CLOCK_MONOTONIC in microseconds, as `MONOTONIC_USEC=` wants it.
fn monotonic_usec() -> Option<u64> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Some(u64::try_from(now.tv_sec).ok()? * 1_000_000 + u64::try_from(now.tv_nsec).ok()? / 1000)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn pair(name: &str) -> (UnixDatagram, tempfile::TempDir, OsString) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        let receiver = UnixDatagram::bind(&path).unwrap();
        receiver.set_nonblocking(true).unwrap();
        (receiver, directory, path.into_os_string())
    }

    fn heard(receiver: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 8192];
        std::iter::from_fn(|| {
            receiver.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned())
        })
        .collect()
    }

    #[test]
    fn a_reload_is_opened_and_always_closed() {
        let (receiver, _directory, path) = pair("notify");
        let now = Instant::now();
        let mut systemd = Systemd::new(|name| (name == "NOTIFY_SOCKET").then(|| path.clone()), now).unwrap();
        systemd.reloaded(now);
        assert!(heard(&receiver).is_empty(), "a READY=1 without a RELOADING=1");
        systemd.reloading(now);
        systemd.reloading(now);
        systemd.reloaded(now);
        systemd.reloaded(now);
        let words = heard(&receiver);
        assert_eq!(words.len(), 2, "{words:?}");
        assert!(words[0].starts_with("RELOADING=1\nMONOTONIC_USEC="));
        assert_eq!(words[1], "READY=1");
    }

    #[test]
    fn a_systemd_that_does_not_read_is_told_later_and_in_order() {
        let (receiver, _directory, path) = pair("notify");
        let mut now = Instant::now();
        let mut systemd = Systemd::new(|name| (name == "NOTIFY_SOCKET").then(|| path.clone()), now).unwrap();
        // More messages than any queue of the kernel holds.
        for number in 0..2000 {
            systemd.status(&format!("line {number}"), true, now);
        }
        systemd.ready(now);
        assert!(!systemd.pending.is_empty(), "nothing was held back");
        let mut words = heard(&receiver);
        while let Some(at) = systemd.deadline() {
            now = at;
            systemd.on_deadline(now);
            words.extend(heard(&receiver));
        }
        assert_eq!(words.last().map(String::as_str), Some("READY=1"));
        assert_eq!(words[words.len() - 2], "STATUS=line 1999");
    }

    #[test]
    fn extension_that_is_longer_is_sent_at_once() {
        let (receiver, _directory, path) = pair("notify");
        let now = Instant::now();
        let mut systemd = Systemd::new(|name| (name == "NOTIFY_SOCKET").then(|| path.clone()), now).unwrap();
        for seconds in [60, 50, 60, 700] {
            systemd.extend(Duration::from_secs(seconds), now);
        }
        systemd.extend(Duration::from_secs(50), now + Duration::from_secs(1));
        let sent = ["EXTEND_TIMEOUT_USEC=60000000", "EXTEND_TIMEOUT_USEC=700000000", "EXTEND_TIMEOUT_USEC=50000000"];
        assert_eq!(heard(&receiver), sent);
    }

    #[test]
    fn a_status_cannot_say_anything_else() {
        let (receiver, _directory, path) = pair("notify");
        let now = Instant::now();
        let mut systemd = Systemd::new(|name| (name == "NOTIFY_SOCKET").then(|| path.clone()), now).unwrap();
        systemd.status("rolled back: worker said\nSTOPPING=1", true, now);
        assert!(heard(&receiver)[0].lines().count() == 1);
    }

    #[test]
    fn the_watchdog_is_fed_twice_a_period_and_only_when_it_is_ours() {
        let (receiver, _directory, path) = pair("notify");
        let start = Instant::now();
        let env = |pid: String| {
            let path = path.clone();
            move |name: &str| match name {
                "NOTIFY_SOCKET" => Some(path.clone()),
                "WATCHDOG_USEC" => Some("2000000".into()),
                "WATCHDOG_PID" => Some(pid.clone().into()),
                _ => None,
            }
        };
        let mut systemd = Systemd::new(env(std::process::id().to_string()), start).unwrap();
        assert_eq!(systemd.deadline(), Some(start));
        systemd.on_deadline(start);
        assert_eq!(systemd.deadline(), Some(start + Duration::from_secs(1)));
        assert_eq!(heard(&receiver), ["WATCHDOG=1"]);
        assert_eq!(Systemd::new(env("1".to_owned()), start).unwrap().deadline(), None);
    }
}
