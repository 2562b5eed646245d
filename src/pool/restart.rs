//! Replacing workers that failed: backoff and limit of each slot, *degraded*, giving up.
//!
//! Law: a slot that has served well is filled again at once; one that fails in a row waits, twice as long each time. Without a
//! ready worker one slot is tried again within [`OUTAGE_DELAY`], whatever it has done.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Pool;
use super::exit_cause::ExitCause;
use super::time::Time;
use super::timers::Key;
use super::vocabulary::{GenerationId, Kind, Restart, Slot};
use super::worker::Phase;

/// The longest delay of one slot while no worker is ready. No shorter one: a crash loop forks at most once a second and worker.
pub(super) const OUTAGE_DELAY: Duration = Duration::from_secs(1);

/// The failures of a slot within the last `restart.interval`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct History {
    pub at: VecDeque<Time>,
    /// There were more of them than `restart.limit`, and the slot has not recovered since.
    pub degraded: bool,
    pub last: Option<Failure>,
}

/// The last failure of a slot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    pub how: ExitCause,
    /// The worker was never ready, or not for long enough to have served.
    pub at_once: bool,
}

impl History {
    /// Forgets what is older than the interval.
    fn prune(&mut self, now: Time, interval: Duration) {
        while self.at.front().is_some_and(|at| now - *at > interval) {
            self.at.pop_front();
        }
    }

    /// Whether there were more failures than the limit.
    fn over(&mut self, now: Time, rule: Restart) -> bool {
        self.prune(now, rule.interval);
        self.at.len() > rule.limit as usize
    }

    /// Remembers one; no more than are needed to tell.
    fn push(&mut self, now: Time, rule: Restart) {
        self.at.push_back(now);
        if self.at.len() > rule.limit as usize + 1 {
            self.at.pop_front();
        }
    }
}

impl Pool {
    /// A failure in a slot: how long to wait before its next worker.
    pub(super) fn strike(&mut self, generation: GenerationId, slot: Slot, ready_for: Option<Duration>) -> Duration {
        let now = self.now;
        let Some(home) = self.generations.get_mut(&generation) else { return Duration::ZERO };
        let rule = home.settings.restart;
        let Some(place) = home.slots.get_mut(slot as usize) else { return Duration::ZERO };
        if ready_for.is_some_and(|life| life >= rule.max) {
            place.consecutive_failures = 0;
        }
        // A worker that was ready once may fall without a wait; one that never was, may not.
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
            // Just past the interval: then the failures of now have left the window.
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

    /// Remembers what a failure that was counted was like.
    pub(super) fn remember_failure(&mut self, slot: Slot, how: ExitCause, at_once: bool) {
        if let Some(place) = self.slot_state(slot) {
            place.failures.get_or_insert_default().last = Some(Failure { how, at_once });
        }
    }

    /// The slot that is to be named for its failures, with the last of them: one without a ready worker, else (`true`) one that
    /// has a ready worker and degrades the pool.
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

    /// What the status line says of failures.
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

    /// Looks whether all is well again.
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
            self.reset_backoff();
            self.log(Kind::Recovered, format!("recovered: {target}/{target} ready"), Some(self.current), None);
        }
    }

    /// A new beginning: the failures so far do not count any more.
    pub(super) fn reset_backoff(&mut self) {
        self.degraded = false;
        self.timers.clear(Key::Recover);
        if let Some(home) = self.generations.get_mut(&self.current) {
            for place in &mut home.slots {
                place.failures = None;
            }
        }
    }

    /// While no worker is ready, one slot waits no longer than [`OUTAGE_DELAY`] for its next worker.
    pub(super) fn limit_outage(&mut self) {
        let Some(home) = self.generations.get(&self.current) else { return };
        if home.ready > 0 || self.stopping.is_some() {
            return;
        }
        // The place of a failed worker, once nothing is left of it.
        let waits = home.slots.iter().enumerate().filter(|(_, place)| place.worker.is_none() && place.consecutive_failures > 0);
        let restart = |slot: usize| Key::Restart(self.current, slot as Slot);
        let next = waits.filter_map(|(slot, _)| Some((self.timers.get(restart(slot))?, restart(slot)))).min();
        let latest = self.after(OUTAGE_DELAY);
        let Some((_, key)) = next.filter(|(at, _)| *at > latest) else { return };
        // Workers of a reload, or of one that was rolled back, serve too.
        if !self.workers.values().any(|worker| worker.phase == Phase::Ready && worker.how.is_none()) {
            self.timers.set(key, latest);
        }
    }

    /// Watches over the time without a ready worker.
    pub(super) fn watch_give_up(&mut self) {
        let Some(home) = self.generations.get(&self.current) else { return };
        match (home.settings.restart.give_up, home.ready) {
            (Some(limit), 0) if self.stopping.is_none() => {
                if !self.timers.is_set(Key::GiveUp) {
                    self.timers.set(Key::GiveUp, self.after(limit));
                }
            }
            (Some(_) | None, _) => self.timers.clear(Key::GiveUp),
        }
    }

    /// No worker was ready for too long.
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
