//! A helper process that drops the descriptors which other processes attach to datagrams (SCM_RIGHTS).
//!
//! Dropping the last reference to a file may block for long, or for ever: a socket with SO_LINGER, a memfd of gigabytes, a file on a
//! network file system. The kernel drops the descriptors of a datagram in the process that receives the datagram, or that closes
//! the socket. That process is the helper: if it blocks, another one is started.
//! The descriptors are never installed in a descriptor table, so no close(2), and no FLUSH of a file system, is called for them.
//!
//! The channel is a SOCK_SEQPACKET socket pair; the helper's end is its standard input. A request is one byte and a socket; the answer
//! is the same byte. The helper exits at the end of the channel, also when its parent was killed.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    Shutdown, SocketFlags, SocketType,
};
use rustix::time::Timespec;

use super::awaited::spawn_awaited;
use super::fd::{RESERVED_FD_BASE, dup_high};

/// The hidden command-line verb that runs the helper.
pub const VERB: &str = "discard-descriptors";

/// A request to the helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Receive and drop the next datagram.
    Next,
    /// Shut the socket down for senders, then receive and drop all datagrams.
    Rest,
}

impl Request {
    fn byte(self) -> u8 {
        match self {
            Request::Next => b'n',
            Request::Rest => b'r',
        }
    }
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The helper has carried out the request.
    Done,
    /// The time limit has passed; the helper may answer later.
    Late,
    /// The helper has exited.
    Gone,
}

/// The parent's end of the channel. When it is dropped, the helper exits as soon as its current system call returns.
#[derive(Debug)]
pub struct Helper {
    channel: OwnedFd,
}

impl Helper {
    /// Starts the helper from the executable of this process. Blocks until exec(2), so a thread that must not wait must not call it.
    ///
    /// # Errors
    /// No descriptor, process or memory is left, or the executable cannot be executed.
    pub fn start() -> io::Result<Helper> {
        let (near, far) = channel()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg(VERB).env_clear().current_dir("/");
        command.stdin(Stdio::from(far)).stdout(Stdio::null()).stderr(Stdio::null());
        // The loop reaps the helper, as it reaps every child that no thread waits for.
        spawn_awaited(&mut command)?;
        Ok(Helper { channel: dup_high(near, RESERVED_FD_BASE) })
    }

    /// Sends a request; [`Helper::wait`] returns the answer.
    ///
    /// # Errors
    /// The helper has exited.
    pub fn ask(&self, request: Request, socket: BorrowedFd<'_>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let sockets = [socket];
        control.push(SendAncillaryMessage::ScmRights(&sockets));
        rustix::net::sendmsg(&self.channel, &[IoSlice::new(&[request.byte()])], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for the answer to a request, at most `limit`.
    pub fn wait(&self, limit: Duration) -> Answer {
        let timeout = Timespec::try_from(limit).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        match rustix::event::poll(&mut [PollFd::new(&self.channel, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => return Answer::Late,
            _ => {}
        }
        match rustix::net::recv(&self.channel, &mut [0u8; 1], RecvFlags::DONTWAIT) {
            Ok((1, _)) => Answer::Done,
            Err(Errno::AGAIN | Errno::INTR) => Answer::Late,
            _ => Answer::Gone,
        }
    }
}

fn channel() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// The helper: serves requests until the channel ends.
///
/// # Errors
/// The channel is not a socket, or its peer is gone.
pub fn serve(channel: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        let mut byte = [0u8; 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(channel, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC);
        match received {
            Ok(received) if received.bytes == 0 => return Ok(()),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let sockets = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
            _ => None,
        });
        for socket in sockets.flatten() {
            carry_out(if byte == [Request::Rest.byte()] { Request::Rest } else { Request::Next }, socket.as_fd());
        }
        rustix::net::send(channel, &byte, SendFlags::NOSIGNAL)?;
    }
}

/// Runs the helper on standard input, in a session of its own, so that signals of a terminal reach only its parent.
pub fn main() -> io::Result<()> {
    let _ = rustix::process::setsid();
    serve(rustix::stdio::stdin())
}

/// Carries out a request in this process; may never return.
pub fn carry_out(request: Request, socket: BorrowedFd<'_>) {
    match request {
        Request::Next => {
            let _ = skip(socket);
        }
        Request::Rest => {
            let _ = rustix::net::shutdown(socket, Shutdown::Read);
            while skip(socket).unwrap_or(false) {}
        }
    }
}

/// Receives the next datagram and drops it; `false` when there is none, and at the end of a SOCK_SEQPACKET connection, where recv(2)
/// returns 0 without end.
///
/// # Errors
/// As recv(2).
pub fn skip(socket: BorrowedFd<'_>) -> io::Result<bool> {
    loop {
        return match rustix::net::recv(socket, &mut [0u8; 1], RecvFlags::DONTWAIT) {
            Ok((0, _)) => Ok(rustix::net::sockopt::socket_type(socket)? == SocketType::DGRAM),
            Ok(_) => Ok(true),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(error.into()),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn helper_takes_the_next_datagram_or_all() {
        let (near, far) = channel().expect("a channel");
        let thread = std::thread::spawn(move || serve(far.as_fd()));
        let helper = Helper { channel: near };
        let (socket, peer) = UnixDatagram::pair().expect("a pair");
        socket.set_nonblocking(true).expect("a flag");
        for text in ["one", "two", "", "three"] {
            peer.send(text.as_bytes()).expect("room");
        }
        let mut buffer = [0; 8];
        helper.ask(Request::Next, socket.as_fd()).expect("it serves");
        assert_eq!(helper.wait(LONG), Answer::Done);
        assert_eq!(socket.recv(&mut buffer).expect("the second"), 3);
        assert_eq!(&buffer[..3], b"two");
        assert_eq!(helper.wait(Duration::ZERO), Answer::Late);
        helper.ask(Request::Rest, socket.as_fd()).expect("it serves");
        assert_eq!(helper.wait(LONG), Answer::Done);
        assert_eq!(socket.recv(&mut buffer).map_err(|error| error.kind()), Err(io::ErrorKind::WouldBlock));
        assert!(peer.send(b"four").is_err(), "nobody can send any more");
        drop(helper);
        thread.join().expect("no panic").expect("the end of the channel is no error");
    }

    #[test]
    fn carry_out_ends_at_the_end_of_a_connection() {
        let (socket, peer) = channel().expect("a pair");
        rustix::net::send(&peer, b"one", SendFlags::NOSIGNAL).expect("room");
        drop(peer);
        carry_out(Request::Rest, socket.as_fd());
        assert!(!skip(socket.as_fd()).expect("a socket"));
    }

    #[test]
    fn helper_that_exits_is_gone() {
        let (near, far) = channel().expect("a channel");
        drop(far);
        let helper = Helper { channel: near };
        assert_eq!(helper.wait(LONG), Answer::Gone);
        let (socket, _peer) = UnixDatagram::pair().expect("a pair");
        assert!(helper.ask(Request::Next, socket.as_fd()).is_err());
    }
}
