//! From the pool's own types to the saved ones and back, word by word: no wild card, no field left out by oversight.

use std::time::Instant;

use super::words::{self, Outside, Readiness, Restart, Surge};
use super::{Askers, Failure, Generation, Job, Place, Reload, Worker, offset};
use crate::pool::restart::{self, History};
use crate::pool::timers::Key;
use crate::pool::worker::StopReason;
use crate::pool::{ExitCause, Phase, RecycleReason, Settings, generation, recycle, reload, vocabulary, worker};

impl Worker {
    pub(super) fn of(worker: &worker::Worker, now: Instant) -> Worker {
        let worker::Worker {
            slot,
            generation,
            pid,
            phase,
            status,
            stop_reason: doom,
            ready_at,
            signs,
            watchdog,
            counted,
            vacating,
            killed,
            how,
        } = worker;
        Worker {
            slot: *slot,
            generation: *generation,
            pid: *pid,
            phase: match phase {
                Phase::Starting => words::Phase::Starting,
                Phase::Ready => words::Phase::Ready,
                Phase::Draining => words::Phase::Draining,
            },
            status: status.clone(),
            doom: doom.map(|doom| match doom {
                StopReason::Asked => words::StopReason::Asked,
                StopReason::Leaving => words::StopReason::Leaving,
                StopReason::LeavingAtOnce => words::StopReason::LeavingAtOnce,
                StopReason::StartTimeout(after) => words::StopReason::StartTimeout { after },
                StopReason::Watchdog => words::StopReason::Watchdog,
            }),
            ready_at: ready_at.map(|at| offset(at, now)),
            said_ready: signs.said,
            accepts_on: signs.seen.sockets,
            hidden: signs.seen.hidden,
            watchdog: *watchdog,
            counted: *counted,
            vacating: *vacating,
            killed: *killed,
            how: how.as_deref().map(words::ExitCause::from),
        }
    }
}

impl words::Phase {
    pub(super) fn restore(self) -> Phase {
        match self {
            words::Phase::Starting => Phase::Starting,
            words::Phase::Ready => Phase::Ready,
            words::Phase::Draining => Phase::Draining,
        }
    }
}

impl words::StopReason {
    pub(super) fn restore(self) -> StopReason {
        match self {
            words::StopReason::Asked => StopReason::Asked,
            words::StopReason::Leaving => StopReason::Leaving,
            words::StopReason::LeavingAtOnce => StopReason::LeavingAtOnce,
            words::StopReason::StartTimeout { after } => StopReason::StartTimeout(after),
            words::StopReason::Watchdog => StopReason::Watchdog,
        }
    }
}

impl From<&ExitCause> for words::ExitCause {
    fn from(how: &ExitCause) -> words::ExitCause {
        match how {
            ExitCause::Exit(status) => words::ExitCause::Exit { status: *status },
            ExitCause::Signal { signal, core } => words::ExitCause::Signal { signal: *signal, core: *core },
            ExitCause::NotStarted(why) => words::ExitCause::NotStarted { why: why.clone() },
            ExitCause::OutOfMemory => words::ExitCause::OutOfMemory,
            ExitCause::StartTimeout(after) => words::ExitCause::StartTimeout { after: *after },
            ExitCause::StopTimeout(after) => words::ExitCause::StopTimeout { after: *after },
            ExitCause::Watchdog => words::ExitCause::Watchdog,
            ExitCause::Left => words::ExitCause::Left,
            ExitCause::Unknown => words::ExitCause::Unknown,
        }
    }
}

impl words::ExitCause {
    pub(super) fn restore(self) -> ExitCause {
        match self {
            words::ExitCause::Exit { status } => ExitCause::Exit(status),
            words::ExitCause::Signal { signal, core } => ExitCause::Signal { signal, core },
            words::ExitCause::NotStarted { why } => ExitCause::NotStarted(why),
            words::ExitCause::OutOfMemory => ExitCause::OutOfMemory,
            words::ExitCause::StartTimeout { after } => ExitCause::StartTimeout(after),
            words::ExitCause::StopTimeout { after } => ExitCause::StopTimeout(after),
            words::ExitCause::Watchdog => ExitCause::Watchdog,
            words::ExitCause::Left => ExitCause::Left,
            words::ExitCause::Unknown => ExitCause::Unknown,
        }
    }
}

impl From<Key> for words::Key {
    fn from(key: Key) -> words::Key {
        match key {
            Key::Start(worker) => words::Key::Start { worker },
            Key::Settle(worker) => words::Key::Settle { worker },
            Key::Watchdog(worker) => words::Key::Watchdog { worker },
            Key::Age(worker) => words::Key::Age { worker },
            Key::Stop(worker) => words::Key::Stop { worker },
            Key::Orphaned(worker) => words::Key::Orphaned { worker },
            Key::KillOrphaned(worker) => words::Key::KillOrphaned { worker },
            Key::Restart(generation, slot) => words::Key::Restart { generation, slot },
            Key::Probation => words::Key::Probation,
            Key::GiveUp => words::Key::GiveUp,
            Key::Recover => words::Key::Recover,
        }
    }
}

impl words::Key {
    pub(super) fn restore(self) -> Option<Key> {
        Some(match self {
            words::Key::Start { worker } => Key::Start(worker),
            words::Key::Settle { worker } => Key::Settle(worker),
            words::Key::Watchdog { worker } => Key::Watchdog(worker),
            words::Key::Age { worker } => Key::Age(worker),
            words::Key::Stop { worker } => Key::Stop(worker),
            words::Key::Orphaned { worker } => Key::Orphaned(worker),
            words::Key::KillOrphaned { worker } => Key::KillOrphaned(worker),
            words::Key::Restart { generation, slot } => Key::Restart(generation, slot),
            words::Key::Probation => Key::Probation,
            words::Key::GiveUp => Key::GiveUp,
            words::Key::Recover => Key::Recover,
            words::Key::Unknown => return None,
        })
    }
}

impl Generation {
    pub(super) fn of(home: &generation::Generation, now: Instant) -> Generation {
        // The role, the members and how many are ready follow from the rest.
        let generation::Generation { settings, role: _, slots: places, ready: _, members: _, accepted_on, says_ready, proven } =
            home;
        Generation {
            settings: settings.into(),
            places: places.iter().map(|place| Place::of(place, now)).collect(),
            accepted_on: *accepted_on,
            says_ready: *says_ready,
            unproven: !proven,
        }
    }
}

impl Place {
    fn of(place: &generation::SlotState, now: Instant) -> Place {
        let generation::SlotState {
            worker,
            successor,
            stand_in: holder,
            consecutive_failures: strikes,
            failures,
            delay,
            settled,
        } = place.clone();
        let History { at, degraded, last } = failures.map_or_else(History::default, |history| *history);
        Place {
            worker,
            successor,
            holder,
            strikes,
            failures: at.iter().map(|at| offset(*at, now)).collect(),
            degraded,
            last_failure: last.map(|restart::Failure { how, at_once }| Failure { how: (&how).into(), at_once }),
            delay,
            settled,
        }
    }
}

impl From<&Settings> for words::Settings {
    fn from(settings: &Settings) -> words::Settings {
        let Settings {
            count,
            ready,
            start_timeout,
            stop_timeout,
            stop_signal,
            watchdog,
            restart,
            surge,
            probation,
            max_age,
            per_slot,
            listens,
        } = settings.clone();
        let vocabulary::Restart { initial, max, limit, interval, give_up } = restart;
        words::Settings {
            count,
            ready: match ready {
                vocabulary::Readiness::Notify => Readiness::Notify,
                vocabulary::Readiness::Running(settle) => Readiness::Running(settle),
                vocabulary::Readiness::Accepting(settle) => Readiness::Running(settle),
                vocabulary::Readiness::Auto(_) => Readiness::Notify,
            },
            outside: match ready {
                vocabulary::Readiness::Accepting(settle) => Some(Outside::Accepting(settle)),
                vocabulary::Readiness::Auto(settle) => Some(Outside::Auto(settle)),
                vocabulary::Readiness::Notify | vocabulary::Readiness::Running(_) => None,
            },
            start_timeout,
            stop_timeout,
            stop_signal,
            watchdog,
            restart: Restart { initial, max, limit, interval, give_up },
            surge: match surge {
                vocabulary::Surge::Percent(percent) => Surge::Percent(percent),
                vocabulary::Surge::Count(count) => Surge::Count(count),
            },
            probation,
            max_age,
            per_slot,
            listens,
        }
    }
}

impl words::Settings {
    pub(super) fn restore(self) -> Settings {
        let words::Settings {
            count,
            ready,
            outside,
            start_timeout,
            stop_timeout,
            stop_signal,
            watchdog,
            restart,
            surge,
            probation,
            max_age,
            per_slot,
            listens,
        } = self;
        let Restart { initial, max, limit, interval, give_up } = restart;
        Settings {
            count,
            ready: match (outside, ready) {
                (Some(Outside::Accepting(settle)), _) => vocabulary::Readiness::Accepting(settle),
                (Some(Outside::Auto(settle)), _) => vocabulary::Readiness::Auto(settle),
                (None, Readiness::Notify) => vocabulary::Readiness::Notify,
                (None, Readiness::Running(settle)) => vocabulary::Readiness::Running(settle),
            },
            start_timeout,
            stop_timeout,
            stop_signal,
            watchdog,
            restart: vocabulary::Restart { initial, max, limit, interval, give_up },
            surge: match surge {
                Surge::Percent(percent) => vocabulary::Surge::Percent(percent),
                Surge::Count(count) => vocabulary::Surge::Count(count),
            },
            probation,
            max_age,
            per_slot,
            listens,
        }
    }
}

impl Reload {
    pub(super) fn of(reload: &reload::Reload) -> Reload {
        let reload::Reload { number, stage, requesters: askers, target, started, unsettled: _, draining_for_surge: yields } =
            reload;
        Reload {
            number: *number,
            stage: match stage {
                reload::Stage::Preparing => words::Stage::Preparing,
                reload::Stage::Starting => words::Stage::Starting,
                reload::Stage::Probation => words::Stage::Probation,
            },
            askers: Askers::of(askers),
            target: *target,
            started: *started,
            yields: yields.clone(),
        }
    }
}

impl words::Stage {
    pub(super) fn restore(self) -> reload::Stage {
        match self {
            words::Stage::Preparing => reload::Stage::Preparing,
            words::Stage::Starting => reload::Stage::Starting,
            words::Stage::Probation => reload::Stage::Probation,
        }
    }
}

impl Askers {
    pub(super) fn of(askers: &reload::Requesters) -> Askers {
        let reload::Requesters { waiting, unattended } = askers.clone();
        Askers { waiting, unattended }
    }

    pub(super) fn restore(self) -> reload::Requesters {
        let Askers { waiting, unattended } = self;
        reload::Requesters { waiting, unattended }
    }
}

impl Job {
    pub(super) fn of(job: &recycle::Job) -> Job {
        let recycle::Job { worker, why, requester: asker, last } = job.clone();
        Job { worker, why: why.in_words().to_owned(), asker, last }
    }

    pub(super) fn restore(self) -> recycle::Job {
        let Job { worker, why, asker, last } = self;
        recycle::Job { worker, why: RecycleReason::from_words(&why).unwrap_or(RecycleReason::Request), requester: asker, last }
    }
}
