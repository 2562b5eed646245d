//! `worker.balance = "per-slot"` with sockets of a real systemd.

use std::collections::BTreeSet;

use crate::Case;
use crate::container::{Container, wait_for};
use crate::instance::{Instance, pids};
use crate::load::Load;
use crate::survive::{kill_master, next_master, survivor};

pub const CASES: &[Case] = &[
    ("queues_of_slots_outlive_the_master", queues_of_slots_outlive_the_master),
    ("a_master_of_another_user_has_its_slots_sockets_from_systemd", a_master_of_another_user_has_its_slots_sockets_from_systemd),
    ("a_canary_that_can_have_no_socket_of_its_own_is_refused", canary_without_a_socket),
];

const PER_SLOT: &str = "balance = \"per-slot\"\n";

/// The socket unit is opened anew with this.
pub fn open_again(web: &Instance<'_>, text: &str) {
    web.c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
    web.c.write(&format!("/etc/systemd/system/{}.d/balance.conf", web.socket()), &format!("[Socket]\n{text}"));
    web.c.ok(&["systemctl", "daemon-reload"]);
    web.c.ok(&["systemctl", "start", &web.socket(), &web.service()]);
    web.settled();
}

/// Which workers answer.
fn who(web: &Instance<'_>) -> BTreeSet<String> {
    (0..100).map(|_| web.get().expect("an answer")).collect()
}

fn queues_of_slots_outlive_the_master(c: &Container) {
    let web = survivor(c, "slots", 3, "");
    web.configure(PER_SLOT);
    // systemd's socket has no ReusePort=yes: refused, and nothing is changed.
    let said = c.run(&["systemctl", "reload", &web.service()]);
    assert!(!said.status.success());
    let status = web.status();
    assert_eq!((&status["generation"], &status["last_reload"]["result"]), (&1.into(), &"refused".into()), "{status:#}");
    open_again(&web, "ReusePort=yes\n");
    assert_eq!(who(&web).len(), 3);
    let load = Load::start(web.load(&["--new", "4", "--keep-alive", "4"]));
    load.wait_for(100);
    for _ in 0..3 {
        let before = pids(&web.settled());
        let master = kill_master(&web);
        next_master(&web, master);
        assert_eq!(pids(&web.settled()), before);
        c.ok(&["ratoon", "scale", web.name, "5"]);
        wait_for("five are ready", || (web.status()["workers_ready"] == 5).then_some(()));
        c.ok(&["ratoon", "scale", web.name, "3"]);
        web.settled();
        web.reload_ok();
        load.wait_for(load.requests() + 200);
    }
    let report = load.stop();
    assert_eq!(report["failed"], 0, "{report:#}");
    assert_eq!(web.status()["sockets"][0]["slots"].as_array().map(Vec::len), Some(5), "{:#}", web.status());
    assert_eq!(who(&web).len(), 3);
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
}

fn a_master_of_another_user_has_its_slots_sockets_from_systemd(c: &Container) {
    let web = Instance::new(c, "foreign-slots", 2);
    web.drop_in("[Service]\nUser=nobody\n");
    web.configure(PER_SLOT);
    c.write(&format!("/etc/systemd/system/{}.d/balance.conf", web.socket()), "[Socket]\nReusePort=yes\n");
    c.ok(&["systemctl", "stop", &web.socket()]);
    c.ok(&["systemctl", "daemon-reload"]);
    c.ok(&["systemctl", "start", &web.socket()]);
    let _ = c.run(&["timeout", "5", "systemctl", "start", &web.service()]);
    // The journal cannot tell the unit of a process that is gone before it has read the line: a later start says it again.
    wait_for("the reason in the journal", || {
        c.journal(&web.service()).contains("the kernel lets only sockets of one user share an address").then_some(())
    });
    open_again(&web, &format!("ReusePort=yes\nListenStream={}\n", web.address));
    assert_eq!(who(&web).len(), 2);
    web.reload_ok();
    assert_eq!(who(&web).len(), 2);
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
}

/// systemd has opened a socket for each worker, and the master may open none beside them: a canary has none, until the unit has more.
fn canary_without_a_socket(c: &Container) {
    let web = Instance::new(c, "no-canary", 2);
    web.drop_in("[Service]\nUser=nobody\n");
    web.configure(PER_SLOT);
    let lines = format!("ReusePort=yes\nListenStream={}\n", web.address);
    open_again(&web, &lines);
    let before = pids(&web.settled());
    web.configure(&format!("{PER_SLOT}[reload]\nsteps = [\"1\"]\nstep_time = \"100ms\"\n"));
    assert!(!web.reload().status.success());
    let status = web.settled();
    assert_eq!((&status["last_reload"]["result"], pids(&status)), (&"refused".into(), before), "{status:#}");
    let reason = status["last_reload"]["reason"].as_str().expect("a reason");
    let wanted = [
        "no socket for the canary in slot 0 at ".to_owned(),
        "the kernel lets only sockets of one user share an address".to_owned(),
        format!("ListenStream={} 3 times", web.address),
    ];
    assert!(wanted.iter().all(|part| reason.contains(part)), "{reason}");
    // As the reason says.
    open_again(&web, &format!("{lines}ListenStream={}\n", web.address));
    web.reload_ok();
    assert_eq!(web.settled()["last_reload"]["result"], "committed");
    wait_for("the canary in the journal", || {
        c.journal(&web.service()).contains("canary of generation 2: 1/2 workers").then_some(())
    });
    assert_eq!(who(&web).len(), 2);
}
