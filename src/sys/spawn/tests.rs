//! Tests with real processes, most of them for all modes of making one.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::sys::poll::Poll;
use crate::sys::process::Ended;
use crate::sys::testing::*;

const WAYS: [CloneMode; 4] = [CloneMode::Share, CloneMode::ShareAll, CloneMode::Copy, CloneMode::Fork];

/// Runs a worker until it exits. Returns its output and its exit.
fn run_by(way: CloneMode, plan: &Plan, request: SpawnRequest<'_>, errors: &ErrorPipe) -> (String, Ended) {
    let mut output = Output::new();
    let child = spawn_by(plan, &SpawnRequest { stdout: Some(output.end()), ..request }, errors, way).unwrap();
    output.started();
    let text = output.rest();
    (text, ended(&child.pidfd))
}

fn run(way: CloneMode, plan: &Plan, request: SpawnRequest<'_>) -> String {
    let errors = ErrorPipe::new().unwrap();
    let (text, end) = run_by(way, plan, request, &errors);
    assert_eq!((errors.drain(), end), (vec![], Ended::Exit(0)), "{text}");
    text
}

fn variables(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).collect()
}

#[test]
fn the_worker_knows_its_own_numbers() {
    for way in WAYS {
        let mut plan = shell("echo PID=$$; env; read never; echo END=$?");
        plan.listeners = vec![low(), low()];
        plan.env.extend([c"LISTEN_FDS=2".to_owned(), c"LISTEN_FDNAMES=a:b".to_owned()]);
        let mut output = Output::new();
        let request = SpawnRequest {
            stdout: Some(output.end()),
            env: vec![c"RATOON_WORKER=7".to_owned()],
            watchdog_pid: true,
            ..request()
        };
        let errors = ErrorPipe::new().unwrap();
        let child = spawn_by(&plan, &request, &errors, way).unwrap();
        output.started();
        let inode = child.pidfd.inode();
        let text = output.rest();
        let said = variables(&text);
        let pid = child.pid.to_string();
        assert_eq!(said["PID"], pid);
        assert_eq!(said["LISTEN_PID"], pid);
        assert_eq!(said["WATCHDOG_PID"], pid);
        assert_eq!(said["LISTEN_FDS"], "2");
        assert_eq!(said["LISTEN_FDNAMES"], "a:b");
        assert_eq!(said["RATOON_WORKER"], "7");
        assert_eq!(said.get("LISTEN_PIDFDID").map(|text| text.to_string()), inode.map(|inode| inode.to_string()));
        assert_eq!(said["END"], "1", "standard input is /dev/null");
        assert!(!said.contains_key("RATOON_SCOREBOARD"));
        assert_eq!(ended(&child.pidfd), Ended::Exit(0));
    }
}

#[test]
fn stdin_is_the_socket_that_is_given() {
    for way in WAYS {
        let socket = Arc::new(OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap()));
        let inode = rustix::fs::fstat(&*socket).unwrap().st_ino;
        let plan = Plan { listeners: vec![socket.clone()], ..shell("readlink /proc/$$/fd/0 /proc/$$/fd/3") };
        let text = run(way, &plan, SpawnRequest { stdin: Some(socket.as_fd()), ..request() });
        assert_eq!(text, format!("socket:[{inode}]\nsocket:[{inode}]\n"), "{way:?}");
    }
}

#[test]
fn without_listeners_nothing_is_said_of_them() {
    for way in WAYS {
        let mut plan = shell("env");
        plan.env.extend([c"LISTEN_FDS=0".to_owned(), c"LISTEN_FDNAMES=".to_owned(), c"LISTEN_ADDR=kept".to_owned()]);
        let text = run(way, &plan, request());
        let said = variables(&text);
        assert_eq!(said.keys().filter(|key| key.starts_with("LISTEN")).collect::<Vec<_>>(), [&"LISTEN_ADDR"]);
        assert!(!said.contains_key("WATCHDOG_PID"));
    }
}

#[test]
fn digits_have_no_leading_zeros() {
    for number in [0, 1, 9, 10, 4711, 32768, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
        let mut room = [0u8; DIGITS];
        child::digits_for_tests(&mut room, number);
        let length = room.iter().position(|&byte| byte == 0).expect("a NUL at the end");
        assert_eq!(std::str::from_utf8(&room[..length]).unwrap(), number.to_string());
    }
}

/// Tried with each number of sockets, with low and high numbers: the error of the exec is reported, and not written to a socket.
#[test]
fn a_failing_exec_is_told_for_every_layout_of_descriptors() {
    let directory = tempfile::tempdir().unwrap();
    let missing = executable(&directory.path().join("missing-interpreter"), "#!/nonexistent/interpreter\n");
    let garbage = executable(&directory.path().join("garbage"), "neither ELF nor script\n");
    for way in WAYS {
        for count in 0..12 {
            for stashed in [false, true] {
                // The pipe is made before or after the sockets, so that its numbers differ.
                let early = ErrorPipe::new().unwrap();
                let sources: Vec<Arc<OwnedFd>> = (0..count)
                    .map(|_| {
                        let (socket, _) = std::os::unix::net::UnixDatagram::pair().unwrap();
                        let fd = OwnedFd::from(socket);
                        Arc::new(if stashed { dup_high(fd, 512) } else { fd })
                    })
                    .collect();
                let late = ErrorPipe::new().unwrap();
                for errors in [&early, &late] {
                    for (program, errno, words) in [
                        (&missing, libc::ENOENT, "exec: No such file or directory"),
                        (&garbage, libc::ENOEXEC, "exec: Exec format error"),
                    ] {
                        let mut plan = plan(program, &[]);
                        plan.listeners = sources.clone();
                        let scoreboard = low();
                        let request = SpawnRequest { tag: u64::MAX - count, scoreboard: Some(scoreboard.as_fd()), ..request() };
                        let child = spawn_by(&plan, &request, errors, way).unwrap();
                        assert_eq!(ended(&child.pidfd), Ended::Exit(127));
                        let told = errors.drain();
                        assert_eq!(told, [SpawnError { tag: u64::MAX - count, stage: Stage::Exec, errno }]);
                        assert_eq!(told[0].to_string(), words);
                        assert!(errors.drain().is_empty());
                    }
                }
            }
        }
    }
}

#[test]
fn the_pipe_is_readable_only_when_something_failed() {
    let errors = ErrorPipe::new().unwrap();
    let poll = Poll::new().unwrap();
    poll.add(&errors, 1).unwrap();
    let ready = || poll.ready(&mut Vec::new(), 1).unwrap();
    assert_eq!(run_by(CloneMode::Share, &shell("exit 3"), request(), &errors).1, Ended::Exit(3));
    assert_eq!(ready(), 0);
    let directory = tempfile::tempdir().unwrap();
    let garbage = executable(&directory.path().join("garbage"), "?");
    for tag in 0..100 {
        let child = spawn(&plan(&garbage, &[]), &SpawnRequest { tag, ..request() }, &errors).unwrap();
        assert_eq!(ended(&child.pidfd), Ended::Exit(127));
    }
    assert_eq!(ready(), 1);
    assert_eq!(errors.drain().iter().map(|error| error.tag).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
    assert_eq!(ready(), 0);
}

/// More children than may share the memory at once: the others are copies, and all of them start.
#[test]
fn children_leave_our_memory() {
    let errors = ErrorPipe::new().unwrap();
    let plan = shell("exit 7");
    let ways = [CloneMode::Share, CloneMode::ShareAll].into_iter().cycle().take(150);
    let children: Vec<_> = ways.map(|way| spawn_by(&plan, &request(), &errors, way).unwrap()).collect();
    for child in &children {
        assert_eq!(ended(&child.pidfd), Ended::Exit(7));
    }
    // Other tests of this process may start children meanwhile.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while make::sweep() > 0 {
        assert!(std::time::Instant::now() < until, "{} children that have ended are said to be here", make::sweep());
    }
}

#[test]
fn nothing_of_the_master_leaks() {
    // A descriptor that is not close-on-exec, as a careless library would open it.
    let careless = low();
    rustix::io::fcntl_setfd(&*careless, rustix::io::FdFlags::empty()).unwrap();
    for way in WAYS {
        for count in 0..4 {
            // The shell stops itself, since the loader of another program would have its own descriptors open for a moment.
            let mut plan = shell("echo $RATOON_SCOREBOARD; kill -STOP $$");
            plan.listeners = (0..count).map(|_| low()).collect();
            let mut output = Output::new();
            let scoreboard = std::fs::File::open("/dev/full").unwrap();
            let request = SpawnRequest {
                stdout: Some(output.end()),
                stderr: Some(output.end()),
                scoreboard: Some(scoreboard.as_fd()),
                ..request()
            };
            let errors = ErrorPipe::new().unwrap();
            let child = spawn_by(&plan, &request, &errors, way).unwrap();
            let guard = Guard(child.pidfd);
            let number = 3 + count;
            assert_eq!(output.line(), number.to_string());
            assert_eq!(descriptors_of(child.pid), (0..=number).collect::<Vec<_>>());
            let link = |fd: i32| std::fs::read_link(format!("/proc/{}/fd/{fd}", child.pid)).unwrap();
            assert_eq!(link(0), Path::new("/dev/null"));
            assert!((3..number).all(|fd| link(fd) == Path::new("/dev/zero")));
            assert_eq!(link(number), Path::new("/dev/full"));
            drop(guard);
        }
    }
}

#[test]
fn signals_are_as_in_a_fresh_process() {
    // In a process of its own, since all threads share the dispositions of signals.
    if !alone("sys::spawn::tests::signals_are_as_in_a_fresh_process") {
        return;
    }
    crate::sys::signals::only(&[libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1, libc::SIGRTMIN() + 1]).unwrap();
    for signal in [libc::SIGPIPE, libc::SIGTTIN, libc::SIGUSR2, libc::SIGCHLD, libc::SIGRTMAX()] {
        // SAFETY: ignoring needs no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // With SIGCHLD ignored the kernel would reap children, so reset it before there is a child.
    for way in WAYS {
        // SAFETY: as above.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        let mut output = Output::new();
        let errors = ErrorPipe::new().unwrap();
        let request = SpawnRequest { stdout: Some(output.end()), ..request() };
        let child = spawn_by(&plan(Path::new("/bin/cat"), &["/proc/self/status"]), &request, &errors, way).unwrap();
        output.started();
        let text = output.rest();
        for mask in ["SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"] {
            assert!(text.contains(&format!("{mask}:\t0000000000000000\n")), "{text}");
        }
        assert_eq!(ended(&child.pidfd), Ended::Exit(0));
        // The master's own mask is unchanged.
        let own = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let expected =
            [libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1, libc::SIGRTMIN() + 1].iter().fold(0u64, |mask, n| mask | 1 << (n - 1));
        assert!(own.contains(&format!("SigBlk:\t{expected:016x}\n")), "{own}");
    }
}

#[test]
fn sigpipe_stays_ignored_when_the_master_was_started_so() {
    if !alone("sys::spawn::tests::sigpipe_stays_ignored_when_the_master_was_started_so") {
        return;
    }
    crate::sys::signals::sigpipe_was(true);
    for way in WAYS {
        let text = run(way, &plan(Path::new("/bin/cat"), &["/proc/self/status"]), request());
        assert!(text.contains(&format!("SigIgn:\t{:016x}\n", 1u64 << (libc::SIGPIPE - 1))), "{text}");
    }
}

#[test]
fn a_session_of_its_own_and_a_child_of_ours() {
    for way in WAYS {
        let text = run(way, &shell("exec cat /proc/self/stat"), request());
        let fields: Vec<&str> = text.split_whitespace().collect();
        let (pid, parent, group, session) = (fields[0], fields[3], fields[4], fields[5]);
        assert_eq!((group, session), (pid, pid));
        assert_eq!(parent, std::process::id().to_string());
    }
}

#[test]
fn the_directory_is_the_pinned_one() {
    for way in WAYS {
        let place = tempfile::tempdir().unwrap();
        let old = place.path().join("old");
        std::fs::create_dir(&old).unwrap();
        let mut plan = shell("pwd -P");
        plan.directory = Arc::new(std::fs::File::open(&old).unwrap().into());
        let moved = std::fs::canonicalize(place.path()).unwrap().join("moved");
        std::fs::rename(&old, &moved).unwrap();
        assert_eq!(run(way, &plan, request()).trim_end(), moved.to_str().unwrap());
    }
}

#[test]
fn limits_are_the_workers_own() {
    let before = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    for way in WAYS {
        let mut plan = shell("ulimit -Sn; ulimit -Hn");
        plan.nofile = Some((123, 456));
        assert_eq!(run(way, &plan, request()), "123\n456\n");
    }
    assert_eq!(rustix::process::getrlimit(rustix::process::Resource::Nofile), before);
}

#[test]
fn another_user_where_we_may() {
    let nobody = Identity { uid: 65534, gid: 65533, groups: vec![65531, 65532] };
    for way in WAYS {
        let errors = ErrorPipe::new().unwrap();
        let mut plan = shell("id -u; id -g; id -G");
        plan.identity = Some(nobody.clone());
        let (text, end) = run_by(way, &plan, request(), &errors);
        if !rustix::process::geteuid().is_root() {
            let told = errors.drain();
            assert_eq!(told, [SpawnError { tag: 1, stage: Stage::Groups, errno: libc::EPERM }]);
            assert_eq!(told[0].to_string(), "setgroups: Operation not permitted");
            continue;
        }
        assert_eq!((text.as_str(), end), ("65534\n65533\n65533 65531 65532\n", Ended::Exit(0)));

        // A directory that this user may not enter.
        let place = tempfile::tempdir().unwrap();
        std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o700)).unwrap();
        plan.directory = Arc::new(std::fs::File::open(place.path()).unwrap().into());
        assert_eq!(run_by(way, &plan, request(), &errors).1, Ended::Exit(127));
        assert_eq!(errors.drain()[0].to_string(), "chdir: Permission denied");

        // A program that this user may not reach.
        let hidden = executable(&place.path().join("app"), "#!/bin/sh\n");
        let plan = Plan { identity: Some(nobody.clone()), ..crate::sys::testing::plan(&hidden, &[]) };
        assert_eq!(run_by(way, &plan, request(), &errors).1, Ended::Exit(127));
        assert_eq!(errors.drain()[0].to_string(), "exec: Permission denied");
    }
}

#[test]
fn the_worker_dies_with_the_thread_that_made_it() {
    for way in WAYS {
        for identity in
            [None, rustix::process::geteuid().is_root().then_some(Identity { uid: 65534, gid: 65534, groups: vec![] })]
        {
            let mut output = Output::new();
            let (leave, left) = std::sync::mpsc::channel::<()>();
            std::thread::scope(|scope| {
                let end = output.write_end();
                let maker = scope.spawn(move || {
                    let mut plan = shell("echo up; exec sleep 100");
                    plan.die_with_parent = Some(libc::SIGTERM);
                    plan.identity = identity;
                    let errors = ErrorPipe::new().unwrap();
                    let child = spawn_by(&plan, &SpawnRequest { stdout: Some(end.as_fd()), ..request() }, &errors, way).unwrap();
                    left.recv().unwrap();
                    child.pidfd
                });
                assert_eq!(output.line(), "up");
                leave.send(()).unwrap();
                let guard = Guard(maker.join().unwrap());
                assert_eq!(ended(&guard.0), Ended::Signal { signal: libc::SIGTERM, core: false });
            });
        }
    }
}

#[test]
fn a_directory_that_is_no_cgroup_is_an_error() {
    let place = tempfile::tempdir().unwrap();
    let directory = std::fs::File::open(place.path()).unwrap();
    let errors = ErrorPipe::new().unwrap();
    let request = || SpawnRequest { cgroup: Some(directory.as_fd()), ..request() };
    assert_eq!(spawn(&shell(""), &request(), &errors).unwrap_err().raw_os_error(), Some(libc::EBADF));
    // With fork the child moves itself, so the child reports the error.
    assert_eq!(run_by(CloneMode::Fork, &shell(""), request(), &errors).1, Ended::Exit(127));
    assert_eq!(errors.drain()[0].to_string(), "cgroup: No such file or directory");
}

#[test]
fn born_in_its_cgroup() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let root = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields[2] == "cgroup2")
        .map(|fields| fields[1]);
    let group = root.map(|root| Path::new(root).join(format!("ratoon-test-{}", std::process::id())));
    let Some(group) = group.filter(|group| std::fs::create_dir(group).is_ok()) else {
        eprintln!("born_in_its_cgroup: skipped, no cgroup v2 here in which a group can be made");
        return;
    };
    let directory = std::fs::File::open(&group).unwrap();
    let name = format!("/{}\n", group.file_name().unwrap().to_str().unwrap());
    let texts = WAYS
        .map(|way| run(way, &shell("exec cat /proc/self/cgroup"), SpawnRequest { cgroup: Some(directory.as_fd()), ..request() }));
    std::fs::remove_dir(&group).unwrap();
    for text in texts {
        assert!(text.contains(&name), "{text}");
    }
}

#[test]
fn a_hundred_killed_at_once_are_all_reaped() {
    let errors = ErrorPipe::new().unwrap();
    let poll = Poll::new().unwrap();
    let plan = plan(Path::new("/bin/sleep"), &["100"]);
    let children: Vec<Guard> =
        (0..100).map(|tag| Guard(spawn(&plan, &SpawnRequest { tag, ..request() }, &errors).unwrap().pidfd)).collect();
    for (token, child) in children.iter().enumerate() {
        poll.add(&child.0, token as u64).unwrap();
    }
    for child in &children {
        assert_eq!(child.0.wait().unwrap(), None);
        child.0.signal(libc::SIGKILL).unwrap();
    }
    let mut reaped = 0;
    while reaped < children.len() {
        wait_readable(&poll);
        let mut tokens = Vec::new();
        poll.ready(&mut tokens, 16).unwrap();
        for token in tokens {
            let child = &children[token as usize].0;
            assert_eq!(child.peek().unwrap(), Some(Ended::Signal { signal: libc::SIGKILL, core: false }));
            assert_eq!(child.wait().unwrap(), Some(Ended::Signal { signal: libc::SIGKILL, core: false }));
            poll.remove(child).unwrap();
            reaped += 1;
        }
    }
    assert!(errors.drain().is_empty());
}

#[test]
fn a_signal_sent_before_the_exec_is_not_lost() {
    let errors = ErrorPipe::new().unwrap();
    for way in WAYS {
        for _ in 0..20 {
            let child = spawn_by(&plan(Path::new("/bin/sleep"), &["100"]), &request(), &errors, way).unwrap();
            child.pidfd.signal(libc::SIGTERM).unwrap();
            assert_eq!(ended(&Guard(child.pidfd).0), Ended::Signal { signal: libc::SIGTERM, core: false });
        }
    }
}

/// The pinned program starts even if its path was changed.
mod pinned {
    use super::*;

    const OLD: &str = "#!/bin/sh\necho old $0 $1\n";
    const NEW: &str = "#!/bin/sh\necho new\n";

    #[test]
    fn by_its_path_while_that_leads_to_it() {
        let place = tempfile::tempdir().unwrap();
        let path = executable(&place.path().join("app"), OLD);
        for way in WAYS {
            assert_eq!(run(way, &plan(&path, &["x"]), request()), format!("old {} x\n", path.display()));
        }
    }

    #[test]
    fn a_script_that_was_replaced_removed_or_rewritten() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("app");
        let replace: [fn(&Path); 4] = [
            |path| std::fs::rename(executable(&path.with_extension("new"), NEW), path).unwrap(),
            |path| std::fs::remove_file(path).unwrap(),
            |path| std::fs::write(path, NEW).unwrap(),
            |path| std::fs::write(path, "").unwrap(),
        ];
        for way in WAYS {
            for change in replace {
                executable(&path, OLD);
                let mut plan = plan(&path, &["x"]);
                plan.listeners = vec![low()];
                change(&path);
                let text = run(way, &plan, request());
                assert!(text.starts_with("old /dev/fd/") && text.ends_with(" x\n"), "{text}");
            }
        }
    }

    #[test]
    fn for_another_user_too() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("for_another_user_too: skipped, only root can start another user's process");
            return;
        }
        let place = tempfile::tempdir().unwrap();
        std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let path = executable(&place.path().join("app"), OLD);
        let mut plan = plan(&path, &["x"]);
        plan.identity = Some(Identity { uid: 65534, gid: 65534, groups: vec![] });
        executable(&path, NEW);
        for way in WAYS {
            assert!(run(way, &plan, request()).starts_with("old "));
        }
    }

    #[test]
    fn a_binary_that_was_replaced_or_removed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("app");
        for way in WAYS {
            for replace in [true, false] {
                std::fs::copy("/bin/echo", &path).unwrap();
                let plan = plan(&path, &["old"]);
                assert!(!plan.program.is_script());
                if replace {
                    std::fs::copy("/bin/false", path.with_extension("new")).unwrap();
                    std::fs::rename(path.with_extension("new"), &path).unwrap();
                } else {
                    std::fs::remove_file(&path).unwrap();
                }
                assert_eq!(run(way, &plan, request()), "old\n");
            }
        }
    }

    #[test]
    fn only_the_script_itself_stays_open() {
        let place = tempfile::tempdir().unwrap();
        let path = executable(&place.path().join("app"), "#!/bin/sh\nls -l /proc/$$/fd\n");
        let mut plan = plan(&path, &[]);
        plan.env = vec![c"PATH=/usr/bin:/bin".to_owned()];
        executable(&path, NEW);
        for way in WAYS {
            let text = run(way, &plan, request());
            // The three standard streams; and the copy of the script, once by the kernel's number and once as opened by the shell.
            let links: Vec<&str> = text.lines().filter_map(|line| line.split_once(" -> ")).map(|(_, link)| link).collect();
            let scripts = links.iter().filter(|link| link.starts_with("/memfd:ratoon-script")).count();
            assert!(links.len() == 3 + scripts && (1..=2).contains(&scripts), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_executed_is_refused_at_once() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("app");
        let errno = |path: &Path| Program::pin(path).unwrap_err().raw_os_error().unwrap();
        assert_eq!(errno(&path), libc::ENOENT);
        assert_eq!(errno(place.path()), libc::EISDIR);
        assert_eq!(errno(Path::new("/dev/null")), libc::EACCES);
        std::fs::write(&path, OLD).unwrap();
        assert_eq!(errno(&path), libc::EACCES);
        rustix::fs::mknodat(rustix::fs::CWD, place.path().join("fifo"), rustix::fs::FileType::Fifo, 0o777.into(), 0).unwrap();
        assert_eq!(errno(&place.path().join("fifo")), libc::EACCES);
    }
}
