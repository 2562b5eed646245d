//! What the master asks its allocator for, counted: to hear a datagram, to replace a worker, to answer with the status.
//!
//! Nothing is timed. The allocator counts for all threads, and the least of several rounds is judged: what else happens
//! meanwhile only adds. This program is the test, the master (`master FILE`, with the allocator that counts) and its workers
//! (`worker DIRECTORY`); a master answers each byte on its stdin with what was counted so far.

use std::alloc::System;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use ratoon::master;
use ratoon::sys::discard;
use ratoon::sys::notify::Systemd;
use ratoon::sys::thread;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Long enough for a machine under load; nothing waits for it but a test that fails.
const TIMEOUT: Duration = Duration::from_secs(60);
const FEW: u32 = 4;
const MANY: u32 = 64;
/// So many datagrams a worker sends in one go: less than it may.
const WORDS: usize = 8;
/// The fewest and the most rounds in which the least number of allocations is looked for.
const ROUNDS: usize = 12;
const MOST_ROUNDS: usize = 400;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[1..] {
        ["master", file] => run_master(file.into()),
        ["worker", directory] => run_worker(Path::new(directory)),
        [discard::VERB] => discard::main().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
        _ => {
            let trials = vec![
                Trial::test("a_datagram_costs_the_same_among_many_workers", a_datagram),
                Trial::test("a_death_costs_the_same_among_many_workers", a_death),
                Trial::test("a_status_costs_a_bounded_number_for_each_worker", a_status),
            ];
            libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
        }
    }
}

fn run_master(file: PathBuf) -> ExitCode {
    let count = || {
        let (mut byte, stdin) = ([0], rustix::stdio::stdin());
        while rustix::io::read(stdin, &mut byte).is_ok_and(|bytes| bytes == 1) {
            let stats = ALLOCATOR.stats();
            let _ = rustix::io::write(stdin, &(stats.allocations + stats.reallocations).to_ne_bytes());
        }
    };
    thread::spawn("test-count", count).expect("a thread");
    master::run(master::Options { config: Some(file), name: Some("pool".into()), ..master::Options::default() })
}

/// Says so many words as it is told, waits until they were heard, and answers with its number.
fn run_worker(directory: &Path) -> ExitCode {
    let variable = |name: &str| std::env::var(name).expect("a worker has it");
    let place = directory.join(variable("RATOON_SLOT"));
    let _ = fs::remove_file(&place);
    let orders = UnixDatagram::bind(&place).expect("a socket");
    let master = Systemd::new(variable("NOTIFY_SOCKET").as_ref()).expect("a notify socket");
    let say = |word: &str| {
        while !master.send(word).expect("a master") {
            std::thread::yield_now();
        }
    };
    say("READY=1");
    loop {
        let mut order = [0; 8];
        let Ok(length) = orders.recv(&mut order) else { return ExitCode::FAILURE };
        let words: usize = std::str::from_utf8(&order[..length]).expect("a number").parse().expect("a number");
        (0..words).for_each(|_| say("STATUS=at work"));
        let heard = std::iter::from_fn(|| Some(master.barrier().expect("a master"))).flatten().next().expect("it is endless");
        let mut hangup = [PollFd::new(&heard, PollFlags::empty())];
        poll(&mut hangup, None).expect("poll");
        let _ = orders.send_to(&std::process::id().to_ne_bytes(), directory.join("test"));
    }
}

/// A running master.
struct Master {
    child: Child,
    counter: UnixStream,
    answers: UnixDatagram,
    place: tempfile::TempDir,
}

impl Master {
    fn start(workers: u32) -> Master {
        let place = tempfile::tempdir().expect("a directory");
        let path = |name: &str| place.path().join(name);
        let own = std::env::current_exe().expect("this program");
        let command = format!("[{own:?}, \"worker\", {:?}]", place.path());
        let text = format!(
            "[worker]\ncommand = {command}\ncount = {workers}\n[restart]\ninitial = \"1ms\"\nmax = \"1ms\"\nlimit = 1000\n"
        );
        fs::write(path("pool.toml"), text).expect("pool.toml");
        fs::create_dir(path("run")).expect("run");
        let answers = UnixDatagram::bind(path("test")).expect("a socket");
        answers.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        let (counter, theirs) = UnixStream::pair().expect("a pair");
        counter.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        let log = fs::File::create(path("log")).expect("log");
        let child = Command::new(own)
            .arg("master")
            .arg(path("pool.toml"))
            .env("RUNTIME_DIRECTORY", path("run"))
            .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere")
            .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_FDS")
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("this program");
        let master = Master { child, counter, answers, place };
        master.until("all are ready", || master.status().contains(&format!("\"workers_ready\":{workers},")));
        master
    }

    fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let end = Instant::now() + TIMEOUT;
        while !is_so() {
            let log = || fs::read_to_string(self.place.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < end, "not within {TIMEOUT:?}: {what}\n{}", log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The status document; nothing while there is none.
    fn status(&self) -> String {
        let Ok(mut stream) = UnixStream::connect(self.place.path().join("run/control")) else { return String::new() };
        let mut text = String::new();
        let _ = stream.write_all(b"GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_string(&mut text);
        text
    }

    /// How often anything was allocated so far, once nothing is for a moment.
    fn count(&self) -> usize {
        let now = || {
            let mut count = [0; 8];
            (&self.counter).write_all(&[0]).expect("a master");
            (&self.counter).read_exact(&mut count).expect("a master");
            usize::from_ne_bytes(count)
        };
        let mut last = now();
        self.until("it is calm", || {
            std::thread::sleep(Duration::from_millis(20));
            let before = std::mem::replace(&mut last, now());
            before == last
        });
        last
    }

    /// Has a worker say so many words, and waits until they are heard; its number.
    fn say(&self, slot: u32, words: usize) -> Option<u32> {
        let order = UnixDatagram::unbound().expect("a socket");
        order.send_to(words.to_string().as_bytes(), self.place.path().join(slot.to_string())).ok()?;
        let mut number = [0; 4];
        self.answers.recv(&mut number).ok()?;
        Some(u32::from_ne_bytes(number))
    }

    /// The least that is allocated while this is done. A loaded machine wakes the master more often for the same deed, so there are
    /// more rounds while the least is above `enough`.
    fn least(&self, enough: usize, mut deed: impl FnMut(&Self)) -> usize {
        let mut least = usize::MAX;
        for round in 0..MOST_ROUNDS {
            let before = self.count();
            deed(self);
            least = least.min(self.count() - before);
            if round + 1 >= ROUNDS && least <= enough {
                break;
            }
        }
        least
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        // Its workers go with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same deed among few and among many workers: among few it may cost `bound` allocations, among many `margin` more.
fn both(bound: usize, margin: usize, deed: impl Fn(&Master, u32)) -> [usize; 2] {
    let least = |workers, enough| Master::start(workers).least(enough, |master| deed(master, workers - 1));
    let few = least(FEW, bound);
    let many = least(MANY, few + margin);
    assert!(few <= bound, "{few} allocations among {FEW} workers, more than {bound}");
    assert!(many <= few + margin, "{many} allocations among {MANY} workers, {few} among {FEW}");
    [few, many]
}

/// [`Master::say`] to one that lives.
fn answered(master: &Master, slot: u32, words: usize) -> u32 {
    let mut number = None;
    master.until("it answers", || {
        number = master.say(slot, words);
        number.is_some()
    });
    number.expect("it has answered")
}

fn a_datagram() -> Result<(), Failed> {
    // One more for each datagram would be eight. Besides the datagrams there is a barrier.
    let [few, many] = both(6 * (WORDS + 1), WORDS - 1, |master, last| _ = answered(master, last, WORDS));
    println!("{WORDS} datagrams: {few} allocations among {FEW} workers, {many} among {MANY}");
    Ok(())
}

fn a_death() -> Result<(), Failed> {
    // One for each worker would be sixty.
    let [few, many] = both(500, 20, |master, last| {
        let victim = answered(master, last, 0);
        kill_process(Pid::from_raw(victim as i32).expect("a number"), Signal::KILL).expect("a process");
        // What is said to one that is dying is never answered.
        master.until("it is gone", || !Path::new(&format!("/proc/{victim}")).exists());
        master.until("it is replaced", || master.say(last, 0).is_some_and(|number| number != victim));
    });
    println!("a death and its replacement: {few} allocations among {FEW} workers, {many} among {MANY}");
    Ok(())
}

fn a_status() -> Result<(), Failed> {
    let [few, many] = both(1000, 40 * (MANY - FEW) as usize, |master, _| drop(master.status()));
    let each = (many - few.min(many)).div_ceil((MANY - FEW) as usize);
    println!("a status: {few} allocations among {FEW} workers, {many} among {MANY}: {each} for each");
    Ok(())
}
