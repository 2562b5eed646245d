//! The `MESSAGE_ID`s of the master's log: fixed once, never given to anything else.
//!
//! Law: each has a text in `systemd/ratoon.catalog`, which `journalctl -x` shows below the entry.

use super::journal::Level;
use crate::pool::Kind;

/// A reload began.
pub const RELOAD_STARTED: &str = "b7fb5324f795477faea166da04fee1f2";
/// A reload was committed: the new generation serves.
pub const RELOAD_COMMITTED: &str = "fd08a0493b2644bb8a1b0a65915d6e21";
/// A reload was rolled back: the old generation serves on.
pub const RELOAD_ROLLED_BACK: &str = "3d51f79a6b7f4659a5786bb308db480b";
/// A reload was refused before any worker was started.
pub const RELOAD_REFUSED: &str = "24ce88212d1e439b92d852e23afc0c28";
/// A worker ended without having been asked to, or could not be started.
pub const WORKER_FAILED: &str = "3ea82a6e43254315a997396c50045067";
/// A worker was not ready in time.
pub const START_TIMEOUT: &str = "7a8e43e6f70b4cc4a052f8e368923009";
/// A worker did not stop in time.
pub const STOP_TIMEOUT: &str = "0ea983e83fa94e75bda32a1b0b76bff3";
/// A worker did not feed its watchdog.
pub const WATCHDOG: &str = "618343695bf347e5bf977513d53bc1c4";
/// The kernel killed a worker because its memory was used up.
pub const OOM_KILL: &str = "dd040d4c8dc9457f94bc7889fee0de33";
/// More crashes than the configuration allows.
pub const DEGRADED: &str = "15811f13a02a4740989695b0591176a4";
/// The pool is whole again.
pub const RECOVERED: &str = "822d256cc4204162931c16d441a3ce1b";
/// No worker was ready for `restart.give_up`: the master exits.
pub const GAVE_UP: &str = "42f277ce4f3b44b4b07c2934f99e3c77";
/// The master replaced its own program.
pub const UPGRADED: &str = "d768b212a40f423e8d2dbf44635979b0";
/// The master did not replace its own program, and goes on.
pub const UPGRADE_REFUSED: &str = "474458aca3d640259aa93360afa46f50";

/// How much a happening of the pool matters, and its id. Whatever goes wrong has one.
pub(super) fn entry(kind: Kind) -> (Level, Option<&'static str>) {
    match kind {
        Kind::Debug => (Level::Debug, None),
        Kind::Info => (Level::Info, None),
        Kind::Warning => (Level::Warning, None),
        Kind::ReloadStarted => (Level::Info, Some(RELOAD_STARTED)),
        Kind::Committed => (Level::Info, Some(RELOAD_COMMITTED)),
        Kind::RolledBack => (Level::Error, Some(RELOAD_ROLLED_BACK)),
        Kind::Refused => (Level::Error, Some(RELOAD_REFUSED)),
        Kind::WorkerFailed => (Level::Warning, Some(WORKER_FAILED)),
        Kind::StartTimeout => (Level::Warning, Some(START_TIMEOUT)),
        Kind::StopTimeout => (Level::Warning, Some(STOP_TIMEOUT)),
        Kind::Watchdog => (Level::Warning, Some(WATCHDOG)),
        Kind::Degraded => (Level::Error, Some(DEGRADED)),
        Kind::Recovered => (Level::Info, Some(RECOVERED)),
        Kind::GaveUp => (Level::Error, Some(GAVE_UP)),
    }
}

/// All of them, with the subject line that the catalog has for each.
pub const ALL: [(&str, &str); 14] = [
    (RELOAD_STARTED, "A reload of pool @RATOON_INSTANCE@ has started"),
    (RELOAD_COMMITTED, "Pool @RATOON_INSTANCE@ serves with a new generation"),
    (RELOAD_ROLLED_BACK, "A reload of pool @RATOON_INSTANCE@ was rolled back"),
    (RELOAD_REFUSED, "A reload of pool @RATOON_INSTANCE@ was refused"),
    (WORKER_FAILED, "A worker of pool @RATOON_INSTANCE@ has failed"),
    (START_TIMEOUT, "A worker of pool @RATOON_INSTANCE@ was not ready in time"),
    (STOP_TIMEOUT, "A worker of pool @RATOON_INSTANCE@ did not stop in time"),
    (WATCHDOG, "A worker of pool @RATOON_INSTANCE@ hangs"),
    (OOM_KILL, "A worker of pool @RATOON_INSTANCE@ was killed for lack of memory"),
    (DEGRADED, "Pool @RATOON_INSTANCE@ is degraded"),
    (RECOVERED, "Pool @RATOON_INSTANCE@ has recovered"),
    (GAVE_UP, "Pool @RATOON_INSTANCE@ has given up"),
    (UPGRADED, "The master of pool @RATOON_INSTANCE@ has replaced its own program"),
    (UPGRADE_REFUSED, "The master of pool @RATOON_INSTANCE@ keeps its old program"),
];

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{ALL, entry};
    use crate::pool::Kind;

    const FILE: &str = include_str!("../../systemd/ratoon.catalog");

    /// Id to (subject, text).
    fn entries() -> BTreeMap<String, (String, String)> {
        let mut entries = BTreeMap::new();
        for block in FILE.split("\n-- ").skip(1) {
            let (id, rest) = block.split_once('\n').expect("an entry has lines");
            let (head, text) = rest.split_once("\n\n").expect("an empty line before the text");
            let subject = head.lines().find_map(|line| line.strip_prefix("Subject: ")).expect("a subject");
            assert!(head.lines().any(|line| line == "Defined-By: ratoon"), "{id}");
            let seen = entries.insert(id.trim().to_owned(), (subject.to_owned(), text.trim().to_owned()));
            assert!(seen.is_none(), "{id} twice");
        }
        entries
    }

    #[test]
    fn file_and_program_agree() {
        let file: Vec<(String, String)> = entries().into_iter().map(|(id, (subject, _))| (id, subject)).collect();
        let mut program: Vec<(String, String)> =
            ALL.iter().map(|(id, subject)| ((*id).to_owned(), (*subject).to_owned())).collect();
        program.sort();
        assert_eq!(file, program);
    }

    #[test]
    fn whatever_goes_wrong_has_a_text() {
        let kinds = [
            Kind::RolledBack,
            Kind::Refused,
            Kind::WorkerFailed,
            Kind::StartTimeout,
            Kind::StopTimeout,
            Kind::Watchdog,
            Kind::Degraded,
            Kind::GaveUp,
        ];
        for kind in kinds {
            let (_, id) = entry(kind);
            assert!(id.is_some_and(|id| ALL.iter().any(|(known, _)| *known == id)), "{kind:?}");
        }
    }

    #[test]
    fn ids_are_random_uuids_and_differ() {
        assert_eq!(ALL.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>().len(), ALL.len());
        for (id, _) in ALL {
            assert_eq!(id.len(), 32, "{id}");
            assert!(id.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c)), "{id}");
            assert_eq!(id.as_bytes()[12], b'4', "{id} is not a version 4 UUID");
        }
    }

    #[test]
    fn texts_say_something_and_use_only_fields_that_exist() {
        for (id, (_, text)) in entries() {
            assert!(text.len() > 80, "{id}: {text}");
            for field in text.split('@').skip(1).step_by(2) {
                assert!(crate::master::journal::FIELDS.contains(&field), "{id}: @{field}@");
            }
        }
    }
}
