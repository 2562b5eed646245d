//! Tests with real sockets and processes; where no other is given, the worker is this process.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::kept::Looks;
use super::*;
use crate::master::testing::in_own_process_with;
use crate::status::keep::testing::Told;

/// A child process that is killed at the end of the test.
pub(super) struct Worker(Child);

impl Worker {
    pub(super) fn sh(script: &str, stdin: Stdio) -> Worker {
        let mut child =
            Command::new("sh").args(["-c", script]).stdin(stdin).stdout(Stdio::piped()).process_group(0).spawn().expect("sh");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
        assert_eq!(line, "up\n");
        Worker(child)
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_raw(self.0.id().cast_signed()).expect("a pid");
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.0.wait();
    }
}

/// A cgroup that is removed at the end of the test.
pub(super) struct Group(pub(super) PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("cgroup.kill"), "1");
        let end = Instant::now() + Duration::from_secs(20);
        while std::fs::remove_dir(&self.0).is_err() && Instant::now() < end {
            std::thread::yield_now();
        }
    }
}

/// Waits until a closed connection is gone. A child that another test of this process is just starting has a copy of every
/// descriptor until its exec.
#[track_caller]
fn gone(is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "a connection that was closed is still counted");
        std::thread::yield_now();
    }
}

fn me() -> Subject {
    (1, std::process::id(), None)
}

#[test]
fn tcp_connections_and_the_queue_of_both_families() {
    for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
        let listener = TcpListener::bind(address).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let local = if address == "[::1]:0" { format!("[::1]:{port}") } else { format!("127.0.0.1:{port}") };
        let clients: Vec<_> = (0..5).map(|_| TcpStream::connect(&local).expect("a connection")).collect();
        let accepted: Vec<_> = (0..2).map(|_| listener.accept().expect("a connection").0).collect();
        let seen = survey(&[me()], &[&listener]);
        let queue = seen.queue(0).expect("a queue");
        assert_eq!(queue.waiting, 3, "{address}");
        assert!(queue.max >= 128, "{address}: {queue:?}");
        let figures = seen.worker(1).expect("ourselves");
        assert_eq!(figures.open_connections, Some(2), "{address}");
        assert_eq!(figures.listening, Some(true), "{address}");
        // The client is gone, but the worker holds the connection until it closes it.
        drop(clients);
        assert_eq!(survey(&[me()], &[&listener]).worker(1).expect("ourselves").open_connections, Some(2), "{address}");
        drop(accepted);
        gone(|| survey(&[me()], &[&listener]).worker(1).expect("ourselves").open_connections == Some(0));
    }
}

#[test]
fn unix_connections_and_the_queue_by_path_and_abstract_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = UnixAddr::from_pathname(dir.path().join("x.sock")).expect("short");
    let name = UnixAddr::from_abstract_name(format!("ratoon-test-{}", std::process::id())).expect("short");
    for address in [path, name] {
        let listener = UnixListener::bind_addr(&address).expect("a socket");
        let _clients: Vec<_> = (0..5).map(|_| UnixStream::connect_addr(&address).expect("a connection")).collect();
        let accepted: Vec<_> = (0..2).map(|_| listener.accept().expect("a connection").0).collect();
        let seen = survey(&[me()], &[&listener]);
        let queue = seen.queue(0).expect("a queue");
        assert_eq!(queue.waiting, 3);
        assert!(queue.max > 3, "{queue:?}");
        assert_eq!(seen.worker(1).expect("ourselves").open_connections, Some(2));
        drop(accepted);
        gone(|| survey(&[me()], &[&listener]).worker(1).expect("ourselves").open_connections == Some(0));
    }
}

#[test]
fn several_listeners_and_such_as_accept_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let ports: Vec<TcpListener> = (0..30).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let unix = UnixListener::bind(dir.path().join("x.sock")).expect("a socket");
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let datagrams = UnixDatagram::bind(dir.path().join("d.sock")).expect("a socket");
    let file = std::fs::File::open("/dev/null").expect("/dev/null");
    let mut fds: Vec<BorrowedFd> = ports.iter().map(AsFd::as_fd).collect();
    fds.extend([unix.as_fd(), udp.as_fd(), datagrams.as_fd(), file.as_fd()]);
    let mut held = Vec::new();
    for listener in ports.iter().step_by(7) {
        let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        held.push((client, listener.accept().expect("a connection").0));
    }
    let client = UnixStream::connect(dir.path().join("x.sock")).expect("a connection");
    let accepted = unix.accept().expect("a connection").0;
    let seen = survey(&[me()], &fds);
    assert_eq!(seen.worker(1).expect("ourselves").open_connections, Some(held.len() as u64 + 1));
    assert!((0..31).all(|n| seen.queue(n).is_some_and(|queue| queue.waiting == 0)));
    assert!((31..40).all(|n| seen.queue(n).is_none()));
    // Without a socket that accepts, the number of connections is unknown.
    assert_eq!(survey(&[me()], &[&udp]).worker(1).expect("ourselves").open_connections, None);
    assert_eq!(survey(&[me()], &[&udp]).worker(1).expect("ourselves").listening, Some(true));
    drop((client, accepted));
}

#[test]
fn a_worker_is_told_apart_from_its_neighbours() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let clients: Vec<_> =
        (0..2).map(|_| TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection")).collect();
    let give = || Stdio::from(OwnedFd::from(listener.accept().expect("a connection").0));
    // A shell that waits for a child: both hold the connection, which counts once.
    let shell = Worker::sh("echo up; sleep 1000; true", give());
    let listens = Worker::sh("echo up; exec sleep 1000", Stdio::from(OwnedFd::from(listener.try_clone().expect("a descriptor"))));
    let other = Worker::sh("echo up; exec sleep 1000", Stdio::null());
    let mut gone = Command::new("true").spawn().expect("true");
    gone.wait().expect("our child");
    let zombie = Command::new("true").stdout(Stdio::piped()).spawn().expect("true");
    // The child must not be reaped: wait for its end without taking its status.
    let pid = rustix::process::Pid::from_raw(zombie.id().cast_signed()).expect("a pid");
    let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
    rustix::process::waitid(rustix::process::WaitId::Pid(pid), options).expect("our child");

    let subjects = [
        (5, shell.pid(), None),
        (6, listens.pid(), None),
        (7, other.pid(), None),
        (8, gone.id(), None),
        (9, zombie.id(), None),
        (10, 0, None),
    ];
    let seen = survey(&subjects, &[&listener]);
    let counts = |id: u64| seen.worker(id).map(|figures| (figures.open_connections, figures.listening)).expect("a worker");
    assert_eq!(counts(5), (Some(1), Some(false)));
    assert_eq!(counts(6), (Some(0), Some(true)));
    assert_eq!(counts(7), (Some(0), Some(false)));
    for id in [8, 10] {
        assert_eq!(seen.worker(id), Some(&Figures::default()));
    }
    let dead = seen.worker(9).expect("a worker");
    assert_eq!((dead.rss, dead.cpu_usec), (None, None));
    assert!(seen.worker(4711).is_none());
    let figures = seen.worker(7).expect("a worker");
    assert!(figures.rss.is_some() && figures.cpu_usec.is_some());
    let age = SystemTime::now().duration_since(figures.started.expect("a start")).unwrap_or_default();
    assert!(age < Duration::from_secs(3600), "{age:?}");
    drop(clients);
    let mut zombie = zombie;
    zombie.wait().expect("our child");
}

#[test]
fn the_processes_of_a_cgroup_count_together() {
    let group = Path::new(&cgroups()).join(format!("ratoon-kernel-test-{}", std::process::id()));
    std::fs::create_dir(&group).expect("these tests need root, to make a cgroup");
    let _end = Group(group.clone());
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let connection = Stdio::from(OwnedFd::from(listener.accept().expect("a connection").0));
    // The main process holds nothing; a process that has left it by a double fork holds the connection.
    let script = format!(
        "echo 0 > {0}/cgroup.procs; exec 3<&0 </dev/null; (setsid sleep 1000 & ); exec 3<&-; echo up; while :; do sleep 1000; done",
        group.display()
    );
    let worker = Worker::sh(&script, connection);
    let seen = survey(&[(1, worker.pid(), Some(group.clone()))], &[&listener]);
    let figures = seen.worker(1).expect("a worker");
    assert_eq!(figures.open_connections, Some(1));
    assert!(figures.cpu_usec.is_some());
    let memory = std::fs::read_to_string(group.join("memory.current")).ok();
    assert_eq!(figures.memory_current.is_some(), memory.is_some());
    if memory.is_none() {
        println!("SKIPPED memory.current: this machine's cgroup v2 has no memory controller");
    }
    // For a cgroup that is gone the figures are unknown, not zero.
    let seen = survey(&[(2, worker.pid(), Some(group.join("none")))], &[&listener]);
    let lost = seen.worker(2).expect("a worker");
    assert_eq!((lost.open_connections, lost.listening), (None, None));
    assert!(lost.cpu_usec.is_some(), "from its main process");
    assert_eq!(lost.rss, None, "its main process is not the whole worker");
    drop((worker, client));
}

/// Mount point of this machine's cgroups.
pub(super) fn cgroups() -> String {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("procfs");
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    mount.expect("a cgroup2 mount").to_owned()
}

#[test]
fn a_socket_of_another_network_namespace_is_unknown_not_zero() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let name = "status::kernel::tests::a_socket_of_another_network_namespace_is_unknown_not_zero";
    let stdin = Stdio::from(OwnedFd::from(listener.try_clone().expect("a descriptor")));
    if in_own_process_with(name, &["unshare", "--net"], stdin).is_some() {
        return;
    }
    let stdin = std::io::stdin();
    assert!(sockopt::socket_acceptconn(&stdin).expect("a socket"), "the listener of another namespace");
    let seen = survey(&[me()], &[&stdin]);
    assert_eq!(seen.queue(0), None);
    let figures = seen.worker(1).expect("ourselves");
    assert_eq!((figures.open_connections, figures.listening), (None, Some(true)));
}

#[test]
fn a_process_that_cannot_be_seen_is_unknown_not_zero() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let name = "status::kernel::tests::a_process_that_cannot_be_seen_is_unknown_not_zero";
    // The test runs again as a user that may not read the descriptors of root's processes.
    let wrapper = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"];
    let stdin = Stdio::from(OwnedFd::from(listener.try_clone().expect("a descriptor")));
    let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let accepted = listener.accept().expect("a connection");
    if in_own_process_with(name, &wrapper, stdin).is_some() {
        drop((client, accepted));
        return;
    }
    let stdin = std::io::stdin();
    let parent = std::os::unix::process::parent_id();
    let seen = survey(&[(1, parent, None), (2, std::process::id(), None)], &[&stdin]);
    let figures = seen.worker(1).expect("the parent");
    // Only the child of that worker can be seen, which is this process; it holds the listening socket.
    assert_eq!((figures.open_connections, figures.listening), (None, Some(true)));
    assert!(figures.rss.is_some());
    let figures = seen.worker(2).expect("ourselves");
    assert_eq!((figures.open_connections, figures.listening), (Some(0), Some(true)));
    assert!(seen.queue(0).is_some(), "queues are no secret");
}

#[test]
fn what_was_seen_once_is_remembered_and_stays_true() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let accept = || {
        let client = TcpStream::connect(address).expect("a connection");
        (client, listener.accept().expect("a connection").0)
    };
    let surveyor = Surveyor::default();
    let count = |workers: &[Subject]| {
        surveyor.survey(workers, &[&listener], &Claims::default()).worker(1).and_then(|figures| figures.open_connections)
    };
    let mut pairs: Vec<_> = (0..3).map(|_| accept()).collect();
    assert_eq!(count(&[me()]), Some(3));
    assert_eq!(count(&[me()]), Some(3));
    pairs.push(accept());
    assert_eq!(count(&[me()]), Some(4));
    pairs.truncate(1);
    gone(|| count(&[me()]) == Some(1));
    // The same process under another id: the connections of the gone worker are searched for again.
    let renamed = surveyor.survey(&[(2, std::process::id(), None)], &[&listener], &Claims::default());
    assert_eq!(renamed.worker(2).expect("a worker").open_connections, Some(1));
    assert_eq!(count(&[me()]), Some(1));
    // A connection that another process holds, and no worker (here this process holds it, and only the shell is a worker).
    let other = Worker::sh("echo up; exec sleep 1000", Stdio::null());
    for _ in 0..5 {
        let seen = surveyor.survey(&[(3, other.pid(), None)], &[&listener], &Claims::default());
        assert_eq!(seen.worker(3).expect("a worker").open_connections, Some(0));
    }
    assert_eq!(surveyor.memory.lock().expect("sound").owners_and_foreign(), (0, 1));
    drop(pairs);
    gone(|| count(&[me()]) == Some(0));
    gone(|| count(&[me()]).is_some() && surveyor.memory.lock().expect("sound").owners_and_foreign() == (0, 0));
}

#[test]
fn a_worker_that_stops_listening_is_seen_to_have_stopped() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let script = "trap 'exec 0</dev/null' USR1; echo up; while :; do sleep 0.05; done";
    let worker = Worker::sh(script, Stdio::from(OwnedFd::from(listener.try_clone().expect("a descriptor"))));
    let surveyor = Surveyor::default();
    let listening = || {
        surveyor
            .survey(&[(1, worker.pid(), None)], &[&listener], &Claims::default())
            .worker(1)
            .and_then(|figures| figures.listening)
    };
    assert_eq!(listening(), Some(true));
    let pid = rustix::process::Pid::from_raw(worker.pid().cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::USR1).expect("our child");
    let end = Instant::now() + Duration::from_secs(20);
    while listening() != Some(false) {
        assert!(Instant::now() < end, "it does not listen any more");
    }
}

#[test]
fn the_master_itself() {
    let before = super::process::own_cpu();
    let master = master();
    assert!(master.pss.expect("smaps_rollup") <= master.rss.expect("smaps_rollup"));
    assert!(master.pss.is_some_and(|pss| pss > 100_000));
    // CPU time of children that were waited for does not count for this process.
    let cpu = master.cpu_usec.expect("a clock");
    assert!((before..=super::process::own_cpu()).contains(&cpu), "{cpu}");
    assert!(master.started.is_some_and(|started| started <= SystemTime::now()));
}

#[test]
fn without_listening_sockets_memory_and_cpu_are_still_known() {
    let seen = survey(&[me()], &[] as &[OwnedFd]);
    let figures = seen.worker(1).expect("ourselves");
    assert!(figures.rss.is_some() && figures.cpu_usec.is_some() && figures.started.is_some());
    assert_eq!((figures.open_connections, figures.listening), (None, None));
}

#[test]
fn a_closed_listener_harms_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let raw = listener.as_raw_fd();
    assert!(Listener::of(&listener).is_some_and(|seen| matches!(seen.local, Local::Tcp { six: false, .. })), "{raw}");
    let (read, _write) = std::io::pipe().expect("a pipe");
    assert!(Listener::of(&read).is_none());
    assert_eq!(survey(&[], &[&read]).queue(0), None);
}

/// Two connections that this process holds, their clients' addresses, and the listening socket.
fn two_connections() -> (TcpListener, Vec<std::net::SocketAddr>, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut held: Vec<_> = (0..2).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    let peers = held.iter().map(|client| client.local_addr().expect("an address")).collect();
    held.extend((0..2).map(|_| listener.accept().expect("a connection").0));
    (listener, peers, held)
}

#[test]
fn a_page_that_alone_names_a_connection_is_believed_and_takes_nothing_from_others() {
    let (listener, peers, _held) = two_connections();
    let other = Worker::sh("echo up; exec sleep 1000", Stdio::null());
    let subjects = [me(), (7, other.pid(), None)];
    let claims = |mine: Option<&[std::net::SocketAddr]>, others: &[std::net::SocketAddr]| {
        let mut claims = Claims::default();
        mine.into_iter().for_each(|mine| claims.add(1, mine.to_vec()));
        claims.add(7, others.to_vec());
        claims
    };
    let counts = |surveyor: &Surveyor, claims: &Claims| {
        let seen = surveyor.survey(&subjects, &[&listener], claims);
        [1, 7].map(|id| seen.worker(id).and_then(|figures| figures.open_connections))
    };
    let new = Surveyor::default;
    let nobodys = "192.0.2.7:4711".parse().expect("an address");
    assert_eq!(
        counts(&new(), &claims(Some(&peers[1..]), &[peers[0], nobodys])),
        [Some(1), Some(1)],
        "what nobody has counts for none"
    );
    // A worker whose page shows no connections is examined first.
    assert_eq!(counts(&new(), &claims(None, &peers)), [Some(2), Some(0)]);
    // If two pages name a peer, or one page names it twice, the descriptors decide.
    assert_eq!(counts(&new(), &claims(Some(&peers), &peers[..1])), [Some(2), Some(0)]);
    assert_eq!(counts(&new(), &claims(Some(&[]), &[peers[0], peers[0]])), [Some(2), Some(0)]);
    // A false claim that came first ends when another page claims the connection, or when another page is gone.
    for truth in [Some(&peers[..]), None] {
        let surveyor = new();
        assert_eq!(counts(&surveyor, &claims(Some(&[]), &peers)), [Some(0), Some(2)]);
        assert_eq!(counts(&surveyor, &claims(Some(&[]), &peers)), [Some(0), Some(2)]);
        assert_eq!(counts(&surveyor, &claims(truth, &peers)), [Some(2), Some(0)], "{truth:?}");
        assert_eq!(counts(&surveyor, &claims(Some(&[]), &peers)), [Some(2), Some(0)], "once seen, it is known");
    }
}

#[test]
fn among_many_pages_a_lie_about_a_connection_is_found_out_at_once() {
    let (listener, peers, _held) = two_connections();
    let mut claims = Claims::default();
    (100..200).for_each(|id| claims.add(id, vec![]));
    claims.add(1, peers.clone());
    claims.add(100, peers);
    let seen = Surveyor::default().survey(&[me()], &[&listener], &claims);
    assert_eq!(seen.worker(1).and_then(|figures| figures.open_connections), Some(2));
}

#[test]
fn among_many_pages_a_connection_on_none_is_looked_for_the_second_time() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let surveyor = Surveyor::default();
    let mut claims = Claims::default();
    (100..200).for_each(|id| claims.add(id, vec![]));
    let count = |claims: &Claims| {
        let seen = surveyor.survey(&[me()], &[&listener], claims);
        seen.worker(1).and_then(|figures| figures.open_connections)
    };
    assert_eq!(count(&claims), Some(0), "and it is known where it listens");
    let pair = || (TcpStream::connect(address).expect("a connection"), listener.accept().expect("a connection").0);
    let held = [pair(), pair()];
    claims.add(1, vec![held[0].0.local_addr().expect("an address")]);
    assert_eq!([count(&claims), count(&claims), count(&claims)], [Some(1), Some(2), Some(2)]);
    drop(held);
    gone(|| count(&claims) == Some(0));
    // A worker whose page shows no connections is examined at once, and so are all workers of a small pool.
    let mut others = Claims::default();
    (100..200).for_each(|id| others.add(id, vec![]));
    let mut few = Claims::default();
    few.add(1, vec![]);
    for claims in [others, few] {
        let held = pair();
        assert_eq!(count(&claims), Some(1));
        drop(held);
        gone(|| count(&claims) == Some(0));
    }
}

#[test]
fn among_many_pages_who_stays_is_asked_for_its_listening_socket_now_and_then() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let own = listener.try_clone().expect("a descriptor");
    let worker = Worker::sh("echo up; exec sleep 1000", Stdio::from(OwnedFd::from(own)));
    let surveyor = Surveyor::default();
    let listens = |pid: u32, leaves: bool| {
        let mut claims = Claims::default();
        (100..200).for_each(|id| claims.add(id, vec![]));
        claims.add(1, vec![]);
        if leaves {
            claims.leaves(1);
        }
        surveyor.survey(&[(1, pid, None)], &[&listener], &claims).worker(1).and_then(|figures| figures.listening)
    };
    assert_eq!(listens(worker.pid(), false), Some(true));
    // A worker that does not listen replaces it: that is noticed within a round, and at once when the worker drains.
    let silent = Worker::sh("echo up; exec sleep 1000", Stdio::null());
    let answers: Vec<_> = (0..16).map(|_| listens(silent.pid(), false)).collect();
    let after = answers.iter().position(|answer| *answer == Some(false)).expect("seen");
    assert!((1..8).contains(&after) && answers[after..].iter().all(|answer| *answer == Some(false)), "{answers:?}");
    assert_eq!(listens(worker.pid(), true), Some(true));
    assert_eq!(listens(silent.pid(), true), Some(false));
}

#[test]
fn the_kernel_is_asked_as_often_as_a_fifth_of_a_cpu_allows_and_at_once_for_what_has_changed() {
    let (listener, peers, _held) = two_connections();
    let other = Worker::sh("echo up; exec sleep 1000", Stdio::null());
    let clock = Arc::new(Told::costing(Duration::from_millis(5)));
    let surveyor = Surveyor::keeps(clock.clone());
    let mut workers = vec![me()];
    let mut before = Looks::default();
    let mut asked = |workers: &[Subject], claims: &Claims| {
        let seen = surveyor.survey(workers, &[&listener], claims);
        assert_eq!(seen.worker(1).and_then(|figures| figures.open_connections), Some(2));
        assert!(seen.queue(0).is_some() && seen.master.pss.is_some() && seen.worker(1).is_some_and(|it| it.rss.is_some()));
        assert!(seen.until.is_some());
        let now = surveyor.memory.lock().expect("sound").looks;
        let since = (now.dumps - before.dumps, now.workers - before.workers, now.masters - before.masters);
        before = now;
        since
    };
    let claims = |of: &[std::net::SocketAddr]| {
        let mut claims = Claims::default();
        claims.add(1, of.to_vec());
        claims
    };
    let (none, both) = (claims(&[]), claims(&peers));
    assert_eq!(asked(&workers, &none), (1, 1, 1));
    assert_eq!([asked(&workers, &none), asked(&workers, &none)], [(0, 0, 0); 2]);
    // A page claims other connections, whose holders are still known.
    assert_eq!(asked(&workers, &both), (1, 0, 0));
    // A new worker, a worker with another process, a draining worker.
    workers.push((2, other.pid(), None));
    assert_eq!([asked(&workers, &both), asked(&workers, &both)], [(0, 1, 0), (0, 0, 0)]);
    workers[1].1 = std::process::id();
    assert_eq!([asked(&workers, &both), asked(&workers, &both)], [(0, 1, 0), (0, 0, 0)]);
    let mut leaving = claims(&peers);
    leaving.leaves(2);
    assert_eq!([asked(&workers, &leaving), asked(&workers, &leaving)], [(0, 1, 0), (0, 0, 0)]);
    clock.pass(Duration::from_millis(19));
    assert_eq!(asked(&workers, &leaving), (0, 0, 0));
    clock.pass(Duration::from_millis(1));
    assert_eq!([asked(&workers, &leaving), asked(&workers, &leaving)], [(1, 2, 1), (0, 0, 0)]);
    surveyor.forget();
    assert_eq!(asked(&workers, &leaving), (1, 2, 1));
}
