//! The acceptance of Ratoon under a real systemd, 252 (Debian 12) and 257 (Debian 13), each PID 1 of a container.
//!
//! `tests/run` prepares and runs it. The cases are marked `ignored`, because they need root and what `tests/setup` puts
//! into `target/roots`; by hand: `cargo test --test system -- --include-ignored [257::part_of_a_name]`.
//! `SYSTEMD_VERSION=252` or `=257` takes one version. A version is booted once; its cases run one after the other, each
//! with instances of its own, beside those of the other version.
#![forbid(unsafe_code)]

mod balance;
mod bus;
mod container;
mod deploys;
mod host;
mod instance;
#[path = "../support/load.rs"]
mod load;
mod machine;
mod pool;
mod preload;
mod previous;
mod remote;
mod secrets;
mod stops;
mod store;
mod survive;
mod units;
mod upgrade;
mod users;
mod varlink;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use container::{Container, VERSIONS};
use libtest_mimic::{Arguments, Failed, Trial};

/// A case: its name and what it does.
type Case = (&'static str, fn(&Container));

/// A container that is booted by the first case that needs it.
type Slot = Arc<Mutex<Option<Result<Container, String>>>>;

fn main() {
    let mut arguments = Arguments::from_args();
    let wanted = std::env::var("SYSTEMD_VERSION").ok();
    if let Some(number) = wanted.as_deref()
        && !VERSIONS.iter().any(|version| version.number == number)
    {
        eprintln!("SYSTEMD_VERSION={number}: there are {:?}", VERSIONS.map(|version| version.number));
        std::process::exit(2);
    }

    let versions: Vec<(_, Slot)> = VERSIONS
        .into_iter()
        .filter(|version| wanted.as_deref().is_none_or(|number| number == version.number))
        .map(|version| (version, Slot::default()))
        .collect();
    // The versions side by side: a case mostly waits for its own systemd.
    arguments.test_threads = Some(versions.len());
    // Last those that end the bus: not every systemd finds it again at once.
    let cases = [
        units::CASES,
        pool::CASES,
        preload::CASES,
        deploys::CASES,
        remote::CASES,
        secrets::CASES,
        stops::CASES,
        host::CASES,
        users::CASES,
        machine::CASES,
        upgrade::CASES,
        survive::CASES,
        store::CASES,
        balance::CASES,
        previous::CASES,
        varlink::CASES,
        bus::CASES,
    ];
    let mut trials = Vec::new();
    for &(name, case) in cases.into_iter().flatten() {
        for (version, slot) in &versions {
            let (version, slot) = (*version, slot.clone());
            let run = move || {
                let mut slot = slot.lock().expect("no case panics through here");
                match slot.get_or_insert_with(|| Container::boot(version)) {
                    Ok(container) => run_case(container, case),
                    Err(reason) => Err(Failed::from(reason.as_str())),
                }
            };
            trials.push(Trial::test(format!("{}::{name}", version.number), run).with_ignored_flag(true));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    for (_, slot) in versions {
        drop(slot.lock().map(|mut container| container.take()));
    }
    conclusion.exit();
}

/// Runs a case; when it fails, its part of the journal goes with the failure.
fn run_case(container: &Container, case: fn(&Container)) -> Result<(), Failed> {
    let cursor = container.cursor();
    catch_unwind(AssertUnwindSafe(|| case(container))).map_err(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let journal = container.story(&cursor);
        Failed::from(format!("{}\n\nThe journal of this case:\n{journal}", message.unwrap_or("a panic")))
    })
}
