//! What a configuration is: one field a key of contract §3, checked and in the unit that its user wants.
//!
//! Law: a default stands here and nowhere else.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// More workers than this are refused: a slip of the finger should not fork the machine to death.
pub const COUNT_MAX: u32 = 10_000;

/// Everything that a generation is started from, and how the master behaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// `[worker]`: what a worker is, and how long it may take for what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Worker {
    /// The program and its arguments; never empty, no NUL in it.
    pub command: Vec<String>,
    /// Where it runs; resolved once a generation. `None`: `/` under systemd, else the current directory.
    pub directory: Option<PathBuf>,
    /// Added to the master's own environment; an environment file wins over it, as in systemd.
    pub environment: Vec<(String, String)>,
    /// As written, a leading `-` (the file may be missing) included; see [`Config::environment`].
    pub environment_file: Vec<PathBuf>,
    /// Set by flags: wins over both of the above.
    pub environment_override: Vec<(String, String)>,
    /// How many; `None`: as many as the master may use CPUs ([`Worker::workers`] gives the number either way).
    pub count: Option<u32>,
    /// What makes a worker ready. A master that knows less reads the state of an upgrade, too; what counts for the living workers is
    /// in the pool's part of it.
    #[serde(serialize_with = "readable_by_older_masters")]
    pub ready: Ready,
    /// With [`Ready::Running`]: how long it must have lived.
    pub settle: Duration,
    /// From its start to readiness; never zero.
    pub start_timeout: Duration,
    /// From the stop signal to SIGKILL; never zero.
    pub stop_timeout: Duration,
    /// The signal that starts the drain, as the kernel numbers it.
    pub stop_signal: i32,
    /// The longest silence of a ready worker.
    pub watchdog: Option<Duration>,
    /// A user's name or number.
    pub user: Option<String>,
    /// A group's name or number.
    pub group: Option<String>,
    /// `[worker.limits]`
    pub limits: Limits,
    /// How connections are spread over workers.
    pub balance: Balance,
}

/// `worker.ready`: what makes a worker ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ready {
    /// It said `READY=1` and accepts; or it accepts and was silent for `worker.settle`, if no worker of the committed generation said
    /// `READY=1`. Without listening sockets: it said `READY=1`.
    Auto,
    /// It said `READY=1`.
    Notify,
    /// It accepts on the listening sockets.
    Accepting,
    /// Its exec succeeded and it lived for `worker.settle`.
    Running,
}

fn readable_by_older_masters<S: serde::Serializer>(ready: &Ready, serializer: S) -> Result<S::Ok, S::Error> {
    match ready {
        Ready::Auto | Ready::Accepting | Ready::Notify => Ready::Notify,
        Ready::Running => Ready::Running,
    }
    .serialize(serializer)
}

/// `worker.balance`: how connections are spread over workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// All workers accept from one socket.
    Shared,
    /// A socket per slot (`SO_REUSEPORT`), held by the master.
    PerSlot,
}

/// `[worker.limits]`: a worker's own limits, `None` where there is none. The first four are its cgroup's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes; beyond them the kernel kills (`memory.max`).
    pub memory_max: Option<u64>,
    /// Bytes; beyond them the kernel slows down and reclaims (`memory.high`).
    pub memory_high: Option<u64>,
    /// Processes and threads (`pids.max`).
    pub tasks_max: Option<u64>,
    /// 1 to 10000, 100 is everybody's default (`cpu.weight`).
    pub cpu_weight: Option<u64>,
    /// Open files (`RLIMIT_NOFILE`, soft and hard).
    pub nofile: Option<u64>,
}

/// `[restart]`: what follows a crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Restart {
    /// The first delay.
    pub initial: Duration,
    /// The longest delay; never shorter than `initial`.
    pub max: Duration,
    /// More crashes of one slot than this in `interval` make the pool degraded.
    pub limit: u32,
    /// See `limit`.
    pub interval: Duration,
    /// With no worker ready for so long the master exits 1.
    pub give_up: Option<Duration>,
}

/// `[reload]`: how one generation follows another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reload {
    /// How many new workers may live beside the old.
    pub surge: Surge,
    /// How long after all are ready a crash still rolls back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probation: Option<Duration>,
    /// Run first, in the new release.
    pub check: Option<Vec<String>>,
    /// When a second generation would not fit into memory.
    pub memory: MemoryCheck,
}

/// `reload.memory`: what a reload does when a second generation would not fit into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryCheck {
    /// Says so and goes on.
    Warn,
    /// Refuses.
    Refuse,
    /// Does not look.
    Ignore,
}

/// `reload.surge`: how many new workers may live beside the old at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surge {
    /// Of the number of workers; 1 to 100.
    Percent(u32),
    /// So many; at least 1.
    Count(u32),
}

/// `[hooks]`: what the master runs beside its workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hooks {
    /// Before each reload; when it fails the reload is refused.
    pub before_reload: Option<Vec<String>>,
    /// Before the drain of everything.
    pub before_shutdown: Option<Vec<String>>,
    /// As whom both run: a user's name or number. `None`: the master's.
    pub user: Option<String>,
}

/// `[recycle]`: when a worker is replaced within its generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recycle {
    /// So long after its start.
    pub max_age: Option<Duration>,
    /// When it uses so many bytes.
    pub max_memory: Option<u64>,
    /// When it has served so many requests.
    pub max_requests: Option<u64>,
}

/// `[status]`: where the pool can be watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// `127.0.0.1:9090`, `[::]:9090` or `/run/x.sock`, for the read-only HTTP.
    pub listen: Option<String>,
    /// Which readers see log lines, URLs, client addresses and `info`.
    pub details: Details,
    /// Names that `status.listen` answers for beside the machine's own, in lower case, without a port.
    pub hosts: Vec<String>,
}

/// `status.details`: which readers see the details of the status document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Details {
    /// Those who may change the pool, the workers' user, and the groups adm and systemd-journal.
    #[default]
    Trusted,
    /// All.
    Everyone,
}

impl Config {
    /// The defaults, for this command.
    pub fn for_command(command: Vec<String>) -> Self {
        Self {
            worker: Worker {
                command,
                directory: None,
                environment: Vec::new(),
                environment_file: Vec::new(),
                environment_override: Vec::new(),
                count: None,
                ready: Ready::Auto,
                settle: Duration::from_secs(1),
                start_timeout: Duration::from_secs(10),
                stop_timeout: Duration::from_secs(30),
                stop_signal: libc::SIGTERM,
                watchdog: None,
                user: None,
                group: None,
                limits: Limits::default(),
                balance: Balance::Shared,
            },
            restart: Restart {
                initial: Duration::from_millis(100),
                max: Duration::from_secs(30),
                limit: 5,
                interval: Duration::from_secs(60),
                give_up: None,
            },
            reload: Reload { surge: Surge::Percent(100), probation: None, check: None, memory: MemoryCheck::Warn },
            hooks: Hooks::default(),
            recycle: Recycle::default(),
            status: Status::default(),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::for_command(Vec::new())
    }
}

impl Default for Worker {
    fn default() -> Self {
        Config::default().worker
    }
}

impl Default for Restart {
    fn default() -> Self {
        Config::default().restart
    }
}

impl Default for Reload {
    fn default() -> Self {
        Config::default().reload
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
