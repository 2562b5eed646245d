//! The master replaces its own program under systemd, as a package does it, under load.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Case;
use crate::container::{Container, text, wait_for};
use crate::instance::{Instance, pids};
use crate::load::Load;

const DBUS: &str = "org.freedesktop.DBus";

pub const CASES: &[Case] = &[
    ("a_package_brings_a_new_program_and_systemd_sees_no_restart", a_package_brings_a_new_program_and_systemd_sees_no_restart),
    ("a_broken_program_is_not_taken", a_broken_program_is_not_taken),
    ("thirty_upgrades_under_load", thirty_upgrades_under_load),
];

/// A new file at the path of the program, as dpkg does it.
fn install(c: &Container, script: &str) {
    c.ok(&[
        "sh",
        "-ec",
        &format!("{script} >/usr/bin/ratoon.new; chmod 755 /usr/bin/ratoon.new; mv /usr/bin/ratoon.new /usr/bin/ratoon"),
    ]);
}

/// Keeps the program that the other cases need.
pub struct Kept<'c>(&'c Container);

impl<'c> Kept<'c> {
    pub fn of(c: &'c Container) -> Self {
        c.ok(&["cp", "/usr/bin/ratoon", "/opt/ratoon.kept"]);
        Kept(c)
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        let _ = self.0.run(&["mv", "/opt/ratoon.kept", "/usr/bin/ratoon"]);
    }
}

fn a_package_brings_a_new_program_and_systemd_sees_no_restart(c: &Container) {
    let _kept = Kept::of(c);
    let web = Instance::new(c, "package", 2);
    web.drop_in("[Service]\nWatchdogSec=2s\n");
    web.start();
    let (life, before) = (web.life(), pids(&web.settled()));
    let master = web.main_pid();
    let name = "org.ratoon1.package";
    wait_for("its name on the bus", || c.run(&["busctl", "status", name]).status.success().then_some(()));
    install(c, "cat /usr/bin/ratoon");
    let program = format!("/proc/{master}/exe");
    assert!(c.ok(&["readlink", &program]).ends_with(" (deleted)"));
    c.ok(&["ratoon", "upgrade", "package"]);
    assert_eq!(c.ok(&["readlink", &program]), "/usr/bin/ratoon");
    assert_eq!((web.life(), pids(&web.settled())), (life.clone(), before.clone()));
    assert!(c.ok(&["systemctl", "status", &web.service()]).contains(&format!("Main PID: {master}")));
    // By the bus too: it is answered before, and the name comes back with another connection.
    let owner = || {
        let said = c.run(&["busctl", "call", DBUS, "/org/freedesktop/DBus", DBUS, "GetNameOwner", "s", name]);
        said.status.success().then(|| text(&said.stdout))
    };
    let first = wait_for("its name on the bus", &owner);
    install(c, "cat /usr/bin/ratoon");
    c.ok(&["busctl", "call", name, "/org/ratoon1", "org.ratoon1.Manager", "Upgrade"]);
    let owned = wait_for("its name is back", || owner().filter(|owner| *owner != first));
    assert_eq!(c.ok(&["readlink", &program]), "/usr/bin/ratoon");
    install(c, "echo '#!/bin/sh\necho of another time; exit 1'");
    let refused = c.run(&["busctl", "call", name, "/org/ratoon1", "org.ratoon1.Manager", "Upgrade"]);
    assert!(!refused.status.success() && text(&refused.stderr).contains("of another time"), "{}", text(&refused.stderr));
    assert_eq!(owner(), Some(owned));
    c.ok(&["cp", "/opt/ratoon.kept", "/usr/bin/ratoon.new"]);
    c.ok(&["mv", "/usr/bin/ratoon.new", "/usr/bin/ratoon"]);
    // The watchdog would have bitten by now, had it not been fed.
    let fed = web.property("WatchdogTimestampMonotonic");
    wait_for("it is fed", || (web.property("WatchdogTimestampMonotonic") != fed).then_some(()));
    assert_eq!((web.life(), pids(&web.settled())), (life.clone(), before));
    // Reload, crash and log go on as ever.
    web.good_release("v2");
    web.point_to("v2");
    web.reload_ok();
    assert!(web.get().expect("an answer").contains("version v2"));
    let killed = pids(&web.settled())[0];
    c.kill("KILL", killed);
    wait_for("it is replaced", || (!pids(&web.settled()).contains(&killed)).then_some(()));
    let entries = c.ok(&[
        "journalctl",
        "--no-pager",
        "--output=json",
        "--unit",
        &web.service(),
        "MESSAGE_ID=d768b212a40f423e8d2dbf44635979b0",
    ]);
    assert_eq!(entries.lines().count(), 2, "{entries}");
    assert_eq!(web.life(), life);
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
    assert_eq!(web.property("Result"), "success");
    nothing_is_left(&web);
}

/// No process, no control group, no socket file.
pub fn nothing_is_left(web: &Instance<'_>) {
    let group = format!("/sys/fs/cgroup/system.slice/system-ratoon.slice/{}", web.service());
    let left = web.c.run(&["sh", "-c", &format!("cat {group}/cgroup.procs {group}/*/cgroup.procs; ls /run/ratoon/{}", web.name)]);
    assert_eq!(text(&left.stdout), "", "left behind");
}

fn a_broken_program_is_not_taken(c: &Container) {
    let _kept = Kept::of(c);
    let web = Instance::new(c, "unfit", 2);
    web.start();
    let (life, before) = (web.life(), pids(&web.settled()));
    c.ok(&["cp", "/usr/bin/ratoon", "/opt/ratoon.client"]);
    for (script, reason) in [
        ("echo '#!/bin/sh\necho of another time; exit 1'", "of another time"),
        ("echo '#!/bin/sh\nexit 0'", "said nothing"),
        ("echo '#!/bin/sh\nkill -SEGV $$'", "SIGSEGV"),
        ("echo '#!/bin/sh\nexec sleep 100'", "not finished after 5s"),
        ("printf '\\177ELF'", "Exec format error"),
    ] {
        install(c, script);
        let said = c.run(&["/opt/ratoon.client", "upgrade", "unfit"]);
        assert_eq!(said.status.code(), Some(1), "{reason}: {}", text(&said.stderr));
        assert!(text(&said.stderr).contains(reason), "{reason}: {}", text(&said.stderr));
        assert!(c.journal(&web.service()).contains(reason), "{reason}");
        assert!(web.get().expect("an answer").contains("generation 1"));
    }
    c.ok(&["mv", "/opt/ratoon.client", "/usr/bin/ratoon"]);
    assert_eq!((web.life(), pids(&web.settled())), (life, before));
    c.ok(&["ratoon", "upgrade", "unfit"]);
}

/// Asks the control socket again and again: how long the longest wait for an answer was.
pub struct Gap {
    ends: Arc<AtomicBool>,
    asking: JoinHandle<Duration>,
}

impl Gap {
    pub fn watch(socket: PathBuf) -> Gap {
        let ends = Arc::new(AtomicBool::new(false));
        let until = ends.clone();
        let asking = std::thread::spawn(move || {
            let (mut longest, mut answered) = (Duration::ZERO, Instant::now());
            while !until.load(Ordering::Relaxed) {
                if is_healthy(&socket) {
                    longest = longest.max(answered.elapsed());
                    answered = Instant::now();
                }
            }
            longest
        });
        Gap { ends, asking }
    }

    pub fn end(self) -> Duration {
        self.ends.store(true, Ordering::Relaxed);
        self.asking.join().expect("no panic in there")
    }
}

fn is_healthy(socket: &PathBuf) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let mut answer = String::new();
    let asked = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200")
}

/// 30 upgrades, among them some while old workers drain and some while a reload is on its way.
fn thirty_upgrades_under_load(c: &Container) {
    let web = Instance::new(c, "thirty", 4);
    web.drop_in("[Service]\nWatchdogSec=2s\n");
    web.start();
    let life = web.life();
    let load = Load::start(web.load(&["--new", "8", "--keep-alive", "8"]));
    load.wait_for(100);
    let mut gaps = Vec::new();
    for round in 0..30_u64 {
        let before = pids(&web.settled());
        if round % 5 == 4 {
            c.ok(&["systemctl", "reload", "--no-block", &web.service()]);
        }
        let gap = Gap::watch(c.path("/run/ratoon/thirty/control"));
        c.ok(&["ratoon", "upgrade", "thirty"]);
        gaps.push(gap.end());
        let after = pids(&web.settled());
        assert!(round % 5 == 4 || before == after, "round {round}: {before:?} {after:?}");
        // The pool is settled before systemd has seen its own `systemctl reload` end.
        wait_for("systemd sees the reload end", || (web.property("ActiveState") == "active").then_some(()));
        assert_eq!(web.life(), life, "round {round}");
        load.wait_for(load.requests() + 500);
    }
    load.wait_for(200_000);
    let report = load.stop();
    gaps.sort();
    println!(
        "{} requests in {} s, {} failed; no master answered for {:?} at least, {:?} in the middle, {:?} at most",
        report["answered"], report["seconds"], report["failed"], gaps[0], gaps[15], gaps[29]
    );
    assert_eq!(report["failed"], 0, "{report:#}");
    assert_eq!(web.settled()["worker_crashes"], 0);
    assert_eq!(web.life(), life, "the service was active all the time");
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
    nothing_is_left(&web);
}
