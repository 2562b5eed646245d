//! The `MESSAGE_ID`s of the master's log. An id never changes, and is never used for another message.
//!
//! Law: each id has a text in `systemd/ratoon.catalog`, which `journalctl -x` shows below the entry.

use super::level::Level;
use crate::pool::Kind;

/// A reload began.
pub const RELOAD_STARTED: &str = "b7fb5324f795477faea166da04fee1f2";
/// A reload was committed: the new generation serves.
pub const RELOAD_COMMITTED: &str = "fd08a0493b2644bb8a1b0a65915d6e21";
/// A step of a canary waits, or has passed.
pub const CANARY: &str = "a6d1f0c27e5b4c0f8a913d6f4e20b7c8";
/// A reload was rolled back: the old generation serves on.
pub const RELOAD_ROLLED_BACK: &str = "3d51f79a6b7f4659a5786bb308db480b";
/// A reload that was committed is undone by `reload.watch`.
pub const UNDONE: &str = "ee76190e143f4f90aa6f65b631bf2ac0";
/// A reload was refused before any worker was started.
pub const RELOAD_REFUSED: &str = "24ce88212d1e439b92d852e23afc0c28";
/// The instance is paused: all workers drain, and connections wait.
pub const PAUSED: &str = "f31cd37882b0448bb2d2cb5e8cbeec0e";
/// The instance serves again after a pause.
pub const RESUMED: &str = "7a4d9752c5d34c2eb406f26f3244393e";
/// The instance is idle: all workers drain, and the first connection starts one.
pub const IDLE: &str = "821e5d0925a94d29a834b3615be3de3e";
/// The instance serves again after it was idle.
pub const WOKEN: &str = "7d72bc17d5d74be1bcca82f6343c058c";
/// The number of workers is another one: by the load, or on request.
pub const SCALED: &str = "938bdfce6b6143019f4e308963f23fa6";
/// `worker.max` is reached, and connections wait.
pub const AT_MAX: &str = "d06be7675cd143ba865c15eba0170b8e";
/// A worker hangs, and new connections go to others.
pub const HANGS: &str = "2bb22cbf265d4f9c8dc77cd941c9624d";
/// The accept queue of a paused instance is nearly full.
pub const QUEUE_FILLS: &str = "c087f7c766b34560a16226ab11475401";
/// A worker ended without a stop request, or could not be started.
pub const WORKER_FAILED: &str = "3ea82a6e43254315a997396c50045067";
/// A worker was not ready in time.
pub const START_TIMEOUT: &str = "7a8e43e6f70b4cc4a052f8e368923009";
/// A worker did not stop in time.
pub const STOP_TIMEOUT: &str = "0ea983e83fa94e75bda32a1b0b76bff3";
/// A worker did not send `WATCHDOG=1` in time.
pub const WATCHDOG: &str = "618343695bf347e5bf977513d53bc1c4";
/// The kernel killed a worker because its memory was used up.
pub const OOM_KILL: &str = "dd040d4c8dc9457f94bc7889fee0de33";
/// More crashes than the configuration allows: the pool is degraded.
pub const DEGRADED: &str = "15811f13a02a4740989695b0591176a4";
/// The pool is no longer degraded.
pub const RECOVERED: &str = "822d256cc4204162931c16d441a3ce1b";
/// No worker was ready for `restart.give_up`: the master exits.
pub const GAVE_UP: &str = "42f277ce4f3b44b4b07c2934f99e3c77";
/// A first start cannot succeed: the master exits.
pub const CANNOT_START: &str = "9e3b6a0c52d84f31a7c04be1d95f2680";
/// The probe of a first generation failed.
pub const PROBE_FAILED: &str = "5d0c1e0f6a534f3e9e4a7d2b86c1f0a3";
/// The master replaced its own program.
pub const UPGRADED: &str = "d768b212a40f423e8d2dbf44635979b0";
/// The master did not replace its own program, and goes on.
pub const UPGRADE_REFUSED: &str = "474458aca3d640259aa93360afa46f50";

/// A failed worker was processing requests.
pub const CUT_OFF: &str = "0446ff85bd3e46edad23f922bb2c1f85";
/// The line of a failed worker's output that looks like its error.
pub const ERROR_LINE: &str = "6f0d2b6d9c3f4f7ba4f3d0a5e8c1b794";
/// A hint on the cause, from the last lines of failed workers.
pub const HINT: &str = "b73c4158e1a24650bd45620ca04c856c";
/// The id of errors without one of their own.
pub const ERROR: &str = "cbfd55bb53e242dd845d585632a24277";
/// The id of warnings without one of their own.
pub const WARNING: &str = "245d10efaa2f49bc819b5957ca47aab8";
/// The id of info entries without one of their own.
pub const NOTICE: &str = "54c038becf9d457584b0d380e164b84d";
/// The id of debug entries without one of their own.
pub const DETAIL: &str = "bf5f3db7cea14e9d8a9b82e0efa117bc";

/// The id of entries of this level without one of their own.
pub fn of_level(level: Level) -> &'static str {
    match level {
        Level::Error => ERROR,
        Level::Warning => WARNING,
        Level::Info => NOTICE,
        Level::Debug => DETAIL,
    }
}

/// The level and the id of a log line of the pool.
pub(in crate::master) fn entry(kind: Kind) -> (Level, &'static str) {
    match kind {
        Kind::Debug => (Level::Debug, DETAIL),
        Kind::Info => (Level::Info, NOTICE),
        Kind::Warning => (Level::Warning, WARNING),
        Kind::ReloadStarted => (Level::Info, RELOAD_STARTED),
        Kind::Committed => (Level::Info, RELOAD_COMMITTED),
        Kind::Canary => (Level::Info, CANARY),
        Kind::RolledBack => (Level::Error, RELOAD_ROLLED_BACK),
        Kind::Refused => (Level::Error, RELOAD_REFUSED),
        Kind::Undone => (Level::Error, UNDONE),
        Kind::Paused => (Level::Warning, PAUSED),
        Kind::Resumed => (Level::Info, RESUMED),
        Kind::Idle => (Level::Info, IDLE),
        Kind::Waking => (Level::Info, NOTICE),
        Kind::Woken => (Level::Info, WOKEN),
        Kind::Scaled => (Level::Info, SCALED),
        Kind::AtMax => (Level::Warning, AT_MAX),
        Kind::Hangs => (Level::Warning, HANGS),
        Kind::WorkerFailed => (Level::Warning, WORKER_FAILED),
        Kind::StartTimeout => (Level::Warning, START_TIMEOUT),
        Kind::StopTimeout => (Level::Warning, STOP_TIMEOUT),
        Kind::Watchdog => (Level::Warning, WATCHDOG),
        Kind::Degraded => (Level::Error, DEGRADED),
        Kind::Recovered => (Level::Info, RECOVERED),
        Kind::GaveUp => (Level::Error, GAVE_UP),
        Kind::CannotStart => (Level::Error, CANNOT_START),
        Kind::ProbeFailed => (Level::Error, PROBE_FAILED),
    }
}

/// All ids, with the subject line of each in the catalog.
pub const ALL: [(&str, &str); 33] = [
    (RELOAD_STARTED, "A reload of pool @RATOON_INSTANCE@ has started"),
    (RELOAD_COMMITTED, "Pool @RATOON_INSTANCE@ serves with a new generation"),
    (CANARY, "A canary of pool @RATOON_INSTANCE@ has gone a step further"),
    (RELOAD_ROLLED_BACK, "A reload of pool @RATOON_INSTANCE@ was rolled back"),
    (UNDONE, "A reload of pool @RATOON_INSTANCE@ is undone"),
    (RELOAD_REFUSED, "A reload of pool @RATOON_INSTANCE@ was refused"),
    (PAUSED, "Pool @RATOON_INSTANCE@ is paused"),
    (RESUMED, "Pool @RATOON_INSTANCE@ serves again after a pause"),
    (IDLE, "Pool @RATOON_INSTANCE@ is idle"),
    (WOKEN, "Pool @RATOON_INSTANCE@ serves again after it was idle"),
    (SCALED, "Pool @RATOON_INSTANCE@ has another number of workers"),
    (AT_MAX, "Connections wait, and pool @RATOON_INSTANCE@ has all the workers that it may have"),
    (HANGS, "A worker of pool @RATOON_INSTANCE@ hangs and gets no new connections"),
    (QUEUE_FILLS, "The queue of paused pool @RATOON_INSTANCE@ fills up"),
    (WORKER_FAILED, "A worker of pool @RATOON_INSTANCE@ has failed"),
    (START_TIMEOUT, "A worker of pool @RATOON_INSTANCE@ was not ready in time"),
    (STOP_TIMEOUT, "A worker of pool @RATOON_INSTANCE@ did not stop in time"),
    (WATCHDOG, "A worker of pool @RATOON_INSTANCE@ hangs"),
    (OOM_KILL, "A worker of pool @RATOON_INSTANCE@ was killed for lack of memory"),
    (DEGRADED, "Pool @RATOON_INSTANCE@ is degraded"),
    (RECOVERED, "Pool @RATOON_INSTANCE@ has recovered"),
    (GAVE_UP, "Pool @RATOON_INSTANCE@ has given up"),
    (CANNOT_START, "Pool @RATOON_INSTANCE@ cannot start"),
    (PROBE_FAILED, "The probe of a release of pool @RATOON_INSTANCE@ has failed"),
    (UPGRADED, "The master of pool @RATOON_INSTANCE@ has replaced its own program"),
    (UPGRADE_REFUSED, "The master of pool @RATOON_INSTANCE@ keeps its old program"),
    (CUT_OFF, "Requests of pool @RATOON_INSTANCE@ were cut off"),
    (ERROR_LINE, "What a failed worker of pool @RATOON_INSTANCE@ printed as its error"),
    (HINT, "A hint on the failures of pool @RATOON_INSTANCE@"),
    (ERROR, "The master of pool @RATOON_INSTANCE@ could not do something"),
    (WARNING, "The master of pool @RATOON_INSTANCE@ warns"),
    (NOTICE, "A notice of the master of pool @RATOON_INSTANCE@"),
    (DETAIL, "A detail of the work of pool @RATOON_INSTANCE@"),
];

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{ALL, DETAIL, ERROR, NOTICE, WARNING, entry};
    use crate::pool::Kind;

    const FILE: &str = include_str!("../../../systemd/ratoon.catalog");

    /// The catalog's entries: id to (subject, text).
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
            Kind::Hangs,
            Kind::Degraded,
            Kind::GaveUp,
        ];
        for kind in kinds {
            let (_, id) = entry(kind);
            assert!(![ERROR, WARNING, NOTICE, DETAIL].contains(&id) && ALL.iter().any(|(known, _)| *known == id), "{kind:?}");
        }
    }

    #[test]
    fn entries_of_every_level_have_an_id_with_a_text() {
        use crate::master::log::journal::{Level, Record};
        for level in [Level::Error, Level::Warning, Level::Info, Level::Debug] {
            let id = Record::new(level, "something").id;
            assert!(ALL.iter().any(|(known, _)| *known == id), "{level:?}: {id:?}");
        }
    }

    /// The texts must not promise results that depend on the configuration, or on the worker's work at that time.
    #[test]
    fn texts_promise_nothing_that_is_not_always_so() {
        for promise in ["no request was lost", "replaced at once", "and is replaced.", "It is replaced."] {
            assert!(!FILE.contains(promise), "{promise}");
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
                assert!(crate::master::log::journal::FIELDS.contains(&field), "{id}: @{field}@");
            }
        }
    }
}
