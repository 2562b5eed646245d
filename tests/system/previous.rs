//! The program of the previous release and this one hand over to each other under systemd: in place, and over a death.

use std::fs;
use std::path::Path;

use crate::Case;
use crate::container::Container;
use crate::instance::pids;
use crate::load::Load;
use crate::survive::{kill_master, next_master, survivor};
use crate::upgrade::{Kept, nothing_is_left};

pub const CASES: &[Case] =
    &[("the_previous_release_and_this_one_hand_over_to_each_other", the_previous_release_and_this_one_hand_over_to_each_other)];

fn the_previous_release_and_this_one_hand_over_to_each_other(c: &Container) {
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
    let same = |program: &str| {
        let now = web.settled();
        assert_eq!(pids(&now), pids(&first), "{program}");
        for key in ["generation", "start_time", "worker_crashes", "last_reload", "failures"] {
            assert_eq!(now[key], first[key], "{program}: {key}");
        }
        load.wait_for(load.requests() + 200);
    };
    for program in ["this", "previous", "this", "previous"] {
        install(program);
        c.ok(&["ratoon", "upgrade", web.name]);
        same(program);
        assert_eq!(web.life(), life, "{program}");
    }
    // What a dead one has left is read too.
    for program in ["this", "previous", "this"] {
        install(program);
        let master = kill_master(&web);
        next_master(&web, master);
        same(program);
    }
    web.good_release("v2");
    web.point_to("v2");
    web.reload_ok();
    let report = load.stop();
    assert_eq!(report["failed"], 0, "{report:#}");
    assert_eq!(web.settled()["worker_crashes"], 0);
    c.ok(&["systemctl", "stop", &web.socket(), &web.service()]);
    nothing_is_left(&web);
}
