//! Fault × phase: what goes wrong, in every phase of an instance's life, under load, with the outcome in a table.
//!
//! Of every cell: no request is lost that a living worker could have served; then the instance ends with 0, and no process,
//! no descriptor and no file is left.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use super::harness::master::{pids, workers};
use super::harness::{Master, Place, Signal, Value, eventually, http, processes};
use super::limits::limit;
use super::meter;

/// Where in its life an instance is when the fault comes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// All are ready.
    Idle,
    /// One of the first generation is ready, the other not yet.
    Starting,
    /// One of the second generation is ready, the other not yet.
    Reloading,
    /// All of the second generation are ready and on probation; it ends by an abort.
    Probation,
    /// The second generation serves; the first still has requests to finish.
    Draining,
    /// The end was asked for; requests are still to be finished.
    Stopping,
}

const PHASES: [Phase; 6] = [Phase::Idle, Phase::Starting, Phase::Reloading, Phase::Probation, Phase::Draining, Phase::Stopping];

/// What an instance is after a fault and its phase are over.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// It serves this generation, and its last reload ended so; empty: there was none.
    Serves(u64, &'static str),
    /// It serves this generation or a later one, committed.
    ServesFrom(u64),
    /// It has ended, with 0.
    Ended,
}

use Then::{Ended, Serves, ServesFrom};

/// What goes wrong, how many of the requests under way it may cost, and what comes of it in each phase.
struct Fault {
    strike: fn(&Master),
    costs: usize,
    /// How many descriptors more than before the master may keep.
    keeps: usize,
    then: [Then; 6],
}

/// Clients that ask one request after the other, and requests that take until the phase is over.
const CLIENTS: usize = 2;
const SLOW: usize = 4;

/// So many status pages the master has ready.
const SPARE_PAGES: usize = 4;

/// What an instance does that the fault does not change.
const UNCHANGED: [Then; 6] =
    [Serves(1, ""), Serves(1, ""), Serves(2, "committed"), Serves(1, "aborted"), Serves(2, "committed"), Ended];

fn run(fault: &Fault) {
    for (phase, then) in PHASES.into_iter().zip(fault.then) {
        let cell = std::panic::AssertUnwindSafe(|| cell(fault, phase, then));
        if let Err(panic) = std::panic::catch_unwind(cell) {
            eprintln!("in the phase {phase:?}");
            std::panic::resume_unwind(panic);
        }
    }
}

fn cell(fault: &Fault, phase: Phase, then: Then) {
    let place = Place::new();
    place.wrap("v1", "[ ! -e PLACE/closed.$RATOON_GENERATION.$RATOON_SLOT ] || export CHAOS_GATE=PLACE/open");
    let closed = match phase {
        Phase::Starting => "closed.1.1",
        Phase::Reloading => "closed.2.1",
        Phase::Idle | Phase::Probation | Phase::Draining | Phase::Stopping => "closed.none",
    };
    place.write(closed, "");
    let worker = "count = 2\nstart_timeout = '1h'\nwatchdog = '1s'\nstop_timeout = '5s'";
    // Releases before the one that serves are not kept: their descriptors would count below.
    let restart = "[restart]\nlimit = 1000\nmax = '200ms'\n[reload]\nkeep = 1";
    let probation = if phase == Phase::Probation { "probation = '1h'" } else { "" };
    let master = place.pool(worker, &format!("{restart}\n{probation}")).launch();
    master.wait("it serves", |status| status["workers_ready"].as_u64() >= Some(if phase == Phase::Starting { 1 } else { 2 }));
    // What the reloads read that come later.
    master.place.configure(worker, restart);
    if phase == Phase::Probation {
        master.place.configure(worker, &format!("{restart}\n{probation}"));
    }
    // When all are ready the master makes status pages for the next workers.
    let made = if phase == Phase::Starting { SPARE_PAGES } else { 0 };
    let before = meter::descriptors(master.pid) + made;
    let slow = enter(&master, phase);
    let load = (!matches!((phase, then), (_, Ended))).then(|| Load::start(&master));

    (fault.strike)(&master);

    // The phase may end now.
    master.place.configure(worker, restart);
    // A master that was told to end has given the reload up by itself.
    if phase == Phase::Probation && !matches!(then, Ended) && master.status()["state"] == "reloading" {
        let said = master.verb(&["abort"]);
        assert!(matches!(said.code, Some(0 | 1)), "{said:?}");
    }
    master.place.write("open", "");
    let lost: usize = slow.into_iter().map(|request| usize::from(request.join().expect("no panic").is_err())).sum();
    let status = after(&master, then);
    let lost = lost + load.map_or(0, Load::stop);
    assert!(lost <= fault.costs, "{lost} requests lost\n{}", master.log());
    if status.is_some() {
        assert_eq!(meter::zombies(master.pid), 0);
        eventually(
            "no descriptor is left",
            || (meter::descriptors(master.pid) <= before + fault.keeps).then_some(()),
            || meter::descriptors_told(master.pid),
        );
        master.signal(Signal::TERM);
    }
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
    let mark = format!("{}={}", processes::MARK, master.place.root().display());
    assert_eq!(processes::with_environment(&mark), [0; 0], "processes are left\n{}", master.log());
    let left: Vec<_> =
        std::fs::read_dir(master.place.path("run")).into_iter().flatten().flatten().map(|it| it.file_name()).collect();
    assert!(left.is_empty(), "{left:?}\n{}", master.log());
}

/// Brings it into the phase; gives the requests that keep it there.
fn enter(master: &Master, phase: Phase) -> Vec<JoinHandle<std::io::Result<()>>> {
    let generation = |status: &Value, number: u64, state: &str| {
        workers(status).iter().filter(|worker| worker["generation"] == number && worker["state"] == state).count()
    };
    match phase {
        Phase::Idle => Vec::new(),
        Phase::Starting => {
            master.wait("one is ready, one is not", |status| generation(status, 1, "starting") == 1);
            Vec::new()
        }
        Phase::Reloading => {
            master.signal(Signal::HUP);
            master.wait("half a generation", |now| generation(now, 2, "ready") == 1 && generation(now, 2, "starting") == 1);
            Vec::new()
        }
        Phase::Probation => {
            master.signal(Signal::HUP);
            master.wait("on probation", |now| generation(now, 2, "ready") == 2 && now["state"] == "reloading");
            Vec::new()
        }
        Phase::Draining => {
            let slow = slow_requests(master);
            master.signal(Signal::HUP);
            master.wait("the old drain", |now| now["generation"] == 2 && generation(now, 1, "draining") > 0);
            slow
        }
        Phase::Stopping => {
            let slow = slow_requests(master);
            master.signal(Signal::TERM);
            master.wait("it stops", |now| now["state"] == "stopping" && generation(now, 1, "draining") > 0);
            slow
        }
    }
}

/// Requests that are answered when the phase may end.
fn slow_requests(master: &Master) -> Vec<JoinHandle<std::io::Result<()>>> {
    let (address, path) = (master.address(), format!("/wait?file={}", master.place.path("open").display()));
    let request = |_| {
        let (address, path) = (address.clone(), path.clone());
        std::thread::spawn(move || http::get(&address, &path).map(drop))
    };
    let slow = (0..SLOW).map(request).collect();
    master.wait("they have been taken", |status| {
        let open = workers(status).iter().filter_map(|worker| worker["open_connections"].as_u64()).sum::<u64>();
        open >= SLOW as u64
    });
    slow
}

/// Waits for the outcome; `None` when it has ended.
#[track_caller]
fn after(master: &Master, then: Then) -> Option<Value> {
    let is_calm = |status: &Value| {
        let ready = |worker: &Value| worker["state"] == "ready" && worker["generation"] == status["generation"];
        status["state"] == "running" && workers(status).len() == 2 && workers(status).iter().all(ready)
    };
    let result = |status: &Value| status["last_reload"]["result"].as_str().unwrap_or_default().to_owned();
    match then {
        Serves(generation, how) => {
            Some(master.wait(&format!("{then:?}"), |status| {
                is_calm(status) && status["generation"] == generation && result(status) == how
            }))
        }
        ServesFrom(generation) => Some(master.wait(&format!("{then:?}"), |status| {
            is_calm(status) && status["generation"].as_u64() >= Some(generation) && result(status) == "committed"
        })),
        Ended => {
            assert_eq!(master.end().code(), Some(0), "{}", master.log());
            None
        }
    }
}

/// A light load, each request on a connection of its own.
pub struct Load {
    stop: std::sync::Arc<AtomicBool>,
    clients: Vec<JoinHandle<usize>>,
    answered: std::sync::Arc<AtomicUsize>,
}

impl Load {
    pub fn start(master: &Master) -> Load {
        let (stop, answered) = (std::sync::Arc::new(AtomicBool::new(false)), std::sync::Arc::new(AtomicUsize::new(0)));
        let address = master.address();
        let client = |_| {
            let (stop, answered, address) = (stop.clone(), answered.clone(), address.clone());
            std::thread::spawn(move || {
                let mut lost = 0;
                while !stop.load(Ordering::Relaxed) {
                    match http::get(&address, "/") {
                        Ok(answer) if answer.status == 200 => _ = answered.fetch_add(1, Ordering::Relaxed),
                        Ok(_) | Err(_) => lost += 1,
                    }
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
                lost
            })
        };
        let clients = (0..CLIENTS).map(client).collect();
        let load = Load { stop, clients, answered };
        eventually("it is served", || (load.answered.load(Ordering::Relaxed) > 4).then_some(()), || master.log());
        load
    }

    /// How many were lost.
    pub fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().map(|client| client.join().expect("no panic")).sum()
    }
}

/// The first ready worker of the generation that serves, or of the first one while it starts; any when the instance stops.
fn serving(status: &Value) -> u32 {
    let stopping = status["state"] == "stopping";
    let generation = status["generation"].as_u64().expect("a number").max(1);
    let serves = |worker: &&Value| stopping || (worker["state"] == "ready" && worker["generation"] == generation);
    let worker = workers(status).iter().find(serves).unwrap_or_else(|| panic!("nobody serves: {status:#}"));
    worker["pid"].as_u64().expect("a pid") as u32
}

/// Waits until the process's end was seen, and acted upon.
fn is_gone(master: &Master, pid: u32) {
    eventually(
        "its end was seen",
        || {
            (master.has_ended().is_some() || master.try_status().is_some_and(|status| !pids(&status).contains(&pid)))
                .then_some(())
        },
        || master.log(),
    );
}

fn kill(master: &Master, pid: u32) {
    processes::signal(pid, Signal::KILL);
    is_gone(master, pid);
}

#[test]
fn a_serving_worker_is_killed() {
    let strike = |master: &Master| kill(master, serving(&master.status()));
    run(&Fault { strike, costs: CLIENTS + SLOW, keeps: 0, then: UNCHANGED });
}

#[test]
fn the_newest_worker_is_killed() {
    let strike = |master: &Master| {
        let status = master.status();
        let newest = workers(&status).iter().max_by_key(|worker| worker["id"].as_u64()).expect("a worker");
        kill(master, newest["pid"].as_u64().expect("a pid") as u32);
    };
    let mut then = UNCHANGED;
    then[2] = Serves(1, "rolled-back");
    then[3] = Serves(1, "rolled-back");
    run(&Fault { strike, costs: CLIENTS + SLOW, keeps: 0, then });
}

#[test]
fn a_serving_worker_leaves_a_daemon_and_hangs() {
    let strike = |master: &Master| {
        if master.status()["state"] != "stopping" {
            assert!(master.try_get("/child").is_ok_and(|answer| answer.status == 200));
        }
        let pid = serving(&master.status());
        processes::signal(pid, Signal::STOP);
        is_gone(master, pid);
    };
    run(&Fault { strike, costs: CLIENTS + SLOW, keeps: 0, then: UNCHANGED });
}

#[test]
fn the_sockets_in_the_runtime_directory_are_removed() {
    let strike = |master: &Master| {
        for entry in std::fs::read_dir(master.place.path("run/notify")).expect("notify").flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
        let _ = std::fs::remove_file(master.control());
        eventually("it can be asked again", || master.try_status(), || master.log());
    };
    // Whoever had connected before is still heard on the first socket: a worker has two from now on.
    run(&Fault { strike, costs: 0, keeps: 2, then: UNCHANGED });
}

#[test]
fn it_hangs_up_twenty_times() {
    let strike = |master: &Master| (0..20).for_each(|_| master.signal(Signal::HUP));
    let then = [ServesFrom(2), ServesFrom(2), ServesFrom(3), ServesFrom(3), ServesFrom(3), Ended];
    run(&Fault { strike, costs: 0, keeps: 0, then });
}

#[test]
fn the_configuration_is_broken_at_the_next_reload() {
    let strike = |master: &Master| {
        let good = master.place.read("pool.toml");
        master.place.write("pool.toml", "[worker\n");
        let state = master.status()["state"].clone();
        let requester = master.begin(&["reload"]);
        match state.as_str() {
            // It waits for the one that runs.
            Some("reloading") => {
                if master.status()["workers_ready"] == 2
                    && workers(&master.status()).iter().all(|worker| worker["state"] == "ready")
                {
                    master.ok(&["abort"]);
                }
                master.place.write("open", "");
                assert_eq!(requester.end().code, Some(1));
            }
            _ => assert_eq!(requester.end().code, Some(1)),
        }
        master.place.write("pool.toml", &good);
    };
    let then =
        [Serves(1, "refused"), Serves(1, "refused"), Serves(2, "refused"), Serves(1, "refused"), Serves(2, "refused"), Ended];
    run(&Fault { strike, costs: 0, keeps: 0, then });
}

#[test]
fn no_descriptor_is_left_for_a_while() {
    let strike = |master: &Master| {
        let pid = serving(&master.status());
        limit(master.pid, "nofile", Some(16));
        processes::signal(pid, Signal::KILL);
        eventually("it has ended", || (!processes::lives(pid)).then_some(()), || master.log());
        if master.has_ended().is_none() {
            limit(master.pid, "nofile", None);
        }
        is_gone(master, pid);
    };
    run(&Fault { strike, costs: CLIENTS + SLOW, keeps: 0, then: UNCHANGED });
}

#[test]
fn abort_is_asked_for() {
    let strike = |master: &Master| {
        let reloads = master.status()["state"] == "reloading";
        assert_eq!(master.verb(&["abort"]).code, Some(i32::from(!reloads)));
    };
    let mut then = UNCHANGED;
    then[2] = Serves(1, "aborted");
    run(&Fault { strike, costs: 0, keeps: 0, then });
}

#[test]
fn the_end_is_asked_for() {
    let strike = |master: &Master| {
        let stops = master.status()["state"] == "stopping";
        if !stops {
            master.signal(Signal::TERM);
        }
    };
    run(&Fault { strike, costs: 0, keeps: 0, then: [Ended; 6] });
}

#[test]
fn the_end_is_asked_for_twice() {
    let strike = |master: &Master| {
        master.signal(Signal::TERM);
        master.signal(Signal::INT);
    };
    run(&Fault { strike, costs: SLOW, keeps: 0, then: [Ended; 6] });
}
