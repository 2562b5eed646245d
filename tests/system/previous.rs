//! The program of the previous release and this one under systemd: neither takes the other's state, and no request is lost.

use std::fs;
use std::path::Path;

use crate::Case;
use crate::container::{Container, text};
use crate::instance::pids;
use crate::load::Load;
use crate::survive::{kill_master, next_master, survivor};
use crate::upgrade::{Kept, nothing_is_left};

pub const CASES: &[Case] =
    &[("previous_release_is_replaced_by_a_death_or_a_restart", previous_release_is_replaced_by_a_death_or_a_restart)];

fn previous_release_is_replaced_by_a_death_or_a_restart(c: &Container) {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/previous");
    if let Ok(why) = fs::read_to_string(place.join("missing")) {
        return println!("not run: {why}");
    }
    let _kept = Kept::of(c);
    for (program, from) in [("previous", place.join("ratoon")), ("this", env!("CARGO_BIN_EXE_ratoon").into())] {
        fs::copy(&from, c.path(&format!("/opt/ratoon.{program}")))
            .unwrap_or_else(|error| panic!("{}: {error}: tests/previous", from.display()));
    }
    let install = |program: &str| {
        c.ok(&["cp", &format!("/opt/ratoon.{program}"), "/usr/bin/ratoon.new"]);
        c.ok(&["mv", "/usr/bin/ratoon.new", "/usr/bin/ratoon"]);
    };
    install("previous");
    let web = survivor(c, "ages", 3, "WatchdogSec=2s");
    let load = Load::start(web.load(&["--new", "4", "--keep-alive", "4"]));
    load.wait_for(200);
    let (first, life) = (web.settled(), web.life());
    let serves = || load.wait_for(load.requests() + 200);
    let refused = |program: &str| {
        install(program);
        // The command is that of this version, as after an update of the package.
        let said = c.run(&["/opt/ratoon.this", "upgrade", web.name]);
        assert_eq!(said.status.code(), Some(1), "{}", text(&said.stderr));
        serves();
        text(&said.stderr)
    };
    // The workers and the master of the previous release go on.
    let why = refused("this");
    assert!(why.contains("has format 1") && why.contains("systemctl restart ratoon@ages"), "{why}");
    assert_eq!((pids(&web.settled()), web.life()), (pids(&first), life));
    // What a dead master of that release has left: the workers serve until the generation of this one is ready, and drain.
    let master = kill_master(&web);
    next_master(&web, master);
    let next = web.settled();
    assert!(pids(&next).iter().all(|pid| !pids(&first).contains(pid)), "{first:#} {next:#}");
    assert!(c.journal(&web.service()).contains("this master's state has format 1"));
    serves();
    // The way back is the same.
    refused("previous");
    assert_eq!(pids(&web.settled()), pids(&next));
    install("this");
    c.ok(&["ratoon", "upgrade", web.name]);
    assert_eq!(pids(&web.settled()), pids(&next));
    c.ok(&["systemctl", "restart", &web.service()]);
    let last = web.settled();
    serves();
    // A death that the previous release answers: it cannot read the state, and knows the workers by their processes in the store.
    install("previous");
    let master = kill_master(&web);
    next_master(&web, master);
    let next = web.settled();
    assert!(pids(&next).iter().all(|pid| !pids(&last).contains(pid)), "{last:#} {next:#}");
    serves();
    install("this");
    c.ok(&["systemctl", "restart", &web.service()]);
    web.settled();
    serves();
    web.good_release("v2");
    web.point_to("v2");
    web.reload_ok();
    let report = load.stop();
    assert_eq!(report["failed"], 0, "{report:#}");
    assert_eq!(web.settled()["worker_crashes"], 0);
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
    nothing_is_left(&web);
}
