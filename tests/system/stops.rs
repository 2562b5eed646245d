//! A stop that meets a reload. systemd signals `ratoon reload` of ExecReload= together with the master, and marks the unit as failed when
//! that command fails.

use std::process::Child;

use crate::Case;
use crate::container::{Container, wait_for};
use crate::instance::Instance;

pub const CASES: &[Case] = &[("stop_during_a_reload_leaves_no_failed_unit", stop_during_a_reload_leaves_no_failed_unit)];

fn stop_during_a_reload_leaves_no_failed_unit(c: &Container) {
    let web = Instance::new(c, "halted", 2);
    web.configure("");
    c.ok(&["sed", "-i", "s/start_timeout = .*/start_timeout = \"1h\"/", "/etc/ratoon/halted.toml"]);
    // Twice with systemd's own reload: the order in which its two processes get their signals and end differs.
    let by_systemd = ["systemctl", "reload", &web.service()].map(str::to_owned);
    let by_hand = ["ratoon", "reload", web.name].map(str::to_owned);
    for command in [by_systemd.clone(), by_systemd, by_hand.clone()] {
        let is_by_hand = command == by_hand;
        web.point_to("v1");
        web.start();
        web.settled();
        web.point_to("hangs");
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let reload = c.command(&words).spawn().expect("nsenter");
        wait_for("the reload is under way", || (web.status()["state"] == "reloading").then_some(()));
        c.ok(&["systemctl", "stop", &web.service()]);
        let state = ["ActiveState", "Result", "ReloadResult"].map(|name| web.property(name));
        assert_eq!(state, ["inactive", "success", "success"], "{words:?}: {}", c.journal(&web.service()));
        assert_eq!(exit_code(reload), Some(1), "{words:?}");
        assert_eq!(c.ok(&["systemctl", "list-units", "--failed", "--no-legend", &web.service()]), "", "by hand: {is_by_hand}");
    }
}

fn exit_code(mut child: Child) -> Option<i32> {
    child.wait().expect("a child").code()
}
