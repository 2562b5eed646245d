//! One client: connects, asks, judges the answer.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};

use super::answer;
use super::count::{Counts, Failure};
use super::pace::Pace;

/// Whether a client keeps its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    KeepAlive,
    New,
}

impl Class {
    pub const ALL: [Class; 2] = [Class::KeepAlive, Class::New];

    pub fn name(self) -> &'static str {
        match self {
            Class::KeepAlive => "keep-alive",
            Class::New => "new",
        }
    }
}

/// Where the server is.
#[derive(Clone, Debug)]
pub enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Target {
    pub async fn resolve(address: &str) -> io::Result<Self> {
        if address.contains('/') {
            return Ok(Target::Unix(address.into()));
        }
        let found = tokio::net::lookup_host(address).await?.next();
        found.map(Target::Tcp).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no address of that name"))
    }

    async fn connect(&self) -> io::Result<Stream> {
        match self {
            Target::Tcp(address) => TcpStream::connect(address).await.map(Stream::Tcp),
            Target::Unix(path) => loop {
                match UnixStream::connect(path).await {
                    // The queue is full; a blocking connect would wait here.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(Duration::from_millis(1)).await,
                    other => return other.map(Stream::Unix),
                }
            },
        }
    }
}

/// What all clients share.
pub struct Settings {
    pub target: Target,
    pub host: String,
    pub path: String,
    pub headers: Vec<String>,
    pub timeout: Duration,
    /// A kept connection that the server has closed before a request is sent is no failure.
    pub reconnect: bool,
    pub expect_status: u16,
    pub expect_body_prefix: Option<Vec<u8>>,
}

pub struct Client {
    class: Class,
    settings: Rc<Settings>,
    pace: Rc<Pace>,
    counts: Rc<RefCell<Counts>>,
    request: Vec<u8>,
    kept: Option<Stream>,
    buffer: Vec<u8>,
}

impl Client {
    pub fn new(class: Class, settings: Rc<Settings>, pace: Rc<Pace>, counts: Rc<RefCell<Counts>>) -> Self {
        let mut request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n", settings.path, settings.host);
        for header in &settings.headers {
            request.push_str(&format!("{header}\r\n"));
        }
        request.push_str(if class == Class::New { "Connection: close\r\n\r\n" } else { "\r\n" });
        Client { class, settings, pace, counts, request: request.into(), kept: None, buffer: Vec::with_capacity(16 << 10) }
    }

    pub async fn run(mut self) {
        let mut first = true;
        while let Some(due) = self.pace.next(first).await {
            first = false;
            if let Err((kind, detail)) = self.one(due).await {
                self.counts.borrow_mut().failed(kind, detail);
                if !self.settings.timeout.is_zero() {
                    tokio::time::sleep(Duration::from_millis(10)).await; // a closed loop must not spin on a dead server
                }
            }
        }
    }

    async fn one(&mut self, due: Instant) -> Result<(), (Failure, String)> {
        let limit = self.settings.timeout;
        let reconnect = self.settings.reconnect;
        let (mut stream, fresh) = match self.kept.take().filter(|stream| !reconnect || stream.is_open()) {
            Some(stream) => (stream, false),
            None => (self.connect(limit).await?, true),
        };
        self.buffer.clear();
        let exchange = timeout_at(Instant::now() + limit, exchange(&mut stream, &self.request, &mut self.buffer));
        let answer = match exchange.await {
            Err(_) => return Err((Failure::Timeout, format!("no whole answer in {limit:?}, {} bytes of it", self.buffer.len()))),
            Ok(Ok(answer)) => answer,
            Ok(Err(Broken::Wrong(text))) => return Err((Failure::WrongAnswer, text)),
            Ok(Err(Broken::Ended(error))) => {
                let text = error.as_ref().map_or_else(|| "end of file".to_owned(), ToString::to_string);
                let kind = match (&error, fresh) {
                    _ if !self.buffer.is_empty() => Failure::ShortAnswer,
                    (_, false) => Failure::StaleKeepAlive,
                    (Some(_), true) => Failure::Reset,
                    (None, true) => Failure::EndBeforeAnswer,
                };
                return Err((kind, format!("{text}, after {} bytes of the answer", self.buffer.len())));
            }
        };
        if answer.status != self.settings.expect_status {
            return Err((Failure::WrongStatus, format!("status {}", answer.status)));
        }
        if let Some(prefix) = &self.settings.expect_body_prefix
            && !answer.body.starts_with(prefix)
        {
            let shown = answer.body.get(..100).unwrap_or(&answer.body);
            return Err((Failure::WrongAnswer, format!("the body begins with {:?}", String::from_utf8_lossy(shown))));
        }
        if answer.len != self.buffer.len() {
            return Err((Failure::WrongAnswer, format!("{} bytes follow the answer", self.buffer.len() - answer.len)));
        }
        let mut counts = self.counts.borrow_mut();
        counts.answered(due, answer::who(&answer.body));
        if answer.close {
            counts.announced += 1;
        } else if self.class == Class::KeepAlive {
            self.kept = Some(stream);
        }
        Ok(())
    }

    async fn connect(&self, limit: Duration) -> Result<Stream, (Failure, String)> {
        let connected = timeout(limit, self.settings.target.connect()).await;
        self.counts.borrow_mut().connections += 1;
        match connected {
            Ok(Ok(stream)) => Ok(stream),
            Err(_) => Err((Failure::ConnectTimeout, format!("not connected in {limit:?}"))),
            Ok(Err(error)) => {
                let kind = match error.kind() {
                    io::ErrorKind::ConnectionRefused => Failure::ConnectRefused,
                    io::ErrorKind::ConnectionReset => Failure::ConnectReset,
                    io::ErrorKind::TimedOut => Failure::ConnectTimeout,
                    _ => Failure::ConnectOther,
                };
                Err((kind, error.to_string()))
            }
        }
    }
}

/// Why there is no whole answer.
enum Broken {
    /// The connection ended: with an error, or (`None`) with an end of file.
    Ended(Option<io::Error>),
    /// What came is not an answer.
    Wrong(String),
}

async fn exchange(stream: &mut Stream, request: &[u8], buffer: &mut Vec<u8>) -> Result<answer::Answer, Broken> {
    // An answer may be there though the write fails (the server answered and closed early): read first, judge then.
    let written = stream.write_all(request).await;
    loop {
        match stream.read_buf(buffer).await {
            Err(error) => return Err(Broken::Ended(Some(error))),
            Ok(0) => {
                return match answer::parse(buffer, true).map_err(Broken::Wrong)? {
                    Some(answer) => Ok(answer),
                    None => Err(Broken::Ended(written.err())),
                };
            }
            Ok(_) => {
                if let Some(answer) = answer::parse(buffer, false).map_err(Broken::Wrong)? {
                    return Ok(answer);
                }
            }
        }
    }
}

/// A connection to the server.
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Whether nothing has arrived: neither the end of the stream nor bytes that nobody asked for.
    fn is_open(&self) -> bool {
        let mut byte = [0];
        let read = match self {
            Stream::Tcp(stream) => stream.try_read(&mut byte),
            Stream::Unix(stream) => stream.try_read(&mut byte),
        };
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // sockets keep nothing back
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
