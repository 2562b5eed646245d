//! The first generation: READY, the status lines, and what becomes of a worker that dies.

use std::os::unix::process::ExitStatusExt;

use super::harness::master::{last_failure, pids, wait_for_end_of, workers};
use super::harness::{Place, Plan, Signal, TIMEOUT, Value, http, processes};

#[test]
fn ready_is_said_when_all_workers_are_ready() {
    let place = Place::new();
    place.gate("v1");
    let master = place.pool("count = 2", "").launch();
    master.systemd().wait_for("STATUS=generation 1: 0/2 ready", 1);
    master.place.open(1, 1);
    master.systemd().wait_for("STATUS=generation 1: 1/2 ready", 1);
    let status = master.status();
    assert_eq!((&status["state"], &status["workers_ready"]), (&"starting".into(), &1.into()), "{status:#}");
    assert!(!master.systemd().messages().contains(&"READY=1".to_owned()), "one worker is not ready yet");

    master.place.open(1, 0);
    master.systemd().wait_for("READY=1", 1);
    // Whoever sees the unit active sees what it is.
    let messages = master.systemd().messages();
    let at =
        |wanted: &str| messages.iter().position(|message| message == wanted).unwrap_or_else(|| panic!("{wanted}: {messages:#?}"));
    assert!(at("STATUS=generation 1: 2/2 ready") < at("READY=1"), "{messages:#?}");
    assert_eq!(master.status()["state"], "running");
}

#[test]
fn status_lines_are_as_the_contract_has_them() {
    let place = Place::new();
    place.gate("v1");
    [(1, 0), (1, 1), (2, 0)].into_iter().for_each(|(generation, slot)| place.open(generation, slot));
    let master = place.pool("count = 2", "").start();
    let reload = master.begin(&["reload"]);
    master.systemd().wait_for("STATUS=reloading to generation 2: 1/2 ready", 1);
    assert_eq!(master.status()["state"], "reloading");
    master.place.open(2, 1);
    assert_eq!(reload.end().code, Some(0));
    master.systemd().wait_for("STATUS=generation 2: 2/2 ready", 1);
}

#[test]
fn a_failed_reload_stands_in_the_status_line_beside_what_serves() {
    let place = Place::new();
    let master = place.pool("count = 2", "").start();
    master.place.behave("v1", "exit_at_start=3");
    assert_eq!(master.verb(&["reload"]).code, Some(1));
    let line = master.systemd().wait("why", |all| {
        let lines = all.iter().rev().filter_map(|message| message.strip_prefix("STATUS="));
        lines
            .into_iter()
            .find(|line| line.starts_with("generation 1: 2/2 ready") && line.contains("generation 2"))
            .map(str::to_owned)
    });
    assert!(line.contains("rolled back") && line.contains("exit 3"), "{line}");
    assert_eq!(master.status()["status_text"].as_str(), Some(line.as_str()));
}

#[test]
fn a_worker_that_exits_at_once_makes_the_pool_degraded() {
    let place = Place::new();
    let master = place.pool("count = 2", "[restart]\ninitial = '1ms'\nmax = '20ms'\nlimit = 3").start();
    let first = pids(&master.status());
    master.place.behave("v1", "exit_at_start=1");
    processes::signal(first[1], Signal::KILL);
    master.systemd().wait_for("STATUS=generation 1: 1/2 ready, degraded: slot 1 exits at once (exit 1)", 1);
    let status = master.wait("degraded", |status| status["degraded"] == true);
    assert_eq!(last_failure(&status)["how"], "exit 1", "{status:#}");
    assert_eq!(pids(&status)[0], first[0], "its neighbour was touched");
    assert_eq!(master.verb(&["status"]).code, Some(0), "one worker is ready");

    // A good release ends it.
    master.place.behave("v1", "");
    master.ok(&["reload"]);
    let status = master.wait_until_calm();
    assert_eq!((&status["degraded"], &status["generation"]), (&false.into(), &2.into()), "{status:#}");
}

#[test]
fn a_killed_worker_is_replaced_in_its_slot() {
    let place = Place::new();
    let master = place.pool("count = 3", "").start();
    let before = master.status();
    let killed = pids(&before)[1];
    processes::signal(killed, Signal::KILL);
    let after = master.wait("three again", |status| status["worker_crashes"] == 1 && status["workers_ready"] == 3);
    let (old, new) = (pids(&before), pids(&after));
    assert_eq!((new[0], new[2]), (old[0], old[2]), "{after:#}");
    assert_ne!(new[1], killed);
    assert_eq!((&workers(&after)[1]["slot"], &workers(&after)[1]["generation"]), (&1.into(), &1.into()));
    assert!(workers(&after)[1]["id"].as_u64() > workers(&before)[2]["id"].as_u64(), "an id was used twice: {after:#}");
    let failure = last_failure(&after);
    assert_eq!(
        (&failure["how"], &failure["pid"], &failure["slot"], &failure["worker"]),
        (&"signal SIGKILL".into(), &killed.into(), &1.into(), &workers(&before)[1]["id"]),
        "{after:#}"
    );
}

#[test]
fn every_end_is_told_as_what_it_was() {
    let master = Place::new().pool("count = 1", "[restart]\ninitial = '1ms'\nmax = '2ms'\nlimit = 100").start();
    let told = |crashes: u64, how: &str| {
        let status = master.wait(how, |status| status["worker_crashes"] == crashes && status["workers_ready"] == 1);
        assert_eq!(last_failure(&status)["how"], how, "{status:#}");
    };
    let _ = master.try_get("/exit?code=0");
    told(1, "exit 0");
    let _ = master.try_get("/exit?code=7");
    told(2, "exit 7");
    let _ = master.try_get("/signal?number=10");
    told(3, "signal SIGUSR1");
    processes::signal(pids(&master.status())[0], Signal::KILL);
    told(4, "signal SIGKILL");
    // Whether there is a core dump is the machine's choice.
    let _ = master.try_get("/crash");
    let status = master.wait("SIGABRT", |status| status["worker_crashes"] == 5);
    let how = last_failure(&status)["how"].as_str().unwrap_or_default();
    assert!(["signal SIGABRT", "signal SIGABRT (core dumped)"].contains(&how), "{how}");
}

#[test]
fn a_failed_worker_s_last_words_are_kept() {
    let master = Place::new().pool("count = 1", "").start();
    master.get("/status?text=counting+sheep");
    master.get("/print?text=one%0Atwo");
    master.get("/err?text=three");
    let _ = master.try_get("/exit?code=1");
    let status =
        master.wait("its last lines", |status| last_failure(status)["log_tail"].as_array().is_some_and(|it| it.len() == 3));
    let failure = last_failure(&status);
    assert_eq!(failure["log_tail"], serde_json::json!(["one", "two", "three"]), "{failure:#}");
    assert_eq!(failure["last_status"], "counting sheep");
    master.wait_for_log("three");
}

#[test]
fn first_start_that_cannot_succeed_ends_and_says_why() {
    let place = Place::new();
    place.behave("v1", "exit_at_start=1");
    let master = place.pool("count = 2", "").launch();
    let ended = master.end();
    assert_eq!(ended.code(), Some(1), "{ended}\n{}", master.log());
    master.wait_for_log("generation 1 cannot start: slot 0 exits at once (exit 1)");
    let told = master.systemd().messages();
    assert!(!told.contains(&"READY=1".to_owned()), "{told:?}");
    let last = told.iter().rfind(|message| message.starts_with("STATUS=")).expect("a status line");
    assert!(last.starts_with("STATUS=stopping; generation 1 cannot start: slot 0 exits at once (exit 1); see: "), "{last}");
    assert!(last.ends_with("pool.toml"), "{last}");
}

#[test]
fn first_start_goes_on_while_one_slot_may_succeed() {
    let place = Place::new();
    // Only the worker of slot 0 fails.
    place.program("v1/worker", "#!/bin/sh\n[ \"$RATOON_SLOT\" = 0 ] && [ ! -e good ] && exit 1\nexec sleep 1000\n");
    let config = "count = 2\nready = 'running'\nsettle = '2s'";
    let master = place.pool(config, "[restart]\ninitial = '1ms'\nmax = '5ms'").launch();
    master.wait("some crashes", |status| status["worker_crashes"].as_u64() > Some(3));
    let status = master.status();
    assert_eq!((&status["state"], &status["generation"]), (&"starting".into(), &0.into()), "{status:#}");
    let said = master.verb(&["status", "--check"]);
    assert_eq!((said.code, said.out.starts_with("pool not ready: ")), (Some(1), true), "{said:?}");
    master.place.write("v1/good", "");
    master.systemd().wait_for("READY=1", 1);
    master.wait_until_ready();
    assert_eq!(master.status()["generation"], 1);
}

#[test]
fn with_no_worker_ready_for_too_long_it_gives_up() {
    let master = Place::new().pool("count = 1", "[restart]\ninitial = '1ms'\nmax = '5ms'\ngive_up = '300ms'").start();
    master.place.behave("v1", "exit_at_start=1");
    processes::signal(pids(&master.status())[0], Signal::KILL);
    let ended = master.end();
    assert_eq!(ended.code(), Some(1), "{ended}\n{}", master.log());
    master.wait_for_log("restart.give_up");
}

#[test]
fn it_runs_without_systemd_and_says_what_to_do_next() {
    let place = Place::new();
    let chaos = super::harness::example("chaos");
    let plan = Plan::bare(place).without_systemd();
    let plan = ["--workers", "2", "--name", "shoot", "--"].into_iter().fold(plan, Plan::argument);
    let master = plan.argument(chaos).start();
    let status = master.status();
    assert_eq!((&status["instance"], &status["workers_ready"]), (&"shoot".into(), &2.into()), "{status:#}");
    assert!(master.get("/").contains("generation 1"));
    master.wait_for_log("reload shoot");
    let address = master.address();
    master.wait_for_log(&address);
}

#[test]
fn the_workers_do_not_outlive_a_master_that_dies_without_systemd() {
    let master = Place::new().pool("count = 2", "").without_systemd().start();
    let workers = pids(&master.status());
    master.signal(Signal::KILL);
    assert_eq!(master.end().signal(), Some(9));
    workers.into_iter().for_each(wait_for_end_of);
}

#[test]
fn a_configuration_with_an_error_does_not_start() {
    let place = Place::new();
    place.write("pool.toml", "[worker]\ncommand = ['x']\ncuont = 3\n");
    let master = Plan::new(place).launch();
    assert_eq!(master.end().code(), Some(1));
    let log = master.log();
    assert!(log.contains("pool.toml:3:1") && log.contains("count"), "{log}");
}

#[test]
fn a_command_that_is_missing_does_not_start() {
    let place = Place::new();
    place.write("pool.toml", "[worker]\ncommand = ['/no/such/program']\n");
    let master = Plan::new(place).launch();
    assert_eq!(master.end().code(), Some(1));
    master.wait_for_log("/no/such/program");
    master.wait_for_log("No such file or directory");
}

#[test]
fn the_status_address_serves_reads_and_no_changes() {
    let place = Place::new();
    let path = place.path("status");
    // A dead one of an earlier run lies there.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    let master = place.pool("count = 1", &format!("[status]\nlisten = {path:?}")).start();
    let ask = |method: &str, what: &str| http::over_unix(&path, method, what, TIMEOUT).expect("an answer");
    let status: Value = serde_json::from_str(&ask("GET", "/status").body).expect("JSON");
    assert_eq!(status["workers_ready"], 1);
    assert_eq!(ask("GET", "/readyz").status, 200);
    assert_eq!(ask("POST", "/reload").status, 403);
    assert_eq!(master.status()["generation"], 1);
}

#[test]
fn a_file_that_is_no_socket_is_not_removed_for_the_status_address() {
    let place = Place::new();
    place.write("precious", "data");
    let path = place.path("precious");
    let master = place.pool("count = 1", &format!("[status]\nlisten = {path:?}")).start();
    // The pool is worth more than its status page.
    master.wait_for_log("status.listen");
    assert_eq!(master.place.read("precious"), "data");
    assert!(master.get("/").contains("generation 1"));
}
