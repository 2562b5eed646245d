//! `worker.preload` under systemd: reloads under load, of which some do not load.
//!
//! `RATOON_PRELOAD_RELOADS=100` makes it the long form, of some minutes; a fifth of them fail, and half of them in the short form.

use std::collections::BTreeMap;

use crate::Case;
use crate::container::Container;
use crate::instance::{Instance, pids};
use crate::load::{Load, answers};

pub const CASES: &[Case] = &[("preloaded_pool_reloads_under_load", preloaded_pool_reloads_under_load)];

/// Actions of an application while it is loaded, each with the reason that the reload gives.
const BAD: [(&str, &str); 4] = [
    ("fail", "exit 3 before it was ready"),
    ("hang", "start timeout after 1s"),
    ("leave", "exit 0 before it was ready"),
    ("kill", "signal SIGKILL before it was ready"),
];

fn release(web: &Instance<'_>, label: &str, loading: &str) {
    web.release(label, Some(&format!("ln -sf /opt/ratoon/preloaded worker; echo {label} >version; echo {loading} >loading")));
    web.point_to(label);
}

fn preloaded_pool_reloads_under_load(c: &Container) {
    let reloads: usize = std::env::var("RATOON_PRELOAD_RELOADS").map_or(8, |text| text.parse().expect("a number"));
    let bad_every = if reloads > 20 { 5 } else { 2 };
    let web = Instance::new(c, "preloaded", 4);
    web.configure("preload = [\"./worker\"]\npreload_fallback = false\n");
    release(&web, "good", "");
    web.start();
    let life = web.life();
    let mut seen = web.settled();
    let mut committed = BTreeMap::from([(1, pids(&seen))]);
    let load = Load::start(web.load(&["--new", "4", "--keep-alive", "4"]));
    load.wait_for(100);
    let mut bad = BAD.iter().cycle();
    for round in 0..reloads {
        let label = format!("r{round}");
        if round % bad_every == 1 {
            let (loading, reason) = bad.next().expect("a cycle");
            release(&web, &label, loading);
            assert!(!web.reload().status.success(), "round {round}: {loading} was reported a success");
            let status = web.settled();
            assert_eq!(
                (pids(&status), &status["preload"]["pid"]),
                (pids(&seen), &seen["preload"]["pid"]),
                "round {round}: {loading}"
            );
            let told = &status["last_reload"];
            assert_eq!(told["result"], "rolled-back", "round {round}: {loading}");
            let text = told["reason"].as_str().unwrap_or_default();
            assert!(text.contains("preload process") && text.contains(reason), "round {round}: {loading}: {told}");
        } else {
            release(&web, &label, "");
            web.reload_ok();
            let status = web.settled();
            let (answer, parent) = (web.get().expect("an answer"), &status["preload"]["pid"]);
            assert!(answer.contains(&format!("version {label} loaded by {parent} ")), "round {round}: {answer}");
            assert_ne!(*parent, seen["preload"]["pid"], "round {round}");
            committed.insert(status["generation"].as_u64().expect("a number"), pids(&status));
            seen = status;
        }
        load.wait_for(load.requests() + 100);
    }
    let report = load.stop();
    let failed = reloads / bad_every;
    println!("{reloads} reloads, {failed} of them bad: {} requests answered, {} failed", report["answered"], report["failed"]);
    assert_eq!(report["failed"], 0, "{report:#}");
    assert_eq!(committed.len(), 1 + reloads - failed);
    for (generation, by) in answers(&report) {
        let may = committed.get(&generation).unwrap_or_else(|| panic!("generation {generation} was never committed"));
        assert!(by.keys().all(|pid| may.contains(pid)), "generation {generation}: {by:?} answered, its workers were {may:?}");
    }
    assert_eq!(web.life(), life, "the service was active all the time");
}
