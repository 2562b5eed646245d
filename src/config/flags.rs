//! The keys of the file as flags of `ratoon run`. A flag is read exactly as its key, and wins over it, at every reload too.

use std::path::PathBuf;

use super::lists::{Assignment, FileOrNone};
use super::types::{Balance, Config, Details, MemoryCheck, Ready, Surge};
use super::values::{Count, Crashes, Files, Number, OrInfinity, OrOff, Requests, Size, Tasks, Time, TimeOrZero, Weight};
use super::words::{Account, Address, FilePath, HostName, Signal};

/// What the command line says over the file. For `#[command(flatten)]`.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Configuration, over the file's")]
pub struct Overrides {
    /// Number of workers [default: the CPUs that may be used]
    #[arg(long, visible_alias = "count", value_name = "N")]
    workers: Option<Count>,
    /// Directory in which workers run
    #[arg(long, value_name = "PATH")]
    directory: Option<FilePath>,
    /// Variable for workers, over every environment file; may be repeated
    #[arg(long = "env", visible_alias = "environment", value_name = "NAME=VALUE")]
    environment: Vec<Assignment>,
    /// File with variables for workers, read at each reload; may be repeated; with a leading - it may be missing
    #[arg(long, value_name = "PATH", allow_hyphen_values = true)]
    environment_file: Vec<FileOrNone>,
    /// What makes a worker ready: notify (it says READY=1) or running
    #[arg(long, value_name = "notify|running")]
    ready: Option<Ready>,
    /// With --ready=running, how long it must have lived [default: 1s]
    #[arg(long, value_name = "TIME")]
    settle: Option<TimeOrZero>,
    /// How long a worker may take to become ready [default: 10s]
    #[arg(long, value_name = "TIME")]
    start_timeout: Option<Time>,
    /// How long a worker may drain before SIGKILL [default: 30s]
    #[arg(long, value_name = "TIME")]
    stop_timeout: Option<Time>,
    /// Signal that asks a worker to drain [default: SIGTERM]
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<Signal>,
    /// How long a ready worker may be silent before it is replaced [default: off]
    #[arg(long, value_name = "TIME")]
    watchdog: Option<OrOff<Time>>,
    /// User of the workers
    #[arg(long)]
    user: Option<Account>,
    /// Group of the workers
    #[arg(long)]
    group: Option<Account>,
    /// Connections: all workers from one socket, or each slot from its own [default: shared]
    #[arg(long, value_name = "shared|per-slot")]
    balance: Option<Balance>,
    /// Memory of a worker beyond which it is killed
    #[arg(long, value_name = "SIZE")]
    memory_max: Option<OrInfinity<Size>>,
    /// Memory of a worker beyond which it is slowed down
    #[arg(long, value_name = "SIZE")]
    memory_high: Option<OrInfinity<Size>>,
    /// Processes and threads of a worker
    #[arg(long, value_name = "N")]
    tasks_max: Option<OrInfinity<Tasks>>,
    /// Share of the CPU of a worker, 1 to 10000
    #[arg(long, value_name = "N")]
    cpu_weight: Option<Weight>,
    /// Open files of a worker
    #[arg(long, value_name = "N")]
    nofile: Option<Files>,
    /// First delay after a crash [default: 100ms]
    #[arg(long, value_name = "TIME")]
    restart_initial: Option<Time>,
    /// Longest delay after a crash [default: 30s]
    #[arg(long, value_name = "TIME")]
    restart_max: Option<Time>,
    /// More crashes of one slot than this in --restart-interval make the pool degraded [default: 5]
    #[arg(long, value_name = "N")]
    restart_limit: Option<Crashes>,
    /// See --restart-limit [default: 1min]
    #[arg(long, value_name = "TIME")]
    restart_interval: Option<Time>,
    /// With no worker ready for so long, exit 1 [default: off]
    #[arg(long, visible_alias = "restart-give-up", value_name = "TIME")]
    give_up: Option<OrOff<Time>>,
    /// How many new workers may live beside the old at once, as a number or a percentage [default: 100%]
    #[arg(long, value_name = "N|N%")]
    surge: Option<Surge>,
    /// How long after a reload a crash still rolls it back [default: 0s]
    #[arg(long, value_name = "TIME")]
    probation: Option<TimeOrZero>,
    /// When a second generation would not fit into memory: warn, refuse or ignore [default: warn]
    #[arg(long, value_name = "warn|refuse|ignore")]
    reload_memory: Option<MemoryCheck>,
    /// Age at which a worker is replaced [default: off]
    #[arg(long, value_name = "TIME")]
    max_age: Option<OrOff<Time>>,
    /// Memory at which a worker is replaced [default: off]
    #[arg(long, value_name = "SIZE")]
    max_memory: Option<OrOff<Size>>,
    /// Requests after which a worker is replaced [default: off]
    #[arg(long, value_name = "N")]
    max_requests: Option<OrOff<Requests>>,
    /// Address of the read-only HTTP of the status
    #[arg(long, value_name = "ADDR")]
    status_listen: Option<Address>,
    /// Readers that see log lines, URLs, client addresses and info [default: trusted]
    #[arg(long, value_name = "trusted|everyone")]
    status_details: Option<Details>,
    /// Name that the status address answers for beside the machine's own; may be repeated
    #[arg(long = "status-host", visible_alias = "status-hosts", value_name = "NAME")]
    status_hosts: Vec<HostName>,
    /// The workers' program and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Overrides {
    /// No flag but this command.
    pub fn for_command(command: Vec<String>) -> Self {
        Self { command, ..Self::default() }
    }

    /// The command after `--`; empty without one.
    pub fn command(&self) -> &[String] {
        &self.command
    }

    /// Whether a command stands after `--`.
    pub fn has_command(&self) -> bool {
        !self.command.is_empty()
    }

    /// Puts what the flags say in the place of what stands in `config`.
    pub fn apply(&self, config: &mut Config) {
        /// Sets the field, if there is a flag.
        macro_rules! set {
            ($($flag:ident => $($field:ident).+ = $pattern:pat => $value:expr;)*) => {
                $(if let Some($pattern) = self.$flag.clone() { config.$($field).+ = $value; })*
            };
        }
        set! {
            workers => worker.count = Number(count) => u32::try_from(count).ok();
            directory => worker.directory = FilePath(path) => Some(path);
            ready => worker.ready = ready => ready;
            settle => worker.settle = TimeOrZero(time) => time;
            start_timeout => worker.start_timeout = Time(time) => time;
            stop_timeout => worker.stop_timeout = Time(time) => time;
            stop_signal => worker.stop_signal = Signal(signal) => signal;
            watchdog => worker.watchdog = OrOff(time) => time.map(|time| time.0);
            user => worker.user = Account(user) => Some(user);
            group => worker.group = Account(group) => Some(group);
            balance => worker.balance = balance => balance;
            memory_max => worker.limits.memory_max = OrInfinity(size) => size.map(|size| size.0);
            memory_high => worker.limits.memory_high = OrInfinity(size) => size.map(|size| size.0);
            tasks_max => worker.limits.tasks_max = OrInfinity(tasks) => tasks.map(|tasks| tasks.0);
            cpu_weight => worker.limits.cpu_weight = Number(weight) => Some(weight);
            nofile => worker.limits.nofile = Number(files) => Some(files);
            restart_initial => restart.initial = Time(time) => time;
            restart_max => restart.max = Time(time) => time;
            restart_limit => restart.limit = Number(limit) => u32::try_from(limit).unwrap_or(u32::MAX);
            restart_interval => restart.interval = Time(time) => time;
            give_up => restart.give_up = OrOff(time) => time.map(|time| time.0);
            surge => reload.surge = surge => surge;
            reload_memory => reload.memory = memory => memory;
            probation => reload.probation = TimeOrZero(time) => Some(time);
            max_age => recycle.max_age = OrOff(time) => time.map(|time| time.0);
            max_memory => recycle.max_memory = OrOff(size) => size.map(|size| size.0);
            max_requests => recycle.max_requests = OrOff(number) => number.map(|number| number.0);
            status_listen => status.listen = Address(address) => Some(address);
            status_details => status.details = details => details;
        }
        if self.has_command() {
            config.worker.command.clone_from(&self.command);
        }
        config.status.hosts.extend(self.status_hosts.iter().map(|name| name.0.clone()));
        let files = self.environment_file.iter().map(|file| file.0.clone());
        config.worker.environment_file.extend(files.collect::<Vec<PathBuf>>());
        let variables = self.environment.iter().map(|variable| (variable.0.clone(), variable.1.clone()));
        config.worker.environment_override.extend(variables);
    }
}
