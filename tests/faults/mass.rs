//! Very many at once: ends of workers, signals, orphans.

use std::time::{Duration, Instant};

use super::harness::master::{pids, workers};
use super::harness::{Master, Place, Signal, eventually, processes};
use super::meter;

/// So many that what is done for each of them all too often is felt.
const MANY: usize = 1000;

fn many() -> Master {
    let place = Place::new();
    place.program("v1/worker", "#!/bin/sh\nexec sleep 1000\n");
    // On a loaded machine the start of so many takes longer than the default timeout.
    let keys = format!("count = {MANY}\nready = 'running'\nsettle = '10ms'\nstart_timeout = '10min'\nstop_timeout = '10min'");
    place.pool(&keys, "[restart]\ninterval = '1s'").start()
}

#[test]
fn a_thousand_workers_die_in_one_instant_and_the_end_is_quick() {
    let master = many();
    let before = pids(&master.status());
    assert_eq!(before.len(), MANY);
    let descriptors = meter::descriptors(master.pid);
    before.iter().for_each(|pid| processes::signal(*pid, Signal::KILL));
    let status = master.wait("all are replaced", |status| {
        status["worker_crashes"] == MANY && status["workers_ready"] == MANY && !status["degraded"].as_bool().unwrap_or(true)
    });
    assert!(!pids(&status).iter().any(|pid| before.contains(pid)));
    assert_eq!(workers(&status).len(), MANY);
    assert_eq!(meter::zombies(master.pid), 0);
    eventually(
        "no descriptor is left",
        || (meter::descriptors(master.pid) <= descriptors).then_some(()),
        || meter::descriptors_told(master.pid),
    );
    let sockets = std::fs::read_dir(master.place.path("run/notify")).expect("notify").count();
    assert_eq!(sockets, MANY);

    // Not drained, which would take ten minutes, but killed: by a second signal, before the first was served.
    pids(&status).iter().for_each(|pid| processes::signal(*pid, Signal::STOP));
    master.signal(Signal::TERM);
    master.signal(Signal::INT);
    let ended = master.end();
    assert_eq!(ended.code(), Some(0), "{}", master.log());
    let mark = format!("{}={}", processes::MARK, master.place.root().display());
    assert_eq!(processes::with_environment(&mark), [0; 0], "processes are left");
}

#[test]
fn a_thousand_hangups_are_few_reloads() {
    let master = Place::new().pool("count = 1", "[reload]\nkeep = 1").start();
    let (descriptors, memory) = (meter::descriptors(master.pid), meter::memory(master.pid));
    for _ in 0..1000 {
        master.signal(Signal::HUP);
    }
    let status = master.wait("all are done", |status| {
        status["state"] == "running" && status["last_reload"]["result"] == "committed" && workers(status).len() == 1
    });
    assert!(status["generation"].as_u64() < Some(200), "{status:#}");
    assert_eq!((&status["worker_crashes"], &status["failures"]), (&0.into(), &serde_json::json!([])), "{status:#}");
    master.ok(&["reload"]);
    master.wait_until_calm();
    eventually(
        "no descriptor is left",
        || (meter::descriptors(master.pid) <= descriptors + 1).then_some(()),
        || meter::descriptors_told(master.pid),
    );
    assert!(meter::memory(master.pid) < memory + (16 << 10));
    assert_eq!(meter::zombies(master.pid), 0);
    // What is opened for systemd is closed.
    let said = |what: &str| master.systemd().messages().iter().filter(|it| it.starts_with(what)).count();
    assert!(said("READY=1") > said("RELOADING=1"), "{:?}", master.systemd().messages());
}

#[test]
fn hundreds_of_orphans_that_end_at_once_are_reaped() {
    let place = Place::new();
    // They lose their parent at once, and end when the file is there.
    place.wrap("v1", "i=0; while [ $i -lt 600 ]; do (setsid sh -c 'exec 3<PLACE/gate; read x <&3' &) ; i=$((i+1)); done");
    let made = std::process::Command::new("mkfifo").arg(place.path("gate")).status().expect("mkfifo");
    assert!(made.success());
    let master = place.pool("count = 1\nstart_timeout = '1h'", "").start();
    let orphans = || processes::children(master.pid).len();
    eventually("they are orphans", || (orphans() == 601).then_some(()), || orphans().to_string());
    // The end of file for all who have opened it; who is late has the next one.
    let mut open = std::fs::OpenOptions::new();
    let open = std::os::unix::fs::OpenOptionsExt::custom_flags(open.write(true), libc::O_NONBLOCK);
    let gate = master.place.path("gate");
    eventually(
        "all are reaped",
        || {
            drop(open.open(&gate));
            (orphans() == 1).then_some(())
        },
        || format!("{} of {}", meter::zombies(master.pid), orphans()),
    );
    assert_eq!(master.status()["worker_crashes"], 0);
}

#[test]
fn a_pool_that_cannot_live_costs_next_to_nothing() {
    let place = Place::new();
    place.program("v1/worker", "#!/bin/sh\necho x >> starts\n[ -e broken ] && exit 7\nexec sleep 1000\n");
    let restart = "[restart]\ninitial = '50ms'\nmax = '1h'\nlimit = 3\ninterval = '1h'";
    let master = place.pool("count = 8\nready = 'running'\nsettle = '10ms'", restart).start();
    let starts = |master: &Master| master.place.read("v1/starts").lines().count();
    master.place.write("v1/broken", "");
    pids(&master.status()).iter().for_each(|pid| processes::signal(*pid, Signal::KILL));
    master.wait("degraded", |status| status["degraded"] == true && workers(status).is_empty());
    // Each slot: its first worker, and as many more as the limit allows; and one slot is tried each second.
    let began = Instant::now();
    let bound = || 8 * (1 + 4) + 1 + began.elapsed().as_secs() as usize;
    assert!(starts(&master) <= bound(), "{}", starts(&master));
    master.systemd().wait("degraded", |all| all.iter().any(|it| it.contains("degraded: slot")).then_some(()));
    let readyz = super::harness::http::over_unix(&master.control(), "GET", "/readyz", super::harness::TIMEOUT).expect("readyz");
    assert_eq!(readyz.status, 503);
    assert_eq!(master.verb(&["status"]).code, Some(1));
    // Slots that failed less often than the limit still have short waits (of some 100 ms at most) before them; after those, one
    // slot is tried each second.
    let until = Instant::now() + super::harness::TIMEOUT;
    loop {
        assert!(Instant::now() < until, "restarts do not slow down");
        let before = (meter::cpu(master.pid), starts(&master), Instant::now());
        while before.2.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(100));
            assert!(master.has_ended().is_none());
        }
        let forks = starts(&master) - before.1;
        assert!(starts(&master) <= bound(), "{}", starts(&master));
        if (1..=3).contains(&forks) {
            let cpu = meter::cpu(master.pid) - before.0;
            assert!(cpu <= Duration::from_millis(40), "{cpu:?} for {forks} forks");
            break;
        }
    }
}
