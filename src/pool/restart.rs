//! Replacing workers that failed: backoff per slot, the limit of the pool, *degraded*, giving up.
//!
//! Law: a slot that has served well is filled again at once; one that fails in a row waits, twice as long each time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Pool;
use super::timers::Key;
use super::vocabulary::{Kind, Number, Restart, Slot};

/// The failures of the last interval.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    pub at: VecDeque<Instant>,
    pub degraded: bool,
}

impl History {
    /// Forgets what is older than the interval.
    fn prune(&mut self, now: Instant, interval: Duration) {
        while self.at.front().is_some_and(|at| now - *at > interval) {
            self.at.pop_front();
        }
    }

    /// Whether there were more failures than the limit.
    fn over(&mut self, now: Instant, rule: Restart) -> bool {
        self.prune(now, rule.interval);
        self.at.len() > rule.limit as usize
    }

    /// Remembers one; no more than are needed to tell.
    fn push(&mut self, now: Instant, rule: Restart) {
        self.at.push_back(now);
        if self.at.len() > rule.limit as usize + 1 {
            self.at.pop_front();
        }
    }
}

impl Pool {
    /// A failure in a slot: how long to wait before its next worker.
    pub(super) fn strike(&mut self, generation: Number, slot: Slot, ready_for: Option<Duration>) -> Duration {
        let now = self.now;
        let Some(home) = self.generations.get_mut(&generation) else { return Duration::ZERO };
        let rule = home.settings.restart;
        let Some(place) = home.places.get_mut(slot as usize) else { return Duration::ZERO };
        if ready_for.is_some_and(|life| life >= rule.max) {
            place.strikes = 0;
        }
        // A worker that was ready once may fall without a wait; one that never was, may not.
        let doublings = if ready_for.is_some() { place.strikes.checked_sub(1) } else { Some(place.strikes) };
        place.strikes = place.strikes.saturating_add(1);
        self.history.push(now, rule);
        if !self.history.degraded && self.history.over(now, rule) {
            self.history.degraded = true;
            let message = format!("degraded: more than {} failures within {}", rule.limit, super::how::Span(rule.interval));
            self.log(Kind::Degraded, message, Some(generation), None);
        }
        if self.history.degraded {
            // Just past the interval: then the failures of now have left the window.
            self.timers.set(Key::Recover, self.after(rule.interval + Duration::from_millis(1)));
        }
        let Some(doublings) = doublings else { return Duration::ZERO };
        let delay = if self.history.degraded {
            rule.max
        } else {
            rule.initial.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(rule.max)
        };
        delay.mul_f64(0.8 + 0.2 * self.chance())
    }

    /// Looks whether all is well again.
    pub(super) fn recover(&mut self) {
        if !self.history.degraded {
            return;
        }
        let Some(home) = self.generations.get(&self.current) else { return };
        let (rule, all_ready) = (home.settings.restart, home.ready == self.target);
        if all_ready && !self.history.over(self.now, rule) {
            self.forgive();
            self.log(Kind::Recovered, format!("recovered: {0}/{0} ready", self.target), Some(self.current), None);
        }
    }

    /// A new beginning: the failures so far do not count any more.
    pub(super) fn forgive(&mut self) {
        self.history = History::default();
        self.timers.clear(Key::Recover);
        self.last_crash = None;
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
        self.log(Kind::GaveUp, "no worker was ready for restart.give_up: the instance ends".to_owned(), Some(self.current), None);
        self.stop(false, 1);
    }
}
