//! The connection's socket, and the moments at which another program can go on with it.
//!
//! Law: a connection changes programs between two messages, in both directions: what is half read or half written is
//! nobody's. Where that is, is known by counting; when it is not known, the connection does not change programs.
//!
//! It does not offer to pass descriptors: so the bus keeps a caller's descriptors away from us, who has no use for them
//! and could be made to run out of them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::UnixStream;
use tokio::sync::watch;
use zbus::connection::socket::{ReadHalf, Socket, Split, WriteHalf};
use zbus::export::async_trait::async_trait;

/// What both directions of a connection share.
#[derive(Debug)]
pub(super) struct BusSocket {
    stream: UnixStream,
    /// Nothing more is to be read from the next message on.
    held: watch::Sender<bool>,
    /// The reader stands before a message and reads nothing.
    rests: watch::Sender<bool>,
    place: Mutex<Place>,
    /// Calls of methods that were read whole.
    calls: AtomicU64,
    /// A message is written in part.
    midway: AtomicBool,
}

impl BusSocket {
    /// Of a new connection, which is still to be authenticated.
    pub fn new(stream: UnixStream) -> Arc<BusSocket> {
        BusSocket::at(stream, Place::Unknown)
    }

    /// Of one that another program has left between two messages; nothing is read until it is let go on.
    pub fn resumed(stream: UnixStream) -> Arc<BusSocket> {
        let line = BusSocket::at(stream, Place::Before);
        line.hold(true);
        line
    }

    fn at(stream: UnixStream, place: Place) -> Arc<BusSocket> {
        Arc::new(BusSocket {
            stream,
            held: watch::Sender::new(false),
            rests: watch::Sender::new(false),
            place: Mutex::new(place),
            calls: AtomicU64::new(0),
            midway: AtomicBool::new(false),
        })
    }

    /// The connection is authenticated: messages come from now on.
    pub fn authenticated(&self) {
        *self.place() = Place::Before;
    }

    /// Reads nothing more from the next message on, or again.
    pub fn hold(&self, hold: bool) {
        self.held.send_replace(hold);
        if !hold {
            self.rests.send_replace(false);
        }
    }

    /// Waits until nothing is read any more; for ever without [`Self::hold`].
    pub async fn at_rest(&self) {
        let _ = self.rests.subscribe().wait_for(|rests| *rests).await;
    }

    /// Calls of methods that were read.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Both directions are between two messages, and stay there for now.
    pub fn is_between(&self) -> bool {
        *self.rests.borrow() && !self.midway.load(Ordering::Relaxed)
    }

    /// A copy of the socket, close-on-exec.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        self.stream.as_fd().try_clone_to_owned()
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.stream.readable().await?;
            match self.stream.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

/// Where in the stream of messages the next byte belongs.
#[derive(Debug, PartialEq)]
enum Place {
    /// It is not known.
    Unknown,
    /// Before a message.
    Before,
    /// In a message's first 16 bytes, of which these were read.
    Head(Vec<u8>),
    /// So many bytes before its end; whether it is a call.
    Body(usize, bool),
}

/// The part of a message that says how long it is.
const HEAD: usize = 16;

impl Place {
    /// These bytes were read, where `wanted` had been asked for; `true` when a call is whole by now.
    fn read(&mut self, wanted: usize, bytes: &[u8]) -> bool {
        let (left, call) = match std::mem::replace(self, Place::Unknown) {
            Place::Unknown => return false,
            // zbus asks for the head first and alone. Else it is the rest of what came with the authentication.
            Place::Before if wanted > HEAD => (wanted, false),
            Place::Before if wanted < HEAD => return false,
            Place::Before => return self.head(bytes.to_vec()),
            Place::Head(mut head) => {
                head.extend(bytes);
                return self.head(head);
            }
            Place::Body(left, call) => (left, call),
        };
        match left.checked_sub(bytes.len()) {
            Some(0) => {
                *self = Place::Before;
                call
            }
            Some(left) => {
                *self = Place::Body(left, call);
                false
            }
            None => false,
        }
    }

    fn head(&mut self, head: Vec<u8>) -> bool {
        *self = match <[u8; HEAD]>::try_from(head) {
            Err(part) => Place::Head(part),
            Ok(head) => body(&head).unwrap_or(Place::Unknown),
        };
        false
    }
}

/// What follows a message's head, as the D-Bus specification has it ("Message Format").
fn body(head: &[u8; HEAD]) -> Option<Place> {
    let number = |at: usize| {
        let bytes = head[at..at + 4].try_into().ok()?;
        match head[0] {
            b'l' => Some(u32::from_le_bytes(bytes)),
            b'B' => Some(u32::from_be_bytes(bytes)),
            _ => None,
        }
    };
    let (kind, version) = (head[1], head[3]);
    let (body, fields) = (number(4)? as usize, number(12)? as usize);
    (version == 1).then(|| Place::Body(fields.next_multiple_of(8).saturating_add(body), kind == 1))
}

/// The socket as zbus takes it.
#[derive(Debug)]
pub(super) struct Wire(pub Arc<BusSocket>);

impl Socket for Wire {
    type ReadHalf = Reading;
    type WriteHalf = Writing;

    fn split(self) -> Split<Reading, Writing> {
        Split::new(Reading(self.0.clone()), Writing(self.0))
    }
}

#[derive(Debug)]
pub(super) struct Reading(Arc<BusSocket>);

#[async_trait]
impl ReadHalf for Reading {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let line = &self.0;
        let wanted = buffer.len();
        let mut held = line.held.subscribe();
        loop {
            let before = *line.place() == Place::Before;
            if before && *held.borrow_and_update() {
                line.rests.send_replace(true);
                let _ = held.changed().await;
                continue;
            }
            tokio::select! {
                biased;
                _ = held.changed(), if before => {}
                read = line.read(buffer) => {
                    let read = read?;
                    if line.place().read(wanted, &buffer[..read]) {
                        line.calls.fetch_add(1, Ordering::Relaxed);
                    }
                    return Ok((read, Vec::new()));
                }
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Writing(Arc<BusSocket>);

#[async_trait]
impl WriteHalf for Writing {
    async fn sendmsg(&mut self, buffer: &[u8], _: &[BorrowedFd<'_>]) -> io::Result<usize> {
        loop {
            self.0.stream.writable().await?;
            match self.0.stream.try_write(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    // What is left of it comes with the next call.
                    self.0.midway.store(result.as_ref().is_ok_and(|written| *written < buffer.len()), Ordering::Relaxed);
                    return result;
                }
            }
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn close(&mut self) -> io::Result<()> {
        rustix::net::shutdown(&self.0.stream, rustix::net::Shutdown::Both)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use zbus::Message;

    use super::*;

    fn call(text: &str) -> Vec<u8> {
        Message::method_call("/org/ratoon1", "Reload").build(&text).unwrap().data().bytes().to_vec()
    }

    fn signal(text: &str) -> Vec<u8> {
        let signal = Message::signal("/org/ratoon1", "org.ratoon1.Manager", "ReloadStarted");
        signal.build(&text).unwrap().data().bytes().to_vec()
    }

    /// Reads as zbus does, in pieces of at most `piece` bytes; how many calls there were.
    fn read(place: &mut Place, mut bytes: &[u8], piece: usize) -> u32 {
        let mut calls = 0;
        let mut wanted = HEAD;
        let mut total = 0;
        let mut at = 0;
        while !bytes.is_empty() {
            if at == 0 {
                let head: &[u8; HEAD] = bytes[..HEAD].try_into().unwrap();
                let Some(Place::Body(rest, _)) = body(head) else { panic!("no head") };
                (wanted, total) = (HEAD, HEAD + rest);
            }
            if at == HEAD {
                wanted = total - HEAD;
            }
            let now = wanted.min(piece);
            calls += u32::from(place.read(wanted, &bytes[..now]));
            bytes = &bytes[now..];
            (at, wanted) = (at + now, wanted - now);
            if at == total {
                at = 0;
                assert_eq!(*place, Place::Before);
            } else {
                assert_ne!(*place, Place::Before, "{at} of {total}");
            }
        }
        calls
    }

    #[test]
    fn the_moments_between_messages_are_known_in_pieces_of_every_size() {
        let stream = [call(""), signal("x"), call(&"long ".repeat(100))].concat();
        for piece in 1..stream.len() {
            assert_eq!(read(&mut Place::Before, &stream, piece), 2, "{piece}");
        }
    }

    #[test]
    fn what_is_no_message_is_never_between_two() {
        for bytes in [[0; HEAD], [b'l'; HEAD]] {
            let mut place = Place::Before;
            assert!(!place.read(HEAD, &bytes));
            assert_eq!(place, Place::Unknown);
            assert!(!place.read(HEAD, &bytes));
            assert_eq!(place, Place::Unknown);
        }
        // The rest of a message that began while the connection was authenticated.
        let mut place = Place::Before;
        assert!(!place.read(100, &[0; 60]));
        assert!(!place.read(40, &[0; 40]));
        assert_eq!(place, Place::Before);
        assert!(!place.read(4, &[0; 4]));
        assert_eq!(place, Place::Unknown);
    }
}
