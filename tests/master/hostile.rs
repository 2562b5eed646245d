//! Whoever means harm, or does nothing at all: workers that shout, a systemd and a reader of stderr that do not listen.

use std::os::fd::OwnedFd;

use super::harness::master::{pids, workers};
use super::harness::systemd::Systemd;
use super::harness::{Place, Signal, processes};

/// Everything that the master may ever say to systemd, and how a datagram with it looks.
#[track_caller]
fn only_the_master_s_words(systemd: &Systemd) {
    for message in systemd.messages() {
        let lines: Vec<&str> = message.lines().collect();
        let fine = match lines[..] {
            ["READY=1" | "STOPPING=1" | "WATCHDOG=1"] => true,
            ["RELOADING=1", usec] => usec.strip_prefix("MONOTONIC_USEC=").is_some_and(|it| it.parse::<u64>().is_ok()),
            [one] if one.starts_with("EXTEND_TIMEOUT_USEC=") => true,
            // PID 1 takes no datagram over 4096 bytes.
            [one] if one.starts_with("STATUS=") => !message.chars().any(char::is_control) && message.len() < 4096,
            _ => false,
        };
        assert!(fine, "{message:?}");
    }
}

#[test]
fn a_worker_s_words_never_reach_systemd_as_words_of_the_master() {
    let place = Place::new();
    // It says all this, and then fails: what systemd shows is the cause alone.
    let evil = "STATUS=evil\\rSTOPPING=1\\u{1b}[31m\\nWATCHDOG_USEC=1\\nERRNO=5\\nBUSERROR=x\\nFDSTORE=1\\nMAINPID=1\\nX=\\u{0085}y\\nEXTEND_TIMEOUT_USEC=99";
    place.release("v2", &format!("notify={evil}\nexit_at_start=1"));
    let long = "x".repeat(3500);
    place.release("v3", &format!("notify=STATUS={long}\nexit_at_start=1"));
    place.release("v4", "");
    place.program("v4/worker", "#!/bin/sh\nsystemd-notify --status=\"$(printf 'a\\nMAINPID=1\\nREADY=1\\377')\"\nexit 3\n");
    let master = place.pool("count = 1", "").start();
    for version in ["v2", "v3", "v4"] {
        master.place.current(version);
        let said = master.verb(&["reload"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        let status = master.wait_until_calm();
        let line = format!("STATUS={}", status["status_text"].as_str().expect("a line"));
        master.systemd().wait_for(&line, 1);
        assert!(!line.contains('\n'), "{line}");
    }
    // A worker that serves says them, too.
    for message in ["STATUS=a%0ASTOPPING=0%0AMAINPID=1", "RELOADING=1", "FDSTOREREMOVE=1", "READY=1%0ASTATUS=b%00c"] {
        let _ = master.try_get(&format!("/notify?message={}", message.replace('=', "%3D")));
    }
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0));
    only_the_master_s_words(master.systemd());
    assert_eq!(master.systemd().messages().iter().filter(|it| *it == "STOPPING=1").count(), 1);
}

#[test]
fn the_output_of_a_refusing_check_is_one_line_for_systemd() {
    let place = Place::new();
    place.program("v1/check", "#!/bin/sh\nprintf 'no\\nSTOPPING=1\\n\\033[1mMAINPID=1\\n'\nexit 1\n");
    let master = place.pool("count = 1", "[reload]\ncheck = ['./check']").start();
    assert_eq!(master.verb(&["reload"]).code, Some(1));
    master.systemd().wait("why", |all| all.iter().any(|it| it.contains("reload.check")).then_some(()));
    only_the_master_s_words(master.systemd());
}

#[test]
fn a_systemd_that_does_not_read_never_stops_the_master() {
    let master = Place::new().pool("count = 1", "").deaf_systemd().start();
    // More lines than any queue of the kernel's holds.
    let queue: usize =
        std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").expect("a number").trim().parse().expect("a number");
    for count in 0..queue + 10 {
        let answer = super::harness::http::over_unix(
            &master.control(),
            "POST",
            &format!("/scale?workers={}", 1 + count % 2),
            super::harness::TIMEOUT,
        );
        assert_eq!(answer.expect("an answer").status, 200);
        master.signal(Signal::HUP);
    }
    master.ok(&["reload"]);
    assert!(master.get("/").contains("chaos"));
    // Once it reads again it hears the end of what was begun, and the line that is true now.
    master.systemd().hear_again();
    let status = master.wait_until_calm();
    master.systemd().wait_for(&format!("STATUS={}", status["status_text"].as_str().expect("a line")), 1);
    master.systemd().wait("the last word on reloads", |all| {
        let last = all.iter().rev().find(|it| it.contains("READY=1") || it.contains("RELOADING=1"))?;
        (last == "READY=1").then_some(())
    });
    only_the_master_s_words(master.systemd());
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0));
}

#[test]
fn a_systemd_that_is_gone_never_stops_the_master() {
    let master = Place::new().pool("count = 1", "").start();
    std::fs::remove_file(master.systemd().path()).expect("the socket");
    master.ok(&["reload"]);
    master.signal(Signal::HUP);
    master.wait("reloaded again", |status| status["generation"] == 3);
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0));
}

#[test]
fn a_stderr_that_nobody_reads_never_stops_the_master() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let place = Place::new();
    // One worker in two prints without end; it alone waits.
    place.wrap("v1", "[ $RATOON_SLOT = 0 ] || while :; do echo more and more and more >&2; done");
    let worker = "count = 2\nready = 'running'\nsettle = '100ms'\nstop_timeout = '500ms'";
    let master = place.pool(worker, "").stderr(OwnedFd::from(writer)).start();
    let full = || rustix::io::ioctl_fionread(&reader).is_ok_and(|bytes| bytes > 32_000).then_some(());
    super::harness::eventually("the pipe is full", full, String::new);
    // The log, too: a line for each.
    for count in [3, 2, 3, 2] {
        master.ok(&["scale", &count.to_string()]);
    }
    let before = pids(&master.status())[0];
    processes::signal(before, Signal::KILL);
    master.wait("another", |status| status["worker_crashes"] == 1 && status["workers_ready"] == 2);
    master.ok(&["reload"]);
    assert!(master.get("/").contains("generation 2"));
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0));
    drop(reader);
}

#[test]
fn a_stderr_that_was_closed_never_stops_the_master() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let master = Place::new().pool("count = 1", "").stderr(OwnedFd::from(writer)).launch();
    drop(reader);
    master.wait_until_ready();
    master.get("/print?text=into+the+void");
    master.ok(&["reload"]);
    master.wait_until_calm();
    master.get("/err?text=again");
    assert_eq!(master.status()["worker_crashes"], 0);
}

#[test]
fn a_worker_that_shouts_keeps_nobody_waiting() {
    let place = Place::new();
    let script = "#!/usr/bin/python3
import os, socket
where = os.environ['NOTIFY_SOCKET']
mouth = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
mouth.sendto(b'READY=1', where)
n = 0
while True:
    n += 1
    mouth.sendto(b'STATUS=%d' % n, where)
";
    place.program("v1/shouts", script);
    place.wrap("v1", "[ $RATOON_SLOT = 0 ] || exec ./shouts");
    let master = place.pool("ready = 'notify'\ncount = 2\nstop_timeout = '500ms'", "").start();
    master.wait("it shouts", |status| {
        workers(status).get(1).and_then(|it| it["status"].as_str()).and_then(|it| it.parse::<u64>().ok()) > Some(2000)
    });
    processes::signal(pids(&master.status())[0], Signal::KILL);
    master.wait("its neighbour is replaced", |status| status["worker_crashes"] == 1 && status["workers_ready"] == 2);
    master.ok(&["reload"]);
    // Each word is a change of its own: systemd hears of none.
    assert!(!master.systemd().messages().iter().any(|it| it.parse::<u64>().is_ok()));
    only_the_master_s_words(master.systemd());
}

#[test]
fn a_worker_cannot_speak_for_another() {
    let place = Place::new();
    let script = "#!/usr/bin/python3
import os, socket, time
mine = os.environ['NOTIFY_SOCKET']
other = os.path.join(os.path.dirname(mine), '2')
while not os.path.exists(other):
    time.sleep(0.01)
mouth = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
mouth.sendto(b'STATUS=I am another', other)
mouth.sendto(b'STATUS=I am myself\\nREADY=1', mine)
time.sleep(1000)
";
    place.program("v1/liar", script);
    place.wrap("v1", "[ $RATOON_SLOT = 1 ] || exec ./liar");
    let master = place.pool("ready = 'notify'\ncount = 2", "").start();
    master.wait_for_log("that worker 1 sent in its name");
    let status = master.status();
    assert_eq!(
        (&workers(&status)[0]["status"], &workers(&status)[1]["status"]),
        (&"I am myself".into(), &serde_json::Value::Null)
    );
}
