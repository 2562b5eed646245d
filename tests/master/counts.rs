//! What may not grow is counted, not timed: system calls of an idle master, of a death, of a start among few workers and
//! among many; and what a replacement and a reload wait for.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::harness::master::pids;
use super::harness::{Master, Place, RATOON, Signal, eventually, processes};

/// Few are so many that a start already shares the table of descriptors, which takes some calls more than to copy a small one.
const FEW: u32 = 24;
const MANY: u32 = 72;
/// So much more may be called among many workers than among few; one call for each worker would be forty-eight.
const MARGIN: usize = 24;
/// So many may be called before a reload of four workers starts the first, by all threads.
const RELOAD: usize = 98;
/// Which depend on how much is served at once, on who else wants a lock, on when a thread is traced.
const NOT_COUNTED: [&str; 5] = ["epoll_wait", "epoll_pwait", "futex", "restart_syscall", "sched_yield"];
/// Nor are these before a start, which depend on what memory is free, and on how deep a directory is.
const BY_CHANCE: [&str; 3] = ["brk", "madvise", "readlink"];

/// strace(1) on every thread of a master.
struct Trace {
    strace: Child,
    file: PathBuf,
}

impl Trace {
    fn of(master: &Master) -> Trace {
        let file = master.place.path("trace");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", file.to_str().expect("UTF-8"), "-p", &master.pid.to_string()]);
        let mut strace = strace.stderr(Stdio::piped()).spawn().expect("strace; tests/setup installs it");
        let mut said = BufReader::new(strace.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let attached = said.find(|line| line.contains("attached") || line.contains("ptrace"));
        assert!(attached.as_ref().is_some_and(|line| line.contains("attached")), "{attached:?}");
        std::thread::spawn(move || said.for_each(drop));
        Trace { strace, file }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap_or_default()
    }

    /// All that was called so far, once nothing is called for a while: longer than the master waits before it lets go of memory.
    fn calm(&self, master: &Master) -> String {
        let calm = || {
            let before = self.text();
            std::thread::sleep(Duration::from_millis(1700));
            (self.text() == before).then_some(before)
        };
        eventually("it is idle", calm, || master.log())
    }

    /// How often the thread that starts workers has called the kernel in a part of a trace in which it started one.
    fn calls(part: &str) -> usize {
        let lines = || part.lines().filter_map(|line| line.split_once(' ')).map(|(thread, call)| (thread, call.trim_start()));
        let (this, _) = lines().find(|(_, call)| call.starts_with("clone3(")).unwrap_or_else(|| panic!("no start: {part}"));
        let counts = |name: &str| !NOT_COUNTED.contains(&name) && !BY_CHANCE.contains(&name);
        let counted = |call: &str| call.split_once('(').is_some_and(|(name, _)| counts(name));
        lines().filter(|(thread, call)| *thread == this && !call.starts_with(['<', '+', '-']) && counted(call)).count()
    }
}

/// What was called before the first start in a part of a trace: by all threads; by the one that starts workers; to wake another.
fn before_the_first_start(part: &str) -> [usize; 3] {
    let calls = part.lines().filter_map(|line| line.split_once(' ')).map(|(thread, call)| (thread, call.trim_start()));
    let calls: Vec<_> = calls.filter(|(_, call)| !call.starts_with(['<', '+', '-'])).collect();
    let start = calls.iter().position(|(_, call)| call.starts_with("clone3(")).unwrap_or_else(|| panic!("no start: {part}"));
    let starter = calls[start].0;
    let counts = |name: &str| !NOT_COUNTED.contains(&name) && !BY_CHANCE.contains(&name);
    let counted = |call: &str| call.split_once('(').is_some_and(|(name, _)| counts(name));
    let own = calls[..start].iter().filter(|(thread, _)| *thread == starter);
    // A thread is woken by a futex, or by the eight bytes of an eventfd.
    let wakes =
        own.clone().filter(|(_, call)| call.contains("FUTEX_WAKE") || call.starts_with("write(") && call.contains(", 8)"));
    [
        calls[..start].iter().filter(|(_, call)| counted(call)).count(),
        own.filter(|(_, call)| counted(call)).count(),
        wakes.count(),
    ]
}

impl Drop for Trace {
    fn drop(&mut self) {
        // It detaches.
        processes::signal(self.strace.id(), Signal::TERM);
        let _ = self.strace.wait();
    }
}

/// The calls of a death with its replacement, and of four starts, among so many workers that have nothing to say.
fn calls_among(count: u32) -> [usize; 2] {
    let place = Place::new();
    place.program("v1/worker", "#!/bin/sh\nsystemd-notify --ready\nexec sleep 1000\n");
    let master = place.pool(&format!("ready = 'notify'\ncount = {count}"), "").start();
    let victim = pids(&master.status())[0];
    let ready = |text: String, times: usize| {
        master.systemd().wait(&text, |all| (all.iter().filter(|it| it.contains(&text)).count() >= times).then_some(()));
    };
    let full = format!("{count}/{count} ready");
    let times = master.systemd().messages().iter().filter(|it| it.contains(&full)).count();

    let trace = Trace::of(&master);
    let before = trace.calm(&master);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(trace.text(), before, "{count} idle workers");

    processes::signal(victim, Signal::KILL);
    ready(full, times + 1);
    let after = trace.calm(&master);
    let death = Trace::calls(&after[before.len()..]);

    let more = count + 4;
    master.ok(&["scale", &more.to_string()]);
    ready(format!("{more}/{more} ready"), 1);
    let starts = Trace::calls(&trace.calm(&master)[after.len()..]);
    drop(trace);
    [death, starts]
}

#[test]
fn a_death_and_a_start_cost_no_more_system_calls_among_many_workers() {
    let (few, many) = (calls_among(FEW), calls_among(MANY));
    for (what, few, many) in [("a death", few[0], many[0]), ("four starts", few[1], many[1])] {
        let counted = format!("{what}: {few} calls among {FEW} workers, {many} among {MANY}");
        eprintln!("{counted}");
        assert!(many <= few + MARGIN, "{counted}");
    }
}

/// A table that threads share is made larger only after a grace period of the kernel's, of which a start would take three
/// times as long.
#[test]
fn the_table_of_descriptors_is_large_before_there_are_threads() {
    let place = Place::new();
    let file = place.path("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-e", "trace=fcntl,clone,clone3", "-o"]).arg(&file).arg(RATOON);
    let ran = strace.args(["run", "--name", "room", "--config"]).arg(place.path("none.toml")).output().expect("strace");
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    let trace = std::fs::read_to_string(&file).expect("a trace");
    let first = |what: &str| trace.lines().position(|line| line.contains(what));
    let (room, thread) = (first("F_DUPFD_CLOEXEC, 512"), first("clone"));
    assert!(room.is_some() && room < thread, "{trace}");
}

/// Whoever waits for a replacement, or for a new generation, waits for each of these calls, and longer for each thread that is
/// woken, since it takes a CPU from the start.
#[test]
fn little_is_called_before_a_replacement_and_before_a_new_generation() {
    let place = Place::new();
    place.program("v1/worker", "#!/bin/sh\nsystemd-notify --ready\nexec sleep 1000\n");
    let master = place.pool("ready = 'notify'\ncount = 4", "").start();
    let victim = pids(&master.status())[0];

    let trace = Trace::of(&master);
    let before = trace.calm(&master);
    processes::signal(victim, Signal::KILL);
    let after = trace.calm(&master);
    let [_, death, wakes] = before_the_first_start(&after[before.len()..]);
    processes::signal(master.pid, Signal::HUP);
    let reloaded = trace.calm(&master);
    let [reload, ..] = before_the_first_start(&reloaded[after.len()..]);
    let calls = |name: &str| reloaded.lines().filter(|line| line.contains(name)).count();
    let (starts, actions) = (calls(" clone3("), calls(" rt_sigaction("));
    drop(trace);

    let counted = format!(
        "{death} calls before a replacement, {wakes} of them wake a thread; {reload} before a new generation; \
         {actions} of rt_sigaction by {starts} starts"
    );
    eprintln!("{counted}");
    assert!(death <= 28 && wakes == 0, "{counted}");
    // Four files of the kernel's own with three calls each are among them, and a script that is copied.
    assert!(reload <= RELOAD, "{counted}");
    // The shell sets some itself.
    assert!(actions < starts * 32, "{counted}");
}

/// A datagram is looked at before it is taken, so that no descriptor in it is installed: one call more than to take it.
#[test]
fn notification_costs_three_receives_and_few_other_calls() {
    const MESSAGES: usize = 50;
    let place = Place::new();
    let script = "#!/usr/bin/python3
import os, socket, time
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect(os.environ['NOTIFY_SOCKET'])
notify.send(b'READY=1')
while not os.path.exists('PLACE/go'):
    time.sleep(0.02)
for _ in range(MESSAGES):
    notify.send(b'WATCHDOG=1')
    time.sleep(0.01)
notify.send(b'STATUS=done')
time.sleep(1000)
";
    let script = script.replace("PLACE", &place.root().display().to_string()).replace("MESSAGES", &MESSAGES.to_string());
    place.program("v1/worker", &script);
    let master = place.pool("ready = 'notify'\ncount = 1\nwatchdog = '1h'", "").start();
    let trace = Trace::of(&master);
    let before = trace.calm(&master);
    master.place.write("go", "");
    let after = trace.calm(&master);
    drop(trace);
    master.wait("all is heard", |status| status["workers"][0]["status"] == "done");
    let calls: Vec<&str> = after[before.len()..].lines().filter_map(|line| Some(line.split_once(' ')?.1.trim_start())).collect();
    let named =
        |call: &&&str| call.split_once('(').is_some_and(|(name, _)| !NOT_COUNTED.contains(&name) && !BY_CHANCE.contains(&name));
    let (all, received) = (calls.iter().filter(named).count(), calls.iter().filter(|call| call.starts_with("recv")).count());
    let counted = format!("{MESSAGES} notifications: {all} calls, {received} of them receive");
    eprintln!("{counted}");
    // The last message changes the status, for which some more is done.
    assert!(received <= 3 * MESSAGES + 20 && all <= 6 * MESSAGES + 60, "{counted}");
}

#[test]
fn children_are_copies_where_that_is_asked_for() {
    let place = Place::new();
    place.wrap("v1", "env > PLACE/environ.$RATOON_WORKER");
    let master = place.pool("count = 1", "").environment("RATOON_SPAWN", "copy").start();
    let trace = Trace::of(&master);
    processes::signal(pids(&master.status())[0], Signal::KILL);
    let starts_a_process = |line: &&str| line.contains("clone3({flags=") && !line.contains("CLONE_THREAD");
    let seen = || trace.text().lines().find(starts_a_process).map(str::to_owned);
    let call = eventually("a replacement is started", seen, || trace.text());
    assert!(!call.contains("CLONE_VM"), "{call}");
    master.wait("the replacement serves", |status| status["workers_ready"] == 1 && status["worker_crashes"] == 1);
    master.ok(&["reload"]);
    let environment = master.place.read("environ.3");
    assert!(environment.contains("RATOON_WORKER=3") && !environment.contains("RATOON_SPAWN"), "{environment}");
}
