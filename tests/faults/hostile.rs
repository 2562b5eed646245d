//! Workers that lie, shout and forge: only their own place may suffer.

use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Instant;

use super::harness::master::{last_failure, pids, wait_for_end_of, workers};
use super::harness::{Master, Place, Signal, Value, eventually, processes};
use super::meter;
use super::puppet::Puppet;

/// A pool of two: a puppet in slot 0, and in slot 1 a worker that is ready when the file `gate.1` is there.
fn puppet_and_victim(worker: &str) -> (Master, Puppet) {
    let place = Place::new();
    let puppet = Puppet::in_slot(&place, 0);
    let master = place.pool(&format!("ready = 'notify'\ncount = 2\nstart_timeout = '1h'\n{worker}"), "").launch();
    puppet.run("");
    master.wait("the puppet is ready", |status| status["workers_ready"] == 1);
    (master, puppet)
}

/// The notify socket of the worker in this slot.
fn socket_of(master: &Master, slot: usize) -> PathBuf {
    let status = master.status();
    let worker = workers(&status).iter().find(|worker| worker["slot"] == slot).expect("a worker").clone();
    master.place.path(format!("run/notify/{}", worker["id"]))
}

/// Says it from outside of every worker.
fn say(socket: &PathBuf, message: &[u8]) -> std::io::Result<usize> {
    UnixDatagram::unbound()?.send_to(message, socket)
}

fn wait_for_status_text(master: &Master, slot: usize, text: &str) -> Value {
    master.wait(text, |status| workers(status).iter().any(|worker| worker["slot"] == slot && worker["status"] == text))
}

#[test]
fn nobody_speaks_for_a_neighbour() {
    let (master, puppet) = puppet_and_victim("");
    let victim = socket_of(&master, 1);
    // Who has ended before it is heard cannot be looked at: each waits until its lie was.
    let forged = format!(
        "def lie():
    say(b'READY=1\\nSTATUS=forged', {victim:?})
    heard, end = os.pipe()
    say(b'BARRIER=1', {victim:?}, [end])
    os.close(end)
    os.read(heard, 1)
"
    );
    // The worker itself, its child, a grandchild with a session of its own, one that has lost its parent.
    puppet.run(&format!("{forged}lie()"));
    puppet.run(&format!("{forged}os.waitpid(child(lie), 0)"));
    puppet.run(&format!("{forged}child_of_its_own(lie)"));
    let orphan = "parent = os.getpid()
def orphan():
    while os.getppid() == parent:
        time.sleep(0.001)
    lie()
    open(sys.argv[1] + '.lied', 'w').close()
";
    puppet.run(&format!("{forged}{orphan}child_of_its_own(lambda: child(orphan))"));
    let lied = master.place.path("puppet.lied");
    eventually("the orphan has lied", || lied.exists().then_some(()), || master.log());
    // Each lie has been read: the barrier behind it is over.
    let status = master.status();
    assert!(!status.to_string().contains("forged"), "{status:#}");
    assert_eq!((&status["workers_ready"], &workers(&status)[1]["state"]), (&1.into(), &"starting".into()), "{status:#}");
    master.wait_for_log("a message that worker 1 sent in its name");
    // Its own children speak for it, whatever they did to their ancestry.
    puppet.run("child_of_its_own(lambda: say(b'STATUS=my child'))");
    wait_for_status_text(&master, 0, "my child");
    master.place.write("gate.1", "");
    master.wait_until_ready();
}

#[test]
#[ignore = "needs root"]
fn worker_that_drops_root_is_heard() {
    let (master, puppet) = puppet_and_victim("");
    let drops = "def become_nobody():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
";
    // By a new connection, from a child; and from one that has ended when it is heard, of the user that the main process has.
    let child = "    say(b'STATUS=a child of nobody')
    time.sleep(1000)
child(become_nobody)";
    assert_eq!(puppet.run(&format!("{drops}{child}")), "");
    wait_for_status_text(&master, 0, "a child of nobody");
    assert_eq!(puppet.run(&format!("{drops}become_nobody()\nsay(b'READY=1\\nSTATUS=nobody')")), "");
    wait_for_status_text(&master, 0, "nobody");
    master.signal(Signal::STOP);
    assert_eq!(puppet.run("os.waitpid(child(lambda: say(b'STATUS=a child that ended')), 0)"), "");
    master.signal(Signal::CONT);
    wait_for_status_text(&master, 0, "a child that ended");
    assert!(!master.log().contains("ignored"), "{}", master.log());
}

#[test]
#[ignore = "needs root"]
fn process_outside_of_the_worker_is_not_heard() {
    let (master, puppet) = puppet_and_victim("");
    let socket = socket_of(&master, 0);
    // Root, alive; another user, alive and ended.
    say(&socket, b"STATUS=forged").expect("a socket");
    master.wait_for_log("worker 1: ignored a message of user 0 from a process that is none of the worker's");
    let send = format!("import socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'STATUS=forged', {socket:?})");
    let mut python = std::process::Command::new("setpriv");
    python.args(["--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", &send]);
    master.signal(Signal::STOP);
    let sent = python.output().expect("python");
    master.signal(Signal::CONT);
    assert!(sent.status.success(), "{sent:?}");
    master.wait_for_log("worker 1: ignored a message of user 65534 from a process that is none of the worker's");
    puppet.run("say(b'STATUS=true')");
    wait_for_status_text(&master, 0, "true");
}

#[test]
fn what_is_no_message_changes_nothing() {
    let place = Place::new();
    let puppet = Puppet::unready_in_slot(&place, 0);
    let master = place.pool("count = 1\nstart_timeout = '1h'", "").launch();
    let bad = "for message in [b'', b'\\0', b'READY=1\\0READY=1', b'READY=1\\nSTATUS=' + b'x' * 5000, b'READY=0', b'READY=1=1',
                b'STATUS=\\xff\\xfe \\x1b[2J\\r\\nREADY =1']:
    say(message)";
    assert_eq!(puppet.run(bad), "");
    let status = master.wait("the last was heard", |status| {
        workers(status).iter().any(|worker| worker["status"].as_str().is_some_and(|text| text.contains("[2J")))
    });
    assert_eq!(status["workers_ready"], 0, "{status:#}");
    let text = workers(&status)[0]["status"].as_str().unwrap_or_default();
    assert!(!text.contains(char::is_control), "{text:?}");
    master.wait_for_log("more than 4096 bytes");
    // As long as PID 1 takes it.
    assert_eq!(puppet.run("say(b'STATUS=' + b'y' * 4089)"), "");
    master.wait("the longest", |status| {
        workers(status).iter().any(|worker| worker["status"].as_str().is_some_and(|text| text.ends_with("yyy")))
    });
}

#[test]
fn what_is_attached_is_closed_at_once() {
    let (master, puppet) = puppet_and_victim("");
    let before = meter::descriptors(master.pid);
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let pid = std::process::id();
    // 253 is as many as the kernel takes.
    let many = format!(
        "end = os.open('/proc/{pid}/fd/{}', os.O_WRONLY)
for message in [b'BARRIER=1', b'FDSTORE=1\\nFDNAME=mine', b'', b'STATUS=\\0']:
    for round in range(8):
        say(message, fds=[end] * 253)
for round in range(1000):
    say(b'BARRIER=1', fds=[end])
os.close(end)
say(b'STATUS=attached')",
        writer.as_raw_fd()
    );
    assert_eq!(puppet.run(&many), "");
    wait_for_status_text(&master, 0, "attached");
    drop(OwnedFd::from(writer));
    // Nobody holds the other end any more.
    assert_eq!(reader.read(&mut [0]).expect("the end"), 0);
    eventually(
        "no descriptor is left",
        || (meter::descriptors(master.pid) <= before).then_some(()),
        || meter::descriptors_told(master.pid),
    );
}

/// Shouts for so long, at full speed; the words are the most expensive ones.
const FLOOD: &str = "def shout():
    end = time.monotonic() + SECONDS
    count = 0
    text = b''.join(b'MAINPID=%d\\nSTATUS=%d\\nERRNO=5\\nX_RATOON_INFO={\"a\":1}\\n' % (n, n) for n in range(2, 60))
    one = [text, b'STATUS=a', b'STATUS=b', b'MAINPID=1', b'WATCHDOG_USEC=x', b'ERRNO=11', b'BARRIER=1', b'EXTEND_TIMEOUT_USEC=1']
    while time.monotonic() < end:
        for words in one:
            try:
                mouth.sendto(words, socket.MSG_DONTWAIT, own)
                count += 1
            except BlockingIOError:
                time.sleep(0.0002)
    return count
answer = shout()
say(b'STATUS=hoarse')";

#[test]
fn a_flood_from_one_worker_costs_its_neighbours_nothing() {
    let place = Place::new();
    let puppet = Puppet::in_slot(&place, 0);
    place.write("gate.1", "");
    place.write("gate.2", "");
    let master = place.pool("ready = 'notify'\ncount = 3", "").start();
    let shout = |seconds: &str| puppet.run(&FLOOD.replace("SECONDS", seconds));
    shout("0.3");
    wait_for_status_text(&master, 0, "hoarse");
    let (lines, memory, descriptors) = (master.log().lines().count(), meter::memory(master.pid), meter::descriptors(master.pid));

    let (began, cpu) = (Instant::now(), meter::cpu(master.pid));
    let replaced = std::thread::scope(|scope| {
        let flood = scope.spawn(|| shout("4"));
        let mut replaced = 0;
        while !flood.is_finished() {
            let before = pids(&master.status());
            processes::signal(before[1], Signal::KILL);
            master.wait("a neighbour is replaced", |status| status["workers_ready"] == 3 && pids(status)[1] != before[1]);
            replaced += 1;
            // The pool shall not become degraded by the test's own doing.
            if replaced == 3 {
                break;
            }
        }
        assert!(!flood.is_finished(), "three replacements took the whole flood");
        let said: u64 = flood.join().expect("no panic").parse().expect("a number");
        assert!(said > 100, "no flood: {said}");
        replaced
    });
    assert_eq!(replaced, 3);
    let (wall, cpu) = (began.elapsed(), meter::cpu(master.pid) - cpu);
    // An unoptimised master, on a machine that does other things too.
    assert!(cpu < wall / 2, "{cpu:?} of CPU in {wall:?}");
    wait_for_status_text(&master, 0, "hoarse");
    let status = master.wait_until_calm();
    assert_eq!((&status["generation"], &status["worker_crashes"]), (&1.into(), &3.into()), "{status:#}");
    let grown = meter::memory(master.pid).saturating_sub(memory);
    assert!(grown < 8 << 10, "{grown} KiB more");
    eventually(
        "no descriptor is left",
        || (meter::descriptors(master.pid) <= descriptors).then_some(()),
        || meter::descriptors_told(master.pid),
    );
    let told = master.log().lines().count() - lines;
    assert!(told < 100, "{told} lines in the log\n{}", master.log());
}

#[test]
fn a_flood_on_a_socket_that_was_made_again_does_not_keep_the_master_awake() {
    let place = Place::new();
    let puppet = Puppet::in_slot(&place, 0);
    place.write("gate.1", "");
    let master = place.pool("ready = 'notify'\ncount = 2", "").start();
    let socket = socket_of(&master, 0);
    std::fs::remove_file(&socket).expect("a socket");
    eventually("the socket is there again", || socket.exists().then_some(()), || master.log());
    let (began, cpu) = (Instant::now(), meter::cpu(master.pid));
    puppet.run(&FLOOD.replace("SECONDS", "2"));
    let (wall, cpu) = (began.elapsed(), meter::cpu(master.pid) - cpu);
    assert!(cpu < wall / 2, "{cpu:?} of CPU in {wall:?}");
    wait_for_status_text(&master, 0, "hoarse");
}

#[test]
fn a_main_process_is_one_of_the_worker_s_own() {
    let (master, puppet) = puppet_and_victim("");
    let own = pids(&master.status());
    for stranger in [1, master.pid, std::process::id(), own[1], 4_194_304] {
        puppet.run(&format!("say(b'MAINPID={stranger}')"));
    }
    puppet.run("say(b'STATUS=still me')");
    let status = wait_for_status_text(&master, 0, "still me");
    assert_eq!(pids(&status), own, "{status:#}");
    master.wait_for_log("MAINPID= is not followed");

    // Not more of them at once than are worth a descriptor each.
    let before = meter::descriptors(master.pid);
    puppet.run(
        "lazy = [child(lambda: time.sleep(1000)) for n in range(40)]
for pid in lazy:
    say(b'MAINPID=%d' % pid)
say(b'STATUS=many heads')",
    );
    let status = wait_for_status_text(&master, 0, "many heads");
    assert!(meter::descriptors(master.pid) < before + 16, "{}", meter::descriptors_told(master.pid));
    let head = pids(&status)[0];
    assert_ne!(head, own[0]);
    // Its end is the worker's end; whatever else the worker was goes with it.
    processes::signal(head, Signal::KILL);
    let status = master.wait("the worker is replaced", |status| status["workers_ready"] == 1 && pids(status)[0] != head);
    assert_eq!(last_failure(&status)["how"], "signal SIGKILL", "{status:#}");
    assert_eq!(last_failure(&status)["pid"], head, "{status:#}");
    wait_for_end_of(own[0]);
}

#[test]
fn a_worker_that_forks_its_real_process_and_ends_is_followed() {
    let (master, puppet) = puppet_and_victim("");
    let first = pids(&master.status())[0];
    puppet.run(
        "def daemon():
    os.setsid()
    while os.getppid() == parent:
        time.sleep(0.001)
    say(b'STATUS=I am a daemon')
    time.sleep(1000)
parent = os.getpid()
daemon_pid = child(daemon)
say(b'MAINPID=%d' % daemon_pid)
os._exit(0)",
    );
    let status = wait_for_status_text(&master, 0, "I am a daemon");
    let second = pids(&status)[0];
    assert_ne!(first, second);
    assert_eq!((&status["worker_crashes"], &status["workers_ready"]), (&0.into(), &1.into()), "{status:#}");
    processes::signal(second, Signal::SEGV);
    let status = master.wait("its end is seen", |status| status["worker_crashes"] == 1);
    assert!(last_failure(&status)["how"].as_str().is_some_and(|how| how.starts_with("signal SIGSEGV")), "{status:#}");
    master.wait("it is replaced", |status| status["workers_ready"] == 1);
}

#[test]
fn a_core_dump_is_told() {
    let place = Place::new();
    place.wrap("v1", "[ $RATOON_SLOT = 1 ] || ulimit -c unlimited");
    let master = place.pool("ready = 'notify'\ncount = 2", "").start();
    let status = master.status();
    for (slot, how) in [(0, "signal SIGABRT (core dumped)"), (1, "signal SIGABRT")] {
        processes::signal(pids(&status)[slot], Signal::ABORT);
        let status = master.wait("it is replaced", |now| now["workers_ready"] == 2 && pids(now)[slot] != pids(&status)[slot]);
        assert_eq!(last_failure(&status)["how"], how, "{status:#}");
    }
}

#[test]
fn a_stopped_worker_is_found_by_its_watchdog_and_hears_sigabrt() {
    let place = Place::new();
    // Its handler of SIGABRT runs only if it is continued before the SIGKILL that follows.
    place.program(
        "v1/worker",
        "#!/usr/bin/python3
import os, signal, socket
def aborted(number, frame):
    open('../aborted', 'w').close()
    os._exit(1)
signal.signal(signal.SIGABRT, aborted)
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])
os.kill(os.getpid(), signal.SIGSTOP)
",
    );
    let keys = "ready = 'notify'\ncount = 1\nwatchdog = '300ms'\nstart_timeout = '10min'\nstop_timeout = '1h'";
    let master = place.pool(keys, "").launch();
    let status = master.wait("its end is seen", |status| status["worker_crashes"].as_u64() > Some(0));
    assert_eq!(last_failure(&status)["how"], "watchdog", "{status:#}");
    assert!(master.place.path("aborted").exists(), "{}", master.log());
}
