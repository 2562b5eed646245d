//! An accepted connection as the server sees it: counts, tells whether a request is in work, closes without losing bytes.
//!
//! Law: a close never destroys an answer that is under way. Closing a socket with unread bytes makes the kernel send RST,
//! and RST throws away what the peer hasn't read yet; so we end our half first and read on until the peer ends its own.

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
use super::track::Layer;
use crate::scoreboard::writer::{self, Head, Stage};

/// How long a peer may take to end its half after we ended ours.
const LINGER: Duration = Duration::from_secs(2);
/// What a peer may still send in that time; who sends more isn't waiting for an answer.
const LINGER_BYTES: usize = 1 << 20;

/// See [`State::in_work`].
const UNFLUSHED: u64 = 1 << 32;

/// What is known of one connection; shared by its stream, its requests and the server.
#[derive(Debug)]
pub(super) struct State {
    pub(super) drain: Drain,
    pub(super) shown: writer::Connection,
    /// The stream is ours, and tells when all that was written is with the kernel.
    flushes: bool,
    /// Requests whose answer isn't complete; in units of [`UNFLUSHED`], those of them whose answer only needs to be flushed.
    in_work: AtomicU64,
    /// Bytes of a request have come whose head isn't complete.
    head_begun: AtomicBool,
    /// The server waits until all are gone; an upgraded connection lives on after its HTTP.
    _alive: Option<mpsc::Sender<Infallible>>,
}

impl State {
    pub(super) fn new(
        drain: Drain,
        shown: writer::Connection,
        flushes: bool,
        alive: Option<mpsc::Sender<Infallible>>,
    ) -> Arc<Self> {
        let (in_work, head_begun) = Default::default();
        Arc::new(State { drain, shown, flushes, in_work, head_begun, _alive: alive })
    }

    /// Gives the request's number on this connection.
    #[inline]
    pub(super) fn request_begins(&self, head: Head<'_>) -> u64 {
        self.in_work.fetch_add(1, Relaxed);
        self.head_begun.store(false, Relaxed);
        self.shown.begin(head)
    }

    /// Its answer is in the server's hands (`Finished`), or will never be complete (`Aborted`).
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
        // Most flushes have nothing to tell.
        let unflushed = self.in_work.load(Relaxed) / UNFLUSHED;
        if unflushed > 0 {
            self.done(unflushed * (UNFLUSHED + 1), Stage::Finished);
        }
    }

    /// `over`: what is taken from `in_work`.
    fn done(&self, over: u64, stage: Stage) {
        self.head_begun.store(false, Relaxed);
        if self.in_work.fetch_sub(over, Relaxed) == over {
            self.shown.stage(stage);
        }
    }

    /// Whether closing it now would cut a request off.
    #[inline]
    pub(super) fn busy(&self) -> bool {
        self.in_work.load(Relaxed) > 0 || self.head_begun.load(Relaxed)
    }
}

pin_project_lite::pin_project! {
    /// A connection's stream that is shown on the scoreboard and closes in good order; for servers that accept by
    /// themselves ([`serve`](super::serve) does it for its own).
    ///
    /// Its [`layer`](Connection::layer) tracks the requests that come over it.
    pub struct Connection<IO> {
        #[pin]
        io: IO,
        state: Arc<State>,
        end: End,
    }
}

/// How far the close has come.
enum End {
    /// Not asked for.
    Open,
    /// Our half is ended; so many bytes were thrown away since.
    HalfClosed { seen: usize, patience: Option<Pin<Box<Sleep>>> },
    /// Both halves are ended, or we gave up.
    Done,
}

impl<IO> Connection<IO> {
    /// Wraps a connection that was just accepted. `peer`: its address, if it has one.
    pub fn new(io: IO, peer: Option<SocketAddr>) -> Self {
        let shown = writer::Connection::new(board().clone(), peer);
        Self::of(io, State::new(draining().clone(), shown, true, None))
    }

    pub(super) fn of(io: IO, state: Arc<State>) -> Self {
        Connection { io, state, end: End::Open }
    }

    /// For the service that serves this connection, and no other.
    pub fn layer(&self) -> Layer {
        Layer::of(self.state.clone())
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
                // The peer's end, an error, or too much.
                Poll::Ready(_) => break,
                // Nothing unread: a close sends no RST, but for what comes later; only a drain must care for that,
                // since its peers did not ask for the close.
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
