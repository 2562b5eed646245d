//! The whole configuration: a struct for each table of `table.rs`, checked and in the unit that its user wants.

use serde::{Deserialize, Serialize};

use super::table::{Details, Hooks, Recycle, Reload, Restart, Status, Worker};

/// More workers than this are refused: a slip of the finger should not fork the machine to death.
pub const COUNT_MAX: u32 = 10_000;

/// Everything that a generation is started from, and how the master behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `[worker]`
    pub worker: Worker,
    /// `[restart]`
    pub restart: Restart,
    /// `[reload]`
    pub reload: Reload,
    /// `[hooks]`
    pub hooks: Hooks,
    /// `[recycle]`
    pub recycle: Recycle,
    /// `[status]`
    pub status: Status,
}

/// `reload.surge`: how many new workers may live beside the old at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surge {
    /// Of the number of workers; 1 to 100.
    Percent(u32),
    /// So many; at least 1.
    Count(u32),
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
    /// How many workers this configuration asks for: its number, or one a usable CPU.
    pub fn workers(&self) -> u32 {
        self.count.unwrap_or_else(usable_cpus)
    }
}

/// The CPUs that this process may use: its affinity mask and its cgroup's quota, at least 1.
pub fn usable_cpus() -> u32 {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cpus).unwrap_or(COUNT_MAX).clamp(1, COUNT_MAX)
}

/// As without the key `status.details`.
impl Default for Details {
    fn default() -> Self {
        Status::default().details
    }
}

/// As it is read: `"50%"` or a number.
impl Serialize for Surge {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Surge::Percent(percent) => serializer.collect_str(&format_args!("{percent}%")),
            Surge::Count(count) => serializer.serialize_u32(*count),
        }
    }
}

impl Surge {
    /// How many new workers may live beside the old when there are so many `workers`; at least 1, at most all.
    pub fn of(self, workers: u32) -> u32 {
        let surge = match self {
            Surge::Percent(percent) => (u64::from(workers) * u64::from(percent)).div_ceil(100),
            Surge::Count(count) => u64::from(count),
        };
        u32::try_from(surge).unwrap_or(u32::MAX).min(workers).max(1)
    }
}
