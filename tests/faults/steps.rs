//! Each step of a reload that can fail is made to fail in turn: descriptors, memory, threads, disk. Whoever asked for the reload
//! is answered, and the pool is whole afterwards.

use std::process::{Child, Command, Stdio};

use super::harness::{Master, Place, Plan, RATOON, eventually, processes};

/// A strace(1) that lets system calls of a master fail; it lets go of the master when this is dropped.
struct Injection(Child);

impl Injection {
    /// `rule` as strace's `--inject=` has it.
    fn new(master: &Master, rule: &str) -> Injection {
        let call = rule.split(':').next().expect("a system call");
        let child = Command::new("strace")
            .args(["-f", "-q", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &format!("inject={rule}")])
            .args(["-p", &master.pid.to_string()])
            .stderr(Stdio::null())
            .spawn()
            .expect("strace");
        let traced = || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", master.pid)).ok()?;
            let all = tasks.flatten().all(|task| {
                std::fs::read_to_string(task.path().join("status"))
                    .is_ok_and(|status| !status.lines().any(|line| line.trim_end() == "TracerPid:\t0"))
            });
            all.then_some(())
        };
        eventually("strace has every thread", traced, || master.log());
        Injection(child)
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        processes::signal(self.0.id(), super::harness::Signal::INT);
        let _ = self.0.wait();
    }
}

/// What fails, and how.
const FAULTS: [&str; 14] = [
    "eventfd2:error=EMFILE",
    "openat:error=EMFILE",
    "fcntl:error=EMFILE",
    "socket:error=EMFILE",
    "pipe2:error=ENFILE",
    "memfd_create:error=ENOMEM",
    "clone3:error=ENOMEM",
    "clone3:error=EAGAIN",
    "epoll_ctl:error=ENOMEM",
    "bind:error=ENOSPC",
    "mkdir:error=ENOSPC",
    "openat:error=EIO",
    "read:error=EIO",
    "execve:error=ENOMEM",
];

const QUICK: &str = "[restart]\nlimit = 1000\ninitial = '50ms'\nmax = '200ms'";

#[test]
#[ignore = "needs root"]
fn reload_is_answered_whichever_of_its_steps_fails() {
    let place = Place::new();
    place.program("hook", "#!/bin/sh\nexit 0\n");
    let tables = format!("{QUICK}\n[reload]\ncheck = ['true']\n[hooks]\nbefore_reload = [{:?}]", place.path("hook"));
    let master = place.pool("count = 2", &tables).start();
    let mut refused = 0;
    for fault in FAULTS {
        for time in ["1", "2", "3", "1+"] {
            // The loop's own pipe, clock and log are what a reload is told by.
            if time == "1+" && (fault.starts_with("read") || fault.starts_with("epoll_ctl") || fault.starts_with("openat")) {
                continue;
            }
            let injection = Injection::new(&master, &format!("{fault}:when={time}"));
            let said = master.verb(&["reload"]);
            drop(injection);
            // The first descriptor that is watched is the requester's own connection: that is told as such.
            let own = fault.starts_with("epoll_ctl") && said.code == Some(2);
            assert!(own || matches!(said.code, Some(0 | 1)), "{fault} {time}: {said:?}\n{}", master.log());
            assert!(said.code == Some(0) || !said.err.trim().is_empty(), "{fault} {time}: {said:?}");
            refused += u32::from(said.code == Some(1));
            assert!(master.has_ended().is_none(), "{fault} {time}\n{}", master.log());
            master.wait_until_calm();
        }
    }
    assert!(refused >= 10, "only {refused} reloads met a fault");
    master.ok(&["reload"]);
}

#[test]
fn reload_without_a_descriptor_is_refused_at_once() {
    let place = Place::new();
    place.program("v1/worker", "#!/bin/sh\nexec sleep 1000\n");
    place.configure("count = 4\nready = 'running'\nsettle = '10ms'", QUICK);
    place.program("start", &format!("#!/bin/sh\nulimit -n 64\nexec {RATOON} \"$@\"\n"));
    let master = Plan::new(place).program("start").launch();
    master.wait_until_calm();
    master.ok(&["scale", "20"]);
    // As many as there are: each asks with one descriptor less in the master.
    let mut held = Vec::new();
    for _ in 0..12 {
        let said = master.verb(&["reload"]);
        assert!(said.code.is_some(), "{said:?}\n{}", master.log());
        if said.code == Some(2) {
            break;
        }
        held.push(std::os::unix::net::UnixStream::connect(master.control()).expect("a connection"));
    }
    drop(held);
    eventually("it can be asked again", || (master.verb(&["scale", "2"]).code == Some(0)).then_some(()), || master.log());
    master.wait_until_calm();
    master.ok(&["reload"]);
}
