//! `ratoon check --probe`: the probe of a release (`reload.probe`), by the master of an instance or by one that is started for it here.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use rustix::fs::{Mode, OFlags};

use super::check;
use super::screen::{clean, complain, say};
use super::status_view::printed;
use crate::sys::accounts::User;
use crate::sys::spawn::{Identity, become_user};

/// Number of lines of the probed worker's output that are shown.
const OUTPUT_LINES: usize = 30;
/// The address for which a private socket stands in when none is named: any port.
const ANY_ADDRESS: &str = "127.0.0.1:0";

/// Lets the master of the instance probe the release that a reload would start.
pub(super) async fn ask(options: check::Options) -> Result<ExitCode, String> {
    let outcome = options.client().await?.probe().await.map_err(|error| error.to_string())?;
    match outcome.result.as_str() {
        "passed" => {
            say("the probe has passed: a reload would start this release");
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            complain(&clean(&outcome.reason));
            let lines = printed(outcome.detail.as_deref(), &[], &outcome.output, OUTPUT_LINES);
            lines.iter().for_each(|line| complain(&format!("    {line}")));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Probes the release of a configuration here: a master is started for this alone, in a runtime directory of its own, and as the
/// service's `user` if that is not the user of this process.
pub(super) fn run_here(file: &Path, listen: &[String], user: Option<(Identity, User)>) -> ExitCode {
    let place = match &user {
        Some((_, user)) => format!("here and as {}, not in the unit's environment", user.name),
        None => "here and as this user, not in the unit's environment".to_owned(),
    };
    match probe_here(file, listen, user) {
        Ok(true) => {
            say(&format!("{}: the probe has passed, {place} (`ratoon check NAME --probe` asks its master)", file.display()));
            ExitCode::SUCCESS
        }
        Ok(false) => {
            complain(&format!("{}: the probe has failed, {place}", file.display()));
            ExitCode::FAILURE
        }
        Err(why) => {
            complain(&format!("{}: the probe cannot run: {why}", file.display()));
            ExitCode::FAILURE
        }
    }
}

fn probe_here(file: &Path, listen: &[String], user: Option<(Identity, User)>) -> Result<bool, String> {
    let program = std::env::current_exe().map_err(|error| format!("the path of this program is unknown: {error}"))?;
    let directory = Scratch::new(user.as_ref().map(|(identity, _)| identity))
        .map_err(|error| format!("no directory for its sockets: {error}"))?;
    let mut master = Command::new(program);
    master.args(["run", "--probe-only", "--name", "probe", "--config"]).arg(file);
    let any = [ANY_ADDRESS.to_owned()];
    for address in if listen.is_empty() { &any } else { listen } {
        master.args(["--listen", address]);
    }
    master.env("RUNTIME_DIRECTORY", &directory.0).stdin(Stdio::null());
    // These belong to the service that runs this command, if there is one.
    for name in
        ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "INVOCATION_ID", "JOURNAL_STREAM"]
    {
        master.env_remove(name);
    }
    if let Some((identity, user)) = user {
        // As systemd sets them for User=.
        master.envs([("HOME", &user.home), ("LOGNAME", &user.name), ("SHELL", &user.shell), ("USER", &user.name)]);
        become_user(&mut master, identity);
    }
    let status = master.status().map_err(|error| format!("no master can be started: {error}"))?;
    Ok(status.success())
}

/// A directory below the temporary directory, which other users can pass but not list; removed when dropped.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(owner: Option<&Identity>) -> std::io::Result<Scratch> {
        let path = std::env::temp_dir().join(format!("ratoon-probe-{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o711).create(&path)?;
        let scratch = Scratch(path);
        if let Some(owner) = owner {
            // By descriptor: the temporary directory may let others replace the path.
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = rustix::fs::open(&scratch.0, flags, Mode::empty())?;
            std::os::unix::fs::fchown(&directory, Some(owner.uid), Some(owner.gid))?;
        }
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A directory that stays costs nothing but its name.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
