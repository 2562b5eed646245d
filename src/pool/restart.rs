//! Replacement of failed workers: backoff and limit of each slot, *degraded*, `restart.give_up`.
//!
//! Law: after the first failure of a slot in a row, if its worker was ready, the slot is filled again at once. After further failures
//! the slot waits, twice as long each time. While no worker is ready, one slot gets a new worker within [`OUTAGE_DELAY`], whatever
//! its backoff is.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Pool;
use super::exit_cause::ExitCause;
use super::ids::{GenerationId, Slot};
use super::settings::Restart;
use super::time::Time;
use super::timers::Key;
use super::vocabulary::Kind;

/// The longest delay of one slot while no worker is ready. Not shorter, so that a crash loop forks at most once per second and worker.
pub(super) const OUTAGE_DELAY: Duration = Duration::from_secs(1);

/// The failures of a slot.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct History {
    /// The times of the failures within the last `restart.interval`, oldest first; at most `restart.limit` + 1.
    pub at: VecDeque<Time>,
    /// The failures were more than `restart.limit`, and the slot has not recovered since.
    pub degraded: bool,
    pub last: Option<Failure>,
}

/// The last failure of a slot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    pub how: ExitCause,
    /// The worker was never ready, or sent `STOPPING=1` at once.
    pub at_once: bool,
}

impl History {
    /// Removes failures that are older than the interval.
    fn prune(&mut self, now: Time, interval: Duration) {
        while self.at.front().is_some_and(|at| now - *at > interval) {
            self.at.pop_front();
        }
    }

    /// Whether there are more failures within the interval than the limit.
    fn over(&mut self, now: Time, rule: Restart) -> bool {
        self.prune(now, rule.interval);
        self.at.len() > rule.limit as usize
    }

    /// Adds a failure. Keeps at most `restart.limit` + 1 of them, which is enough for [`History::over`].
    fn push(&mut self, now: Time, rule: Restart) {
        self.at.push_back(now);
        if self.at.len() > rule.limit as usize + 1 {
            self.at.pop_front();
        }
    }
}

impl Pool {
    /// Counts a failure of a slot. Returns the delay before the next worker of the slot.
    pub(super) fn strike(&mut self, generation: GenerationId, slot: Slot, ready_for: Option<Duration>) -> Duration {
        let now = self.now;
        let Some(home) = self.generations.get_mut(&generation) else { return Duration::ZERO };
        let rule = home.settings.restart;
        let Some(place) = home.slots.get_mut(slot as usize) else { return Duration::ZERO };
        if ready_for.is_some_and(|life| life >= rule.max) {
            place.consecutive_failures = 0;
        }
        // The first failure in a row has no delay if the worker was ready, and `restart.initial` if it never was.
        let doublings =
            if ready_for.is_some() { place.consecutive_failures.checked_sub(1) } else { Some(place.consecutive_failures) };
        place.consecutive_failures = place.consecutive_failures.saturating_add(1);
        let history = place.failures.get_or_insert_default();
        history.push(now, rule);
        history.degraded |= history.over(now, rule);
        let degraded = history.degraded;
        if degraded && !self.degraded {
            self.degraded = true;
            let message = format!("degraded: slot {slot} failed {}", limit_in_words(rule));
            self.log(Kind::Degraded, message, Some(generation), None);
        }
        if self.degraded {
            // 1 ms after the interval, when the present failure is no longer counted.
            self.timers.set(Key::Recover, self.after(rule.interval + Duration::from_millis(1)));
        }
        let Some(doublings) = doublings else { return Duration::ZERO };
        let delay = if degraded {
            rule.max
        } else {
            rule.initial.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(rule.max)
        };
        delay.mul_f64(0.8 + 0.2 * self.chance())
    }

    /// Stores how the last counted failure of a slot happened, for the status text.
    pub(super) fn remember_failure(&mut self, slot: Slot, how: ExitCause, at_once: bool) {
        if let Some(place) = self.slot_state(slot) {
            place.failures.get_or_insert_default().last = Some(Failure { how, at_once });
        }
    }

    /// The slot that the status text names, whether it has a ready worker, and its last failure. A failed slot without a ready worker
    /// comes first; else it is a degraded slot that has a ready worker.
    pub(super) fn failing_slot(&self) -> Option<(Slot, bool, &Failure)> {
        let home = self.generations.get(&self.current)?;
        let failed = home.slots.iter().enumerate().filter_map(|(slot, place)| {
            let history = place.failures.as_deref()?;
            let ready = place.worker.and_then(|id| self.workers.get(&id)).is_some_and(|worker| worker.counted);
            let named = !ready || history.degraded;
            Some((slot as Slot, ready, history.degraded, history.last.as_ref()?)).filter(|_| named)
        });
        let (slot, ready, _, failure) = failed.min_by_key(|(slot, ready, degraded, _)| (*ready, !*degraded, *slot))?;
        Some((slot, ready, failure))
    }

    /// The part of the status text about failures.
    pub(super) fn failures_in_words(&self) -> Option<String> {
        let (slot, ready, Failure { how, at_once }) = self.failing_slot()?;
        Some(match (at_once, how) {
            (_, _) if ready => {
                let rule = self.generations.get(&self.current)?.settings.restart;
                format!("slot {slot} failed {} (last: {how})", limit_in_words(rule))
            }
            (_, ExitCause::Left) => format!("slot {slot} leaves at once (STOPPING=1)"),
            (true, ExitCause::Exit(_) | ExitCause::Signal { .. }) => format!("slot {slot} exits at once ({how})"),
            (_, _) => format!("slot {slot} fails ({how})"),
        })
    }

    /// Ends *degraded* when all workers are ready and no slot is over its limit.
    pub(super) fn recover(&mut self) {
        if !self.degraded {
            return;
        }
        let (now, target) = (self.now, self.target);
        let Some(home) = self.generations.get_mut(&self.current) else { return };
        let rule = home.settings.restart;
        for place in &mut home.slots {
            let Some(history) = place.failures.as_mut().filter(|history| history.degraded) else { continue };
            let ready = place.worker.and_then(|id| self.workers.get(&id)).is_some_and(|worker| worker.counted);
            if ready && !history.over(now, rule) {
                place.failures = None;
            }
        }
        let any = home.slots.iter().any(|place| place.failures.as_ref().is_some_and(|history| history.degraded));
        if home.ready == target && !any {
            self.forget_failures();
            self.log(Kind::Recovered, format!("recovered: {target}/{target} ready"), Some(self.current), None);
        }
    }

    /// Ends *degraded* and forgets the failures of all slots of the current generation. The backoff of a slot stays: it begins anew
    /// only when a worker of the slot was ready for `restart.max`.
    pub(super) fn forget_failures(&mut self) {
        self.degraded = false;
        self.timers.clear(Key::Recover);
        if let Some(home) = self.generations.get_mut(&self.current) {
            for place in &mut home.slots {
                place.failures = None;
            }
        }
    }

    /// While no worker is ready, limits the delay of the slot that restarts next to [`OUTAGE_DELAY`].
    pub(super) fn limit_outage(&mut self) {
        let Some(home) = self.generations.get(&self.current) else { return };
        if home.ready > 0 || self.stopping.is_some() {
            return;
        }
        // Slots of failed workers whose last process is gone.
        let waits = home.slots.iter().enumerate().filter(|(_, place)| place.worker.is_none() && place.consecutive_failures > 0);
        let restart = |slot: usize| Key::Restart(self.current, slot as Slot);
        let next = waits.filter_map(|(slot, _)| Some((self.timers.get(restart(slot))?, restart(slot)))).min();
        let latest = self.after(OUTAGE_DELAY);
        let Some((_, key)) = next.filter(|(at, _)| *at > latest) else { return };
        // Ready workers of a running or rolled-back reload serve too, so there is no outage.
        if !self.workers.values().any(|worker| worker.serves()) {
            self.timers.set(key, latest);
        }
    }

    /// Sets the `restart.give_up` deadline when no worker of the current generation is ready, and clears it otherwise.
    pub(super) fn watch_give_up(&mut self) {
        let Some(home) = self.generations.get(&self.current) else { return };
        match (home.settings.restart.give_up, home.ready) {
            (Some(limit), 0) if self.stopping.is_none() && self.pause.is_none() && !self.idling.wants_no_workers() => {
                if !self.timers.is_set(Key::GiveUp) {
                    self.timers.set(Key::GiveUp, self.after(limit));
                }
            }
            (Some(_) | None, _) => self.timers.clear(Key::GiveUp),
        }
    }

    /// No worker was ready for `restart.give_up`: ends the instance with status 1.
    pub(super) fn give_up(&mut self) {
        let reason = "no worker was ready for restart.give_up: the instance ends".to_owned();
        self.log(Kind::GaveUp, reason.clone(), Some(self.current), None);
        self.stop(false, 1);
        self.failure_text = Some(reason);
    }
}

/// `more than 5 times within 1min`.
fn limit_in_words(rule: Restart) -> String {
    format!("more than {} times within {}", rule.limit, super::exit_cause::Span(rule.interval))
}
