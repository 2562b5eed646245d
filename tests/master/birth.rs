//! What a worker is born with: its environment, its descriptors, its signals, and nothing of the master's.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, getsid, pidfd_open};

use super::harness::master::{last_failure, pids, workers};
use super::harness::{Master, Place, Plan, RATOON, Signal, Value, processes};
use super::upgrade::{install, upgrade};

/// Writes down what the worker was born with, before anything else runs in it.
const DIARY: &str = "tr '\\0' '\\n' < /proc/$$/environ > PLACE/environ.$RATOON_WORKER\n\
    cat /proc/self/status > PLACE/signals.$RATOON_WORKER";

/// The environment of a worker as it was at its exec.
fn environment(master: &Master, worker: &Value) -> BTreeMap<String, String> {
    let text = master.place.read(&format!("environ.{}", worker["id"]));
    text.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()
}

/// The inode of a pidfd of this process, where the kernel has one that says who it is.
fn pidfd_inode(pid: u32) -> Option<u64> {
    const PIDFS: i64 = 0x5049_4446;
    let pid = Pid::from_raw(pid.try_into().ok()?)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("a living process");
    let is_pidfs = rustix::fs::fstatfs(&pidfd).is_ok_and(|it| it.f_type == PIDFS);
    is_pidfs.then(|| rustix::fs::fstat(&pidfd).expect("a pidfd").st_ino)
}

/// `NUMBER TARGET` of each descriptor that a worker was born with.
fn descriptors(master: &Master) -> BTreeMap<u32, String> {
    let text = master.get("/fds");
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(number, target)| (number.parse().expect("a number"), target.into()))
        .collect()
}

fn inode_of(socket: impl AsFd) -> String {
    format!("socket:[{}]", rustix::fs::fstat(socket).expect("a socket").st_ino)
}

#[test]
fn nothing_that_systemd_said_to_the_master_reaches_a_worker() {
    // As systemd 259 does it: its own pidfd's inode stands in LISTEN_PIDFDID.
    let python = "exec /usr/bin/python3 -c 'import os, sys
os.environ[\"LISTEN_PID\"] = str(os.getpid())
os.environ[\"LISTEN_PIDFDID\"] = str(os.fstat(os.pidfd_open(os.getpid())).st_ino)
os.environ[\"WATCHDOG_PID\"] = str(os.getpid())
os.execv(sys.argv[1], sys.argv[1:])' \"$0\" \"$@\"";
    let web = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let place = Place::new();
    place.wrap("v1", DIARY);
    let plan = place.pool("count = 2", "").socket("web", web).shell(python);
    let of_the_master = [
        ("WATCHDOG_USEC", "60000000"),
        ("MAINPID", "1"),
        ("MANAGERPID", "1"),
        ("SYSTEMD_EXEC_PID", "1"),
        ("FDSTORE", "100"),
        ("MEMORY_PRESSURE_WATCH", "/dev/null"),
        ("RATOON_SLOT", "99"),
        ("RATOON_SCOREBOARD", "99"),
        ("RATOON_CONTROL", "/nowhere"),
        ("RATOON_STATE", "99"),
    ];
    let plan = of_the_master.into_iter().fold(plan, |plan, (name, value)| plan.environment(name, value));
    let master = plan.environment("LISTEN_ADDRESS", "is the user's own").start();

    let status = master.status();
    for worker in workers(&status) {
        let environment = environment(&master, worker);
        let pid = worker["pid"].as_u64().expect("a pid") as u32;
        let said = |name: &str| environment.get(name).cloned();
        assert_eq!(said("LISTEN_FDS").as_deref(), Some("1"));
        assert_eq!(said("LISTEN_FDNAMES").as_deref(), Some("web"));
        assert_eq!(said("LISTEN_PID"), Some(pid.to_string()));
        assert_eq!(said("LISTEN_PIDFDID"), pidfd_inode(pid).map(|inode| inode.to_string()));
        assert_eq!(said("LISTEN_ADDRESS").as_deref(), Some("is the user's own"));
        let notify = master.place.path(format!("run/notify/{}", worker["id"]));
        assert_eq!(said("NOTIFY_SOCKET"), Some(notify.display().to_string()), "a path, this worker's alone");
        assert_eq!(said("RATOON_INSTANCE").as_deref(), Some("pool"));
        assert_eq!(said("RATOON_GENERATION").as_deref(), Some("1"));
        assert_eq!(said("RATOON_WORKER"), Some(worker["id"].to_string()));
        assert_eq!(said("RATOON_SLOT"), Some(worker["slot"].to_string()));
        assert_eq!(said("RATOON_CONTROL"), Some(master.control().display().to_string()));
        assert_ne!(said("RATOON_SCOREBOARD").as_deref(), Some("99"));
        for name in [
            "WATCHDOG_USEC",
            "WATCHDOG_PID",
            "MAINPID",
            "MANAGERPID",
            "SYSTEMD_EXEC_PID",
            "FDSTORE",
            "MEMORY_PRESSURE_WATCH",
            "RATOON_STATE",
        ] {
            assert_eq!(said(name), None, "{name} is the master's");
        }
    }
}

#[test]
fn names_in_command_and_environment_are_each_worker_s_own() {
    let place = Place::new();
    install(&place, Path::new(RATOON));
    let script = "printf '%s\\n' \"$*\" $PORT $KEPT > ../said.$RATOON_WORKER";
    place.program("v1/worker", &format!("#!/bin/sh\n{script}\nsystemd-notify --ready\nexec sleep 1000\n"));
    let command = "['./worker', '--id=$RATOON_WORKER', '${RATOON_GENERATION}/$RATOON_SLOT', '$$RATOON_SLOT', '$HOME $$']";
    let variables = "{ PORT = '80$RATOON_SLOT', KEPT = '$RATOON_SLOTS' }";
    let directory = place.path("current");
    let worker = format!("command = {command}\ndirectory = {directory:?}\nenvironment = {variables}");
    place.write("pool.toml", &format!("[worker]\n{worker}\ncount = 2\nready = 'notify'\n"));
    let master = Plan::new(place).program("ratoon").start();
    let check = |status: &Value| {
        for worker in workers(status) {
            let (id, slot, generation) = (&worker["id"], &worker["slot"], &worker["generation"]);
            let said = master.place.read(&format!("said.{id}"));
            assert_eq!(said, format!("--id={id} {generation}/{slot} $RATOON_SLOT $HOME $$\n80{slot}\n$RATOON_SLOTS\n"));
        }
    };
    check(&master.status());
    master.ok(&["reload"]);
    check(&master.wait_until_calm());
    // A replacement that the next master starts from the pinned release.
    upgrade(&master);
    let old = pids(&master.wait_until_calm());
    processes::signal(old[0], Signal::KILL);
    let status = master.wait("a replacement", |status| status["workers_ready"] == 2 && !pids(status).contains(&old[0]));
    check(&status);
}

#[test]
fn a_worker_has_its_own_watchdog() {
    let place = Place::new();
    place.wrap("v1", DIARY);
    let master = place.pool("count = 1\nwatchdog = '20s'", "").environment("WATCHDOG_USEC", "60000000").start();
    let status = master.status();
    let environment = environment(&master, &workers(&status)[0]);
    assert_eq!(environment.get("WATCHDOG_USEC").map(String::as_str), Some("20000000"));
    assert_eq!(environment.get("WATCHDOG_PID"), Some(&pids(&status)[0].to_string()));
}

#[test]
fn a_worker_has_its_streams_its_sockets_its_status_page_and_no_other_descriptor() {
    let place = Place::new();
    let (web, admin) = (std::net::TcpListener::bind("127.0.0.1:0").expect("a port"), place.path("admin"));
    let admin = std::os::unix::net::UnixListener::bind(admin).expect("a socket");
    let wanted = [inode_of(&web), inode_of(&admin)];
    let stray = std::fs::File::open("/etc/hostname").expect("a file");
    place.wrap("v1", DIARY);
    let plan = place.pool("count = 1", "").socket("web", web).socket("admin", admin);
    let master = plan.stray(9, stray.try_clone().expect("a file")).stray(77, stray).start();
    // Of a first worker, of one of a new generation beside an old one, and of one that replaces a dead one.
    for _ in 0..2 {
        for _ in 0..2 {
            let status = master.wait_until_calm();
            let environment = environment(&master, &workers(&status)[0]);
            let descriptors = descriptors(&master);
            let mut numbers = vec![0, 1, 2, 3, 4];
            numbers.extend(environment.get("RATOON_SCOREBOARD").map(|number| number.parse::<u32>().expect("a number")));
            assert_eq!(descriptors.keys().copied().collect::<Vec<_>>(), numbers, "{descriptors:#?}");
            assert_eq!([&descriptors[&3], &descriptors[&4]], [&wanted[0], &wanted[1]]);
            assert_eq!(descriptors[&0], "/dev/null");
            master.ok(&["reload"]);
        }
        let status = master.wait_until_calm();
        processes::signal(pids(&status)[0], Signal::KILL);
        master.wait("another", |status| status["workers_ready"] == 1 && status["failures"] != serde_json::json!([]));
    }
}

/// The sets of signals in a worker's diary.
fn signals(master: &Master, worker: &Value) -> BTreeMap<String, String> {
    processes::parse_facts(&master.place.read(&format!("signals.{}", worker["id"])))
}

#[test]
fn signals_are_as_in_a_fresh_process_whatever_the_master_was_started_with() {
    let place = Place::new();
    place.wrap("v1", DIARY);
    let ignored = [libc::SIGPIPE, libc::SIGUSR1, libc::SIGHUP, libc::SIGINT, libc::SIGCHLD, libc::SIGTTOU];
    let blocked = [libc::SIGUSR1, libc::SIGALRM, libc::SIGTERM, libc::SIGCHLD, libc::SIGRTMIN() + 3];
    let master = place.pool("count = 1", "").ignoring(&ignored).blocking(&blocked).start();
    let status = master.status();
    let signals = signals(&master, &workers(&status)[0]);
    // But SIGPIPE, which the unit may want ignored (`IgnoreSIGPIPE=`).
    for (set, expected) in [("SigPnd", 0), ("ShdPnd", 0), ("SigBlk", 0), ("SigIgn", 1u64 << (libc::SIGPIPE - 1))] {
        assert_eq!(signals.get(set), Some(&format!("{expected:016x}")), "{set}: {signals:#?}");
    }

    // And the master itself hears what it must: a child's end, HUP, INT.
    let _ = master.try_get("/exit?code=7");
    let status = master.wait("another", |status| status["worker_crashes"] == 1 && status["workers_ready"] == 1);
    assert_eq!(last_failure(&status)["how"], "exit 7", "{status:#}");
    master.signal(Signal::HUP);
    master.wait("reloaded", |status| status["generation"] == 2);
    master.signal(Signal::INT);
    assert_eq!(master.end().code(), Some(0));
}

#[test]
fn a_worker_leads_a_session_of_its_own() {
    let master = Place::new().pool("count = 1", "").start();
    let pid = pids(&master.status())[0];
    let session = getsid(Pid::from_raw(pid as i32)).expect("a living process");
    assert_eq!(session.as_raw_nonzero().get() as u32, pid);
}

#[test]
fn variables_of_the_configuration_are_added_and_read_again_at_a_reload() {
    let place = Place::new();
    place.wrap("v1", DIARY);
    place.write("variables", "FROM_FILE=one\nBOTH=file\n");
    let file = place.path("variables");
    let worker = |more: &str| {
        format!(
            "count = 1\nenvironment_file = [{file:?}]\nenvironment = {{ INLINE = 'a b', BOTH = 'inline', PATH_OF_MASTER = 'new'{more} }}"
        )
    };
    let master = place.pool(&worker(""), "").environment("PATH_OF_MASTER", "old").environment("KEPT", "yes").start();
    let now = |name: &str| environment(&master, &workers(&master.wait_until_calm())[0]).get(name).cloned();
    let is = |text: &str| Some(text.to_owned());
    assert_eq!([now("FROM_FILE"), now("INLINE"), now("BOTH")], [is("one"), is("a b"), is("file")]);
    assert_eq!([now("PATH_OF_MASTER"), now("KEPT")], [is("new"), is("yes")]);

    master.place.write("variables", "FROM_FILE=two\n");
    master.place.configure(&worker(", LATER = 'x'"), "");
    assert_eq!(now("FROM_FILE"), is("one"));
    master.ok(&["reload"]);
    assert_eq!([now("FROM_FILE"), now("LATER"), now("BOTH")], [is("two"), is("x"), is("inline")]);
}

#[test]
fn a_worker_runs_in_its_directory_without_symlinks() {
    let master = Place::new().pool("count = 1", "").start();
    let release = std::fs::canonicalize(master.place.path("v1")).expect("v1");
    assert_eq!(master.get("/where").lines().next(), release.to_str());
    assert!(master.get("/env").contains(&format!("PWD={}\n", release.display())));
}

#[test]
fn program_without_a_slash_is_found_in_the_masters_path_alone() {
    let place = Place::new();
    let (directory, bin, other) = (place.path("v1"), place.path("bin"), place.path("other"));
    let chaos = super::harness::example("chaos");
    for (name, version) in [("bin", "in-path"), ("v1", "in-directory"), ("other", "in-worker-path")] {
        let _ = std::fs::create_dir(place.path(name));
        place.program(&format!("{name}/tool"), &format!("#!/bin/sh\nCHAOS_VERSION={version} exec {}\n", chaos.display()));
    }
    let pool =
        format!("[worker]\ncommand = ['tool']\ndirectory = {directory:?}\ncount = 1\nenvironment = {{ PATH = {other:?} }}\n");
    place.write("pool.toml", &pool);
    let master = Plan::new(place).environment("PATH", format!(".:{}:/usr/bin:/bin", bin.display())).start();
    assert!(master.get("/").contains("in-path"));
    master.place.write("pool.toml", &pool.replace("'tool'", "'./tool'"));
    master.ok(&["reload"]);
    master.wait_until_calm();
    assert!(master.get("/").contains("in-directory"));
}

#[test]
fn what_workers_print_comes_out_where_the_master_writes() {
    let master = Place::new().pool("count = 1", "").start();
    master.get("/print?text=a+word");
    master.get("/err?text=an+error");
    master.wait_for_log("a word");
    master.wait_for_log("an error");
}

/// Says in its status who it is and what it may.
const SELF_PORTRAIT: &str =
    "systemd-notify --ready --status=\"$(id -un):$(id -gn):$(id -Gn) $(ulimit -Sn) $(ulimit -Hn)\"; exec sleep 1000";

#[test]
fn a_worker_runs_as_the_configured_user_where_the_master_may_change_it() {
    let place = Place::new();
    // Others must reach their notify socket.
    std::fs::set_permissions(place.root(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).expect("mode");
    let pool = |user: &str| {
        format!(
            "[worker]\ncommand = ['/bin/sh', '-c', '{SELF_PORTRAIT}']\ndirectory = '/'\nready = 'notify'\ncount = 1\n{user}\n"
        )
    };
    place.write("pool.toml", &pool(""));
    let master = Plan::new(place).start();
    let own = workers(&master.status())[0]["status"].as_str().expect("a status").to_owned();
    master.place.write("pool.toml", &pool("user = 'nobody'"));
    let said = master.verb(&["reload"]);
    if rustix::process::geteuid().is_root() {
        assert_eq!(said.code, Some(0), "{said:?}\n{}", master.log());
        let status = master.wait("its words", |status| workers(status)[0]["status"].as_str().is_some_and(|it| it != own));
        let portrait = workers(&status)[0]["status"].as_str().expect("a status").to_owned();
        assert!(portrait.starts_with("nobody:nogroup:nogroup "), "{portrait}");
        master.place.write("pool.toml", &pool("user = 'nobody'\ngroup = 'daemon'"));
        master.ok(&["reload"]);
        master
            .wait("its words", |status| workers(status)[0]["status"].as_str().is_some_and(|it| it.starts_with("nobody:daemon:")));
    } else {
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains("only a master that runs as root"), "{said:?}");
    }
    master.place.write("pool.toml", &pool("user = 'nobody-at-all'"));
    let said = master.verb(&["reload"]);
    assert!(said.code == Some(1) && said.err.contains("there is no user \"nobody-at-all\""), "{said:?}");
}

#[test]
fn a_worker_has_the_limit_of_open_files_that_the_master_was_given_or_its_own() {
    let place = Place::new();
    let pool = |limits: &str| {
        format!(
            "[worker]\ncommand = ['/bin/sh', '-c', '{SELF_PORTRAIT}']\ndirectory = '/'\nready = 'notify'\ncount = 1\n{limits}\n"
        )
    };
    place.write("pool.toml", &pool(""));
    let master = Plan::new(place).shell("ulimit -Sn 333; ulimit -Hn 4444; exec \"$0\" \"$@\"").start();
    let ends_with = |end: &str| {
        master.wait(end, |status| workers(status)[0]["status"].as_str().is_some_and(|it| it.ends_with(end)));
    };
    // The master has raised its own.
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", master.pid)).expect("limits");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("files");
    assert_eq!(files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["4444", "4444"]);
    ends_with(" 333 4444");
    master.place.write("pool.toml", &pool("[worker.limits]\nnofile = 555"));
    master.ok(&["reload"]);
    ends_with(" 555 555");
}
