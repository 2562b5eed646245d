//! Processes that nobody waits for: the children of whatever was executed before the master in the same process.

use super::harness::{Place, Signal, eventually, processes};

/// Ended children of the master that are not reaped.
fn zombies(pid: u32) -> usize {
    processes::children(pid).into_iter().filter(|child| !processes::lives(*child)).count()
}

#[test]
fn orphans_of_an_entry_script_are_reaped() {
    // The loop and its children have the master's session and process group; each round leaves one more child without a parent.
    let script = "while :; do (sh -c 'echo x >> \"$RATOON_TEST\"/rounds' &); sleep 0.02; done & exec \"$0\" \"$@\"";
    let master = Place::new().pool("count = 1", "").shell(script).start();
    let rounds = || std::fs::read_to_string(master.place.path("rounds")).unwrap_or_default().lines().count();
    let before = rounds();
    eventually("twenty more orphans end", || (rounds() >= before + 20).then_some(()), || master.log());
    eventually("they are reaped", || (zombies(master.pid) <= 1).then_some(()), || format!("{} zombies", zombies(master.pid)));
    // What has somebody who waits for it is left to them.
    master.ok(&["reload"]);
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
}

#[test]
fn hook_keeps_its_exit_status_beside_orphans() {
    let script = "while :; do (true &); done & exec \"$0\" \"$@\"";
    let tables = "[hooks]\nbefore_reload = ['sh', '-c', 'exit 7']";
    let master = Place::new().pool("count = 1", tables).shell(script).start();
    for _ in 0..5 {
        let said = master.verb(&["reload"]);
        assert!(said.code == Some(1) && said.err.contains("exit 7"), "{said:?}\n{}", master.log());
    }
}
