//! Tests with Python programs that accept, or do not, in every way that is detected.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use super::*;

/// A program with its children; all are killed when it is dropped.
struct Program(Child);

impl Program {
    fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(group) = rustix::process::Pid::from_raw(self.0.id() as i32) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// A Python program with the socket as standard input; returns after the program has printed its first line.
fn program(socket: impl Into<std::os::fd::OwnedFd>, code: &str) -> (Program, Subject) {
    let text = format!("import socket, select, sys, time\ns = socket.socket(fileno=0)\nprint('here', flush=True)\n{code}");
    let mut command = Command::new("python3");
    command.args(["-c", &text]).stdin(Stdio::from(socket.into())).stdout(Stdio::piped()).process_group(0);
    let mut child = command.spawn().expect("python3");
    child.stdout.as_mut().expect("a pipe").read_exact(&mut [0; 5]).expect("a line");
    let id = child.id();
    (Program(child), (1, id, None))
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port")
}

/// Observes the program until it shows this evidence; fails after 30 s.
#[track_caller]
fn shows(code: &str, evidence: Evidence) {
    let listener = listener();
    let (_child, worker) = program(listener.try_clone().expect("a copy"), code);
    until(&worker, &listener, evidence);
}

#[track_caller]
fn until(worker: &Subject, listener: &impl AsFd, evidence: Evidence) {
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        let seen = observe(worker, &[listener.as_fd()]);
        assert!(!seen.hidden);
        if seen.best() == Some(evidence) {
            return;
        }
        assert!(Instant::now() < limit, "{seen:?}");
        std::thread::yield_now();
    }
}

#[test]
fn process_with_the_socket_in_epoll_accepts() {
    shows("e = select.epoll()\ne.register(s)\ntime.sleep(600)", Evidence::Epoll);
}

#[test]
fn process_that_blocks_in_accept_accepts() {
    shows("s.accept()", Evidence::Accept);
}

#[test]
fn process_that_polls_the_socket_accepts() {
    shows("p = select.poll()\np.register(s, select.POLLIN)\np.poll()", Evidence::Accept);
}

#[test]
fn process_that_selects_the_socket_accepts() {
    shows("select.select([s], [], [])", Evidence::Accept);
}

#[test]
fn thread_that_blocks_in_accept_accepts() {
    shows("import threading\nthreading.Thread(target=s.accept).start()\ntime.sleep(600)", Evidence::Accept);
}

#[test]
fn child_of_the_worker_accepts_for_it() {
    shows("import os\nif os.fork() == 0: s.accept()\ntime.sleep(600)", Evidence::Accept);
}

#[test]
fn process_with_an_open_connection_accepts() {
    let listener = listener();
    let mut client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    client.write_all(b"x").expect("written");
    let (_child, worker) = program(listener.try_clone().expect("a copy"), "c, _ = s.accept()\nc.recv(1)\ntime.sleep(600)");
    until(&worker, &listener, Evidence::Connection);
}

#[test]
fn connection_accepted_while_the_list_is_read_counts() {
    let listener = listener();
    let _client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let (accepted, _) = listener.accept().expect("accepted");
    let inode = rustix::fs::fstat(&accepted).expect("a socket").st_ino.try_into().expect("an inode");
    for (after, evidence) in [(Some(inode), Some(Evidence::Connection)), (None, None)] {
        let mut seen = Observation { sockets: vec![None], ..Observation::default() };
        connections(&[Socket::of(&listener)], &HashSet::new(), || after.into_iter().collect(), &mut seen);
        assert_eq!(seen.sockets, [evidence], "{after:?}");
    }
}

#[test]
fn process_that_receives_datagrams_accepts() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let (_child, worker) = program(socket.try_clone().expect("a copy"), "s.recv(99)");
    until(&worker, &socket, Evidence::Accept);
}

#[test]
fn process_that_sleeps_with_the_socket_does_not_accept() {
    let listener = listener();
    // Waits in select for something else, as the parent process of gunicorn does.
    let code = "import os\nr, w = os.pipe()\nselect.select([r], [], [])";
    let (child, worker) = program(listener.try_clone().expect("a copy"), code);
    let at = format!("/proc/{}/syscall", child.id());
    let limit = Instant::now() + Duration::from_secs(30);
    let selects = |text: String| text.split(' ').next().and_then(|number| number.parse().ok()).and_then(Call::of).is_some();
    while !std::fs::read_to_string(&at).is_ok_and(selects) {
        assert!(Instant::now() < limit, "it does not come to select");
        std::thread::yield_now();
    }
    assert_eq!(observe(&worker, &[&listener]), Observation { sockets: vec![None], ..Observation::default() });
}

#[test]
fn look_that_runs_out_of_time_hides_nothing() {
    let listener = listener();
    let (_child, worker) = program(listener.try_clone().expect("a copy"), "time.sleep(600)");
    let long_ago = Instant::now().checked_sub(Duration::from_secs(1)).expect("a time");
    let seen = observe_until(long_ago, &worker, &[&listener]);
    assert!(seen.cut_short && !seen.hidden, "{seen:?}");
}

#[test]
fn idle_ring_of_io_uring_hides_nothing() {
    let listener = listener();
    // io_uring_setup(2), as libuv calls it. A kernel without it has nothing to hide.
    let code = "import ctypes\nr = ctypes.CDLL(None).syscall(425, 8, (ctypes.c_char * 120)())\n\
                print('ring' if r >= 0 else 'none', flush=True)\ntime.sleep(600)";
    let (mut child, worker) = program(listener.try_clone().expect("a copy"), code);
    child.0.stdout.as_mut().expect("a pipe").read_exact(&mut [0; 5]).expect("a line");
    assert_eq!(observe(&worker, &[&listener]), Observation { sockets: vec![None], ..Observation::default() });
}

#[test]
fn each_socket_is_judged_by_itself() {
    let (one, other) = (listener(), listener());
    let (_child, worker) = program(one.try_clone().expect("a copy"), "s.accept()");
    until(&worker, &one, Evidence::Accept);
    assert_eq!(observe(&worker, &[&other, &one]).sockets, [None, Some(Evidence::Accept)]);
}

#[test]
fn worker_that_has_ended_does_not_accept() {
    let mut child = Command::new("true").spawn().expect("true");
    let worker = (1, child.id(), None);
    child.wait().expect("reaped");
    child.wait().expect("reaped");
    assert_eq!(observe(&worker, &[&listener()]).best(), None);
}
