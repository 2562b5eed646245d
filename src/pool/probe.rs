//! The probe: one worker of a new release on private sockets. Its generation starts only after this worker has become ready, has answered
//! the probe's request, and has ended at its stop signal.
//!
//! Law: no worker of a generation that is to be probed gets a listening socket before the probe has passed. A failed probe refuses a
//! reload; a first start tries [`ATTEMPTS`] times and then ends the instance.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Pool;
use super::generation::Role;
use super::ids::{GenerationId, RequesterId, Slot, WorkerId};
use super::reason::Reason;
use super::reload_state::Stage;
use super::report::workers;
use super::requesters::Requesters;
use super::settings::Settings;
use super::timers::Key;
use super::vocabulary::{Action, Answer, Kind, Outcome, Purpose};
use super::worker::StopReason;

/// The number of failed probes after which a first start ends.
const ATTEMPTS: u32 = 3;

/// The probe that is under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Probe {
    pub generation: GenerationId,
    pub step: Step,
    /// The number of failed probes of this generation before.
    failures: u32,
    /// The instance was started for this probe alone and ends with it.
    once: bool,
}

/// The step of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Step {
    /// The worker starts.
    Starting(WorkerId),
    /// The worker is ready, and the master sends the request.
    Asking(WorkerId),
    /// The worker has answered and got its stop signal.
    Ending(WorkerId),
    /// The probe of the first generation has failed and is repeated after a delay.
    Waiting,
}

impl Step {
    /// The worker that is probed.
    pub fn worker(self) -> Option<WorkerId> {
        match self {
            Step::Starting(worker) | Step::Asking(worker) | Step::Ending(worker) => Some(worker),
            Step::Waiting => None,
        }
    }
}

impl Pool {
    /// Whether a probe is under way.
    pub fn is_probing(&self) -> bool {
        self.probe.is_some()
    }

    /// The worker whose answer to [`Action::Probe`] the pool waits for.
    pub fn asked_worker(&self) -> Option<WorkerId> {
        match self.probe.as_ref()?.step {
            Step::Asking(worker) => Some(worker),
            Step::Starting(_) | Step::Ending(_) | Step::Waiting => None,
        }
    }

    /// Whether the generation starts no worker yet, because its probe has not passed.
    pub(super) fn is_held_for_probe(&self, number: GenerationId) -> bool {
        self.probe.as_ref().is_some_and(|probe| probe.generation == number)
    }

    /// Starts the probe of a generation that is in the table and has no slots yet.
    pub(super) fn start_probe(&mut self, number: GenerationId) {
        let (failures, once) = self.probe.take().map_or((0, false), |probe| (probe.failures, probe.once));
        let worker = self.spawn_probe(number);
        self.probe = Some(Probe { generation: number, step: Step::Starting(worker), failures, once });
        self.log(Kind::Info, format!("generation {number}: worker {worker} is probed"), Some(number), Some((worker, 0)));
    }

    /// Starts the first generation for one probe alone.
    pub(super) fn probe_once(&mut self, settings: Settings) {
        if self.current != 0 || self.stopping.is_some() {
            return self.ignore_event("a second start", None);
        }
        self.start(Settings { probe: true, ..settings });
        if let Some(probe) = &mut self.probe {
            probe.once = true;
        }
    }

    fn spawn_probe(&mut self, number: GenerationId) -> WorkerId {
        let id = self.spawn(number, 0);
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.is_probe = true;
        }
        id
    }

    fn probe_at(&mut self, id: WorkerId) -> Option<&mut Probe> {
        self.probe.as_mut().filter(|probe| probe.step.worker() == Some(id))
    }

    /// The probed worker is ready.
    pub(super) fn probe_ready(&mut self, id: WorkerId) {
        if let Some(probe) = self.probe_at(id) {
            probe.step = Step::Asking(id);
            self.act(Action::Probe(id));
        }
    }

    /// The worker has answered the request, or not as it must.
    pub(super) fn probed(&mut self, id: WorkerId, result: Result<(), Reason>) {
        let Some(probe) = self.probe_at(id).filter(|probe| probe.step == Step::Asking(id)) else {
            return self.ignore_event("an answer of a worker that is not asked", Some(id));
        };
        match result {
            Ok(()) => {
                probe.step = Step::Ending(id);
                self.drain(id, StopReason::Asked);
            }
            Err(reason) => self.probe_failed(id, reason),
        }
    }

    /// The probed worker is gone.
    pub(super) fn probe_cleared(&mut self, id: WorkerId) {
        match self.probe.take_if(|probe| probe.step == Step::Ending(id)) {
            Some(Probe { once: true, generation, .. }) => {
                self.log(Kind::Info, format!("generation {generation}: the probe has passed"), Some(generation), None);
                self.stop(false, 0);
            }
            Some(Probe { generation, .. }) => self.probe_passed(generation),
            None => {}
        }
    }

    fn probe_passed(&mut self, number: GenerationId) {
        self.log(Kind::Info, format!("generation {number}: the probe has passed"), Some(number), None);
        if self.reload.is_some() {
            return self.reload_probed();
        }
        self.failure_text = None;
        self.log(Kind::Info, format!("generation {number} starts with {}", workers(self.target as usize)), Some(number), None);
        self.resize(number, self.target);
        for slot in 0..self.target {
            self.fill(slot as Slot);
        }
        self.next_reload();
    }

    /// The probed worker failed, or did not answer as it must. Drains what is left of it.
    pub(super) fn probe_failed(&mut self, id: WorkerId, mut reason: Reason) {
        let Some(Probe { generation, failures, once, .. }) = self.probe.take_if(|probe| probe.step.worker() == Some(id)) else {
            return;
        };
        reason.cause = format!("the probe failed: {}", reason.cause);
        reason.worker = Some(id);
        self.drain(id, StopReason::Asked);
        if self.reload.is_some() {
            return self.rollback(Outcome::Refused, reason);
        }
        let failures = failures + 1;
        let message = format!("generation {generation}: {}", reason.in_full());
        self.log(Kind::ProbeFailed, message, Some(generation), Some((id, 0)));
        let hopeless = format!("generation {generation} cannot start: {}", reason.cause);
        if once {
            return self.end_for(hopeless);
        }
        if failures == ATTEMPTS && self.unproven {
            // No worker of this generation starts while the last good release does.
            self.probe = Some(Probe { generation, step: Step::Waiting, failures, once });
            return self.fall_back(hopeless);
        }
        self.failure_text = Some(reason.cause);
        self.probe = Some(Probe { generation, step: Step::Waiting, failures, once });
        let delay = self.generations.get(&generation).map_or(Duration::ZERO, |home| {
            let rule = home.settings.restart;
            rule.initial.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(rule.max)
        });
        self.timers.set(Key::ProbeAgain, self.after(delay));
    }

    /// The delay after a failed probe of the first generation is over.
    pub(super) fn probe_again(&mut self) {
        let waiting = self.probe.as_ref().filter(|probe| probe.step == Step::Waiting).map(|probe| probe.generation);
        let first = waiting.filter(|number| self.generations.get(number).is_some_and(|home| home.role == Role::Current));
        if let Some(number) = first {
            self.start_probe(number);
        }
    }

    /// Gives up the probe: its reload ends, or the instance.
    pub(super) fn abandon_probe(&mut self) {
        self.probe = None;
        self.timers.clear(Key::ProbeAgain);
    }

    /// Probes the release that a reload would start.
    pub(super) fn ask_probe(&mut self, requester: Option<RequesterId>) {
        let busy = match (&self.stopping, &self.reload) {
            (Some(_), _) => Some("the instance is stopping"),
            (None, Some(reload)) if reload.purpose == Purpose::Probe => Some("a probe is under way; ask again at its end"),
            (None, Some(_)) => Some("a reload is under way; ask again at its end"),
            (None, None) if self.pause.is_some() => Some(super::pause::REFUSAL),
            (None, None) if self.is_probing() => Some("the first generation is probed; ask again when it serves"),
            (None, None) => None,
        };
        if let Some(why) = busy {
            return self.answer(requester, Answer::Failed(why.to_owned()));
        }
        let mut requesters = Requesters::default();
        requesters.join(requester);
        self.last_number += 1;
        let number = self.last_number;
        self.prepare(number, Purpose::Probe, requesters);
    }

    /// The probe of the candidate has passed.
    pub(super) fn reload_probed(&mut self) {
        let Some(reload) = self.reload.as_mut() else { return };
        if reload.purpose == Purpose::Probe {
            return self.end_probe(None);
        }
        reload.stage = Stage::Starting;
        let (number, target) = (reload.number, reload.target);
        self.resize(number, target);
        self.advance();
    }

    /// Ends a probe that was requested by itself.
    pub(super) fn end_probe(&mut self, why: Option<Reason>) {
        let Some(reload) = self.reload.take() else { return };
        let number = reload.number;
        if let Some(why) = &why {
            self.log(Kind::Warning, format!("the release on disk: {}", why.in_full()), Some(number), None);
        }
        self.retire_candidate(number);
        for requester in reload.requesters.waiting {
            self.act(Action::Answer(requester, Answer::Probed(number, why.clone())));
        }
        self.next_reload();
    }
}
