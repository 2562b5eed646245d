//! An accepted connection: counts its bytes, knows whether a request is in work, and closes without losing bytes.
//!
//! Law: a close never destroys an answer that is under way. When a socket with unread bytes is closed, the kernel sends RST, and the
//! peer's kernel discards what the peer has not read yet. So this side shuts down writing first and reads until the peer does the same.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::Sleep;

use super::board::board;
use super::drain::Drain;
use super::draining;
use crate::scoreboard::connection::{self, Head, Stage};

/// How long the peer may take to shut down its half after this side has shut down writing.
const LINGER: Duration = Duration::from_secs(2);
/// Bytes that the peer may still send in that time. A peer that sends more is not waiting for an answer.
const LINGER_BYTES: usize = 1 << 20;

/// In [`State::in_work`]: one answer that only needs to be flushed.
const UNFLUSHED: u64 = 1 << 32;

/// State of one connection, shared by its stream, its requests and the server.
#[derive(Debug)]
pub(super) struct State {
    pub(super) drain: Drain,
    pub(super) shown: connection::Connection,
    /// Whether the stream is a [`Connection`], which reports when all written bytes are with the kernel.
    flushes: bool,
    /// Number of requests whose answer isn't complete, plus [`UNFLUSHED`] for each of them whose answer only needs to be flushed.
    in_work: AtomicU64,
    /// Whether bytes of a request were read whose head isn't complete.
    head_begun: AtomicBool,
    /// The server waits until all senders are dropped. An upgraded connection keeps its sender after its HTTP has ended.
    _alive: Option<mpsc::Sender<Infallible>>,
}

impl State {
    pub(super) fn new(
        drain: Drain,
        shown: connection::Connection,
        flushes: bool,
        alive: Option<mpsc::Sender<Infallible>>,
    ) -> Arc<Self> {
        let (in_work, head_begun) = Default::default();
        Arc::new(State { drain, shown, flushes, in_work, head_begun, _alive: alive })
    }

    /// Begins a request; returns its number on this connection.
    #[inline]
    pub(super) fn request_begins(&self, head: Head<'_>) -> u64 {
        self.in_work.fetch_add(1, Relaxed);
        self.head_begun.store(false, Relaxed);
        self.shown.begin(head)
    }

    /// Ends a request: its whole answer was passed to the HTTP server (`Finished`), or will never be complete (`Aborted`).
    #[inline]
    pub(super) fn request_ends(&self, stage: Stage) {
        if self.flushes && stage == Stage::Finished {
            self.in_work.fetch_add(UNFLUSHED, Relaxed);
        } else {
            self.done(1, stage);
        }
    }

    #[inline]
    fn flushed(&self) {
        // Most flushes complete no answer.
        let unflushed = self.in_work.load(Relaxed) / UNFLUSHED;
        if unflushed > 0 {
            self.done(unflushed * (UNFLUSHED + 1), Stage::Finished);
        }
    }

    /// Subtracts `over` from `in_work`; shows `stage` when no request is left.
    fn done(&self, over: u64, stage: Stage) {
        self.head_begun.store(false, Relaxed);
        if self.in_work.fetch_sub(over, Relaxed) == over {
            self.shown.stage(stage);
        }
    }

    /// Whether closing the connection now would cut off a request.
    #[inline]
    pub(super) fn busy(&self) -> bool {
        self.in_work.load(Relaxed) > 0 || self.head_begun.load(Relaxed)
    }
}

pin_project_lite::pin_project! {
    /// A stream that is shown on the scoreboard and closes without losing bytes, for servers that accept by themselves
    /// ([`serve`](super::serve) wraps its own connections).
    ///
    /// The connection's [`layer`](Connection::layer) tracks its requests.
    pub struct Connection<IO> {
        #[pin]
        io: IO,
        state: Arc<State>,
        end: End,
    }
}

/// Progress of the close.
enum End {
    /// The close has not begun.
    Open,
    /// Writing is shut down; `seen` bytes were read and discarded since.
    HalfClosed { seen: usize, patience: Option<Pin<Box<Sleep>>> },
    /// Both halves are shut down, or the wait for the peer was given up.
    Done,
}

impl<IO> Connection<IO> {
    /// Wraps a connection that was just accepted. `peer`: the peer's address, if it has one.
    pub fn new(io: IO, peer: Option<SocketAddr>) -> Self {
        let shown = connection::Connection::new(board().clone(), peer);
        Self::of(io, State::new(draining().clone(), shown, true, None))
    }

    pub(super) fn of(io: IO, state: Arc<State>) -> Self {
        Connection { io, state, end: End::Open }
    }

    pub(super) fn state(&self) -> &Arc<State> {
        &self.state
    }
}

impl<IO: AsyncRead> AsyncRead for Connection<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buf.filled().len();
        ready!(this.io.poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        if read > 0 {
            this.state.shown.read(read);
            if this.state.in_work.load(Relaxed) == 0 {
                this.state.head_begun.store(true, Relaxed);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite> AsyncWrite for Connection<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.project();
        let wrote = ready!(this.io.poll_write(cx, buf))?;
        this.state.shown.wrote(wrote);
        Poll::Ready(Ok(wrote))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.project();
        let wrote = ready!(this.io.poll_write_vectored(cx, bufs))?;
        this.state.shown.wrote(wrote);
        Poll::Ready(Ok(wrote))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        ready!(this.io.poll_flush(cx))?;
        this.state.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        if let End::Open = this.end {
            ready!(this.io.as_mut().poll_shutdown(cx))?;
            *this.end = End::HalfClosed { seen: 0, patience: None };
        }
        let End::HalfClosed { seen, patience } = this.end else { return Poll::Ready(Ok(())) };
        let mut scratch = [std::mem::MaybeUninit::uninit(); 4096];
        loop {
            let mut buf = ReadBuf::uninit(&mut scratch);
            match this.io.as_mut().poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() && *seen < LINGER_BYTES => *seen += buf.filled().len(),
                // End of file, an error, or too many bytes.
                Poll::Ready(_) => break,
                // Nothing is unread, so a close sends RST only for bytes that arrive later. Only a drain waits for
                // those, since there the peer did not expect the close.
                Poll::Pending if *seen == 0 && !this.state.drain.is_draining() => break,
                Poll::Pending => {
                    let patience = patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
                    ready!(patience.as_mut().poll(cx));
                    break;
                }
            }
        }
        *this.end = End::Done;
        Poll::Ready(Ok(()))
    }
}
