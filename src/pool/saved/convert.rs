//! From the pool's own types to the saved ones and back, word by word: no wild card, no field left out by oversight.

use std::time::Instant;

use super::words::{self, Outside, Readiness, Restart, Surge};
use super::{Askers, Failure, Generation, Job, Place, Reload, Worker, offset};
use crate::pool::restart::{self, History};
use crate::pool::timers::Key;
use crate::pool::worker::Doom;
use crate::pool::{How, Phase, RecycleReason, Settings, generation, recycle, reload, vocabulary, worker};

impl Worker {
    pub(super) fn of(worker: &worker::Worker, now: Instant) -> Worker {
        let worker::Worker {
            slot,
            generation,
            pid,
            phase,
            status,
            doom,
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
                Doom::Asked => words::Doom::Asked,
                Doom::Leaving => words::Doom::Leaving,
                Doom::LeavingAtOnce => words::Doom::LeavingAtOnce,
                Doom::StartTimeout(after) => words::Doom::StartTimeout { after },
                Doom::Watchdog => words::Doom::Watchdog,
            }),
            ready_at: ready_at.map(|at| offset(at, now)),
            said_ready: signs.said,
            accepts_on: signs.seen.sockets,
            hidden: signs.seen.hidden,
            watchdog: *watchdog,
            counted: *counted,
            vacating: *vacating,
            killed: *killed,
            how: how.as_deref().map(words::How::from),
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

impl words::Doom {
    pub(super) fn restore(self) -> Doom {
        match self {
            words::Doom::Asked => Doom::Asked,
            words::Doom::Leaving => Doom::Leaving,
            words::Doom::LeavingAtOnce => Doom::LeavingAtOnce,
            words::Doom::StartTimeout { after } => Doom::StartTimeout(after),
            words::Doom::Watchdog => Doom::Watchdog,
        }
    }
}

impl From<&How> for words::How {
    fn from(how: &How) -> words::How {
        match how {
            How::Exit(status) => words::How::Exit { status: *status },
            How::Signal { signal, core } => words::How::Signal { signal: *signal, core: *core },
            How::NotStarted(why) => words::How::NotStarted { why: why.clone() },
            How::OutOfMemory => words::How::OutOfMemory,
            How::StartTimeout(after) => words::How::StartTimeout { after: *after },
            How::StopTimeout(after) => words::How::StopTimeout { after: *after },
            How::Watchdog => words::How::Watchdog,
            How::Left => words::How::Left,
            How::Unknown => words::How::Unknown,
        }
    }
}

impl words::How {
    pub(super) fn restore(self) -> How {
        match self {
            words::How::Exit { status } => How::Exit(status),
            words::How::Signal { signal, core } => How::Signal { signal, core },
            words::How::NotStarted { why } => How::NotStarted(why),
            words::How::OutOfMemory => How::OutOfMemory,
            words::How::StartTimeout { after } => How::StartTimeout(after),
            words::How::StopTimeout { after } => How::StopTimeout(after),
            words::How::Watchdog => How::Watchdog,
            words::How::Left => How::Left,
            words::How::Unknown => How::Unknown,
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
        let generation::Generation { settings, role: _, places, ready: _, members: _, accepted_on, says_ready, proven } = home;
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
    fn of(place: &generation::Place, now: Instant) -> Place {
        let generation::Place { worker, successor, holder, strikes, failures, delay, settled } = place.clone();
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
        let reload::Reload { number, stage, askers, target, started, unsettled: _, yields } = reload;
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
    pub(super) fn of(askers: &reload::Askers) -> Askers {
        let reload::Askers { waiting, unattended } = askers.clone();
        Askers { waiting, unattended }
    }

    pub(super) fn restore(self) -> reload::Askers {
        let Askers { waiting, unattended } = self;
        reload::Askers { waiting, unattended }
    }
}

impl Job {
    pub(super) fn of(job: &recycle::Job) -> Job {
        let recycle::Job { worker, why, asker, last } = job.clone();
        Job { worker, why: why.in_words().to_owned(), asker, last }
    }

    pub(super) fn restore(self) -> recycle::Job {
        let Job { worker, why, asker, last } = self;
        recycle::Job { worker, why: RecycleReason::from_words(&why).unwrap_or(RecycleReason::Request), asker, last }
    }
}
