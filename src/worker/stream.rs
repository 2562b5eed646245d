//! An accepted connection as the server sees it: counts, tells whether a request is in work, closes without losing bytes.
//!
//! Law: a close never destroys an answer that is under way. Closing a socket with unread bytes makes the kernel send RST,
//! and RST throws away what the peer hasn't read yet; so we end our half first and read on until the peer ends its own.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::drain::Drain;

/// How long a peer may take to end its half after we ended ours.
const LINGER: Duration = Duration::from_secs(2);
/// What a peer may still send in that time; who sends more isn't waiting for an answer.
const LINGER_BYTES: usize = 1 << 20;

/// What is known of one connection; shared by its stream, its requests and the server.
#[derive(Debug)]
pub(super) struct State {
    pub(super) drain: Drain,
    /// Requests whose answer isn't complete.
    in_work: AtomicU32,
    /// Bytes of a request have come whose head isn't complete.
    head_begun: AtomicBool,
}

impl State {
    pub(super) fn new(drain: Drain) -> Arc<Self> {
        Arc::new(State { drain, in_work: AtomicU32::new(0), head_begun: AtomicBool::new(false) })
    }

    pub(super) fn request_begins(&self) {
        self.in_work.fetch_add(1, Ordering::Relaxed);
        self.head_begun.store(false, Ordering::Relaxed);
    }

    pub(super) fn request_ends(&self) {
        self.in_work.fetch_sub(1, Ordering::Relaxed);
        self.head_begun.store(false, Ordering::Relaxed);
    }

    /// Whether closing it now would cut a request off.
    pub(super) fn busy(&self) -> bool {
        self.in_work.load(Ordering::Relaxed) > 0 || self.head_begun.load(Ordering::Relaxed)
    }
}

pin_project_lite::pin_project! {
    /// The connection's stream.
    pub(super) struct Stream<IO> {
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

impl<IO> Stream<IO> {
    pub(super) fn new(io: IO, state: Arc<State>) -> Self {
        Stream { io, state, end: End::Open }
    }
}

impl<IO: AsyncRead> AsyncRead for Stream<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buf.filled().len();
        ready!(this.io.poll_read(cx, buf))?;
        if buf.filled().len() > before && this.state.in_work.load(Ordering::Relaxed) == 0 {
            this.state.head_begun.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite> AsyncWrite for Stream<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.project().io.poll_write(cx, buf)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.project().io.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_flush(cx)
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
