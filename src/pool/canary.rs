//! The canary (`reload.steps`): the first workers of a new generation run beside the whole old one, step by step.
//!
//! Law: before the last step no worker of the old generation is touched. A step begins to wait when all its workers are ready; it ends
//! after `reload.step_time`, or with [`Event::Promote`](super::Event::Promote) if that is `"manual"`. A step with all workers of the
//! generation does not wait: it commits like a reload without steps. A canary that fails is rolled back like any reload.

use std::time::Duration;

use super::Pool;
use super::exit_cause::Span;
use super::ids::{GenerationId, RequesterId, Slot};
use super::reason::Reason;
use super::reload_state::{Canary, Reload, Stage};
use super::report::workers;
use super::settings::Steps;
use super::timers::Key;
use super::verdict::{self, Comparison, Judgement};
use super::vocabulary::{Answer, Kind, Outcome, Purpose};
use super::worker::Phase;

/// A canary as the front ends show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanaryView {
    /// The new generation.
    pub generation: GenerationId,
    /// The step, from 1.
    pub step: usize,
    /// The number of steps in `reload.steps`.
    pub steps: usize,
    /// The ready workers of the new generation.
    pub ready: u32,
    /// The workers of this step.
    pub size: u32,
    /// The workers that the generation will have.
    pub target: u32,
    /// The workers of the step are ready, and it waits.
    pub waits: bool,
    /// The step waits for a promotion.
    pub manual: bool,
    /// `reload.judge_command` is asked for its verdict.
    pub asks_command: bool,
    /// The time until the step, or the wait for a promotion, ends.
    pub left: Option<Duration>,
    /// Figures of both generations since the step began to wait.
    pub figures: Option<Comparison>,
    /// The verdict on these figures, if the step ended now.
    pub verdict: Option<Judgement>,
}

/// The generations that are compared. The figures of a canary are counted from the beginning of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sides {
    /// The old generation.
    pub old: GenerationId,
    /// The new generation.
    pub new: GenerationId,
    /// The step, from 0; `None` for the watch after the commit, whose figures are those of the workers' whole lives.
    pub step: Option<usize>,
}

impl Pool {
    /// The canary that is under way.
    pub fn canary(&self) -> Option<CanaryView> {
        let reload = self.reload.as_ref()?;
        let canary = reload.canary?;
        let candidate = self.generations.get(&reload.number)?;
        Some(CanaryView {
            generation: reload.number,
            step: canary.step + 1,
            steps: candidate.settings.steps.sizes.len(),
            ready: candidate.ready,
            size: self.canary_size()?,
            target: reload.target,
            waits: reload.stage == Stage::Canary,
            manual: candidate.settings.steps.time.is_none(),
            asks_command: canary.is_asked,
            left: self.timers.get(Key::Step).map(|at| at - self.now),
            figures: canary.figures,
            verdict: self.judged(verdict::FINAL),
        })
    }

    /// The generations whose figures the pool needs once a second; `None` while no step waits, and nothing is watched.
    pub fn compares(&self) -> Option<Sides> {
        let waits = self.reload.as_ref().filter(|reload| reload.stage == Stage::Canary);
        let canary =
            waits.and_then(|reload| Some(Sides { old: self.current, new: reload.number, step: Some(reload.canary?.step) }));
        canary.or_else(|| self.watch_compares().map(|(old, new)| Sides { old, new, step: None }))
    }

    /// Whether the generation that is prepared may begin with a canary: it is that of a plain reload.
    pub fn may_have_canary(&self, number: GenerationId) -> bool {
        self.reload.as_ref().is_some_and(|reload| reload.number == number && reload.purpose == Purpose::Reload)
    }

    /// The first step of a generation with these settings; `None`: there is no canary, or its first step has all workers.
    pub(super) fn first_step(steps: &Steps, target: u32) -> Option<Canary> {
        steps.sizes.first().filter(|size| size.of(target) < target).map(|_| Canary::at(0))
    }

    /// The number of workers of the present step, at most the wanted number; `None` without a canary.
    pub(super) fn canary_size(&self) -> Option<u32> {
        let reload = self.reload.as_ref()?;
        let step = reload.canary?.step;
        let sizes = &self.generations.get(&reload.number)?.settings.steps.sizes;
        Some(sizes.get(step).map_or(reload.target, |size| size.of(reload.target)).min(reload.target))
    }

    /// All workers of the step are ready: it waits.
    pub(super) fn begin_wait(&mut self) {
        let (Some(size), Some(reload)) = (self.canary_size(), self.reload.as_mut()) else { return };
        let (number, target) = (reload.number, reload.target);
        reload.stage = Stage::Canary;
        if let Some(canary) = &mut reload.canary {
            *canary = Canary::at(canary.step);
        }
        let Some(steps) = self.generations.get(&number).map(|candidate| &candidate.settings.steps) else { return };
        let (limit, until) = match steps.time {
            Some(time) => (time, format!("for {}", Span(time))),
            None => (steps.promote_timeout, format!("for `ratoon promote`, at most {}", Span(steps.promote_timeout))),
        };
        self.timers.set(Key::Step, self.after(limit));
        let message = format!("canary of generation {number}: {size}/{target} workers, waiting {until}");
        self.log(Kind::Canary, message, Some(number), None);
    }

    /// The figures of both generations since the present step began to wait; `None`: their workers count no requests. A clear failure
    /// ends the canary before the step does.
    pub(super) fn compared(&mut self, number: GenerationId, figures: Option<Comparison>) {
        let waits = |reload: &&mut Reload| reload.number == number && reload.stage == Stage::Canary;
        let Some(canary) = self.reload.as_mut().filter(waits).and_then(|reload| reload.canary.as_mut()) else {
            // Those of the watch, or the step has ended since they were read.
            return self.watch_compared(number, figures);
        };
        canary.figures = figures;
        if let Some(Judgement::Fails(why)) = self.judged(verdict::EARLY) {
            self.canary_failed(why);
        }
    }

    /// The verdict on the present step; `None` without figures.
    fn judged(&self, quantile: f64) -> Option<Judgement> {
        let reload = self.reload.as_ref()?;
        let figures = reload.canary?.figures?;
        Some(verdict::judge(figures, self.generations.get(&reload.number)?.settings.steps.judge, quantile))
    }

    fn canary_failed(&mut self, why: String) {
        self.rollback(Outcome::RolledBack, Reason::from(format!("the canary failed: {why}")));
    }

    /// The time of the present step, or the wait for a promotion, is over.
    pub(super) fn step_over(&mut self) {
        if self.judge_command_is_late() {
            return;
        }
        let Some(reload) = self.reload.as_ref().filter(|reload| reload.stage == Stage::Canary) else { return };
        let Some(candidate) = self.generations.get(&reload.number) else { return };
        let (steps, ready) = (&candidate.settings.steps, candidate.ready);
        if steps.time.is_none() {
            let why = format!("nobody promoted the canary within {}", Span(steps.promote_timeout));
            return self.rollback(Outcome::RolledBack, why.into());
        }
        if self.canary_size().is_some_and(|size| ready < size) {
            // The pool was scaled up, which made the step larger: its additional workers get the whole time, too.
            if let Some(reload) = self.reload.as_mut() {
                reload.stage = Stage::Starting;
            }
            return;
        }
        self.end_step();
    }

    /// Ends the present step by its verdict.
    fn end_step(&mut self) {
        let Some(number) = self.reload.as_ref().map(|reload| reload.number) else { return };
        match self.judged(verdict::FINAL) {
            Some(Judgement::Fails(why)) => return self.canary_failed(why),
            Some(Judgement::Unknown(why)) => {
                self.log(Kind::Info, format!("canary of generation {number}: {why}"), Some(number), None);
            }
            Some(Judgement::Passes) | None => {}
        }
        if !self.ask_judge_command() {
            self.next_step();
        }
    }

    /// Goes on to the next step that has more workers, or to the whole generation.
    pub(super) fn next_step(&mut self) {
        let (Some(size), Some(reload)) = (self.canary_size(), self.reload.as_mut()) else { return };
        self.timers.clear(Key::Step);
        let (number, target) = (reload.number, reload.target);
        let Some(sizes) = self.generations.get(&number).map(|candidate| &candidate.settings.steps.sizes) else { return };
        let former = reload.canary.map_or(sizes.len(), |canary| canary.step);
        let next = (former + 1..sizes.len()).find(|step| sizes[*step].of(target) > size);
        reload.canary = next.filter(|step| sizes[*step].of(target) < target).map(Canary::at);
        reload.stage = Stage::Starting;
        let goes_on = self.canary_size().unwrap_or(target);
        let message = format!("canary of generation {number}: the step has passed; going on with {}", workers(goes_on as usize));
        self.log(Kind::Canary, message, Some(number), None);
        self.advance();
        self.make_room_for_more();
        self.check_candidate();
    }

    /// The candidate has more slots now, or its canary has passed: slots whose old workers would have served until the commit must make room after all.
    pub(super) fn make_room_for_more(&mut self) {
        let waits = |reload: &&Reload| reload.started < reload.target && reload.canary.is_none();
        let Some(reload) = self.reload.as_ref().filter(waits) else { return };
        let Some(candidate) = self.generations.get(&reload.number) else { return };
        let waits = |slot: &Slot| {
            let place = &candidate.slots[*slot as usize];
            let ready = place.worker.and_then(|id| self.workers.get(&id)).is_some_and(|worker| worker.phase == Phase::Ready);
            ready && !place.settled && !reload.draining_for_surge.values().any(|yielding| yielding == slot)
        };
        for slot in (0..reload.started).filter(waits).collect::<Vec<_>>() {
            self.make_room(slot);
        }
    }

    /// Ends the present step on request, without a verdict: whoever promotes has looked.
    pub(super) fn promote(&mut self, requester: Option<RequesterId>) {
        let refusal = match &self.reload {
            Some(reload) if reload.stage == Stage::Canary => None,
            Some(reload) if reload.canary.is_some() => {
                Some("the workers of this step are not ready yet; ask again when it waits")
            }
            Some(_) => Some("no canary waits: the reload that is under way has no further step"),
            None => Some("no canary waits: no reload is under way"),
        };
        if let Some(why) = refusal {
            return self.answer(requester, Answer::Failed(why.to_owned()));
        }
        self.answer(requester, Answer::Done);
        self.next_step();
    }

    /// The status text of a canary whose step waits.
    pub(super) fn canary_in_words(&self) -> Option<String> {
        let view = self.canary().filter(|view| view.waits)?;
        let share = view.figures.and_then(Comparison::share).map_or(String::new(), |share| format!(", {share}% of requests"));
        let left = match (view.manual, view.left) {
            (true, _) => ", waits for `ratoon promote`".to_owned(),
            (false, _) if view.asks_command => ", reload.judge_command decides".to_owned(),
            (false, Some(left)) => format!(", {} left", Span(Duration::from_secs(left.as_secs()))),
            (false, None) => String::new(),
        };
        Some(format!("canary of {}: {}/{} workers{share}{left}", self.named(view.generation), view.ready, view.target))
    }
}
