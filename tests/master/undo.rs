//! `ratoon undo`, `ratoon history`: back to an earlier committed release.

use super::harness::http::over_unix;
use super::harness::master::{pids, workers};
use super::harness::{Master, Place, Signal, TIMEOUT, Value, processes};

/// A pool that has committed `v1` … `vN`.
fn committed(releases: usize, tables: &str) -> Master {
    let place = Place::new();
    (2..=releases).for_each(|number| place.release(&format!("v{number}"), ""));
    let master = place.pool("count = 2", tables).start();
    for number in 2..=releases {
        master.place.current(&format!("v{number}"));
        master.ok(&["reload"]);
    }
    master.wait_until_calm();
    master
}

fn history(master: &Master) -> Vec<Value> {
    let text = master.ok(&["history", "--json"]).out;
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn undo_brings_the_old_program_environment_and_directory() {
    let master = committed(2, "");
    // The configuration on disk has changed, too, and does not count.
    let file = master.place.read("pool.toml").replace("count = 2", "count = 1\nenvironment = { NEW = '1' }");
    master.place.write("pool.toml", &file);
    let said = master.ok(&["undo"]);
    assert!(said.out.contains("generation 3 (release of generation 1) is serving: 2/2 ready"), "{said:?}");
    let status = master.wait_until_calm();
    assert!(master.get("/").contains("version v1"));
    assert_eq!(workers(&status).len(), 2);
    let text = status["status_text"].as_str().expect("text");
    assert!(
        text.starts_with("generation 3 (release of generation 1): 2/2 ready; the configuration on disk does not run"),
        "{text}"
    );
    assert_eq!((&status["last_reload"]["result"], &status["release"]["generation"]), (&"committed".into(), &1.into()));
    assert_eq!(status["release"]["path_leads_elsewhere"], true, "current leads to v2: {status:#}");
    let v1 = std::fs::canonicalize(master.place.path("v1")).expect("a path");
    assert_eq!(status["release"]["directory"], v1.to_str().expect("text"));
    // A crash is replaced from the release that was gone back to.
    let killed = pids(&status)[0];
    processes::signal(killed, Signal::KILL);
    master.wait("a replacement", |status| status["workers_ready"] == 2 && !pids(status).contains(&killed));
    assert!((0..4).all(|_| master.get("/").contains("version v1")));
    // A reload reads the disk again.
    master.ok(&["reload"]);
    let status = master.wait_until_calm();
    assert!(master.get("/").contains("version v2"));
    assert_eq!((&status["status_text"], workers(&status).len()), (&"generation 4: 1/1 ready".into(), 1));
    assert_eq!(status["release"]["path_leads_elsewhere"], false);
}

#[test]
fn history_tells_what_can_be_gone_back_to() {
    let master = committed(4, "");
    let releases = history(&master);
    let field = |name: &str| releases.iter().map(|release| release[name].clone()).collect::<Vec<_>>();
    assert_eq!(field("generation"), [4, 3, 2], "reload.keep is 3");
    assert_eq!(field("ended"), [Value::Null, "replaced".into(), "replaced".into()]);
    assert_eq!(releases[0]["asked_by"], format!("user {} on the control socket", rustix::process::getuid().as_raw()));
    assert!(releases.iter().all(|release| release["committed_at"].is_string()));
    assert!(releases[1]["directory"].as_str().is_some_and(|path| path.ends_with("/v3")), "{releases:#?}");
    let answer = over_unix(&master.control(), "GET", "/history", TIMEOUT).expect("an answer");
    assert_eq!(serde_json::from_str::<Vec<Value>>(&answer.body).expect("JSON"), releases);
    assert_eq!(master.status()["releases"], Value::Array(releases));
    let table = master.ok(&["history"]).out;
    assert!(table.contains("serves") && table.contains("/v2"), "{table}");
    // Back by two, by number; what was undone is named so.
    master.ok(&["undo", "2"]);
    master.wait_until_calm();
    assert!(master.get("/").contains("version v2"));
    assert_eq!(
        history(&master).iter().map(|it| it["ended"].clone()).collect::<Vec<_>>(),
        [Value::Null, "undone".into(), "replaced".into()]
    );
    let said = master.verb(&["undo", "1"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("undo refused: the release of generation 1 is not kept; there are 3, 4"), "{said:?}");
}

#[test]
fn undo_without_an_earlier_release_is_refused_and_changes_nothing() {
    let master = committed(1, "");
    let before = master.status();
    let said = master.verb(&["undo"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("undo refused: there is no earlier release"), "{said:?}");
    let answer = over_unix(&master.control(), "POST", "/undo?generation=7", TIMEOUT).expect("an answer");
    let message: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!((answer.status, &message["result"]), (409, &"refused".into()));
    let after = master.status();
    for field in ["generation", "last_reload", "status_text", "workers_ready"] {
        assert_eq!(after[field], before[field], "{field}");
    }
}

#[test]
fn release_whose_directory_was_emptied_is_refused_with_that_reason() {
    let master = committed(2, "");
    let v1 = std::fs::canonicalize(master.place.path("v1")).expect("a path");
    for entry in std::fs::read_dir(&v1).expect("v1") {
        std::fs::remove_file(entry.expect("an entry").path()).expect("removed");
    }
    let said = master.verb(&["undo"]);
    assert!(said.err.contains(&format!("refused: its directory {} was emptied", v1.display())), "{said:?}");
    std::fs::remove_dir(&v1).expect("removed");
    let said = master.verb(&["undo"]);
    assert!(said.err.contains("refused: its directory") && said.err.contains("cannot be read"), "{said:?}");
    assert!(master.get("/").contains("version v2"));
}

#[test]
fn check_of_the_old_configuration_can_refuse_an_undo() {
    let master = committed(2, "[reload]\ncheck = ['sh', '-c', 'test ! -e broken']");
    master.place.write("v1/broken", "");
    let said = master.verb(&["undo"]);
    assert!(said.err.contains("undo to generation 3 refused: reload.check"), "{said:?}");
    std::fs::remove_file(master.place.path("v1/broken")).expect("removed");
    master.ok(&["undo"]);
}

#[test]
fn hook_of_an_undo_gets_the_configured_variables_and_none_of_the_adapter() {
    let place = Place::new();
    // The loader says that it cannot preload an empty file, and starts the worker without it.
    place.write("adapter.so", "");
    place.release("v2", "");
    let worker = "count = 1\nadapter = 'bind'\nadapter_library = 'PLACE/adapter.so'\nenvironment = { COLOUR = 'green' }";
    let worker = worker.replace("PLACE", place.root().to_str().expect("text"));
    let master = place.pool(&worker, "[hooks]\nbefore_reload = ['sh', '-c', 'env >../hook.env']").start();
    let hook_env = || {
        let text = master.place.read("hook.env");
        std::fs::remove_file(master.place.path("hook.env")).expect("removed");
        assert!(text.contains("COLOUR=green") && !text.contains("LD_PRELOAD"), "{text}");
    };
    master.place.current("v2");
    master.ok(&["reload"]);
    hook_env();
    master.ok(&["undo"]);
    hook_env();
    // The variables are part of the state that an upgrade of the master hands on.
    master.ok(&["upgrade"]);
    master.ok(&["undo", "2"]);
    hook_env();
}

#[test]
fn undo_survives_an_upgrade_of_the_master() {
    let master = committed(3, "");
    let before = history(&master);
    master.ok(&["upgrade"]);
    assert_eq!(history(&master), before);
    master.ok(&["undo"]);
    assert!(master.get("/").contains("version v2"));
    master.ok(&["upgrade"]);
    assert_eq!(history(&master)[0]["release"], 2);
    assert!(master.get("/").contains("version v2"));
}

#[test]
fn reload_can_wait_for_the_end_of_the_old_generation_and_print_json() {
    let master = committed(1, "");
    let old = pids(&master.status());
    let said = master.ok(&["reload", "--wait", "drained", "--json"]);
    let outcome: Value = serde_json::from_str(&said.out).expect("JSON alone");
    assert_eq!((&outcome["result"], &outcome["generation"]), (&"committed".into(), &2.into()));
    assert!(old.iter().all(|pid| !processes::lives(*pid)), "a worker of the old generation lives");
    let said = master.ok(&["undo", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&said.out).expect("JSON alone")["generation"], 3);
}

#[test]
fn wait_for_the_old_generation_goes_on_with_the_next_program() {
    let master = committed(1, "");
    let old = pids(&master.status());
    let request = master.ask_for_later();
    let reload = master.begin(&["reload", "--wait", "drained"]);
    master.wait_for_log("generation 2 is serving");
    master.ok(&["upgrade"]);
    master.wait("an old worker drains", |status| pids(status).iter().any(|pid| old.contains(pid)));
    request.answer();
    let said = reload.end();
    assert_eq!(said.code, Some(0), "{said:?}\n{}", master.log());
    assert!(old.iter().all(|pid| !processes::lives(*pid)), "a worker of the old generation lives");
}
