//! The pool's state, and the status text that systemd shows as `Status:`.

use super::Pool;
use super::reload_state::Stage;
use super::vocabulary::Purpose;

/// The state of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolState {
    /// Not all workers of the first generation are ready yet.
    Starting,
    /// One generation serves, and no reload is under way.
    Running,
    /// No worker runs until the first connection, and no reload is under way.
    Idle,
    /// A reload is under way.
    Reloading,
    /// All workers drain, then the master ends.
    Stopping,
}

impl PoolState {
    /// Every state, for the metrics.
    pub const ALL: [PoolState; 5] = [Self::Starting, Self::Running, Self::Idle, Self::Reloading, Self::Stopping];

    /// The name in `docs/contract.md` §6.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Idle => "idle",
            Self::Reloading => "reloading",
            Self::Stopping => "stopping",
        }
    }
}

/// `1 worker`, `4 workers`
pub fn workers(count: usize) -> String {
    match count {
        1 => "1 worker".to_owned(),
        count => format!("{count} workers"),
    }
}

impl Pool {
    /// Whether the instance stops, on request or by itself: all workers drain, and no generation starts any more.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// Whether a slot failed more often than `restart.limit` allows, and the pool has not recovered since; or the last good release
    /// runs in place of the one on disk; or workers are started without the preload process that the configuration names.
    pub fn degraded(&self) -> bool {
        self.degraded || self.fallback.is_some() || self.preload_failure().is_some()
    }

    /// The state of the pool.
    pub fn state(&self) -> PoolState {
        if self.stopping.is_some() {
            PoolState::Stopping
        } else if self.reload.as_ref().is_some_and(|reload| reload.purpose != Purpose::Probe) {
            PoolState::Reloading
        } else if self.idling.is_idle() {
            PoolState::Idle
        } else if self.announced {
            PoolState::Running
        } else {
            PoolState::Starting
        }
    }

    /// The number of ready workers of the current generation.
    pub fn ready(&self) -> u32 {
        self.generations.get(&self.current).map_or(0, |home| home.ready)
    }

    /// The status text, one line, as in `docs/contract.md` §7.
    pub fn status_text(&self) -> String {
        if let Some(stopping) = &self.stopping {
            let mut text = match self.workers.len() {
                0 => "stopping".to_owned(),
                left => format!("stopping: {} left", workers(left)),
            };
            // The reason, if the instance ends by itself.
            if let Some(failure) = self.failure_text.as_ref().filter(|_| stopping.by_itself()) {
                text += "; ";
                text += failure;
            }
            return text;
        }
        if let Some(pause) = self.pause_in_words() {
            let degraded = if self.degraded() { ", degraded" } else { "" };
            return format!("{}: {pause}{degraded}", self.named(self.current));
        }
        if let Some(reload) = self.reload.as_ref().filter(|reload| reload.purpose != Purpose::Probe) {
            let ready = self.generations.get(&reload.number).map_or(0, |candidate| candidate.ready);
            if let Some(text) = self.canary_in_words() {
                return text;
            }
            let doing = match reload.stage {
                Stage::Preparing => "preparing".to_owned(),
                Stage::Probing => "probing".to_owned(),
                Stage::Starting if self.is_loading(reload.number) => "loading the application".to_owned(),
                Stage::Starting | Stage::Canary => match self.canary_size() {
                    Some(size) => format!("{ready}/{size} ready for the canary"),
                    None => format!("{ready}/{} ready", reload.target),
                },
                Stage::Probation => format!("{ready}/{} ready, on probation", reload.target),
            };
            return format!("reloading to {}: {doing}", self.named(reload.number));
        }
        let ready = || format!("{}/{} ready", self.ready(), self.target);
        let mut text = format!("{}: {}", self.named(self.current), self.idle_in_words().unwrap_or_else(ready));
        text += &self.ceiling_in_words();
        text += &self.hangs_in_words();
        if self.is_held_for_probe(self.current) {
            text += ", probing";
        }
        if self.is_loading(self.current) {
            text += ", loading the application";
        }
        if self.degraded() {
            text += ", degraded";
        }
        if self.watch_compares().is_some() {
            text += ", watched";
        }
        let fails = self.degraded || self.ready() < self.target && !self.idling.wants_no_workers();
        let failures = if fails { self.failures_in_words() } else { None };
        let preload = self.preload_failure().map(|why| format!("{why}; workers are started without it"));
        let reasons: Vec<String> = failures.into_iter().chain(self.fallback()).chain(preload).collect();
        if !reasons.is_empty() {
            text += ": ";
            text += &reasons.join("; ");
        }
        if self.release_of(self.current) != self.current {
            text += "; the configuration on disk does not run until the next reload";
        }
        if let Some(failure) = &self.failure_text {
            text += "; ";
            text += failure;
        }
        text
    }
}
