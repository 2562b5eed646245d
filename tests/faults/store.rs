//! systemd's store of descriptors (`survive.conf`): what a master has not yet told systemd when it replaces its program.

use std::collections::{BTreeMap, BTreeSet};

use super::harness::master::{pids, workers};
use super::harness::{Master, Place, Value, eventually, example};

/// What a store holds after these messages, as systemd would have it.
fn stored(messages: &[String]) -> BTreeMap<String, usize> {
    let mut store: BTreeMap<String, usize> = BTreeMap::new();
    for message in messages {
        let mut lines = message.lines();
        let Some(name) = lines.clone().find_map(|line| line.strip_prefix("FDNAME=ratoon-")) else { continue };
        if lines.clone().any(|line| line == "FDSTORE=1") {
            *store.entry(name.to_owned()).or_default() += 1;
        } else if lines.any(|line| line == "FDSTOREREMOVE=1") {
            store.remove(name);
        }
    }
    store
}

/// Descriptors that the next master needs of a pool of at most 32 workers: their processes, and one bundle of all else.
fn needed(status: &Value) -> BTreeSet<String> {
    let generation = &status["generation"];
    let common = ["state-0", "state-1", "words", "listener-0"].map(str::to_owned);
    let release = [format!("program-{generation}"), format!("directory-{generation}")];
    let of_workers = workers(status).iter().map(|worker| format!("process-{}-{}", worker["id"], worker["pid"]));
    common.into_iter().chain(["bundle-0".to_owned()]).chain(release).chain(of_workers).collect()
}

#[track_caller]
fn wait_until_stored(master: &Master, more: &[&str]) {
    let mut needed = needed(&master.wait_until_calm());
    needed.extend(more.iter().map(|name| (*name).to_owned()));
    // The second number of a bundle stands for its content.
    let name = |name: String| if name.starts_with("bundle-") { name.rsplit_once('-').expect("two").0.to_owned() } else { name };
    let has = || {
        let all: Vec<String> = stored(&master.systemd().messages()).into_keys().map(name).collect();
        assert!(all.iter().filter(|name| name.starts_with("bundle-")).count() <= 2, "{all:?}");
        all.into_iter().collect::<BTreeSet<_>>()
    };
    eventually(
        "the store holds what is needed",
        || (has() == needed).then_some(()),
        || format!("missing: {:?}\ntoo much: {:?}", needed.difference(&has()), has().difference(&needed)),
    );
}

/// A systemd that is busy takes some ten messages; the rest waits in the master, and must not be lost over the exec.
#[test]
fn store_is_complete_after_an_upgrade_beside_a_busy_systemd() {
    let pool = Place::new().pool("count = 8", "[reload]\nkeep = 1");
    let master = pool.environment("RATOON_SURVIVE", "1").deaf_systemd().start();
    master.ok(&["reload"]);
    master.wait_until_calm();
    for _ in 0..2 {
        master.ok(&["upgrade"]);
    }
    master.systemd().hear_again();
    wait_until_stored(&master, &[]);
    // Nothing of an earlier generation stays when an upgrade meets a reload.
    for _ in 0..3 {
        let reload = master.begin(&["reload"]);
        master.ok(&["upgrade"]);
        reload.end();
    }
    wait_until_stored(&master, &[]);
    assert!(stored(&master.systemd().messages()).values().all(|times| *times == 1), "{:?}", master.systemd().messages());
}

/// A worker whose main process is another one now (`MAINPID=`): the next master must find that one, not a process that may have ended.
#[test]
fn store_follows_another_main_process() {
    let place = Place::new();
    let chaos = example("chaos").display().to_string();
    let starts = "sh -c 'echo $$ > ../main.$RATOON_WORKER; LISTEN_PID=$$ exec CHAOS' &\nsystemd-notify MAINPID=$!\nexit 0\n";
    place.program("v1/worker", &format!("#!/bin/sh\n{}", starts.replace("CHAOS", &chaos)));
    let master = place.pool("count = 1", "").environment("RATOON_SURVIVE", "1").start();
    let worker = master.wait("the main process is the other one", |status| {
        let pid = master.place.path("main.1").exists().then(|| master.place.read("main.1").trim().parse::<u64>().ok()).flatten();
        pid.is_some() && workers(status).first().is_some_and(|worker| worker["pid"].as_u64() == pid && worker["state"] == "ready")
    });
    assert_eq!(pids(&worker).len(), 1);
    wait_until_stored(&master, &["script-1"]);
}
