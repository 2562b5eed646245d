use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use super::*;
use crate::sys::fd::{RESERVED_FD_BASE, inherited, open_numbers};
use crate::sys::spawn::{ErrorPipe, SpawnRequest, spawn};
use crate::sys::testing::{self, Output, descriptors_of, ended, is_close_on_exec, low};

/// Runs a test of this file in a child process that gets these descriptors from 3 on, as from systemd. Returns `true` in the child.
fn activated(test: &str, descriptors: impl FnOnce() -> Vec<Arc<OwnedFd>>, env: &[&str]) -> bool {
    const MARK: &str = "RATOON_TEST_ACTIVATED";
    if std::env::var_os(MARK).is_some_and(|name| name == test) {
        return true;
    }
    let executable = std::env::current_exe().unwrap();
    let mut plan = testing::plan(&executable, &["--exact", test, "--nocapture", "--test-threads=1"]);
    plan.listeners = descriptors();
    plan.env = [format!("{MARK}={test}")]
        .iter()
        .map(String::as_str)
        .chain(env.iter().copied())
        .map(|entry| CString::new(entry).unwrap())
        .collect();
    let mut output = Output::new();
    let request = SpawnRequest { stdout: Some(output.end()), stderr: Some(output.end()), ..testing::request() };
    let child = spawn(&plan, &request, &ErrorPipe::new().unwrap()).unwrap();
    output.started();
    let text = output.rest();
    ended(&child.pidfd);
    assert!(text.contains("1 passed"), "{text}");
    false
}

fn arc(fd: impl Into<OwnedFd>) -> Arc<OwnedFd> {
    Arc::new(fd.into())
}

fn own_environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// The environment of this process with some variables changed or removed.
fn with<'a>(changed: &'a [(&'a str, Option<&'a str>)]) -> impl Fn(&str) -> Option<OsString> + 'a {
    |name| match changed.iter().find(|(key, _)| *key == name) {
        Some((_, value)) => value.map(OsString::from),
        None => own_environment(name),
    }
}

#[test]
fn what_systemd_hands_over() {
    let test = "master::listeners::sockets::tests::what_systemd_hands_over";
    let directory = tempfile::tempdir().unwrap();
    let tcp = || {
        let path = directory.path();
        let stream = UnixListener::bind(path.join("stream")).unwrap();
        let fifo = path.join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, 0o600.into(), 0).unwrap();
        vec![
            arc(TcpListener::bind("127.0.0.1:0").unwrap()),
            arc(stream),
            arc(UdpSocket::bind("127.0.0.1:0").unwrap()),
            arc(UnixDatagram::bind(path.join("notify")).unwrap()),
            arc(UnixDatagram::bind(path.join("datagram")).unwrap()),
            arc(crate::sys::process::PidFd::open(std::process::id()).unwrap()),
            arc(rustix::fs::memfd_create("state", rustix::fs::MemfdFlags::CLOEXEC).unwrap()),
            arc(rustix::fs::open(&fifo, rustix::fs::OFlags::RDWR, 0o0.into()).unwrap()),
            arc(std::fs::File::open("/dev/full").unwrap()),
        ]
    };
    let env = ["LISTEN_FDS=9", "LISTEN_FDNAMES=web:web:dns:ratoon-notify-7:dgram:worker::fifo:device"];
    if !activated(test, tcp, &env) {
        return;
    }
    let all = from_systemd(own_environment).unwrap().expect("for us");
    let seen: Vec<_> = all.listeners.iter().map(|listener| (listener.name.as_str(), listener.kind, listener.inherited)).collect();
    assert_eq!(
        seen,
        [
            ("web", Kind::TcpStream, true),
            ("web", Kind::UnixStream, true),
            ("dns", Kind::Udp, true),
            ("dgram", Kind::UnixDatagram, true),
            ("fifo", Kind::Fifo, true),
            ("device", Kind::Other, true)
        ]
    );
    let stored: Vec<&str> = all.stored.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(stored, ["ratoon-notify-7", "worker", ""]);
    assert_eq!(all.warnings.len(), 1, "{:?}", all.warnings);
    assert!(all.warnings[0].contains("/dev/full"), "{:?}", all.warnings);
    assert!(all.listeners[0].address.starts_with("127.0.0.1:"));
    assert!(all.listeners[1].address.ends_with("/stream"), "{}", all.listeners[1].address);
    // No descriptor keeps a number that a worker's descriptors use, and none is inherited by an executed program.
    let fds = all.listeners.iter().map(|listener| &*listener.fd).chain(all.stored.iter().map(|(_, fd)| fd));
    assert!(fds.clone().count() == 9 && fds.clone().all(|fd| fd.as_raw_fd() >= RESERVED_FD_BASE && is_close_on_exec(fd)));
    assert!((3..12).all(|number| inherited(number).is_err()));
    // A second call finds no descriptor to take.
    let again = from_systemd(own_environment).unwrap().unwrap();
    assert!(again.listeners.is_empty() && again.stored.is_empty());
    assert_eq!(again.warnings, ["LISTEN_FDS=9, but only 0 of these descriptors are there"]);
}

#[test]
fn inherit_takes_sockets_of_an_instance_called_ratoon() {
    let test = "master::listeners::sockets::tests::inherit_takes_sockets_of_an_instance_called_ratoon";
    let three = || (0..3).map(|_| arc(TcpListener::bind("127.0.0.1:0").unwrap())).collect();
    if !activated(test, three, &["LISTEN_FDS=3", "LISTEN_FDNAMES=ratoon-web:ratoon-listener:ratoon-listener-0"]) {
        return;
    }
    let all = from_systemd(own_environment).unwrap().expect("for us");
    assert_eq!(all.listeners.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["ratoon-web", "ratoon-listener"]);
    assert_eq!(all.stored.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["ratoon-listener-0"]);
}

#[test]
fn an_announcement_that_lies() {
    let test = "master::listeners::sockets::tests::an_announcement_that_lies";
    let two = || vec![arc(TcpListener::bind("127.0.0.1:0").unwrap()), arc(TcpListener::bind("127.0.0.1:0").unwrap())];
    if !activated(test, two, &["LISTEN_FDS=2"]) {
        return;
    }
    let none = |changed: &[(&str, Option<&str>)]| assert!(from_systemd(with(changed)).unwrap().is_none(), "{changed:?}");
    for pid in ["1", "18446744073709551615"] {
        let all = from_systemd(with(&[("LISTEN_PID", Some(pid))])).unwrap().expect("a warning");
        assert!(all.listeners.is_empty() && all.stored.is_empty());
        assert!(all.warnings[0].starts_with(&format!("LISTEN_PID={pid} names another process")), "{:?}", all.warnings);
        assert!(all.warnings[0].contains("exec ratoon run"));
        none(&[("LISTEN_PID", Some(pid)), ("LISTEN_FDS", Some("0"))]);
    }
    none(&[("LISTEN_PID", None)]);
    none(&[("LISTEN_FDS", None)]);
    none(&[("LISTEN_FDS", Some("0"))]);
    if own_environment("LISTEN_PIDFDID").is_some() {
        let all = from_systemd(with(&[("LISTEN_PIDFDID", Some("1"))])).unwrap().expect("a warning");
        assert!(all.listeners.is_empty() && all.warnings.len() == 1);
    }
    for (name, value) in [
        ("LISTEN_FDS", "-1"),
        ("LISTEN_FDS", ""),
        ("LISTEN_FDS", "2x"),
        ("LISTEN_FDS", "99999999999999999999999"),
        ("LISTEN_PID", "me"),
        ("LISTEN_PIDFDID", "x"),
    ] {
        let error = from_systemd(with(&[(name, Some(value))])).unwrap_err().to_string();
        assert!(error.contains(&format!("{name}={value:?}")), "{error}");
    }
    // A number larger than all open descriptors costs no time and takes only open ones. A wrong number of names is a warning.
    let all =
        from_systemd(with(&[("LISTEN_FDS", Some("18446744073709551615")), ("LISTEN_FDNAMES", Some("one"))])).unwrap().unwrap();
    let names: Vec<&str> = all.listeners.iter().map(|listener| listener.name.as_str()).collect();
    assert_eq!(names, ["one", "unknown"]);
    assert_eq!(
        all.warnings,
        [
            "LISTEN_FDS=18446744073709551615, but only 2 of these descriptors are there",
            "LISTEN_FDS=18446744073709551615, but LISTEN_FDNAMES has 1 names"
        ]
    );
}

#[test]
fn a_hole_keeps_the_other_names_right() {
    let test = "master::listeners::sockets::tests::a_hole_keeps_the_other_names_right";
    let three = || (0..3).map(|_| arc(TcpListener::bind("127.0.0.1:0").unwrap())).collect();
    if !activated(test, three, &["LISTEN_FDS=3", "LISTEN_FDNAMES=a:b:c"]) {
        return;
    }
    drop(inherited(4).unwrap());
    let all = from_systemd(own_environment).unwrap().unwrap();
    let names: Vec<&str> = all.listeners.iter().map(|listener| listener.name.as_str()).collect();
    assert_eq!(names, ["a", "c"]);
    assert_eq!(all.warnings, ["LISTEN_FDS=3, but only 2 of these descriptors are there"]);
}

/// `O_NONBLOCK` belongs to all processes that share the socket, so it stays as it was.
#[test]
fn non_blocking_is_left_alone() {
    let test = "master::listeners::sockets::tests::non_blocking_is_left_alone";
    let two = || {
        let nonblocking = TcpListener::bind("127.0.0.1:0").unwrap();
        nonblocking.set_nonblocking(true).unwrap();
        vec![arc(nonblocking), arc(TcpListener::bind("127.0.0.1:0").unwrap())]
    };
    if !activated(test, two, &["LISTEN_FDS=2"]) {
        return;
    }
    let all = from_systemd(own_environment).unwrap().unwrap();
    assert!(is_nonblocking(&all.listeners[0]) && !is_nonblocking(&all.listeners[1]));
}

fn is_nonblocking(listener: &Listener) -> bool {
    rustix::fs::fcntl_getfl(&*listener.fd).unwrap().contains(rustix::fs::OFlags::NONBLOCK)
}

#[test]
fn only_what_was_inherited_can_be_taken() {
    let own = low();
    assert!(inherited(own.as_raw_fd()).is_err(), "ours is close-on-exec");
    for number in [-1, 0, 1, 2, 1 << 20, i32::MAX] {
        assert!(inherited(number).is_err(), "{number}");
    }
    assert!(open_numbers().contains(&own.as_raw_fd()));
    assert!(descriptors_of(std::process::id()).contains(&0));
}

#[test]
fn a_full_table_leaves_descriptors_where_they_are() {
    if !testing::alone("master::listeners::sockets::tests::a_full_table_leaves_descriptors_where_they_are") {
        return;
    }
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let open = *open_numbers().last().unwrap() as u64;
    setrlimit(Resource::Nofile, Rlimit { current: Some(open + 4), maximum }).unwrap();
    let listener = bind("127.0.0.1:0").unwrap();
    assert!(listener.fd.as_raw_fd() < RESERVED_FD_BASE && is_close_on_exec(&*listener.fd));
    setrlimit(Resource::Nofile, Rlimit { current: Some(300), maximum }).unwrap();
    let listener = bind("127.0.0.1:0").unwrap();
    assert!((RESERVED_FD_BASE / 2..RESERVED_FD_BASE).contains(&listener.fd.as_raw_fd()), "as high as the limit allows");
}

#[test]
fn ipv4_and_ipv6_of_one_port_are_bound_together() {
    // A port that is free for IPv4 and IPv6.
    let free = std::net::TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port();
    for specs in [["0.0.0.0", "[::]"], ["[::]", "127.0.0.1"]] {
        let specs = specs.map(|host| format!("{host}:{free}"));
        let bound = bind_all(&specs).unwrap_or_else(|error| panic!("{specs:?}: {error}"));
        assert_eq!(bound.iter().map(|it| it.address.clone()).collect::<Vec<_>>(), specs);
        TcpStream::connect(("127.0.0.1", free)).unwrap();
        TcpStream::connect(("::1", free)).unwrap();
    }
    // Without an IPv4 address beside it, `[::]` follows the system's default for IPv4.
    let alone = bind_all(&[format!("[::]:{free}")]).unwrap();
    assert_eq!(sockopt::ipv6_v6only(&alone[0].fd).unwrap(), sockopt::ipv6_v6only(&bind("[::]:0").unwrap().fd).unwrap());
    assert!(!is_beside_ipv4("[::]:80", &["udp:0.0.0.0:80".to_owned(), "0.0.0.0:81".to_owned()]));
}

#[test]
fn tcp_of_our_own() {
    let listener = bind("web=127.0.0.1:0").unwrap();
    assert_eq!((listener.name.as_str(), listener.kind, listener.inherited), ("web", Kind::TcpStream, false));
    assert!(listener.fd.as_raw_fd() >= RESERVED_FD_BASE && is_close_on_exec(&*listener.fd) && !is_nonblocking(&listener));
    let mut stream = TcpStream::connect(&listener.address).unwrap();
    stream.write_all(b"x").unwrap();
    let mut accepted = TcpListener::from(listener.fd.try_clone().unwrap()).accept().unwrap().0;
    assert!(accepted.nodelay().unwrap(), "a server that writes twice does not wait for the client");
    let mut byte = [0];
    accepted.read_exact(&mut byte).unwrap();

    // The port is taken, and the error says how to find the process that has it.
    let error = bind(&listener.address).unwrap_err().to_string();
    let port = listener.address.rsplit(':').next().unwrap();
    assert!(error.contains("another process has this port") && error.contains(&format!("sport = :{port}")), "{error}");

    // A connection that this side closed first stays in TIME_WAIT; the port can be bound nevertheless.
    drop(accepted);
    let address = listener.address.clone();
    drop(listener);
    drop(stream);
    assert_eq!(bind(&address).unwrap().name, "listen");
}

#[test]
fn udp_is_not_shared() {
    let socket = bind("dns=udp:127.0.0.1:0").unwrap();
    assert_eq!(socket.kind, Kind::Udp);
    assert!(bind(&format!("udp:{}", socket.address)).unwrap_err().to_string().contains("another process has this port"));
}

#[test]
fn a_socket_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x=y.sock");
    let spec = path.to_str().unwrap();
    let listener = bind(spec).unwrap();
    assert_eq!((listener.kind, listener.address.as_str(), listener.name.as_str()), (Kind::UnixStream, spec, "listen"));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    UnixStream::connect(&path).unwrap();

    // The socket file stays while a process listens on it. After the close it is stale, and is replaced.
    assert!(bind(spec).unwrap_err().to_string().contains("another process listens there"));
    drop(listener);
    assert!(UnixStream::connect(&path).is_err() && path.exists());
    let again = bind(&format!("api={spec}")).unwrap();
    assert_eq!(again.name, "api");
    UnixStream::connect(&path).unwrap();

    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(bind(file.to_str().unwrap()).unwrap_err().to_string().contains("a file that is no socket"));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    let missing = directory.path().join("missing/x.sock");
    assert!(bind(missing.to_str().unwrap()).unwrap_err().to_string().contains("its directory does not exist"));
}

#[test]
fn an_abstract_name() {
    let name = format!("@ratoon-test-{}-bind", std::process::id());
    let listener = bind(&name).unwrap();
    assert_eq!((listener.kind, listener.address.as_str()), (Kind::UnixStream, name.as_str()));
    assert!(bind(&name).unwrap_err().to_string().contains("another process listens there"));
}

#[test]
fn a_mistake_is_answered_with_what_was_meant() {
    for (spec, hint) in [
        (":8080", "\"0.0.0.0:8080\""),
        ("*:8080", "\"[::]:8080\""),
        ("8080", "\"127.0.0.1:8080\""),
        ("localhost:8080", "names are not looked up: write \"127.0.0.1:8080\""),
        ("example.org:80", "names are not looked up"),
        ("::1:8080", "\"[::1]:8080\""),
        ("127.0.0.1", "the port is missing"),
        ("[::1]", "write an address like"),
        ("127.0.0.1:65536", "write an address like"),
        ("", "write an address like"),
        ("@", "write an address like"),
        ("x.sock", "write an address like"),
        ("udp:/run/x", "write an address like"),
        ("unix:x.sock", "absolute path"),
        ("=127.0.0.1:80", "1 to 255 visible ASCII"),
        ("a b=127.0.0.1:80", "1 to 255 visible ASCII"),
        ("ratoon-page-1=127.0.0.1:80", "is no \"ratoon-KIND-NUMBER\""),
        ("192.0.2.1:0", "no interface of this machine has this address"),
    ] {
        let error = bind(spec).unwrap_err().to_string();
        assert!(error.contains(hint), "{spec:?}: {error}");
    }
    let long = format!("/{}", "x".repeat(107));
    assert!(bind(&long).unwrap_err().to_string().contains("at most 107 bytes, this one 108"));
}

#[test]
fn what_workers_are_told() {
    assert!(environment(&[]).is_empty());
    let mut listeners = vec![bind("a=127.0.0.1:0").unwrap(), bind("127.0.0.1:0").unwrap()];
    assert_eq!(environment(&listeners), [c"LISTEN_FDS=2".to_owned(), c"LISTEN_FDNAMES=a:listen".to_owned()]);
    listeners.truncate(1);
    assert_eq!(environment(&listeners), [c"LISTEN_FDS=1".to_owned(), c"LISTEN_FDNAMES=a".to_owned()]);
    assert!(is_masters_own("LISTEN_PIDFDID") && !is_masters_own("LISTEN_ADDR") && !is_masters_own("INVOCATION_ID"));
}
