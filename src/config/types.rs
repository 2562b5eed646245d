//! The whole configuration: a struct for each table of `table.rs`, with values that are checked and in the unit that the code uses.

use serde::{Deserialize, Serialize};

use super::choices::Details;
use super::table::{Hooks, Recycle, Reload, Restart, Scale, Start, Status, Worker};

/// Largest number of workers. More are refused, because a typing error should not exhaust the machine.
pub const COUNT_MAX: u32 = 10_000;

/// The settings that a generation is started from, and those of the master.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `[worker]`
    pub worker: Worker,
    /// `[restart]`
    pub restart: Restart,
    /// `[scale]`
    pub scale: Scale,
    /// `[reload]`
    pub reload: Reload,
    /// `[start]`
    pub start: Start,
    /// `[hooks]`
    pub hooks: Hooks,
    /// `[recycle]`
    pub recycle: Recycle,
    /// `[status]`
    pub status: Status,
}

/// `reload.surge`: how many new workers may live beside the old ones at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surge {
    /// A percentage of the number of workers, 1 to 100.
    Percent(u32),
    /// A number of workers, at least 1.
    Count(u32),
}

/// `reload.watch`: how long a committed generation is compared with the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Watch {
    /// Not set: only failures of every slot soon after the commit undo a reload.
    #[default]
    Unset,
    /// `"off"`: nothing undoes a committed reload.
    Off,
    /// The time of the comparison.
    For(std::time::Duration),
}

impl Config {
    /// The defaults, for this command.
    pub fn for_command(command: Vec<String>) -> Self {
        let mut config = Self::default();
        config.worker.command = command;
        config
    }
}

impl Worker {
    /// The number of workers that this configuration starts with: `worker.count`, or one per usable CPU within [`Self::bounds`].
    pub fn workers(&self) -> u32 {
        let (min, max) = self.bounds();
        self.count.unwrap_or_else(usable_cpus).max(min).min(max)
    }

    /// The least and the largest number of workers: `worker.min` and `worker.max`. The one that is not set is `worker.count`, or one per
    /// usable CPU, and at least the other one fits to it. A minimum of 0 is not that of the load: it is 1, or without a maximum `worker.count`.
    pub fn bounds(&self) -> (u32, u32) {
        let count = self.count.unwrap_or_else(usable_cpus);
        let max = self.max.unwrap_or(count.max(self.min.unwrap_or(0)));
        match (self.min, self.max) {
            // `worker.count` workers, or none for want of connections.
            (Some(0), None) => (count, count),
            // Zero for want of connections; the load decides between 1 and the maximum.
            (Some(0), Some(_)) => (1, max),
            (min, _) => (min.unwrap_or(count.min(max)), max),
        }
    }
}

/// The number of CPUs that this process may use, by its affinity mask and its cgroup's quota; at least 1.
pub fn usable_cpus() -> u32 {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cpus).unwrap_or(COUNT_MAX).clamp(1, COUNT_MAX)
}

/// The default of the key `status.details`.
impl Default for Details {
    fn default() -> Self {
        Status::default().details
    }
}

/// Written as it is read: `"50%"` or a number.
impl Serialize for Surge {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Surge::Percent(_) => serializer.collect_str(self),
            Surge::Count(count) => serializer.serialize_u32(*count),
        }
    }
}

impl std::fmt::Display for Surge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Surge::Percent(percent) => write!(f, "{percent}%"),
            Surge::Count(count) => write!(f, "{count}"),
        }
    }
}

impl Surge {
    /// How many new workers may live beside this number of old `workers`; at least 1, at most `workers`.
    pub fn of(self, workers: u32) -> u32 {
        let surge = match self {
            Surge::Percent(percent) => (u64::from(workers) * u64::from(percent)).div_ceil(100),
            Surge::Count(count) => u64::from(count),
        };
        u32::try_from(surge).unwrap_or(u32::MAX).min(workers).max(1)
    }
}
