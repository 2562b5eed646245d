//! One request on a connection of its own, and its answer.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{TIMEOUT, eventually};

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// From the pool, at `127.0.0.1:PORT` or the path of a Unix socket.
pub fn get(address: &str, path: &str) -> std::io::Result<Answer> {
    if address.starts_with('/') { over_unix(Path::new(address), "GET", path, TIMEOUT) } else { over_tcp(address, path) }
}

fn over_tcp(address: &str, path: &str) -> std::io::Result<Answer> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    talk(stream, "GET", path)
}

/// From a socket file, within this time.
pub fn over_unix(socket: &Path, method: &str, path: &str, patience: Duration) -> std::io::Result<Answer> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    talk(stream, method, path)
}

fn talk(mut stream: impl Read + Write, method: &str, path: &str) -> std::io::Result<Answer> {
    ask(&mut stream, method, path)?;
    read(&mut stream)
}

fn ask(stream: &mut impl Write, method: &str, path: &str) -> std::io::Result<()> {
    // 1.0: the answer ends with the connection, and comes in one piece. The request is written in one piece, too: a worker of a test
    // answers to what it reads first.
    stream.write_all(format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())
}

fn read(stream: &mut impl Read) -> std::io::Result<Answer> {
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let bad = || std::io::Error::other(format!("no HTTP answer: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(bad)?;
    Ok(Answer { status, body: body.to_owned() })
}

/// A request whose answer is awaited later; who drops it has gone away.
pub struct Asked(UnixStream);

impl Asked {
    /// Asks, and waits until the other side has read that.
    #[track_caller]
    pub fn post(socket: &Path, path: &str) -> Asked {
        let mut stream = UnixStream::connect(socket).expect("the control socket");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        ask(&mut stream, "POST", path).expect("written");
        eventually("the request is read", || (unread(&stream) == 0).then_some(()), String::new);
        Asked(stream)
    }

    /// The answer.
    pub fn answer(mut self) -> Answer {
        read(&mut self.0).expect("an answer")
    }
}

/// How much of what was written the other side has not read.
pub fn unread(stream: &UnixStream) -> i32 {
    let mut bytes = 0;
    // SAFETY: the kernel writes one int.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    bytes
}
