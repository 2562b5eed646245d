//! The configuration at a reload, and what it may run: checks and hooks.

use super::harness::master::{pids, wait_for_end_of};
use super::harness::{Master, Place, Plan, Signal, Value, eventually, processes};

/// A reload that must be refused; gives what was printed. Nothing else changes.
#[track_caller]
fn refused(master: &Master, parts: &[&str]) -> Value {
    let before = master.status();
    let said = master.verb(&["reload"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let status = master.wait_until_calm();
    let last = &status["last_reload"];
    // This reader sees details.
    let reason = format!("{} {}", last["reason"].as_str().unwrap_or_default(), last["output"]);
    for part in parts {
        assert!(said.err.contains(part), "{part:?} was not printed: {said:?}");
        assert!(reason.contains(part), "{part:?} is not in the reason: {reason}");
    }
    assert_eq!(status["last_reload"]["result"], "refused", "{status:#}");
    assert_eq!(
        (pids(&status), &status["generation"], &status["failures"]),
        (pids(&before), &before["generation"], &before["failures"])
    );
    status
}

#[test]
fn an_error_in_the_file_refuses_the_reload_with_its_place_and_changes_nothing() {
    let master = Place::new().pool("count = 1", "").start();
    let good = master.place.read("pool.toml");
    master.place.write("pool.toml", &format!("{good}\n[reload]\nprobaton = '1s'\n"));
    let line = good.lines().count() + 3;
    let place = format!("pool.toml:{line}:1");
    let status = refused(&master, &[&place, "probaton", "probation"]);
    assert!(
        status["status_text"].as_str().is_some_and(|text| text.starts_with("generation 1: 1/1 ready") && !text.contains('\n'))
    );
    master.place.write("pool.toml", &good.replace("count = 1", "count = 'many'"));
    refused(&master, &["pool.toml:4:9", "count"]);
    master.place.write("pool.toml", "");
    refused(&master, &["worker.command"]);
    std::fs::remove_file(master.place.path("pool.toml")).expect("pool.toml");
    refused(&master, &["pool.toml", "there is no such file"]);
    master.place.write("pool.toml", &good);
    master.ok(&["reload"]);
}

#[test]
fn an_environment_file_that_is_missing_refuses_the_reload() {
    let place = Place::new();
    place.write("variables", "A=1\n");
    let file = place.path("variables");
    let master = place.pool(&format!("count = 1\nenvironment_file = [{file:?}]"), "").start();
    std::fs::remove_file(&file).expect("variables");
    refused(&master, &[file.to_str().expect("text"), "there is no such file"]);
}

#[test]
fn a_flag_wins_over_the_file_at_every_reload() {
    let master = Place::new().pool("count = 1", "").argument("--workers").argument("2").start();
    assert_eq!(pids(&master.status()).len(), 2);
    master.place.configure("count = 3", "");
    master.ok(&["reload"]);
    assert_eq!(pids(&master.wait_until_calm()).len(), 2);
}

#[test]
fn before_reload_runs_first_and_can_refuse() {
    let place = Place::new();
    place.program(
        "hook",
        "#!/bin/sh\necho \"hook in $(pwd)\"\necho ran >> HOOKS\n[ ! -e ../no ] || { echo the database is asleep >&2; exit 4; }\n",
    );
    let text = place.read("program.text").replace("HOOKS", &place.path("hooks").display().to_string());
    place.program("hook", &text);
    let hook = place.path("hook");
    place.release("v2", "");
    let master = place.pool("count = 1", &format!("[hooks]\nbefore_reload = [{hook:?}]")).start();
    assert!(!master.place.path("hooks").exists(), "the first start is no reload");
    master.place.write("no", "");
    refused(&master, &["hooks.before_reload", "exit 4", "the database is asleep"]);
    std::fs::remove_file(master.place.path("no")).expect("no");
    master.place.current("v2");
    master.ok(&["reload"]);
    assert_eq!(master.place.read("hooks"), "ran\nran\n");
}

#[test]
fn reload_that_changes_nothing_is_warned_of() {
    let place = Place::new();
    place.release("v2", "");
    let master = place.pool("count = 1", "").start();
    let warning = |generation: u64| format!("generation {generation} runs what the one before it ran");
    let said = master.verb(&["reload"]);
    assert!(said.code == Some(0) && said.err.contains(&warning(2)), "the requester is warned: {said:?}");
    master.wait_for_log(&warning(2));
    // Another directory, another configuration.
    master.place.current("v2");
    master.ok(&["reload"]);
    master.place.configure("count = 2", "");
    master.ok(&["reload"]);
    master.ok(&["reload"]);
    master.wait_for_log(&warning(5));
    assert!(!master.log().contains(&warning(3)) && !master.log().contains(&warning(4)), "{}", master.log());
    // A deployment that replaces files in place.
    master.place.program("v2/views.py", "# another text\n");
    let said = master.verb(&["reload"]);
    assert!(said.code == Some(0) && !said.err.contains(&warning(6)), "{said:?}");
    assert!(master.verb(&["reload"]).err.contains(&warning(7)));
}

#[test]
fn check_runs_in_the_new_release_and_can_refuse() {
    let place = Place::new();
    place.release("v2", "");
    place.program("v2/check", "#!/bin/sh\necho \"checked $(pwd) $WHAT\"\necho a second line\nexit 9\n");
    let (worker, tables) = ("count = 1\nenvironment = { WHAT = 'with its variables' }", "[reload]\ncheck = ['./check']");
    let master = place.pool(worker, tables).start();
    // The old release has none.
    refused(&master, &["reload.check", "No such file or directory"]);
    master.place.current("v2");
    let directory = std::fs::canonicalize(master.place.path("v2")).expect("v2");
    let checked = format!("checked {} with its variables", directory.display());
    let status = refused(&master, &["reload.check", "exit 9", &checked, "a second line"]);
    assert!(status["status_text"].as_str().is_some_and(|text| !text.contains('\n')), "{status:#}");
    master.place.program("v2/check", "#!/bin/sh\necho fine\n");
    master.ok(&["reload"]);
    assert!(master.wait_until_calm()["generation"].as_u64() > Some(1));
}

#[test]
fn a_check_that_hangs_goes_with_its_requester() {
    let place = Place::new();
    let tables = "[reload]\ncheck = ['/bin/sh', '-c', 'sleep 1000 & echo $! $$ > ../check; wait']";
    let master = place.pool("count = 1", tables).start();
    let reload = master.begin(&["reload"]);
    let path = master.place.path("check");
    let running = || {
        let text = std::fs::read_to_string(&path).ok()?;
        let pids: Option<Vec<u32>> = text.split_whitespace().map(|pid| pid.parse().ok()).collect();
        pids.filter(|pids| pids.len() == 2)
    };
    let check = eventually("the check runs", running, || master.log());
    // It blocks nobody.
    assert_eq!(master.status()["state"], "reloading");
    master.ok(&["scale", "2"]);
    reload.signal(Signal::KILL);
    check.into_iter().for_each(wait_for_end_of);
    let status = master.wait_until_calm();
    assert_eq!((&status["last_reload"]["result"], &status["workers_ready"]), (&"aborted".into(), &2.into()), "{status:#}");
    // Nor do they go on as zombies.
    let children = || processes::children(master.pid);
    let workers = pids(&status);
    eventually("only workers are left", || (children() == workers).then_some(()), || format!("{:?} {workers:?}", children()));
}

#[test]
fn a_check_gets_none_of_the_master_s_own() {
    let place = Place::new();
    let script = "env > ../check.env; ls -l /proc/self/fd > ../check.fds; grep ^Sig /proc/self/status > ../check.signals";
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let tables = format!("[reload]\ncheck = ['/bin/sh', '-c', '{script}']");
    let plan = place.pool("count = 1", &tables).socket("web", socket).environment("WATCHDOG_USEC", "60000000");
    let master = plan.ignoring(&[libc::SIGUSR1, libc::SIGHUP]).blocking(&[libc::SIGUSR2, libc::SIGALRM]).start();
    master.ok(&["reload"]);
    let environment = master.place.read("check.env");
    for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC"] {
        assert!(!environment.lines().any(|line| line.starts_with(name)), "{name}: {environment}");
    }
    let descriptors = master.place.read("check.fds");
    assert!(!descriptors.contains("socket:"), "{descriptors}");
    let signals = processes::parse_facts(&master.place.read("check.signals"));
    assert_eq!(signals["SigBlk"], "0000000000000000", "{signals:#?}");
}

#[test]
fn check_verb_says_what_is_wrong_and_where() {
    let place = Place::new();
    place.configure("count = 1\nstart_timeuot = '1s'", "");
    let run = |name: &str| {
        let output =
            std::process::Command::new(super::harness::RATOON).arg("check").arg(place.path(name)).output().expect("ratoon");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run("pool.toml");
    assert_eq!(code, Some(1));
    assert!(said.contains("pool.toml:5:1") && said.contains("start_timeout"), "{said}");
    place.configure("count = 1", "");
    assert_eq!(run("pool.toml").0, Some(0));
    drop(Plan::new(place));
}

#[test]
fn on_rollback_gets_the_outcome_and_what_serves() {
    let place = Place::new();
    place.release("v2", "exit_at_start=3");
    place.wrap("v2", "echo no database >&2");
    let tables = "[reload]\non_rollback = ['sh', '-c', 'cat >PLACE/told.new && mv PLACE/told.new PLACE/told']";
    let tables = tables.replace("PLACE", place.root().to_str().expect("text"));
    let master = place.pool("count = 1", &tables).start();
    master.place.current("v2");
    assert_eq!(master.verb(&["reload"]).code, Some(1));
    let read = || std::fs::read_to_string(master.place.path("told")).ok();
    let told: Value = serde_json::from_str(&eventually("the command is told", read, || master.log())).expect("JSON");
    assert_eq!((&told["result"], &told["generation"]), (&"rolled-back".into(), &2.into()), "{told:#}");
    assert!(told["reason"].as_str().is_some_and(|why| why.contains("exit 3 before it was ready")), "{told:#}");
    let printed = told["output"].as_array().expect("lines");
    assert!(printed.contains(&"no database".into()), "what the failed worker printed: {told:#}");
    let v1 = std::fs::canonicalize(master.place.path("v1")).expect("a path");
    assert_eq!(told["serving"], serde_json::json!({"generation": 1, "directory": v1.to_str()}));
}
