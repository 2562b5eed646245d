//! The end: drains, second signals, timeouts, and nothing that is left behind.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use super::harness::master::{last_failure, pids, wait_for_end_of, workers};
use super::harness::{Master, Place, Signal, Value, eventually, processes};

#[test]
fn term_int_and_quit_drain_and_end_with_0() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let master = Place::new().pool("count = 2", "").start();
        let workers = pids(&master.status());
        let request = master.ask_for_later();
        master.signal(signal);
        master.systemd().wait("STOPPING=1", |all| all.iter().any(|it| it.lines().any(|line| line == "STOPPING=1")).then_some(()));
        let answer = request.answer();
        assert!(answer.contains("generation 1"), "a request under way was lost: {answer}");
        let ended = master.end();
        assert_eq!(ended.code(), Some(0), "{signal:?}: {ended}\n{}", master.log());
        assert!(!workers.iter().any(|pid| processes::lives(*pid)), "a worker outlived its master");
        // Nothing of it is left.
        let left: Vec<_> = std::fs::read_dir(master.place.path("run")).expect("run").flatten().map(|it| it.file_name()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// The last request of a drain takes as long as it takes; nobody accepts meanwhile.
#[test]
fn bound_socket_refuses_connections_while_the_last_request_drains() {
    for balance in ["shared", "per-slot"] {
        let master = Place::new().pool(&format!("count = 2\nbalance = '{balance}'"), "").start();
        let (address, request) = (master.address(), master.ask_for_later());
        master.signal(Signal::TERM);
        let refused = || TcpStream::connect(&address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        eventually("a refused connection", || refused().then_some(()), || master.log());
        assert_eq!(master.status()["state"], "stopping", "the drain was over: {}", master.log());
        let answer = request.answer();
        assert!(answer.contains("generation 1"), "a request under way was lost: {answer}");
        assert_eq!(master.end().code(), Some(0), "{}", master.log());
    }
}

/// The instance may be started again at once, and then it serves what waits in the socket of systemd.
#[test]
fn socket_of_systemd_takes_connections_while_the_last_request_drains() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = socket.local_addr().expect("an address");
    let master = Place::new().pool("count = 2", "").socket("web", socket.try_clone().expect("a copy")).start();
    let (workers, request) = (pids(&master.status()), master.ask_for_later());
    master.signal(Signal::TERM);
    // Workers accept until they have closed the socket.
    let inode = rustix::fs::fstat(&socket).expect("a socket").st_ino;
    let is_it =
        |entry: std::fs::DirEntry| std::fs::read_link(entry.path()).is_ok_and(|it| it == Path::new(&format!("socket:[{inode}]")));
    let holds = |pid: &u32| std::fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|open| open.flatten().any(is_it));
    eventually("workers without the socket", || (!workers.iter().any(holds)).then_some(()), || master.log());
    let _client = TcpStream::connect(address).expect("a connection");
    assert!(request.answer().contains("generation 1"));
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
    socket.accept().expect("the connection waits");
}

#[test]
fn it_can_be_asked_while_it_drains() {
    let place = Place::new();
    place.behave("v1", "ignore_term=1");
    let master = place.pool("count = 2\nstop_timeout = '1h'", "").start();
    master.signal(Signal::TERM);
    master.systemd().wait_for("STATUS=stopping: 2 workers left", 1);
    let status = master.wait("stopping", |status| status["state"] == "stopping");
    assert!(workers(&status).iter().all(|worker| worker["state"] == "draining"), "{status:#}");
    // One that dies now is not replaced.
    processes::signal(pids(&status)[0], Signal::KILL);
    master.systemd().wait_for("STATUS=stopping: 1 worker left", 1);
    let refused = master.verb(&["reload"]);
    assert!(refused.code == Some(1) && refused.err.contains("stopping"), "{refused:?}");
    assert_eq!(master.verb(&["scale", "3"]).code, Some(1));
    assert_eq!(master.verb(&["recycle"]).code, Some(1));
}

#[test]
fn a_second_signal_ends_at_once() {
    for second in [Signal::TERM, Signal::INT] {
        let place = Place::new();
        place.behave("v1", "ignore_term=1");
        let master = place.pool("count = 2\nstop_timeout = '1h'", "").start();
        let workers = pids(&master.status());
        master.signal(Signal::TERM);
        master.wait("stopping", |status| status["state"] == "stopping");
        // One more within a second is the first once more; the one that counts comes later.
        eventually("the end", || master.has_ended().or_else(|| (master.signal(second), None).1), || master.log());
        assert_eq!(master.end().code(), Some(1), "{}", master.log());
        assert!(!workers.iter().any(|pid| processes::lives(*pid)), "a worker outlived its master");
    }
}

/// A worker that ignores TERM, with a child that does too and one in a session of its own.
const STUBBORN: &str = "trap '' TERM
setsid sleep 1000 &
echo $! > PLACE/apart.$RATOON_WORKER
sleep 1000 &
echo $! > PLACE/beside.$RATOON_WORKER
export CHAOS_IGNORE_TERM=1";

/// The processes that a stubborn worker started.
fn children_of(master: &Master, worker: &Value) -> Vec<u32> {
    let pid = |name: &str| master.place.read(&format!("{name}.{}", worker["id"])).trim().parse().expect("a pid");
    vec![pid("apart"), pid("beside")]
}

#[test]
fn after_the_stop_timeout_everything_of_a_worker_is_killed() {
    let place = Place::new();
    place.wrap("v1", STUBBORN);
    let master = place.pool("count = 1\nstop_timeout = '200ms'", "").start();
    let status = master.status();
    let children = children_of(&master, &workers(&status)[0]);
    assert!(children.iter().all(|pid| processes::lives(*pid)));
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
    let left: Vec<_> = children.into_iter().chain(pids(&status)).filter(|pid| processes::lives(*pid)).collect();
    assert!(left.is_empty(), "{left:?} live on");
    master.wait_for_log("did not stop in time");
}

#[test]
fn an_old_generation_that_does_not_drain_is_killed_after_the_stop_timeout() {
    let place = Place::new();
    place.wrap("v1", STUBBORN);
    place.release("v2", "");
    let master = place.pool("count = 1\nstop_timeout = '200ms'", "").start();
    let before = master.status();
    let mut of_the_old = children_of(&master, &workers(&before)[0]);
    of_the_old.extend(pids(&before));
    master.place.current("v2");
    master.ok(&["reload"]);
    of_the_old.into_iter().for_each(wait_for_end_of);
    let status = master.wait_until_calm();
    assert_eq!(last_failure(&status)["how"], "stop timeout after 200ms", "{status:#}");
    assert_eq!((&status["worker_crashes"], &status["last_reload"]["result"]), (&0.into(), &"committed".into()));
}

#[test]
fn what_a_drained_worker_leaves_behind_is_killed_after_the_stop_timeout() {
    let place = Place::new();
    let master = place.pool("count = 1\nstop_timeout = '500ms'", "").start();
    let child: u32 = master.get("/child").trim().parse().expect("a pid");
    let worker = pids(&master.status())[0];
    master.ok(&["reload"]);
    // The worker itself goes at once; the rest has until the stop timeout.
    wait_for_end_of(worker);
    wait_for_end_of(child);
    master.wait_until_calm();
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0));
}

#[test]
fn what_a_crashed_worker_leaves_behind_is_killed_before_it_is_replaced() {
    let master = Place::new().pool("count = 1", "").start();
    let child: u32 = master.get("/child").trim().parse().expect("a pid");
    processes::signal(pids(&master.status())[0], Signal::KILL);
    master.wait("another", |status| status["worker_crashes"] == 1 && status["workers_ready"] == 1);
    assert!(!processes::lives(child), "the old worker's child lives beside the new worker");
}

#[test]
fn connections_of_the_old_generation_are_served_while_the_new_one_serves() {
    let master = Place::new().pool("count = 1", "").start();
    let old = pids(&master.status());
    let request = master.ask_for_later();
    master.ok(&["reload"]);
    assert!(master.get("/").contains("generation 2 "));
    let status = master.status();
    let draining = workers(&status).iter().find(|worker| worker["state"] == "draining").expect("the old worker");
    assert_eq!((draining["generation"].as_u64(), draining["pid"].as_u64()), (Some(1), Some(old[0].into())));
    let answer = request.answer();
    assert!(answer.contains("generation 1"), "{answer}");
    master.wait_until_calm();
}

#[test]
fn the_stop_signal_is_the_configured_one() {
    let place = Place::new();
    let script = "#!/bin/sh\ntrap 'echo term >> ../heard' TERM\ntrap 'echo usr1 >> ../heard; exit 0' USR1\n\
        systemd-notify --ready\nwhile :; do sleep 0.01; done\n";
    place.program("v1/worker", script);
    let master = place.pool("ready = 'notify'\ncount = 1\nstop_signal = 'SIGUSR1'", "").start();
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0));
    assert_eq!(master.place.read("heard"), "usr1\n");
}

#[test]
fn term_before_anything_is_ready_ends_it_with_0() {
    let place = Place::new();
    place.behave("v1", "hang_before_ready=1");
    let master = place.pool("count = 2\nstart_timeout = '1h'", "").launch();
    let status = master.wait("they start", |status| pids(status).len() == 2);
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
    assert!(!pids(&status).iter().any(|pid| processes::lives(*pid)));
    assert!(!master.systemd().messages().contains(&"READY=1".to_owned()));
}

#[test]
fn a_stopped_worker_hears_that_it_shall_end() {
    let master = Place::new().pool("count = 1\nstop_timeout = '1h'", "").start();
    let worker = pids(&master.status())[0];
    processes::signal(worker, Signal::STOP);
    eventually("it is stopped", || processes::facts(worker)["State"].starts_with('T').then_some(()), || master.log());
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0));
}

#[test]
fn a_worker_with_more_time_than_its_stop_timeout_is_not_killed() {
    let place = Place::new();
    let script = "#!/bin/sh\ntrap 'systemd-notify EXTEND_TIMEOUT_USEC=60000000; sleep 2; echo done > ../done; exit 0' TERM\n\
        systemd-notify --ready\nwhile :; do sleep 0.01; done\n";
    place.program("v1/worker", script);
    let master = place.pool("ready = 'notify'\ncount = 1\nstop_timeout = '1500ms'", "").start();
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0));
    assert_eq!(master.place.read("done"), "done\n", "{}", master.log());
}

#[test]
fn before_shutdown_runs_before_the_drain() {
    let place = Place::new();
    place.program("hook", "#!/bin/sh\necho hook >> ../order\npwd >> ../order\n");
    let hook = place.path("hook");
    let script = "#!/bin/sh\ntrap 'echo drain >> ../order; exit 0' TERM\nsystemd-notify --ready\nwhile :; do sleep 0.01; done\n";
    place.program("v1/worker", script);
    let master = place.pool("ready = 'notify'\ncount = 1", &format!("[hooks]\nbefore_shutdown = [{hook:?}]")).start();
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0));
    let directory = std::fs::canonicalize(master.place.path("v1")).expect("v1");
    assert_eq!(master.place.read("order"), format!("hook\n{}\ndrain\n", directory.display()));
}

#[test]
fn a_failing_before_shutdown_is_said_and_does_not_keep_it_from_ending() {
    let place = Place::new();
    let tables = "[hooks]\nbefore_shutdown = ['/bin/sh', '-c', 'echo out of order; exit 3']";
    let master = place.pool("count = 1", tables).start();
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0));
    master.wait_for_log("out of order");
    master.wait_for_log("exit 3");
}

#[test]
fn a_second_signal_does_not_wait_for_before_shutdown() {
    let place = Place::new();
    let tables = "[hooks]\nbefore_shutdown = ['/bin/sh', '-c', 'echo $$ > ../hook; exec sleep 1000']";
    let master = place.pool("count = 1", tables).start();
    master.signal(Signal::TERM);
    let path = master.place.path("hook");
    let hook = eventually("the hook runs", || std::fs::read_to_string(&path).ok()?.trim().parse::<u32>().ok(), || master.log());
    eventually("the end", || master.has_ended().or_else(|| (master.signal(Signal::TERM), None).1), || master.log());
    assert_eq!(master.end().code(), Some(1));
    wait_for_end_of(hook);
}

#[test]
fn a_master_that_is_killed_leaves_a_directory_that_the_next_one_takes_over() {
    let master = Place::new().pool("count = 1", "").start();
    let orphan = pids(&master.status())[0];
    master.signal(Signal::KILL);
    assert_eq!(master.end().signal(), Some(9));
    assert!(master.control().exists(), "who is killed tidies nothing");
    let second = master.again();
    let status = second.wait_until_ready();
    assert_ne!(pids(&status), [orphan]);
    second.ok(&["reload"]);
    second.signal(Signal::TERM);
    assert_eq!(second.end().code(), Some(0));
}
