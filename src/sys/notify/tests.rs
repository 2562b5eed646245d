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

    /// Removes the next datagram. Returns its text, whether it has descriptors, and whether it was truncated.
    fn next(&self) -> Option<(String, bool, bool)> {
        let mut buffer = [0; MESSAGE_MAX];
        let received = self.socket.peek(&mut buffer).unwrap()?;
        assert_eq!((received.uid, received.pid), (Some(own_uid()), Some(std::process::id())));
        let next = (String::from_utf8_lossy(received.bytes).into_owned(), received.attached, received.truncated);
        assert!(self.socket.skip().unwrap());
        Some(next)
    }
}

#[test]
fn a_message_with_its_sender() {
    let bench = Bench::new();
    assert_eq!(bench.next(), None);
    assert!(bench.sender().send("READY=1\nSTATUS=up").unwrap());
    assert!(bench.sender().send("").unwrap());
    assert_eq!(bench.next(), Some(("READY=1\nSTATUS=up".to_owned(), false, false)));
    assert_eq!(bench.next(), Some((String::new(), false, false)));
    assert_eq!(bench.next(), None);
}

#[test]
fn the_file_is_for_its_owner_alone_unless_that_is_root() {
    let bench = Bench::new();
    let own = if own_uid() == 0 { 0o666 } else { 0o600 };
    assert_eq!(std::fs::symlink_metadata(&bench.path).unwrap().permissions().mode() & 0o7777, own);
    assert!(is_close_on_exec(&bench.socket));
    let other = bench.path.with_extension("other");
    if rustix::process::geteuid().is_root() {
        let _socket = NotifySocket::bind(&other, Some((65534, 65533))).unwrap();
        let file = std::fs::symlink_metadata(&other).unwrap();
        assert_eq!((file.uid(), file.gid(), file.permissions().mode() & 0o7777), (65534, 65533, 0o600));
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
    assert!(again.peek(&mut [0; 64]).unwrap().is_some());
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
    assert_eq!(bench.next(), Some((long.clone(), false, false)));
    assert_eq!(bench.next(), Some((long, false, true)));
    // A larger buffer doesn't raise the limit.
    assert!(bench.sender().send(&"x".repeat(2 * MESSAGE_MAX)).unwrap());
    let mut buffer = [0; 3 * MESSAGE_MAX];
    let received = bench.socket.peek(&mut buffer).unwrap().unwrap();
    assert_eq!((received.bytes.len(), received.truncated), (MESSAGE_MAX, true));
}

/// Counts descriptors of the whole process, so it runs in a process of its own.
#[test]
fn attached_descriptors_are_never_installed() {
    if !alone("sys::notify::tests::attached_descriptors_are_never_installed") {
        return;
    }
    let bench = Bench::new();
    let sender = bench.sender();
    let (near, mut far) = std::os::unix::net::UnixStream::pair().unwrap();
    let before = descriptors_of(std::process::id());
    for count in [1, 2, FDS_MAX] {
        let fds = vec![near.as_fd(); count];
        assert!(sender.send_with_fds("FDSTORE=1", &fds).unwrap());
        assert!(bench.socket.peek(&mut [0; 64]).unwrap().unwrap().attached);
        assert_eq!(descriptors_of(std::process::id()), before);
        assert_eq!(bench.next(), Some(("FDSTORE=1".to_owned(), true, false)));
        assert_eq!(descriptors_of(std::process::id()), before);
    }
    assert!(sender.send_with_fds("FDSTORE=1", &vec![near.as_fd(); FDS_MAX + 1]).is_err());
    // No process has the other end open any more.
    drop(near);
    let mut rest = Vec::new();
    wait_readable(&far);
    std::io::Read::read_to_end(&mut far, &mut rest).unwrap();
}

#[test]
fn peek_all_gives_every_datagram_and_takes_none() {
    let bench = Bench::new();
    let sender = bench.sender();
    let long = "x".repeat(2 * MESSAGE_MAX + 7);
    assert!(sender.send("STATUS=one").unwrap());
    assert!(sender.send_with_fds("STATUS=two", &[bench.socket.as_fd()]).unwrap());
    assert!(sender.send(&long).unwrap());
    assert!(sender.send("STATUS=four").unwrap());
    let all = |max: usize| {
        let mut all = Vec::new();
        let take = |it: Received<'_>| all.push((String::from_utf8_lossy(it.bytes).into_owned(), it.attached, it.truncated));
        bench.socket.peek_all(max, take).unwrap();
        all
    };
    let own = |text: &str, attached, truncated| (text.to_owned(), attached, truncated);
    let sent = [
        own("STATUS=one", false, false),
        own("STATUS=two", true, false),
        own(&long[..MESSAGE_MAX], false, true),
        own("STATUS=four", false, false),
    ];
    assert_eq!(all(10), sent);
    assert_eq!(all(2), sent[..2]);
    assert_eq!(std::iter::from_fn(|| bench.next()).collect::<Vec<_>>(), sent);
    assert_eq!(all(10), []);
}

#[test]
fn refusing_socket_still_gives_what_was_sent() {
    let bench = Bench::new();
    let sender = bench.sender();
    assert!(sender.send("STATUS=before").unwrap());
    bench.socket.refuse();
    assert!(sender.send("STATUS=after").is_err());
    assert_eq!(bench.next(), Some(("STATUS=before".to_owned(), false, false)));
    assert_eq!(bench.next(), None);
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
    assert_eq!(bench.next(), Some(("BARRIER=1".to_owned(), true, false)));
    assert!(up());
}

/// The datagram holds the last reference to a connection with unsent data and a long SO_LINGER, so its close would wait.
#[test]
fn peek_does_not_wait_for_a_lingering_socket() {
    let bench = Bench::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    sockopt::set_socket_linger(&stream, Some(std::time::Duration::from_secs(600))).unwrap();
    stream.set_nonblocking(true).unwrap();
    // The peer doesn't read: fill the socket buffers.
    while std::io::Write::write(&mut &stream, &[0; 65536]).is_ok() {}
    assert!(bench.sender().send_with_fds("READY=1", &[stream.as_fd()]).unwrap());
    drop(stream);
    let begin = std::time::Instant::now();
    assert!(bench.socket.peek(&mut [0; 64]).unwrap().unwrap().attached);
    bench.socket.peek_all(8, |received| assert!(received.attached)).unwrap();
    assert!(begin.elapsed() < DEADLINE, "{:?}", begin.elapsed());
    // The peer resets the connection, so that its close, at the end of the notify socket, does not wait.
    drop(peer);
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
    assert!(socket.peek(&mut [0; 8]).unwrap().is_none(), "non-blocking");
    far.send(b"READY=1").unwrap();
    let mut buffer = [0; 64];
    assert_eq!(socket.peek(&mut buffer).unwrap().unwrap().uid, Some(own_uid()));
}
