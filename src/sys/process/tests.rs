use super::*;
use crate::sys::spawn::{ErrorPipe, SpawnRequest, spawn};
use crate::sys::testing::*;

/// Starts a shell script that prints to `output`. The guard kills the process at the end of the test.
fn start(script: &str, output: &Output) -> (u32, Guard) {
    let request = SpawnRequest { stdout: Some(output.end()), ..request() };
    let child = spawn(&shell(script), &request, &ErrorPipe::new().unwrap()).unwrap();
    (child.pid, Guard(child.pidfd))
}

#[test]
fn how_it_ended_in_words() {
    let output = Output::new();
    for (script, end, words) in [
        ("exit 0", Ended::Exit(0), "exit 0"),
        ("exit 255", Ended::Exit(255), "exit 255"),
        ("kill -TERM $$", Ended::Signal { signal: libc::SIGTERM, core: false }, "signal SIGTERM"),
        ("ulimit -c 0; kill -SEGV $$", Ended::Signal { signal: libc::SIGSEGV, core: false }, "signal SIGSEGV"),
    ] {
        let (_, child) = start(script, &output);
        let seen = ended(&child.0);
        assert_eq!((seen, seen.to_string().as_str()), (end, words), "{script}");
    }
    assert_eq!(Ended::from_wait_status(0x8b), Ended::Signal { signal: libc::SIGSEGV, core: true });
    assert_eq!(Ended::from_wait_status(0x8b).to_string(), "signal SIGSEGV (core dumped)");
    assert_eq!(Ended::from_wait_status(0x2a00), Ended::Exit(42));
}

#[test]
fn alive_zombie_reaped() {
    let output = Output::new();
    let (pid, child) = start("exec sleep 100", &output);
    let pidfd = &child.0;
    assert_eq!((pidfd.wait().unwrap(), pidfd.peek().unwrap(), pidfd.pid()), (None, None, Some(pid)));
    assert!(PidFd::open(pid).unwrap().inode() == pidfd.inode());
    pidfd.signal(0).unwrap();
    pidfd.signal(libc::SIGRTMIN() + 3).unwrap();
    wait_readable(pidfd);
    let end = Some(Ended::Signal { signal: libc::SIGRTMIN() + 3, core: false });
    assert_eq!(pidfd.peek().unwrap(), end);
    assert_eq!(pidfd.peek().unwrap(), end, "still a zombie");
    assert_eq!(Stat::read(pid).unwrap().state, b'Z');
    assert_eq!(pidfd.wait().unwrap(), end);
    assert_eq!((pidfd.pid(), pidfd.signal(libc::SIGKILL).unwrap_err().raw_os_error()), (None, Some(libc::ESRCH)));
    // The child is reaped: a second wait returns its status only if the kernel keeps it.
    assert!([end, Some(Ended::Unknown)].contains(&pidfd.wait().unwrap()));
}

#[test]
fn numbers_that_are_no_process() {
    for pid in [0, u32::MAX, i32::MAX as u32] {
        assert!(PidFd::open(pid).is_err(), "{pid}");
    }
    assert_eq!(PidFd::open(1).unwrap().wait().unwrap(), None);
}

/// A grandchild is first a zombie and then reaped by its own parent; this process reads its status in both states.
#[test]
fn the_status_of_a_stranger() {
    let mut output = Output::new();
    let script = "trap 'wait; exit 5' USR1; sleep 100 & echo $!; while :; do sleep 0.01; done";
    let (_, parent) = start(script, &output);
    let pid: u32 = output.line().parse().unwrap();
    let stranger = PidFd::open(pid).unwrap();
    assert_eq!(stranger.wait().unwrap(), None);
    parent.0.signal(libc::SIGSTOP).unwrap();
    // Wait until the parent is stopped, so that the zombie is not reaped during the check.
    while Stat::read(parent.0.pid().unwrap()).unwrap().state != b'T' {
        std::thread::yield_now();
    }
    stranger.signal(libc::SIGUSR2).unwrap();
    wait_readable(&stranger);
    let killed = Ended::Signal { signal: libc::SIGUSR2, core: false };
    // On every kernel, root and the same user can read the status of a zombie.
    assert_eq!(stranger.wait().unwrap(), Some(killed));
    parent.0.signal(libc::SIGCONT).unwrap();
    parent.0.signal(libc::SIGUSR1).unwrap();
    assert_eq!(ended(&parent.0), Ended::Exit(5));
    assert!([Some(killed), Some(Ended::Unknown)].contains(&stranger.wait().unwrap()));
}

/// Exit status 0 cannot be read from a zombie. A kernel with `PIDFD_INFO_EXIT` reports it once the zombie is reaped.
#[test]
fn the_status_of_a_stranger_that_is_not_reaped_yet() {
    let mut output = Output::new();
    let child = "trap 'exit 0' USR2; echo $$; while :; do sleep 0.01; done";
    let script = format!("trap 'wait; exit 5' USR1; sh -c \"{}\" & while :; do sleep 0.01; done", child.replace('$', "\\$"));
    let (_, parent) = start(&script, &output);
    let pid: u32 = output.line().parse().unwrap();
    let stranger = PidFd::open(pid).unwrap();
    assert!(stranger.signal(0).is_ok() && stranger.wait().unwrap().is_none());
    parent.0.signal(libc::SIGSTOP).unwrap();
    while Stat::read(parent.0.pid().unwrap()).unwrap().state != b'T' {
        std::thread::yield_now();
    }
    stranger.signal(libc::SIGUSR2).unwrap();
    wait_readable(&stranger);
    assert_eq!(stranger.wait().unwrap(), Some(Ended::Unknown));
    let lacking = stranger.lacks_status();
    parent.0.signal(libc::SIGCONT).unwrap();
    parent.0.signal(libc::SIGUSR1).unwrap();
    // Checks with an own child whether this kernel keeps the status of a reaped process.
    let remembers = ended(&parent.0) == Ended::Exit(5) && parent.0.wait().unwrap() == Some(Ended::Exit(5));
    assert!(!stranger.lacks_status());
    let end = if remembers { Ended::Exit(0) } else { Ended::Unknown };
    assert_eq!(stranger.wait().unwrap(), Some(end));
    assert!(lacking || !remembers);
}

/// A worker that has exited, and three adopted grandchildren that have exited after it; none is reaped.
fn a_dead_worker_and_its_orphans() -> (u32, Guard, Vec<u32>) {
    set_subreaper().unwrap();
    let mut output = Output::new();
    let (worker, guard) = start("for n in 1 2 3; do sh -c 'echo $$; exec sleep 100' & done; wait", &output);
    let orphans: Vec<u32> = (0..3).map(|_| output.line().parse().unwrap()).collect();
    guard.0.signal(libc::SIGKILL).unwrap();
    wait_readable(&guard.0);
    for fd in orphans.iter().map(|&pid| PidFd::open(pid).unwrap()) {
        assert_eq!(Stat::read(fd.pid().unwrap()).unwrap().parent, std::process::id(), "adopted");
        fd.signal(libc::SIGKILL).unwrap();
        wait_readable(&fd);
    }
    (worker, guard, orphans)
}

const KILLED: Ended = Ended::Signal { signal: libc::SIGKILL, core: false };

#[test]
fn orphans_are_reaped_and_workers_statuses_are_not_stolen() {
    if !alone("sys::process::tests::orphans_are_reaped_and_workers_statuses_are_not_stolen") {
        return;
    }
    assert_eq!(reap_orphans(|_| false).unwrap().ended, []);
    let (worker, guard, mut orphans) = a_dead_worker_and_its_orphans();
    // Stands for a child that another thread waits for: it is known, too.
    let mut hook = std::process::Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().unwrap();
    let hook_pid = hook.id();
    wait_readable(PidFd::open(hook_pid).unwrap());
    let reaped = reap_orphans(|pid| pid == worker || pid == hook_pid).unwrap();
    let mut seen: Vec<u32> = reaped.ended.iter().map(|(pid, _)| *pid).collect();
    seen.sort_unstable();
    orphans.sort_unstable();
    assert_eq!((seen, reaped.more), (orphans, false));
    assert!(reaped.ended.iter().all(|(_, end)| *end == KILLED));
    assert_eq!(hook.wait().unwrap().code(), Some(7));
    assert_eq!(guard.0.wait().unwrap(), Some(KILLED));
}

/// The master relies on this: its loop starts the workers from another thread, so the list of adopted children stays short beside a
/// thousand workers.
#[test]
fn orphans_are_the_first_thread_s_and_what_another_one_starts_is_not() {
    if !alone("sys::process::tests::orphans_are_the_first_thread_s_and_what_another_one_starts_is_not") {
        return;
    }
    crate::sys::thread::aside("ratoon-test", || {
        let (worker, guard, mut orphans) = a_dead_worker_and_its_orphans();
        let mut found = of_the_first_thread().expect("a kernel that tells");
        found.sort_unstable();
        orphans.sort_unstable();
        assert_eq!(found, orphans);
        assert!(!found.contains(&worker));
        assert_eq!(reap_orphans(|_| false).unwrap().ended.len(), 3);
        assert!(of_the_first_thread().unwrap().is_empty());
        assert_eq!(guard.0.wait().unwrap(), Some(KILLED), "reaped by whom it belongs to");
    });
}

#[test]
fn the_same_without_a_list_of_children() {
    if !alone("sys::process::tests::the_same_without_a_list_of_children") {
        return;
    }
    let (worker, guard, orphans) = a_dead_worker_and_its_orphans();
    let mut all = reap_one_by_one(|pid| pid == worker).unwrap();
    assert!(all.more, "the worker's status is still there");
    assert_eq!(guard.0.wait().unwrap(), Some(KILLED));
    let rest = reap_one_by_one(|_| false).unwrap();
    assert!(!rest.more);
    all.ended.extend(rest.ended);
    assert!(all.ended.len() == 3 && orphans.iter().all(|&pid| all.ended.contains(&(pid, KILLED))), "{all:?}");
}

#[test]
fn the_limit_is_raised_and_told() {
    if !alone("sys::process::tests::the_limit_is_raised_and_told") {
        return;
    }
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(100), maximum: hard }).unwrap();
    assert_eq!(raise_nofile().unwrap(), (100, hard.unwrap_or(u64::MAX)));
    assert_eq!(rustix::process::getrlimit(Resource::Nofile).current, hard);
    assert_eq!(raise_nofile().unwrap(), (hard.unwrap_or(u64::MAX), hard.unwrap_or(u64::MAX)));
}

#[test]
fn names_cannot_confuse_the_status_line() {
    let tail = (4..=52).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
    let stat = Stat::parse(format!("7 (a) R 1 2 (b) \n c) S 3 4 5 {}\n", tail.split_once("7 ").unwrap().1).as_bytes()).unwrap();
    assert_eq!((stat.state, stat.parent, stat.session), (b'S', 3, 5));
    for text in ["", "7", "7 (sh", "7 (sh)", "7 (sh) S", "7 (sh) S x 1 1", "7 (sh) \u{e9}"] {
        assert!(Stat::parse(text.as_bytes()).is_none(), "{text:?}");
    }
}
