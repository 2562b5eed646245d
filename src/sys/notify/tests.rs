use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;

use super::*;
use crate::sys::credentials::{own_gid, own_uid};
use crate::sys::poll::Poll;
use crate::sys::testing::*;

struct Bench {
    _directory: tempfile::TempDir,
    path: std::path::PathBuf,
    socket: NotifySocket,
}

impl Bench {
    fn new() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = NotifySocket::bind(&path, None).unwrap();
        Bench { _directory: directory, path, socket }
    }

    fn sender(&self) -> Systemd {
        Systemd::new(self.path.as_os_str()).unwrap()
    }

    /// The text of the next datagram, how many descriptors came with it, and whether it was longer.
    fn next(&self) -> Option<(String, usize, bool)> {
        let mut buffer = [0; MESSAGE_MAX];
        let received = self.socket.receive(&mut buffer).unwrap()?;
        assert_eq!((received.uid, received.pid), (Some(own_uid()), Some(std::process::id())));
        Some((String::from_utf8_lossy(received.bytes).into_owned(), received.fds, received.truncated))
    }
}

#[test]
fn a_message_with_its_sender() {
    let bench = Bench::new();
    assert_eq!(bench.next(), None);
    assert!(bench.sender().send("READY=1\nSTATUS=up").unwrap());
    assert!(bench.sender().send("").unwrap());
    assert_eq!(bench.next(), Some(("READY=1\nSTATUS=up".to_owned(), 0, false)));
    assert_eq!(bench.next(), Some((String::new(), 0, false)));
    assert_eq!(bench.next(), None);
}

#[test]
fn the_file_is_for_its_owner_alone() {
    let bench = Bench::new();
    assert_eq!(std::fs::symlink_metadata(&bench.path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(is_close_on_exec(&bench.socket));
    let other = bench.path.with_extension("other");
    if rustix::process::geteuid().is_root() {
        let _socket = NotifySocket::bind(&other, Some((65534, 65533))).unwrap();
        let file = std::fs::symlink_metadata(&other).unwrap();
        assert_eq!((file.uid(), file.gid()), (65534, 65533));
    } else {
        let refused = NotifySocket::bind(&other, Some((0, 0))).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    }
    assert!(NotifySocket::bind(&bench.path.with_extension("own"), Some((own_uid(), own_gid()))).is_ok());
}

#[test]
fn a_stale_file_is_replaced_and_nothing_else_is() {
    let Bench { _directory, path, socket } = Bench::new();
    drop(socket);
    assert!(path.exists(), "never removed by us");
    let again = NotifySocket::bind(&path, None).unwrap();
    assert!(Systemd::new(path.as_os_str()).unwrap().send("READY=1").unwrap());
    assert!(again.receive(&mut [0; 64]).unwrap().is_some());
    std::fs::write(path.with_extension("txt"), "mine").unwrap();
    assert_eq!(NotifySocket::bind(&path.with_extension("txt"), None).unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
}

#[test]
fn a_path_that_is_too_long_is_said_clearly() {
    let path = format!("/tmp/{}", "x".repeat(103));
    let message = NotifySocket::bind(path.as_ref(), None).unwrap_err().to_string();
    assert!(message.contains("at most 107 bytes, this one 108") && message.contains(&path), "{message}");
    assert!(NotifySocket::bind("relative".as_ref(), None).is_err());
    for value in ["", "@", "vsock:2:1234", &format!("@{}", "x".repeat(200))] {
        assert!(Systemd::new(value.as_ref()).is_err(), "{value:?}");
    }
}

#[test]
fn a_long_message_is_cut_and_says_so() {
    let bench = Bench::new();
    let long = "x".repeat(MESSAGE_MAX);
    assert!(bench.sender().send(&long).unwrap());
    assert!(bench.sender().send(&format!("{long}y")).unwrap());
    assert_eq!(bench.next(), Some((long.clone(), 0, false)));
    assert_eq!(bench.next(), Some((long, 0, true)));
    // A larger buffer doesn't raise the limit.
    assert!(bench.sender().send(&"x".repeat(2 * MESSAGE_MAX)).unwrap());
    let mut buffer = [0; 3 * MESSAGE_MAX];
    let received = bench.socket.receive(&mut buffer).unwrap().unwrap();
    assert_eq!((received.bytes.len(), received.truncated), (MESSAGE_MAX, true));
}

/// Counts descriptors of the whole process, so it needs one of its own.
#[test]
fn as_many_descriptors_as_there_can_be_are_closed() {
    if !alone("sys::notify::tests::as_many_descriptors_as_there_can_be_are_closed") {
        return;
    }
    let bench = Bench::new();
    let sender = bench.sender();
    let (near, mut far) = std::os::unix::net::UnixStream::pair().unwrap();
    let before = descriptors_of(std::process::id());
    for _ in 0..3 {
        let fds = vec![near.as_fd(); FDS_MAX];
        assert!(sender.send_with_fds("FDSTORE=1", &fds).unwrap());
        assert_eq!(bench.next(), Some(("FDSTORE=1".to_owned(), FDS_MAX, false)));
        assert_eq!(descriptors_of(std::process::id()), before);
    }
    assert!(sender.send_with_fds("FDSTORE=1", &vec![near.as_fd(); FDS_MAX + 1]).is_err());

    // With no room for more than two (MSG_CTRUNC) these two are closed, and the message is read all the same.
    let limit = before.iter().max().unwrap() + 1;
    let room: Vec<OwnedFd> = (before.len() as i32..limit).map(|_| near.as_fd().try_clone_to_owned().unwrap()).collect();
    let full = descriptors_of(std::process::id());
    let old = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let tight = rustix::process::Rlimit { current: Some(limit as u64 + 2), maximum: old.maximum };
    assert!(sender.send_with_fds("READY=1", &vec![near.as_fd(); 100]).unwrap());
    rustix::process::setrlimit(rustix::process::Resource::Nofile, tight).unwrap();
    let (text, fds, truncated) = bench.next().unwrap();
    rustix::process::setrlimit(rustix::process::Resource::Nofile, old).unwrap();
    assert_eq!((text.as_str(), truncated), ("READY=1", false));
    assert!(fds <= 3, "{fds}");
    assert_eq!(descriptors_of(std::process::id()), full);

    // Nobody holds the other end any more.
    drop((room, near));
    let mut rest = Vec::new();
    wait_readable(&far);
    std::io::Read::read_to_end(&mut far, &mut rest).unwrap();
}

#[test]
fn a_barrier_is_answered_by_reading_it() {
    let bench = Bench::new();
    let sender = bench.sender();
    assert!(sender.send("STATUS=before").unwrap());
    let barrier = sender.barrier().unwrap().expect("there is room");
    let poll = Poll::new().unwrap();
    poll.add(&barrier, 1).unwrap();
    let up = || poll.ready(&mut Vec::new(), 1).unwrap() == 1;
    bench.next().unwrap();
    assert!(!up());
    assert_eq!(bench.next(), Some(("BARRIER=1".to_owned(), 1, false)));
    assert!(up());
}

/// A connection whose last reference is in our hands, with something unsent and a long SO_LINGER: close(2) would wait.
#[test]
fn a_lingering_socket_does_not_hold_us_up() {
    let bench = Bench::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (_peer, _) = listener.accept().unwrap();
    sockopt::set_socket_linger(&stream, Some(std::time::Duration::from_secs(600))).unwrap();
    stream.set_nonblocking(true).unwrap();
    // The peer doesn't read: fill what is between.
    while std::io::Write::write(&mut &stream, &[0; 65536]).is_ok() {}
    assert!(bench.sender().send_with_fds("READY=1", &[stream.as_fd()]).unwrap());
    drop(stream);
    let begin = std::time::Instant::now();
    assert_eq!(bench.next().unwrap().1, 1);
    assert!(begin.elapsed() < DEADLINE, "{:?}", begin.elapsed());
}

#[test]
fn who_does_not_read_does_not_stop_us() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("systemd");
    let reader = UnixDatagram::bind(&path).unwrap();
    let systemd = Systemd::new(path.as_os_str()).unwrap();
    let sent = (0..1_000_000).take_while(|_| systemd.send("WATCHDOG=1").unwrap()).count();
    assert!((1..1_000_000).contains(&sent), "{sent}");
    assert!(systemd.barrier().unwrap().is_none());
    // After a restart of the reader the same sender reaches the new one.
    drop(reader);
    assert_eq!(systemd.send("READY=1").unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
    std::fs::remove_file(&path).unwrap();
    let reader = UnixDatagram::bind(&path).unwrap();
    assert!(systemd.send("READY=1").unwrap());
    let mut buffer = [0; 64];
    let length = reader.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"READY=1");
}

#[test]
fn an_abstract_address_is_reached() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("ratoon-test-{}", std::process::id());
    let reader = UnixDatagram::bind_addr(&std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    assert!(Systemd::new(format!("@{name}").as_ref()).unwrap().send("READY=1").unwrap());
    let mut buffer = [0; 64];
    let length = reader.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"READY=1");
}

#[test]
fn a_socket_that_was_handed_over_is_set_up_again() {
    let (near, far) = UnixDatagram::pair().unwrap();
    let socket = NotifySocket::from_fd(near.into()).unwrap();
    assert!(socket.receive(&mut [0; 8]).unwrap().is_none(), "non-blocking");
    far.send(b"READY=1").unwrap();
    let mut buffer = [0; 64];
    assert_eq!(socket.receive(&mut buffer).unwrap().unwrap().uid, Some(own_uid()));
}
