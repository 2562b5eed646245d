//! A machine that is out of something: descriptors, processes, disk. The master says so, goes on with what it has, and all is
//! well again by itself when there is enough.

use std::io::{Read, Write};
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use super::harness::master::{last_failure, pids, workers};
use super::harness::{Master, Place, Plan, RATOON, Signal, Value, eventually, example, processes};
use super::meter;

/// Sets the soft limit of a running process, with the words of prlimit(1): `nofile`, `nproc`; none: as high as the hard one.
pub fn limit(pid: u32, what: &str, soft: Option<u32>) {
    let own = |what: &str| processes::facts(pid)[what].split_whitespace().next().expect("a number").to_owned();
    let prlimit = |arguments: &[&str]| {
        // As its own user: that is allowed to everybody, and root has not everywhere what it takes for others.
        let (user, group) = (format!("--reuid={}", own("Uid")), format!("--regid={}", own("Gid")));
        let mut command = Command::new("setpriv");
        let output =
            command.args([&user, &group, "--keep-groups", "prlimit", "--pid", &pid.to_string()]).args(arguments).output();
        let output = output.expect("setpriv");
        assert!(output.status.success(), "prlimit {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let hard = || prlimit(&[&format!("--{what}"), "--raw", "--noheadings", "--output=HARD"]);
    let soft = soft.map_or_else(hard, |soft| soft.to_string());
    prlimit(&[&format!("--{what}={soft}:")]);
}

fn kill_first(master: &Master) -> Value {
    let before = master.status();
    processes::signal(pids(&before)[0], Signal::KILL);
    before
}

/// Waits until systemd was told of a status line with this in it.
fn wait_for_line(master: &Master, part: &str) {
    master.systemd().wait(part, |all| all.iter().any(|it| it.starts_with("STATUS=") && it.contains(part)).then_some(()));
}

const QUICK: &str = "[restart]\nlimit = 1000\ninitial = '50ms'\nmax = '200ms'";

#[test]
fn without_a_descriptor_it_waits_and_recovers() {
    let master = Place::new().pool("count = 2", &format!("{QUICK}\n[reload]\nkeep = 1")).start();
    let before = meter::descriptors(master.pid);
    // Whoever has a connection already can still ask.
    limit(master.pid, "nofile", Some(16));
    let began = (Instant::now(), meter::cpu(master.pid));
    kill_first_by_pid(&master);
    wait_for_line(&master, "Too many open files");
    // A connection that cannot be accepted waits, and nobody spins for it.
    let requester = master.begin(&["reload"]);
    let waiting = Instant::now();
    while waiting.elapsed().as_millis() < 500 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(master.has_ended().is_none(), "{}", master.log());
    }
    let cost = (began.0.elapsed(), meter::cpu(master.pid) - began.1);
    assert!(cost.1 < cost.0 / 2, "{:?} of CPU in {:?}", cost.1, cost.0);
    limit(master.pid, "nofile", None);
    let said = requester.end();
    assert!(said.code.is_some(), "{said:?}");
    let status = master.wait_until_calm();
    let failures = status["failures"].to_string();
    assert!(failures.contains("Too many open files") && !failures.contains("os error"), "{status:#}");
    assert_eq!(master.ok(&["reload"]).code, Some(0));
    master.wait_until_calm();
    eventually(
        "no descriptor is left",
        || (meter::descriptors(master.pid) <= before).then_some(()),
        || meter::descriptors_told(master.pid),
    );
}

/// The status cannot be asked for any more.
fn kill_first_by_pid(master: &Master) {
    let children = processes::children(master.pid);
    processes::signal(*children.first().expect("a worker"), Signal::KILL);
}

#[test]
fn more_workers_than_descriptors_leave_enough_to_be_asked() {
    let place = Place::new();
    place.program("v1/worker", "#!/bin/sh\nexec sleep 1000\n");
    let worker = "count = 100\nready = 'running'\nsettle = '10ms'";
    place.configure(worker, QUICK);
    place.program("start", &format!("#!/bin/sh\nulimit -n 160\nexec {RATOON} \"$@\"\n"));
    let master = Plan::new(place).program("start").launch();
    let status = master.wait("some run, others cannot", |status| {
        status["workers_ready"].as_u64() > Some(10) && status["failures"].to_string().contains("open files")
    });
    assert!(status["workers_ready"].as_u64() < Some(100), "{status:#}");
    // Many are answered, and fewer workers fit.
    for _ in 0..8 {
        master.status();
    }
    master.ok(&["scale", "5"]);
    let status = master.wait_until_calm();
    assert_eq!(status["workers_ready"], 5);
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
}

#[test]
fn who_cannot_be_served_for_want_of_descriptors_is_told_so() {
    const MOST: usize = 70;
    let place = Place::new();
    place.program("v1/worker", "#!/bin/sh\nexec sleep 1000\n");
    place.configure("count = 2\nready = 'running'\nsettle = '10ms'", QUICK);
    place.program("start", &format!("#!/bin/sh\nulimit -n {MOST}\nexec {RATOON} \"$@\"\n"));
    let master = Plan::new(place).program("start").launch();
    master.wait_until_calm();
    // Who listens to the events stays as long as it likes; in the end one of them is one too many.
    let mut listeners = Vec::new();
    loop {
        let mut listener = UnixStream::connect(master.control()).expect("a connection");
        listener.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
        listener.write_all(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n").expect("a question");
        let mut status = [0; 12];
        listener.read_exact(&mut status).expect("an answer");
        match &status {
            b"HTTP/1.1 200" => listeners.push(listener),
            b"HTTP/1.1 503" => break,
            other => panic!("{}", String::from_utf8_lossy(other)),
        }
    }
    assert!((10..MOST).contains(&listeners.len()), "{}", listeners.len());
    let began = (Instant::now(), meter::cpu(master.pid));
    // Who only connects holds nobody up for long.
    let silent = UnixStream::connect(master.control()).expect("a connection");
    for verb in [&["reload"][..], &["status"], &["scale", "3"], &["recycle"]] {
        let said = master.begin(verb).end();
        assert_eq!(said.code, Some(2), "{verb:?}: {said:?}");
        assert!(said.err.contains("at its limit of descriptors") && said.err.contains("LimitNOFILE="), "{verb:?}: {said:?}");
        assert!(!said.err.contains("does not say that it is a Ratoon"), "{verb:?}: {said:?}");
    }
    let cost = (began.0.elapsed(), meter::cpu(master.pid) - began.1);
    assert!(cost.1 < cost.0 / 2, "{:?} of CPU in {:?}", cost.1, cost.0);
    drop((silent, listeners));
    eventually("it answers again", || (master.begin(&["status"]).end().code == Some(0)).then_some(()), || master.log());
    master.ok(&["reload"]);
}

/// A master of a user of its own, so that the limit of that user's processes is nobody else's.
fn of_a_lone_user(place: Place, user: u32, tables: &str) -> Master {
    place.install("0755", RATOON.as_ref(), "ratoon");
    place.install("0755", &example("chaos"), "chaos");
    place.program("v1/worker", &format!("#!/bin/sh\nexec {}\n", place.path("chaos").display()));
    place.configure("count = 2", tables);
    let script = format!(
        "#!/bin/sh\nexec setpriv --reuid={user} --regid={user} --clear-groups {} \"$@\"\n",
        place.path("ratoon").display()
    );
    place.program("start", &script);
    for path in ["", "run"] {
        let _ = chown(place.path(path), Some(user), Some(user));
    }
    let plan = Plan::new(place).program("start");
    let _ = chown(plan.place.path("systemd"), Some(user), Some(user));
    plan.start()
}

#[test]
#[ignore = "needs root"]
fn without_a_process_it_waits_and_recovers() {
    let master = of_a_lone_user(Place::new(), 54_321, QUICK);
    limit(master.pid, "nproc", Some(1));
    let before = kill_first(&master);
    wait_for_line(&master, "Resource temporarily unavailable");
    // Whatever needs a thread waits for one that is there, or is refused; the master lives.
    for verb in [&["status"][..], &["status", "--json"], &["reload"], &["reload"], &["recycle"]] {
        let said = master.verb(verb);
        assert!(said.code.is_some(), "{verb:?}: {said:?}");
        assert!(master.has_ended().is_none(), "{verb:?}\n{}", master.log());
    }
    let status = master.status();
    assert!(last_failure(&status)["how"].as_str().is_some_and(|how| how.starts_with("fork: ")), "{status:#}");
    assert_eq!(pids(&status).last(), pids(&before).last(), "the worker that lived was touched: {status:#}");
    assert!(master.get("/").contains("generation 1"));
    limit(master.pid, "nproc", None);
    master.wait_until_calm();
    master.ok(&["reload"]);
    master.wait_until_calm();
}

/// Something done to a filesystem.
type Change = fn(&Mount);

/// A small filesystem at a directory; goes when dropped.
struct Mount(std::path::PathBuf);

impl Mount {
    fn small(at: std::path::PathBuf) -> Mount {
        mount(&["-t", "tmpfs", "-o", "size=64k,nr_inodes=16,mode=755", "faults"], &at);
        Mount(at)
    }

    fn remount(&self, options: &str) {
        mount(&["-o", &format!("remount,{options}")], &self.0);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn mount(arguments: &[&str], at: &std::path::Path) {
    let done = Command::new("mount").args(arguments).arg(at).status().expect("mount");
    assert!(done.success(), "mount {arguments:?}: {done}");
}

#[test]
#[ignore = "needs root"]
fn a_full_or_read_only_runtime_directory_is_told_and_outlived() {
    let place = Place::new();
    let disk = Mount::small(place.path("run"));
    let master = place.pool("count = 2", QUICK).start();
    // Two workers' sockets, two directories, the control socket, its lock: these are all that there can be.
    let full: (Change, Change) = (|disk| disk.remount("nr_inodes=7"), |disk| disk.remount("nr_inodes=16"));
    // What happens to a disk with an error.
    let read_only: (Change, Change) = (
        |disk| {
            mount(&["--bind", &disk.0.display().to_string()], &disk.0);
            disk.remount("bind,ro");
        },
        |disk| assert!(Command::new("umount").arg(&disk.0).status().expect("umount").success()),
    );
    for ((bad, good), why, count) in [(full, "No space left on device", "3"), (read_only, "Read-only file system", "4")] {
        bad(&disk);
        let filler = master.place.path("run/filler");
        let _ = std::fs::write(&filler, "");
        master.ok(&["scale", count]);
        wait_for_line(&master, why);
        assert!(master.get("/").contains("generation 1"), "the others serve");
        let said = master.verb(&["reload"]);
        assert!(said.code == Some(1) && said.err.contains(why), "{said:?}");
        good(&disk);
        let _ = std::fs::remove_file(&filler);
        master.wait_until_calm();
    }
    master.ok(&["reload"]);
    master.wait_until_calm();
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
    let left: Vec<_> = std::fs::read_dir(master.place.path("run")).expect("run").flatten().map(|it| it.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_runtime_directory_that_is_taken_away_comes_back() {
    let master = Place::new().pool("count = 2", QUICK).start();
    let (run, away) = (master.place.path("run"), master.place.path("away"));
    std::fs::rename(&run, &away).expect("rename");
    let status = master.wait("it can be asked again", |status| status["workers_ready"] == 2);
    // The workers of before are heard under their old paths, and new ones get theirs.
    // The control socket comes back first.
    let notify = run.join("notify").join(workers(&status)[0]["id"].to_string());
    eventually("its notify socket", || notify.exists().then_some(()), || master.log());
    kill_first(&master);
    master.wait("it is replaced", |status| status["workers_ready"] == 2 && status["worker_crashes"] == 1);
    master.ok(&["reload"]);
    // And once more, by one who removes what is in it.
    // Until it is quicker than the master, which puts back what is removed.
    while std::fs::remove_dir_all(run.join("notify")).is_err() {}
    kill_first(&master);
    master.wait("it is replaced", |status| status["workers_ready"] == 2 && status["worker_crashes"] == 2);
    master.ok(&["reload"]);
    master.wait_until_calm();
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
    let left: Vec<_> = std::fs::read_dir(&run).into_iter().flatten().flatten().map(|it| it.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Makes what is no configuration.
type Make = dyn Fn(&std::path::Path);

#[test]
fn a_configuration_that_is_no_file_refuses_the_reload() {
    let master = Place::new().pool("count = 1", "").start();
    let config = master.place.path("pool.toml");
    let good = master.place.read("pool.toml");
    let mkfifo = |path: &std::path::Path| assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
    let huge = |path: &std::path::Path| std::fs::File::create(path).and_then(|file| file.set_len(1 << 30)).expect("a file");
    let make: [(&str, &Make); 6] = [
        ("a fifo", &mkfifo),
        ("a directory", &|path| std::fs::create_dir(path).expect("a directory")),
        ("1 GiB", &huge),
        ("not UTF-8", &|path| std::fs::write(path, b"[worker]\ncommand = ['\xff\xfe']\n").expect("a file")),
        ("a device", &|path| std::os::unix::fs::symlink("/dev/zero", path).expect("a link")),
        ("nothing", &|_| {}),
    ];
    let memory = meter::memory(master.pid);
    for (what, make) in make {
        let _ = std::fs::remove_file(&config);
        make(&config);
        let said = master.verb(&["reload"]);
        assert!(said.code == Some(1) && said.err.contains("pool.toml"), "{what}: {said:?}");
        let status = master.status();
        assert_eq!((&status["generation"], &status["last_reload"]["result"]), (&1.into(), &"refused".into()), "{what}");
        let _ = std::fs::remove_dir(&config);
    }
    assert!(meter::memory(master.pid) < memory + (32 << 10), "{} KiB, before: {memory}", meter::memory(master.pid));
    let _ = std::fs::remove_file(&config);
    master.place.write("pool.toml", &good);
    master.ok(&["reload"]);
}

#[test]
fn two_thousand_million_descriptors_are_announced_and_one_is_there() {
    let web = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let place = Place::new();
    // Whoever runs the tests may have left more descriptors open, which a worker that counts its sockets would not like.
    place.program("v1/worker", "#!/bin/sh\nexec sleep 1000\n");
    let plan = place.pool("count = 1\nready = 'running'\nsettle = '10ms'", "").socket("web", web);
    let master = plan.shell("export LISTEN_FDS=2000000000; LISTEN_PID=$$ exec \"$0\" \"$@\"").start();
    master.wait_for_log("LISTEN_FDS=2000000000");
    assert_eq!(master.status()["sockets"][0]["name"], "web");
}
