//! Startup, from the command line to the running loop: everything that is done once.
//!
//! Law: the master does without what is absent (systemd, D-Bus, root, control groups) and logs that once. What is wrong is
//! reported with its hint, and the exit status is 1 (2 if no valid instance name is given).

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::config::{Fallback, Overrides};
use crate::control::listen::Control;
use crate::control::paths::{self, Env};
use crate::master::assemble::Parts;
use crate::master::fronts::{self, Fronts};
use crate::master::listeners::sockets::{self, Inherited, Listener};
use crate::master::log::journal::{self, Journal, Level, Record};
use crate::master::origin::{First, Origin, Start};
use crate::master::output::{Mode, RelayState};
use crate::master::releases::last_good::{self, LastGood};
use crate::master::releases::prepare::{self, InstanceContext, Prepared, Source};
use crate::master::service_manager::systemd::Systemd;
use crate::master::signals::SIGNALS;
use crate::master::state::fds::Incoming;
use crate::master::status::troubles::Troubles;
use crate::master::tasks::Job;
use crate::master::terminal::Terminal;
use crate::master::upgrade::replace::{self, Left};
use crate::master::upgrade::resume::{self, NoOrigin};
use crate::master::upgrade::store;
use crate::master::upgrade::unknown_workers::UnknownWorkers;
use crate::master::workers::cgroup::Cgroups;
use crate::master::{End, Master};
use crate::pool::Purpose;
use crate::sys::signals;
use crate::sys::spawn::ErrorPipe;
use crate::sys::{fd, heap, process, spawn, thread};

/// Time that the log, and the workers' last output, each may take to be written at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The variable that says how the master makes its children.
const SPAWN: &str = "RATOON_SPAWN";

/// Options of `ratoon run`.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// The instance's name.
    pub name: Option<String>,
    /// Sockets to bind when systemd passes none.
    pub listen: Vec<String>,
    /// Only probe the release, and end.
    pub probe_only: bool,
    /// Configuration keys given as flags, and the command.
    pub flags: Overrides,
}

/// Runs an instance until it ends.
pub fn run(options: Options) -> ExitCode {
    heap::tune_malloc();
    // Before any descriptor is opened and before any thread is started: threads inherit the signal mask.
    let left = replace::left();
    fd::make_room();
    // A master that replaced its program has blocked all signals, so that none is lost; in other cases any mask may be inherited.
    if let Err(error) = signals::only(&SIGNALS) {
        eprintln!("ratoon: cannot block signals: {error}");
        return ExitCode::FAILURE;
    }
    let terminal = Terminal::at_start(signals::reset_ignored(signals::settable()).contains(&libc::SIGHUP));
    let name = match instance_name(&options) {
        Ok(name) => name,
        Err(why) => {
            eprintln!("ratoon: {why}");
            return ExitCode::from(2);
        }
    };
    let journal = journal::start(&name);
    // The kernel makes orphans children of the first thread. The loop runs on another thread, so that the first one's children are
    // orphans alone and are found at once. After an upgrade the first thread is the one that has started the workers: it must be the
    // one that calls execve(2) again, for the kernel sends the children of a thread that ends their PR_SET_PDEATHSIG.
    let result = match left {
        None => thread::aside("ratoon-loop", || begin(options, &name, &journal, None, terminal)),
        left => begin(options, &name, &journal, left, terminal),
    };
    let code = match result {
        Ok(code) => code,
        Err(why) => {
            journal.log(Record::new(Level::Error, why));
            1
        }
    };
    journal.close(FLUSH_TIMEOUT);
    ExitCode::from(code)
}

/// The instance's name: `--name`, else the configuration's file name without its extension, else the program's.
fn instance_name(options: &Options) -> Result<String, String> {
    let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let program = || options.flags.command().first().and_then(|program| stem(Path::new(program)));
    let name = options.name.clone().or_else(|| options.config.as_deref().and_then(stem)).or_else(program);
    let name =
        name.ok_or("nothing to run: name a configuration (--config FILE), an instance (--name NAME), or a command after --")?;
    paths::check_name(&name)?;
    Ok(name)
}

fn source(options: &Options, name: &str, under_systemd: bool) -> Source {
    let file = options.config.clone().or_else(|| {
        let default = PathBuf::from(format!("/etc/ratoon/{name}.toml"));
        (!options.flags.has_command()).then_some(default)
    });
    // A reload reads the file again, when the master may have another working directory.
    let file = file.map(|file| std::path::absolute(&file).unwrap_or(file));
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    Source {
        file,
        flags: options.flags.clone(),
        directory: if under_systemd { PathBuf::from("/") } else { here },
        recorded: None,
    }
}

/// Whether children shall be copies of the master. `value`: that of [`SPAWN`].
fn copies_are_wanted(value: Option<OsString>) -> Result<bool, String> {
    match value.as_deref().map(|value| value.to_string_lossy()).as_deref() {
        None | Some("") => Ok(false),
        Some("copy") => Ok(true),
        Some(other) => Err(format!("{SPAWN}={other:?} is not known: set it to \"copy\", or leave it out")),
    }
}

fn begin(options: Options, name: &str, journal: &Journal, left: Option<Left>, terminal: Terminal) -> Result<u8, String> {
    let env = |name: &str| std::env::var_os(name);
    if copies_are_wanted(env(SPAWN))? {
        spawn::always_copy();
        journal
            .log(Record::new(Level::Info, format!("each child of the master starts as a copy of it, since {SPAWN}=copy is set")));
    }
    let under_systemd = env("NOTIFY_SOCKET").is_some();
    let systemd = Systemd::new(env, Instant::now())?;
    let mut source = source(&options, name, under_systemd);
    let start = Start { name, source: &source, journal, systemd: &systemd, under_systemd };
    let probe_only = options.probe_only;
    let begun_by_systemd = left.is_none() && under_systemd && env("INVOCATION_ID").is_some();
    // Before there is any other process of this master in the unit's control group.
    let cgroups = cgroups(journal);
    let origin = match left {
        None => fresh(&options, &start),
        Some(left) => resume::go_on(left, &start),
    };
    let origin = match origin {
        Ok(origin) => origin,
        Err(NoOrigin::ToldToEnd) => return Ok(0),
        Err(NoOrigin::Failed(why)) => return Err(why),
    };
    source.directory = origin.working_directory.clone();
    // This starts a child process, so the control group must be known to be this master's alone.
    if begun_by_systemd {
        crate::master::service_manager::systemd_version::look(journal);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_name("ratoon-blocking")
        .thread_stack_size(thread::STACK)
        // See `keep_a_thread`.
        .thread_keep_alive(Duration::MAX)
        .build()
        .map_err(|error| format!("cannot make the event loop: {error}"))?;
    keep_a_thread(&runtime)?;
    let code = runtime.block_on(async {
        let mut master = Master::begin(Parts { source, journal, systemd, cgroups, origin, terminal })?;
        if under_systemd && env("INVOCATION_ID").is_some() {
            let instance = master.releases.context().instance.clone();
            master.listeners.look_at_socket_units(instance, &master.tasks, master.results.clone());
        }
        let handle = master.workers.runtime_dir().handle().clone();
        let outputs = master.outputs.clone();
        // An instance that only probes has neither D-Bus nor varlink.
        let start_fronts = |master: &mut Master| {
            (!probe_only).then(|| Fronts::start(&handle, master.workers.open_varlink(), name, journal, under_systemd))
        };
        let mut fronts = start_fronts(&mut master);
        loop {
            match master.run().await {
                End::Exit(code) => {
                    // A request that arrives after this is answered that the master ends.
                    drop(master);
                    last_answers(fronts).await;
                    outputs.flush(FLUSH_TIMEOUT);
                    return Ok::<u8, String>(code);
                }
                End::Leave => {
                    journal.log(Record::new(Level::Info, "the master ends; its workers serve on until the next one is there"));
                    last_answers(fronts).await;
                    // Output that workers print from now on waits in their pipes for the next master.
                    drop(outputs.settle().await);
                    // Dropping the master would take away what belongs to its workers.
                    std::mem::forget(master);
                    return Ok(0);
                }
                End::Replace => {
                    let Some(settled) = master.prepare_to_go().await else { continue };
                    if let Some(fronts) = fronts {
                        master.leave_fronts(fronts).await;
                    }
                    let why = master.replace(settled).await;
                    fronts = start_fronts(&mut master);
                    master.not_replaced(&why);
                }
            }
        }
    })?;
    // A blocking thread may hang on a dead mount; the end does not wait for it.
    runtime.shutdown_background();
    Ok(code)
}

/// Stops D-Bus and varlink, and lets other tasks run so that requesters get the answers of the last turn.
async fn last_answers(fronts: Option<Fronts>) {
    if let Some(fronts) = fronts {
        fronts.stop().await;
    }
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

/// The start of an instance without an earlier program in this process; after a death of the master, with what systemd kept.
fn fresh(options: &Options, start: &Start<'_>) -> Result<Origin, NoOrigin> {
    let Start { name, source, journal, .. } = start;
    let mut inherited = sockets::from_systemd(|name| std::env::var_os(name)).map_err(|error| error.to_string())?;
    for warning in inherited.iter_mut().flat_map(|inherited| std::mem::take(&mut inherited.warnings)) {
        journal.log(Record::new(Level::Warning, warning));
    }
    if let Some(left) = inherited.take_if(|it| store::is_wanted() && !it.stored.is_empty()) {
        return resume::after_death(left, start);
    }
    let nofile = process::raise_nofile().map_err(|error| format!("cannot read the limit of open files: {error}"))?;
    let listeners: Arc<[Listener]> = listeners(options, inherited, journal)?.into();
    let places = Env::of_process();
    let directory = paths::runtime_directory(name, &places);
    let control = Control::bind(&directory, &places).map_err(|error| error.to_string())?;
    let context = InstanceContext {
        instance: (*name).into(),
        control: control.path(),
        listeners,
        nofile,
        die_with_parent: start.die_with_parent(),
    };
    crate::master::releases::script::clear(&directory);
    let job = Job::unwatched().map_err(|error| error.to_string())?;
    let prepared = prepare::prepare(source, &context, None, Purpose::Reload, &job);
    let (prepared, instead_of) = match prepared {
        Ok(prepared) => (prepared, None),
        Err(why) => prepare_last_good(source, &context, why.in_full(), &job, options.probe_only)?,
    };
    for warning in prepared.warnings {
        journal.log(Record::new(Level::Warning, warning));
    }
    let release = prepared.release;
    if context.listeners.is_empty() {
        journal.log(Record::new(Level::Info, no_socket(name, start.under_systemd)));
    }
    Ok(Origin {
        working_directory: source.directory.clone(),
        context,
        control,
        directory,
        program: replace::program(),
        started_at: SystemTime::now(),
        status: if options.probe_only { None } else { fronts::bind_status(&release.config, journal) },
        status_address: release.config.status.listen.clone().filter(|_| !options.probe_only),
        errors: ErrorPipe::new().map_err(|error| format!("cannot begin: {error}"))?,
        mode: Mode::of(journal.target(), crate::sys::credentials::own_uid()),
        output: RelayState::default(),
        fds: Incoming::default(),
        last_requester: 0,
        releases: HashMap::new(),
        troubles: Troubles::default(),
        first: match options.probe_only {
            true => First::Probe(release),
            false => First::Start(release, UnknownWorkers::default(), instead_of),
        },
    })
}

/// Prepares the last good release, because the one on disk cannot be, and why.
///
/// # Errors
/// The same reason: there is no other release, or it is not to be started (`start.fallback`).
fn prepare_last_good(
    source: &Source,
    context: &InstanceContext,
    why: String,
    job: &Job,
    probe_only: bool,
) -> Result<(Prepared, Option<String>), String> {
    let wanted = !probe_only && source.read().is_ok_and(|config| config.start.fallback == Fallback::LastGood);
    let (last_good, _) = LastGood::read(&context.instance);
    let others = last_good.others(None);
    let Some(recorded) = last_good::existing(&others).filter(|_| wanted) else { return Err(why) };
    let source = Source { recorded: Some(recorded.clone()), ..source.clone() };
    match prepare::prepare(&source, context, None, Purpose::LastGood, job) {
        Ok(prepared) => Ok((prepared, Some(why))),
        Err(other) => Err(format!("{why}\nnor can the last good release be started: {}", other.in_full())),
    }
}

/// Starts the first blocking thread, which then stays. tokio panics when it has blocking work, no such thread, and the kernel refuses
/// a new one (TasksMax=, RLIMIT_NPROC); with one thread the work waits.
fn keep_a_thread(runtime: &tokio::runtime::Runtime) -> Result<(), String> {
    let none = |error| format!("cannot start a thread: {error}; raise TasksMax= or the user's limit of processes (ulimit -u)");
    // This call returns an error if the kernel refuses a thread.
    thread::spawn("ratoon-first", || {}).map_err(none)?;
    drop(runtime.spawn_blocking(|| {}));
    Ok(())
}

/// The listening sockets: those that systemd passed, else those of `--listen`.
fn listeners(options: &Options, inherited: Option<Inherited>, journal: &Journal) -> Result<Vec<Listener>, String> {
    if let Some(inherited) = inherited {
        if !options.listen.is_empty() && !inherited.listeners.is_empty() {
            journal.log(Record::new(Level::Warning, "--listen is ignored: systemd handed over sockets"));
        }
        if !inherited.listeners.is_empty() {
            return Ok(inherited.listeners);
        }
    }
    sockets::bind_all(&options.listen).map_err(|error| error.to_string())
}

/// The log line for an instance without sockets. A pool may do without, but a user who forgot the socket should learn of it.
fn no_socket(name: &str, under_systemd: bool) -> String {
    let hint = if under_systemd {
        format!(
            "give it an address in a drop-in (`systemctl edit ratoon@{name}.socket`: [Socket] ListenStream=127.0.0.1:8080), then \
             `systemctl stop ratoon@{name}` and `systemctl enable --now ratoon@{name}.socket`"
        )
    } else {
        "add --listen 127.0.0.1:8080".to_owned()
    };
    format!("no listening socket: workers get none. If they are to accept connections, {hint}")
}

fn cgroups(journal: &Journal) -> Option<Cgroups> {
    let found = Cgroups::detect().unwrap_or_else(|why| {
        journal.log(Record::new(Level::Warning, why));
        None
    });
    if let Some(cgroups) = &found {
        for what in cgroups.missing() {
            journal.log(Record::new(Level::Debug, what.clone()));
        }
    }
    // As a subreaper (prctl(2)) the master becomes the parent of workers' orphans: it learns of their exits, and finds them even without
    // control groups.
    if let Err(error) = process::set_subreaper() {
        journal.log(Record::new(Level::Warning, format!("orphans of workers are not adopted: {error}")));
    }
    found
}
