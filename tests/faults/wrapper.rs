//! Workers whose main process is a wrapper that does not `exec` its server: `npm start`, a shell script that ends in `exit $?`.
//!
//! The stop signal goes to the main process alone, which dies; the server must drain all the same, and what serves nothing must
//! not keep the instance from ending. `worker.stop_timeout` is an hour in each case, so that nothing here is ended by it.

use super::harness::master::{pids, wait_for_end_of, workers};
use super::harness::{Master, Place, Signal, eventually, example, processes};

/// A shell that starts the server as its child. Only the child knows the number for `LISTEN_PID`.
fn wrap_without_exec(place: &Place, release: &str, before: &str) {
    let before = before.replace("PLACE", &place.root().display().to_string());
    let server = example("chaos").display().to_string();
    let script = format!(
        "#!/bin/sh\n{before}\nunset LISTEN_PIDFDID\nsh -c 'echo $$ > ../server.'$RATOON_WORKER'; LISTEN_PID=$$ exec {server}'\nexit $?\n"
    );
    place.program(&format!("{release}/worker"), &script);
}

/// The number that a process wrote into a file of the place.
fn pid_in(master: &Master, name: &str) -> u32 {
    let path = master.place.path(name);
    eventually(name, || std::fs::read_to_string(&path).ok()?.trim().parse().ok(), || master.log())
}

const PATIENT: &str = "count = 1\nstop_timeout = '1h'";

#[test]
fn server_of_a_wrapper_drains_after_a_reload() {
    let place = Place::new();
    wrap_without_exec(&place, "v1", "");
    let master = place.pool(PATIENT, "").start();
    let server = pid_in(&master, "server.1");
    let shell = pids(&master.status())[0];
    assert_ne!(server, shell, "the wrapper has become its server");
    let request = master.ask_for_later();
    master.ok(&["reload"]);
    wait_for_end_of(shell);
    // The signal reaches the server, which serves what it has accepted and nothing else.
    master.wait_for_log(&format!("(pid {server}) still serves"));
    assert!(processes::lives(server), "a server with a request under way was killed\n{}", master.log());
    let answer = request.answer();
    assert!(answer.contains("generation 1"), "a request was lost: {answer}\n{}", master.log());
    wait_for_end_of(server);
    master.wait_until_calm();
    assert!(!master.log().contains("SIGKILL"), "{}", master.log());
}

#[test]
fn stop_of_a_wrapper_drains_its_server() {
    let place = Place::new();
    wrap_without_exec(&place, "v1", "");
    let master = place.pool(PATIENT, "").start();
    let server = pid_in(&master, "server.1");
    let request = master.ask_for_later();
    master.signal(Signal::TERM);
    master.wait_for_log(&format!("(pid {server}) still serves"));
    let answer = request.answer();
    assert!(answer.contains("generation 1"), "a request was lost: {answer}\n{}", master.log());
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
    assert!(!processes::lives(server));
}

#[test]
fn stop_signal_reaches_a_forwarding_wrapper_once() {
    let place = Place::new();
    place.program(
        "server.sh",
        "trap 'echo term >> ../heard' TERM\nsystemd-notify --ready\nuntil [ -e ../over ]; do sleep 0.01; done\n",
    );
    wrap_without_exec(&place, "v1", "[ $RATOON_SLOT = 1 ] || exec ../forward.sh");
    // Its main process lives until the server ends.
    place.program("forward.sh", "#!/bin/sh\nsh ../server.sh &\ntrap 'kill -TERM $!' TERM\nwait $!\nwait $!\n");
    let master = place.pool("ready = 'notify'\ncount = 2\nstop_timeout = '1h'", "").start();
    let request = master.ask_for_later();
    master.signal(Signal::TERM);
    // The time of the second signal has come: the other worker's server has got it, behind a wrapper that is gone.
    master.wait_for_log("still serves");
    master.place.write("over", "");
    request.answer();
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
    assert_eq!(master.place.read("heard"), "term\n", "{}", master.log());
}

#[test]
fn idle_leftover_does_not_delay_a_stop() {
    let place = Place::new();
    // Without the listening socket, descriptor 3: nothing of the worker's service.
    place.wrap("v1", "sh -c 'trap \"\" TERM; echo $$ > PLACE/idle; exec sleep 1000' 3<&- &");
    let master = place.pool(PATIENT, "").start();
    let idle = pid_in(&master, "idle");
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
    assert!(!processes::lives(idle));
    assert!(master.log().contains(&format!("sleep (pid {idle})")), "{}", master.log());
}

#[test]
fn kill_of_a_crashed_worker_names_its_leftovers() {
    let place = Place::new();
    place.wrap("v1", "sleep 1000 & echo $! > PLACE/idle.$RATOON_WORKER");
    let master = place.pool(PATIENT, "").start();
    let idle = pid_in(&master, "idle.1");
    processes::signal(pids(&master.status())[0], Signal::KILL);
    wait_for_end_of(idle);
    master.wait_for_log(&format!("sleep (pid {idle})"));
    master.wait("it is replaced", |status| status["workers_ready"] == 1 && status["worker_crashes"] == 1);
}

#[test]
fn rolled_back_start_leaves_nothing_behind() {
    let place = Place::new();
    place.release("v2", "");
    // Slot 0 fails when slot 1 is there; slot 1 is a shell whose child hears no SIGTERM and holds the listening socket.
    let script = "#!/bin/sh\nif [ $RATOON_SLOT = 0 ]; then until [ -s ../stubborn ]; do sleep 0.01; done; exit 1; fi\n\
        sh -c 'trap \"\" TERM; echo $$ > ../stubborn; exec sleep 1000'\nexit $?\n";
    place.program("v2/worker", script);
    let master = place.pool("count = 2\nstop_timeout = '1h'\nstart_timeout = '1h'", "").start();
    master.place.current("v2");
    let said = master.verb(&["reload"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    wait_for_end_of(pid_in(&master, "stubborn"));
    let status = master.wait_until_calm();
    assert!(workers(&status).iter().all(|worker| worker["generation"] == 1), "{status:#}");
}
