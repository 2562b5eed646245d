//! The systemd that a test plays: a notify socket, and everything that was said to it.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use super::TIMEOUT;

/// What was said so far, datagram by datagram.
#[derive(Default)]
struct Heard {
    messages: Mutex<Vec<String>>,
    more: Condvar,
}

/// A notify socket of the test's own.
pub struct Systemd {
    path: PathBuf,
    heard: Arc<Heard>,
    /// Kept open while nobody reads it.
    deaf: Mutex<Option<UnixDatagram>>,
}

impl Systemd {
    /// One that reads all that is said.
    pub fn listening(path: &Path) -> Systemd {
        let socket = UnixDatagram::bind(path).expect("a notify socket");
        let systemd = Systemd { path: path.to_owned(), heard: Arc::default(), deaf: Mutex::new(Some(socket)) };
        systemd.hear_again();
        systemd
    }

    /// Begins to read.
    pub fn hear_again(&self) {
        let Some(socket) = self.deaf.lock().expect("no panic under the lock").take() else { return };
        let heard = self.heard.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(length) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                // The end of the test: see `drop`.
                if text == "END" {
                    break;
                }
                heard.messages.lock().expect("no panic under the lock").push(text);
                heard.more.notify_all();
            }
        });
    }

    /// One that has the socket open and never reads it.
    pub fn deaf(path: &Path) -> Systemd {
        let socket = UnixDatagram::bind(path).expect("a notify socket");
        Systemd { path: path.to_owned(), heard: Arc::default(), deaf: Mutex::new(Some(socket)) }
    }

    /// Whether it reads.
    pub fn listens(&self) -> bool {
        self.deaf.lock().expect("no panic under the lock").is_none()
    }

    /// For `NOTIFY_SOCKET`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything so far.
    pub fn messages(&self) -> Vec<String> {
        self.heard.messages.lock().expect("no panic under the lock").clone()
    }

    /// Waits until what was said makes `find` give something.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, find: impl Fn(&[String]) -> Option<T>) -> T {
        let deadline = Instant::now() + TIMEOUT;
        let mut messages = self.heard.messages.lock().expect("no panic under the lock");
        loop {
            if let Some(found) = find(&messages) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "systemd was not told within {TIMEOUT:?}: {what}; it was told {messages:#?}");
            messages = self.heard.more.wait_timeout(messages, left).expect("no panic under the lock").0;
        }
    }

    /// Waits until this very message was sent for the `times`th time.
    #[track_caller]
    pub fn wait_for(&self, message: &str, times: usize) {
        self.wait(message, |all| (all.iter().filter(|it| *it == message).count() >= times).then_some(()));
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        if self.listens()
            && let Ok(socket) = UnixDatagram::unbound()
        {
            let _ = socket.send_to(b"END", &self.path);
        }
    }
}
