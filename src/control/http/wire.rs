//! A peer's connection, with timeouts in both directions.
//!
//! Law: no peer holds a connection without use. The head of a request must arrive within [`HEAD_TIMEOUT`] of its first byte, an idle
//! connection ends after [`IDLE_TIMEOUT`], and a reader must keep reading. There is no limit while a request is being answered,
//! because a reload may take any time.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep, sleep_until};

/// Timeout for the head of a request.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout between two requests of a connection.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout for a reader to take [`WRITE_STEP`] bytes once the kernel's buffer is full.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes, see [`WRITE_TIMEOUT`].
const WRITE_STEP: usize = 64 * 1024;

/// The most bytes that are read at once. hyper doubles a connection's buffer whenever one read fills it, and never shrinks it. With
/// reads below the 8 KiB of the initial buffer, only a long head makes it grow.
const READ: usize = 4 * 1024;
/// Bytes of an answer after which the write yields to the loop: the reader may take a large answer as fast as it is written.
const BURST: usize = 128 * 1024;

/// The socket. It is shared, so that a handler can watch it while hyper reads and writes.
pub enum Stream {
    /// On the control socket.
    Unix(UnixStream),
    /// On `status.listen`.
    Tcp(TcpStream),
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Unix(stream) => stream.as_fd(),
            Stream::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Stream {
    /// Resolves as soon as the peer has closed the connection, wholly or in one direction, even behind bytes that are not read yet
    /// (hyper itself does not look past those).
    pub async fn gone(&self) {
        // No peer sends priority data here, so this interest alone is woken only by the end of the connection.
        let _ = match self {
            Stream::Unix(stream) => stream.ready(Interest::PRIORITY).await,
            Stream::Tcp(stream) => stream.ready(Interest::PRIORITY).await,
        };
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Unix(stream) => stream.poll_read_ready(cx),
            Stream::Tcp(stream) => stream.poll_read_ready(cx),
        }
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Unix(stream) => stream.poll_write_ready(cx),
            Stream::Tcp(stream) => stream.poll_write_ready(cx),
        }
    }

    /// Reads the bytes that have arrived, or waits for some.
    pub async fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            poll_fn(|cx| self.poll_read_ready(cx)).await?;
            match self.try_read(into) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                read => return read,
            }
        }
    }

    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.try_read(into),
            Stream::Tcp(stream) => stream.try_read(into),
        }
    }

    /// Writes as many bytes as fit now.
    pub fn try_write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.try_write_vectored(parts),
            Stream::Tcp(stream) => stream.try_write_vectored(parts),
        }
    }

    /// Closes the sending side.
    pub fn shutdown(&self) -> io::Result<()> {
        use rustix::net::{Shutdown, shutdown};
        match self {
            Stream::Unix(stream) => shutdown(stream, Shutdown::Write)?,
            Stream::Tcp(stream) => shutdown(stream, Shutdown::Write)?,
        }
        Ok(())
    }
}

/// The state of a connection: whether a request is being answered. The handler sets it, the [`Wire`] reads it.
#[derive(Default)]
pub struct ConnState {
    serving: AtomicBool,
    served: AtomicU32,
    /// The request waits for the loop, which itself keeps track of the answers that it has to give.
    asking: AtomicBool,
    /// The peer does not read the bytes that are to be written.
    blocked: AtomicBool,
    /// The answer is a stream without an end (events).
    endless: AtomicBool,
}

impl ConnState {
    /// Marks that the head of a request has arrived. The guard lives until the answer has been passed on.
    pub fn begin(self: &Arc<Self>) -> Serving {
        self.serving.store(true, Ordering::Relaxed);
        Serving(Arc::clone(self))
    }

    /// Marks the present answer as a stream without an end.
    pub fn set_endless(&self) {
        self.endless.store(true, Ordering::Relaxed);
    }

    /// Marks the request as waiting for the loop, until the guard is dropped.
    pub fn ask(&self) -> Asking<'_> {
        self.asking.store(true, Ordering::Relaxed);
        Asking(self)
    }

    /// Whether an answer, or the first request, is still to come.
    pub fn is_busy(&self) -> bool {
        let waits = self.serving.load(Ordering::Relaxed) || self.blocked.load(Ordering::Relaxed);
        let known = self.endless.load(Ordering::Relaxed) || self.asking.load(Ordering::Relaxed);
        !known && (waits || self.served.load(Ordering::Relaxed) == 0)
    }
}

/// See [`ConnState::ask`].
pub struct Asking<'a>(&'a ConnState);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.asking.store(false, Ordering::Relaxed);
    }
}

/// See [`ConnState::begin`].
pub struct Serving(Arc<ConnState>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.served.fetch_add(1, Ordering::Relaxed);
        self.0.serving.store(false, Ordering::Relaxed);
    }
}

/// The stream from which hyper reads and to which it writes.
pub struct Wire {
    stream: Arc<Stream>,
    turn: Arc<ConnState>,
    /// The value of `turn.served` for which `read_by` holds.
    waiting_for: u32,
    head_begun: bool,
    read_by: Option<Pin<Box<Sleep>>>,
    /// The value of `turn.served` for which `write_by` holds.
    writing_for: u32,
    write_by: Option<Pin<Box<Sleep>>>,
    /// Bytes written since the last yield to the loop.
    burst: usize,
    written: usize,
}

impl Wire {
    /// A wire for a new connection. The head of the first request must come within [`HEAD_TIMEOUT`].
    pub fn new(stream: Arc<Stream>, turn: Arc<ConnState>) -> Self {
        let read_by = Some(Box::pin(sleep_until(Instant::now() + HEAD_TIMEOUT)));
        Wire { stream, turn, waiting_for: 0, head_begun: true, read_by, writing_for: 0, write_by: None, written: 0, burst: 0 }
    }

    fn has_read(&mut self) {
        let served = self.turn.served.load(Ordering::Relaxed);
        if !self.turn.serving.load(Ordering::Relaxed) && (!self.head_begun || served != self.waiting_for) {
            self.waiting_for = served;
            self.head_begun = true;
            self.read_by = Some(Box::pin(sleep_until(Instant::now() + HEAD_TIMEOUT)));
        }
    }

    /// Checks the read timeout when there is nothing to read.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.turn.serving.load(Ordering::Relaxed) {
            self.read_by = None;
            return Poll::Pending;
        }
        let served = self.turn.served.load(Ordering::Relaxed);
        if served != self.waiting_for || self.read_by.is_none() {
            self.waiting_for = served;
            self.head_begun = false;
            self.read_by = Some(Box::pin(sleep_until(Instant::now() + IDLE_TIMEOUT)));
        }
        if let Some(read_by) = &mut self.read_by {
            ready!(read_by.as_mut().poll(cx));
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no request came in time")))
    }

    fn poll_write_parts(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let served = self.turn.served.load(Ordering::Relaxed);
        if served != self.writing_for {
            self.writing_for = served;
            self.written = 0;
            self.write_by = None;
        }
        if self.burst >= BURST {
            self.burst = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            match self.stream.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.turn.blocked.store(true, Ordering::Relaxed);
                    let write_by = self.write_by.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + WRITE_TIMEOUT)));
                    ready!(write_by.as_mut().poll(cx));
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read")));
                }
            }
            match self.stream.try_write(parts) {
                Ok(count) => {
                    self.turn.blocked.store(false, Ordering::Relaxed);
                    self.burst += count;
                    self.written += count;
                    if self.written >= WRITE_STEP {
                        self.written = 0;
                        self.write_by = None;
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match this.stream.poll_read_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return this.poll_patience(cx),
            }
            let room = into.remaining().min(READ);
            match this.stream.try_read(into.initialize_unfilled_to(room)) {
                Ok(count) => {
                    into.advance(count);
                    this.has_read();
                    return Poll::Ready(Ok(()));
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_parts(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_parts(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.shutdown())
    }
}
