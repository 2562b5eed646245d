//! `worker.preload`: workers that end between their fork and their confirmation.

use super::harness::master::{last_failure, pids};
use super::harness::processes::signal;
use super::harness::{Master, Signal};
use super::preload::{PRELOAD, keys, loaded, place, preload, release};

/// A worker that finds the file `kill` removes it and ends as the file says, when it is a child of the master and before it confirms.
const KILLED: &str = r#"
from ratoon.preload import _fork
wait = _fork._wait_for
def wait_and_end(master):
    wait(master)
    try:
        how = int(open("../kill").read())
        os.unlink("../kill")
    except OSError:
        return
    os.kill(os.getpid(), how) if how else os._exit(4)
_fork._wait_for = wait_and_end
"#;

/// The start timeout is longer than the test waits for anything.
fn start() -> Master {
    let place = place();
    release(&place, "v1", KILLED);
    place.pool(&keys(PRELOAD, "start_timeout = '10min'"), "").start()
}

#[test]
fn worker_killed_before_its_confirmation_is_forked_again() {
    for (how, told) in [(9, "signal SIGKILL"), (11, "signal SIGSEGV"), (0, "exit 4")] {
        let master = start();
        let before = master.status();
        master.place.write("kill", &how.to_string());
        let killed = pids(&before)[0];
        signal(killed, Signal::KILL);
        let status = master.wait("it is replaced", |status| !pids(status).contains(&killed) && status["workers_ready"] == 2);
        let failure = last_failure(&status)["cause"].as_str().expect("a text");
        assert!(failure.starts_with("not forked: ") && failure.contains(told), "{how}: {failure}");
        assert_eq!((preload(&status), loaded(&master)), (preload(&before), 1));
    }
}

#[test]
fn reload_whose_worker_is_killed_before_its_confirmation_ends() {
    let master = start();
    let before = pids(&master.status());
    release(&master.place, "v2", KILLED);
    master.place.write("kill", "9");
    master.place.current("v2");
    let said = master.verb(&["reload"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("not forked: signal SIGKILL before it confirmed"), "{said:?}");
    assert_eq!(pids(&master.wait_until_calm()), before);
}
