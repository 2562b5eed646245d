use std::path::PathBuf;

use super::*;
use crate::sys::process::{Ended, reap_orphans, set_subreaper};
use crate::sys::spawn::{ErrorPipe, SpawnRequest, spawn};
use crate::sys::testing::*;

/// A worker that runs a shell script. Each test has its own id, since the tests run in parallel and would kill each other's processes.
struct Bench {
    id: u64,
    pid: u32,
    guard: Guard,
    socket: PathBuf,
    output: Output,
}

impl Bench {
    fn start(id: u64, script: &str) -> Bench {
        let mut output = Output::new();
        let socket = PathBuf::from(format!("/run/ratoon-test/{}/{id}", std::process::id()));
        let env = [format!("RATOON_WORKER={id}"), format!("NOTIFY_SOCKET={}", socket.display())];
        let request = SpawnRequest {
            env: env.into_iter().map(|entry| std::ffi::CString::new(entry).unwrap()).collect(),
            stdout: Some(output.end()),
            ..request()
        };
        let child = spawn(&shell(script), &request, &ErrorPipe::new().unwrap()).unwrap();
        output.started();
        Bench { id, pid: child.pid, guard: Guard(child.pidfd), socket, output }
    }

    fn worker(&self) -> Worker<'_> {
        Worker { pidfd: &self.guard.0, pid: self.pid, id: self.id, notify_socket: self.socket.clone() }
    }
}

/// Reads `count` lines, each the number of a process.
fn processes(output: &mut Output, count: usize) -> Vec<Guard> {
    (0..count).map(|_| Guard(PidFd::open(output.line().parse().unwrap()).unwrap())).collect()
}

/// `sleep` in a session of its own, without any environment: only its ancestry identifies it.
const STRIPPED: &str = "setsid env -i sh -c 'echo $$; exec sleep 100'";

#[test]
fn all_that_a_living_worker_has_started() {
    let mut bench = Bench::start(
        1,
        &format!(
            "sh -c 'echo $$; exec sleep 100' & setsid sh -c 'echo $$; exec sleep 100' & \
             env -i sh -c 'echo $$; exec sleep 100' & {STRIPPED} & wait"
        ),
    );
    let mut other = Bench::start(2, "echo up; exec sleep 100");
    other.output.line();
    let all = processes(&mut bench.output, 4);
    let worker = bench.worker();
    assert!(any_left(&worker));
    assert!(kill(&worker).len() >= 5, "itself and the four");
    for process in &all {
        wait_readable(&process.0);
    }
    assert_eq!(ended(&bench.guard.0), Ended::Signal { signal: libc::SIGKILL, core: false });
    assert!(!any_left(&worker));
    assert_eq!(other.guard.0.wait().unwrap(), None, "another worker is left alone");
    assert!(any_left(&other.worker()));
}

/// The worker's process has exited, but isn't reaped: session and environment still identify its descendants.
#[test]
fn what_a_dead_worker_left_behind() {
    let mut bench = Bench::start(
        3,
        "sh -c 'echo $$; exec sleep 100' & setsid sh -c 'echo $$; exec sleep 100' & \
         env -i sh -c 'echo $$; exec sleep 100' & wait",
    );
    let all = processes(&mut bench.output, 3);
    let worker = bench.worker();
    worker.pidfd.signal(libc::SIGKILL).unwrap();
    wait_readable(worker.pidfd);
    assert_eq!(worker.pidfd.peek().unwrap(), Some(Ended::Signal { signal: libc::SIGKILL, core: false }));
    assert!(kill(&worker).len() >= 3);
    for process in &all {
        wait_readable(&process.0);
    }
    assert!(!any_left(&worker));
}

/// After the reaping the worker's number may belong to another process, so only the environment counts.
#[test]
fn after_the_reaping_only_marks_count() {
    let mut bench = Bench::start(4, "sh -c 'echo $$; exec sleep 100' & wait");
    let mut bare = Bench::start(5, "env -i sh -c 'echo $$; exec sleep 100' & wait");
    let marked = processes(&mut bench.output, 1).remove(0);
    let stripped = processes(&mut bare.output, 1).remove(0);
    for bench in [&bench, &bare] {
        bench.guard.0.signal(libc::SIGKILL).unwrap();
        ended(&bench.guard.0);
    }
    assert!(any_left(&bench.worker()));
    assert_eq!(kill(&bench.worker()).len(), 1);
    wait_readable(&marked.0);
    assert!(!any_left(&bench.worker()));
    assert_eq!(kill(&bare.worker()).len(), 0);
    assert_eq!(stripped.0.wait().unwrap(), None, "alive");
}

#[test]
fn marks_must_both_be_right() {
    let mut bench = Bench::start(6, "echo up; kill -STOP $$");
    bench.output.line();
    let right = bench.worker();
    assert!(has_marks(bench.pid, &right));
    // The same id in another instance, another id in this one, and a path that is only a prefix.
    assert!(!has_marks(bench.pid, &Worker { notify_socket: "/run/ratoon-other/6".into(), ..right.clone() }));
    assert!(!has_marks(bench.pid, &Worker { id: 60, ..right.clone() }));
    assert!(!has_marks(bench.pid, &Worker { notify_socket: bench.socket.parent().unwrap().into(), ..right }));
}

/// The worker forks faster than one scan: each call of `kill` returns, and repeated calls kill all processes.
#[test]
fn who_forks_for_ever_is_overcome() {
    if !alone("sys::descendants::tests::who_forks_for_ever_is_overcome") {
        return;
    }
    set_subreaper().unwrap();
    let mut bench = Bench::start(7, "f() { (sleep 0.001; f) & }; f; f; f; f; echo up; wait; sleep 100");
    bench.output.line();
    let begin = std::time::Instant::now();
    while any_left(&bench.worker()) {
        kill(&bench.worker());
        reap_orphans(|child| child == bench.pid).unwrap();
        assert!(begin.elapsed() < DEADLINE);
    }
}

#[test]
fn a_circle_of_parents_ends() {
    assert!(ancestry(1, 2, |pid| Some((if pid == 2 { 3 } else { 2 }, 0))).is_none());
    assert_eq!(ancestry(1, 2, |_| Some((1, 5))), Some(vec![(2, 5), (1, 5)]));
    assert!(ancestry(1, 2, |_| None).is_none());
}
