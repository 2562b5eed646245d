//! The one table of keys: name, type, default, flag, names in other programs, and doc text. A reload applies a change of any key.
//!
//! The structs, their defaults, the reader of the file, the flags of `ratoon run`, the suggestions for unknown keys, the
//! JSON Schema, the example and the lists of the manual pages come from it. Law: a default stands here and nowhere else.

use std::path::PathBuf;
use std::time::Duration;

use super::canary::{Factor, Ratio, Step, StepTime, WatchTime};
use super::choices::{Adapter, Balance, Cpus, Details, Fallback, MemoryCheck, Ready, Stdin};
use super::lists::{Argv, Assignment, FileOrNone, OneOrMore, Variables};
use super::probe::{Probe, StatusRange};
use super::row::tables;
use super::types::{Surge, Watch};
use super::values::{
    Count, Crashes, Files, Kept, Least, OrInfinity, OrOff, Percentage, Requests, Size, Tasks, Time, TimeOrZero, Weight,
};
use super::words::{Account, Address, FilePath, HostName, Signal};

tables! {
    /// What a worker is, and how long it may take for what.
    "worker" => Worker at worker {
        /// The program and its arguments, one word an element; no shell reads it.
        /// A program without a slash is looked up in the master's `PATH`, and nowhere else; one with a slash is relative to
        /// `directory`.
        /// In the arguments, `$RATOON_SLOT`, `$RATOON_WORKER` and `$RATOON_GENERATION` are replaced by the numbers of the worker; braces
        /// are allowed, as in `${RATOON_SLOT}`. `$$RATOON_SLOT` becomes `$RATOON_SLOT`. Every other dollar stays as it is.
        /// The only key that must be there. See USERS in `ratoon.toml(5)` for as whom it runs.
        command: Vec<String> as Argv, none "must be there", example r#"["/usr/bin/my-server", "--listen-fd", "3"]"#,
            also "cmd exec program execstart";
        /// Directory in which workers run.
        /// A symlink such as `current` is followed once at each reload: workers that crash later start again from where it
        /// led to then.
        /// A release is pinned: a worker that fails is replaced from the release of its own generation. That holds exactly
        /// where each release has a directory of its own and a symlink moves: program, script, interpreter and the
        /// directories of `PATH` are resolved once per generation. Where files are replaced in the directory itself, the
        /// program and the text of a script stay the old ones, but what a script loads (modules, libraries, templates) is
        /// what is there by then; the log names such files when a worker fails.
        directory: Option<PathBuf> as FilePath, none "`/` under systemd, else the directory of the master",
            example r#""/srv/web/current""#, flag("directory PATH"), also "cwd chdir workingdirectory";
        /// Variables for workers, added to the master's own: a table, or a list of `"NAME=value"`.
        /// A flag wins over every environment file.
        /// `$RATOON_SLOT`, `$RATOON_WORKER` and `$RATOON_GENERATION` are replaced in the values as in `command`, but not for hooks and
        /// `reload.check`, which run for no worker, and not in environment files.
        environment: Vec<(String, String)> as Variables, none "none",
            example r#"{ RUST_LOG = "info", DATABASE_URL = "postgres:///web" }"#,
            flag("env|environment NAME=VALUE", Assignment => environment_override), also "env";
        /// Files with variables for workers, read at each reload; with a leading - a file may be missing.
        /// One path or a list; lines `NAME=value`, as `EnvironmentFile=` of `systemd.exec(5)`.
        /// They win over `environment`, later ones over earlier ones.
        environment_file: Vec<PathBuf> as OneOrMore<FileOrNone>, none "none", example r#"["/etc/default/web", "-/etc/default/web.local"]"#,
            flag("environment-file PATH", FileOrNone => environment_file), also "envfile";
        /// Number of workers, at most 10000.
        /// With `min` or `max` the number at the start, which must lie between them.
        count: Option<u32> as Count, none "the number of CPUs that the master may use, within `min` and `max`", example "4",
            flag("workers|count N"), also "workers processes instances numworkers";
        /// Least number of workers: between `min` and `max` the load decides, by `[scale]`.
        /// Without `max` the largest number is `count`. See ELASTIC POOLS in `ratoon.toml(5)`.
        /// `0`: without a connection for `scale.idle` no worker is left, and the first connection starts one.
        /// That connection waits in the kernel's queue until the worker is ready; the other workers follow. The status says `idle`, `/readyz` answers
        /// 200. A start and each reload still start all workers, so that a release is proved before it counts. With `max` the load decides between 1 and
        /// `max` while there are connections. See ZERO WORKERS in `ratoon.toml(5)`.
        min: Option<u32> as Least, none "`worker.count`", example "2", flag("min N"), also "minworkers minspareservers cheaper";
        /// Largest number of workers; without `min` the least number is `count`.
        max: Option<u32> as Count, none "`worker.count`", example "16", flag("max N"), also "maxworkers maxchildren";
        /// The condition on which a worker counts as ready: `"auto"`, `"accepting"`, `"notify"` or `"running"`.
        /// `"auto"`: it says `READY=1`, see `ratoon-worker(7)`, and accepts connections; or it has accepted for `settle` without a
        /// word, if no worker of the committed generation said `READY=1`. Without listening sockets it is `"notify"`.
        /// `"accepting"`: it accepts. `"notify"`: it says `READY=1`. `"running"`: it has lived for `settle`.
        /// See READINESS in `ratoon.toml(5)` for how accepting is seen from outside.
        ready: Ready as Ready, default r#""auto""#, flag("ready");
        /// The adapter that makes an unmodified server a worker: `"auto"`, `"node"`, `"asgi"`, `"rack"`, `"bind"` or `"none"`.
        /// With it the server takes the listening sockets, says `READY=1` and drains without losing a request. What the adapter needs is
        /// appended to the variables of the workers.
        /// `"node"`: `app.listen(3000)` of http, http2, Express and others takes the socket (`NODE_OPTIONS`).
        /// `"asgi"`: uvicorn and hypercorn are started as `python -m ratoon.asgi`, gunicorn gets a configuration that says
        /// `READY=1` when the application is loaded (`PYTHONPATH`, `GUNICORN_CMD_ARGS`). `"rack"`: Puma (`RUBYLIB`, `RUBYOPT`).
        /// `"bind"`: any dynamically linked program that binds the address of a listening socket itself gets that socket
        /// (`LD_PRELOAD`); Java, PHP, Apache. `"auto"` is `"node"` if the command is Node.js or a script of it such as npm, and the
        /// instance has a listening socket; else none. See ADAPTERS in `ratoon.toml(5)`.
        adapter: Adapter as Adapter, default r#""auto""#, flag("adapter");
        /// The library of the adapter `"bind"`, where it is not that of the package.
        /// It may not be below `/run`, which may be mounted noexec, and its path cannot hold a space or a colon.
        adapter_library: Option<PathBuf> as FilePath, none "`libratoon_bind.so` in `../lib/ratoon` from the program's directory, or beside it",
            example r#""/usr/local/lib/libratoon_bind.so""#, flag("adapter-library PATH");
        /// A program that loads the application once per generation; the workers are forked from it.
        /// The memory that it has filled is shared by all workers of the generation until they write to it. It says `READY=1` when it can
        /// fork; each worker is `command` in a fork of it: see PRELOAD in `ratoon-worker(7)` for its protocol, and `ratoon.preload` of the
        /// Python library for a program that speaks it. It has no listening socket, and it runs as the workers do, with their limits.
        /// The preload process is the startup test of a reload: if it is not ready within `start_timeout`, the reload is rolled back before any worker starts.
        /// A worker that fails is forked again. When the program itself has ended, its workers go on, and the next start of a worker starts
        /// it again, from the same release.
        preload: Option<Vec<String>> as Argv, none "none", example r#"["venv/bin/python", "-m", "ratoon.preload", "app"]"#;
        /// Whether workers are started by `command` directly when the program of `preload` does not get ready.
        /// The pool is degraded then, and says why, until the next reload. A reload whose program does not get ready is rolled back either way.
        preload_fallback: bool as bool, default "true", example "false", flag("preload-fallback");
        /// With `ready = "running"`, how long a worker must have lived; with `"auto"`, how long it must have accepted in silence.
        settle: Duration as TimeOrZero, default r#""1s""#, flag("settle TIME");
        /// How long a worker may take from its start to readiness.
        /// Then it is killed, and a reload is rolled back. A worker that needs longer says `EXTEND_TIMEOUT_USEC=`.
        start_timeout: Duration as Time, default r#""10s""#, flag("start-timeout TIME"), also "timeoutstartsec";
        /// How long a worker may take to end after the stop signal.
        /// Then all of the worker's processes are killed. A worker that needs longer says `EXTEND_TIMEOUT_USEC=`.
        /// The signal goes to the main process. When that has ended, other processes of the worker that hold a listening
        /// socket or an accepted connection get the signal one second later (a wrapper that does not `exec` its server has
        /// not passed it on), and what serves nothing is killed one second after the last of them is gone.
        stop_timeout: Duration as Time, default r#""30s""#, flag("stop-timeout TIME"),
            also "timeoutstopsec gracefultimeout killtimeout";
        /// The signal that asks a worker to finish what it does and leave.
        stop_signal: i32 as Signal, default r#""SIGTERM""#, flag("stop-signal SIGNAL"), also "killsignal";
        /// How long a ready worker may send no `WATCHDOG=1`.
        /// Then it gets SIGABRT, then SIGKILL, and is replaced.
        watchdog: Option<Duration> as OrOff<Time>, default r#""off""#, example r#""30s""#, flag("watchdog TIME"),
            also "watchdogsec";
        /// As whom workers run: a name, or a number; only a master that runs as root can change it.
        /// Group and supplementary groups are those of the account, unless `group` is set; a user number without an account
        /// needs `group`. With `user`, workers get `HOME`, `USER`, `LOGNAME` and `SHELL` of that account, unless `environment`
        /// or `environment_file` sets them.
        user: Option<String> as Account, none "the master's user", example r#""www-data""#, flag("user USER");
        /// Group of the workers; only a master that runs as root can change it.
        group: Option<String> as Account, none "the master's", example r#""www-data""#, flag("group GROUP");
        /// How connections are spread: `"shared"`, all workers accept from one socket, or `"per-slot"`.
        /// With `"per-slot"` there is at each TCP address a socket for each slot, so that connections are spread evenly; a
        /// socket unit needs `ReusePort=yes` for it. See BALANCE in `ratoon.toml(5)`.
        balance: Balance as Balance, default r#""shared""#, flag("balance");
        /// With `balance = "per-slot"`, the age of a request from which its worker hangs, so that new connections go to others.
        /// A worker that is stopped, or takes nothing from its queue while other queues are empty, hangs too. Connections that have waited
        /// in its queue for this time are served by another worker. `"off"`: each slot gets its connections whatever its worker does. See BALANCE in `ratoon.toml(5)`.
        balance_hung: Option<Duration> as OrOff<Time>, default r#""10s""#, example r#""5s""#, flag("balance-hung TIME");
        /// The CPUs that a worker may use: `"off"`, all that the master may use, or `"auto"`, those of its slot.
        /// With `"auto"` the CPUs are divided among `count` (or `max`) slots: each slot has some of its own, or, when there are more
        /// slots than CPUs, one that it shares with other slots. Set by `sched_setaffinity(2)` before the program is executed, or when a preload
        /// process has forked the worker; its threads and processes inherit it, and may change it. See `taskset(1)`.
        cpus: Cpus as Cpus, default r#""off""#, flag("cpus");
        /// Standard input of the workers: `"null"` is `/dev/null`, `"socket"` the first listening socket.
        /// The socket is descriptor 3, too. `"socket"` is for programs that expect it as `StandardInput=socket` of
        /// `systemd.exec(5)` passes it, such as Java's `System.inheritedChannel()`. Without a listening socket it is an error.
        stdin: Stdin as Stdin, default r#""null""#, flag("stdin"), also "standardinput";
        /// Whether the listening sockets are made non-blocking (`O_NONBLOCK`) before a worker starts.
        /// `true` is for servers that expect it, such as nginx. The flag belongs to the socket, which the workers of all
        /// generations share: the workers of the old generation get it, too, when a reload starts the new ones. If that reload is
        /// rolled back, the flag is cleared where it was set for it. `false` leaves the flag as it is: it stays after a commit,
        /// and where a worker or `NonBlocking=yes` of the unit has set it.
        nonblocking: bool as bool, default "false", example "true", flag("nonblocking");
    } with {
        /// `[worker.limits]`
        limits: Limits;
        /// Variables of the flags, which win over `environment` and `environment_file`.
        environment_override: Vec<(String, String)>;
    }

    /// Limits of each worker; by default there are none.
    /// The first four need a control group that was delegated to the master (`Delegate=yes`, as in the unit) and its
    /// controllers; a limit that is not applied for want of them is named in the log, in the answer to a reload and in `STATUS=`.
    "worker.limits" => Limits at worker.limits {
        /// Memory of a worker beyond which the kernel kills (`memory.max`); `"infinity"` lifts it.
        memory_max: Option<u64> as OrInfinity<Size>, none "no limit", example r#""512M""#, flag("memory-max SIZE"),
            also "memorylimit";
        /// Memory of a worker beyond which the kernel slows down and reclaims (`memory.high`); `"infinity"` lifts it.
        memory_high: Option<u64> as OrInfinity<Size>, none "no limit", example r#""400M""#, flag("memory-high SIZE");
        /// Processes and threads of a worker (`pids.max`); `"infinity"` lifts it.
        tasks_max: Option<u64> as OrInfinity<Tasks>, none "no limit", example "200", flag("tasks-max N");
        /// Share of the CPU of a worker, 1 to 10000 (`cpu.weight`); everybody's default is 100.
        cpu_weight: Option<u64> as Weight, none "the kernel's", example "100", flag("cpu-weight N"), also "cpushares";
        /// Open files of a worker (`RLIMIT_NOFILE`, soft and hard).
        nofile: Option<u64> as Files, none "the master's", example "65536", flag("nofile N"), also "limitnofile";
    }

    /// When workers start and leave without having been asked to: by the load, between `worker.min` and `worker.max`, or for want of connections.
    "scale" => Scale at scale {
        /// Share of busy workers at which their number is right.
        /// A busy worker has a request in work, by its status page. Where a worker has several at once, or one has no status page, the CPU
        /// time of the workers against the time that has passed is the share; without that, the workers with an open connection.
        target: u32 as Percentage, default r#""70%""#, flag("scale-target N%");
        /// How long more workers must be needed, or connections wait, before a step up.
        up_after: Duration as Time, default r#""2s""#, flag("scale-up-after TIME");
        /// How long fewer workers would have done before a step down.
        down_after: Duration as Time, default r#""2min""#, flag("scale-down-after TIME"), also "processidletimeout";
        /// The largest step: a share of the workers (`"25%"`), or a number.
        step: Surge as Surge, default r#""25%""#, flag("scale-step N|N%"), also "cheaperstep";
        /// With `worker.min = 0`, how long without a connection until no worker is left.
        idle: Duration as Time, default r#""10min""#, flag("idle TIME"), also "idletimeout";
    }

    /// What follows a crash: a delay for each slot that doubles, with jitter, from `initial` to `max`, and begins anew
    /// after the worker was ready for `max`.
    "restart" => Restart at restart {
        /// First delay after a crash.
        initial: Duration as Time, default r#""100ms""#, flag("restart-initial TIME"), also "restartsec";
        /// Longest delay after a crash.
        max: Duration as Time, default r#""30s""#, flag("restart-max TIME"), also "restartmaxdelaysec";
        /// More crashes of one slot than this in `restart.interval` make the pool *degraded*.
        /// It says so; that slot is restarted after `max`. While no worker is ready, one slot is restarted each
        /// second, whatever the delays are.
        limit: u32 as Crashes, default "5", flag("restart-limit N"), also "startlimitburst";
        /// The time in which `restart.limit` counts crashes.
        interval: Duration as Time, default r#""1min""#, flag("restart-interval TIME"), also "startlimitintervalsec";
        /// With no worker ready for this long, the master exits 1.
        give_up: Option<Duration> as OrOff<Time>, default r#""off""#, example r#""10min""#,
            flag("give-up|restart-give-up TIME");
    }

    /// How one generation follows another.
    "reload" => Reload at reload {
        /// How many new workers may live beside the old ones at once: a share of them (`"50%"`), or a number.
        /// `1` replaces one by one.
        surge: Surge as Surge, default r#""100%""#, flag("surge N|N%"), also "maxsurge";
        /// How long after all new workers are ready a crash of one still rolls the reload back.
        probation: Option<Duration> as TimeOrZero, none "`\"0s\"` if every worker said `READY=1` and was seen to accept (with \
            `ready = \"notify\"`: if every worker said `READY=1`), else `\"3s\"`", example r#""3s""#, flag("probation TIME");
        /// A command, as in `worker.command`, run first, in the new release and as the worker's user.
        /// When it fails, the reload is refused with what it printed.
        check: Option<Vec<String>> as Argv, none "none", example r#"["/usr/bin/my-server", "--check"]"#;
        /// What to do when new workers would not fit into memory beside the old ones: `"warn"`, `"refuse"` or `"ignore"`.
        /// `"warn"` says so in the log and in the answer, `"refuse"` refuses the reload, `"ignore"` does not look. How many
        /// live at once, `surge` says. A new worker counts as much as a present one has on average: anonymous memory and
        /// its share of shared memory, without mapped files.
        memory: MemoryCheck as MemoryCheck, default r#""warn""#, flag("reload-memory");
        /// A command, run as hooks are, after a reload that was not committed; its standard input is the outcome as JSON.
        /// `generation`, `result`, `reason`, `detail`, `output`, and `serving`: the generation and the directory that serve. A script can put
        /// its symlink back with that. When it fails, that is logged.
        on_rollback: Option<Vec<String>> as Argv, none "none", example r#"["/usr/local/bin/put-the-symlink-back"]"#;
        /// Committed releases that stay pinned for `ratoon undo`, the one that serves included.
        keep: u32 as Kept, default "3", flag("keep N");
        /// What one worker of the new release must answer before its generation starts: `"GET /path"` or `"connect"`.
        /// The worker is started on private sockets that no client can reach, one for each listening socket, of the same
        /// family and type and in the same place, with `RATOON_PROBE=1`. It must get ready, answer, and end at its stop
        /// signal; else the reload is refused, and a first start ends after three tries. `GET` is plain HTTP/1.1 to the
        /// first stream socket. What speaks TLS or the PROXY protocol uses `"connect"`: the worker must accept a
        /// connection. With datagram sockets alone the worker must only get ready.
        probe: Option<Probe> as Probe, none "none", example r#""GET /up""#, flag("probe 'GET PATH'|connect");
        /// Status codes of the answer to `GET` that pass.
        probe_status: StatusRange as StatusRange, default r#""200-399""#, flag("probe-status CODE|FROM-TO");
        /// Time for the answer, from the worker's readiness.
        probe_timeout: Duration as Time, default r#""10s""#, flag("probe-timeout TIME");
        /// The header `Host` of the request.
        probe_host: String as HostName, default r#""localhost""#, flag("probe-host NAME");
        /// The canary: how many workers of a new generation run beside the whole old one in each step, as a number or a share.
        /// No old worker is touched before the last step. Each step begins when its workers are ready. What fails meanwhile
        /// rolls the reload back. A step with all workers commits; without one, the rest follows the last step. `ratoon undo`
        /// has no canary. With `worker.balance = "per-slot"` a step of N workers gets N parts of the new connections beside one for each old
        /// worker, and a step with a share exactly that share, on sockets of its own; where these cannot be made, the reload is
        /// refused. Otherwise the kernel decides which share the first workers get. STATUS shows the counted one.
        steps: Vec<Surge> as OneOrMore<Step>, none "none", example r#"["1", "25%", "100%"]"#, flag("step|steps N|N%", Step => steps);
        /// How long each step waits, or `"manual"`: until `ratoon promote`.
        step_time: Option<Duration> as StepTime, default r#""30s""#, flag("step-time TIME|manual");
        /// How long a step with `step_time = "manual"` waits; then the reload is rolled back.
        promote_timeout: Duration as Time, default r#""1h""#, flag("promote-timeout TIME");
        /// A command, run as hooks are, at the end of each step; its standard input is what both generations have counted, as JSON.
        /// `generation`, `step`, and `old` and `new` with `generation`, `requests`, `failed` and `answer_usec`. With exit status 0 the reload goes on,
        /// with 1 it is rolled back; anything else, and more than 60 s, is asked again twice and then rolled back, too. What `[reload.judge]`
        /// has found to fail is rolled back without asking, and `ratoon promote` goes on without asking.
        judge_command: Option<Vec<String>> as Argv, none "none", example r#"["/usr/local/bin/ask-the-metrics"]"#;
        /// The watch: for this time after the commit of a reload its generation is compared with the one before by the limits of
        /// `[reload.judge]`, and the pool goes back to the release before by itself (`ratoon undo`) when the new one fails more
        /// often, or when it is degraded. What the former workers have counted in their lives is the measure. Also without
        /// this key a reload is undone when every slot fails within 30 s of the commit (a single worker that somebody kills by SIGKILL:
        /// twice); `"off"` turns that off. An undo is not watched. `reload.on_rollback` runs, and the result of the reload is `undone` from then on.
        watch: Watch as WatchTime, none "every slot fails within 30 s", example r#""5min""#, flag("watch TIME|off");
    }
    with {
        /// `[reload.judge]`
        judge: Judge;
    }

    /// When a canary or a watched generation fails: its requests against those of the old one over the same time.
    /// Failed requests are the counters `responses_5xx` and `errors`, which the worker libraries count by themselves;
    /// others send them with `X_RATOON_COUNTERS=`. Workers that tell neither are not judged.
    "reload.judge" => Judge at reload.judge {
        /// By how much the ratio of failed requests may be larger. The lower bound of the difference, at 99 %, counts.
        error_ratio: u32 as Ratio, default r#""1%""#, flag("judge-error-ratio N%");
        /// Requests that the new workers must have had in a step; with fewer there is no verdict, which the log says.
        min_requests: u64 as Requests, default "50", flag("judge-min-requests N");
        /// By which factor answers may take longer, or `"off"`: the geometric mean of the times from a request to the head of its answer. The
        /// lower bound, at 99 %, counts, at the end of a step or of the watch, and less than 1 ms more never; both generations need `min_requests` answers. The worker
        /// libraries take the times; without them there is no verdict by time, which the log says.
        latency_ratio: Option<u32> as Factor, default "2.0", flag("judge-latency-ratio N|off");
    }

    /// The first start of an instance.
    "start" => Start at start {
        /// The release that runs when the one on disk does not come up at a start, as after a reboot: `"last-good"` or `"none"`.
        /// `"last-good"`: the newest committed release that still exists and whose program is unchanged. The pool is degraded
        /// then, and says why, until another release is committed. With `"none"` the start fails. The master records the
        /// releases in the directory of `StateDirectory=`; without one there is no last good release after its end. A
        /// configuration that cannot be read gets no fallback: the workers' user, limits and environment stand in it alone
        /// and are not recorded, and a release must not run without them.
        fallback: Fallback as Fallback, default r#""last-good""#, flag("start-fallback");
    }

    /// Commands, run by the master in `worker.directory`; programs are looked up as for `worker.command`.
    /// As root a hook is refused when another user may change the program, see USERS in `ratoon.toml(5)`.
    "hooks" => Hooks at hooks {
        /// Run at the beginning of each reload; when it fails, the reload is refused.
        before_reload: Option<Vec<String>> as Argv, none "none", example r#"["/usr/local/bin/warm-the-cache"]"#;
        /// Run before all workers drain because the master was told to end.
        before_shutdown: Option<Vec<String>> as Argv, none "none", example r#"["/usr/local/bin/tell-the-balancer", "down"]"#;
        /// As whom hooks run; only a master that runs as root can change it.
        user: Option<String> as Account, none "the master's user", example r#""web""#;
    }

    /// When a worker is replaced by a new one of the same generation, one at a time, each limit with jitter.
    "recycle" => Recycle at recycle {
        /// Age at which a worker is replaced.
        max_age: Option<Duration> as OrOff<Time>, default r#""off""#, example r#""1d""#, flag("max-age TIME"),
            also "runtimemaxsec";
        /// Memory at which a worker is replaced; looked at every 5 seconds.
        max_memory: Option<u64> as OrOff<Size>, default r#""off""#, example r#""300M""#, flag("max-memory SIZE");
        /// Requests after which a worker is replaced.
        /// They are counted by its status page or its `X_RATOON_COUNTERS=`; a worker that tells neither is not recycled.
        max_requests: Option<u64> as OrOff<Requests>, default r#""off""#, example "100000", flag("max-requests N"),
            also "maxrequestsperchild";
    }

    /// Where the pool can be watched.
    "status" => Status at status {
        /// Address for read-only HTTP, `"127.0.0.1:9090"` or `"/run/x.sock"`.
        /// It serves a live page, `/status`, `/metrics`, `/healthz` and `/readyz`: see `ratoon(1)`. Whoever reaches it may read.
        /// A TCP address answers only requests for an address literal, `localhost`, the names of this machine and those of
        /// `hosts`, so that no page of another site can read it through a browser; others get 421.
        /// A reload applies another address once it is committed; connections to the earlier one end then. Where the new
        /// address cannot be bound, the reload goes on with a warning and the earlier address stays.
        listen: Option<String> as Address, none "none", example r#""127.0.0.1:9090""#, flag("status-listen ADDR");
        /// Which readers see log lines, URLs, client addresses and info: `"trusted"` ones, or `"everyone"`.
        /// Trusted are those who may change the pool, the users of the workers, and members of the groups `adm` and
        /// `systemd-journal`, on the control socket, on D-Bus, and on `listen` when that is a Unix socket. Others get the
        /// document with `null` or `[]` there, and `details_hidden`.
        details: Details as Details, default r#""trusted""#, flag("status-details");
        /// Names of hosts for which `listen` answers beside the machine's own, such as that of a proxy.
        hosts: Vec<String> as OneOrMore<HostName>, none "none", example r#"["status.example.org"]"#,
            flag("status-host|status-hosts NAME", HostName => hosts);
    }
}
