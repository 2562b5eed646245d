//! `ratoon check --probe`: the probe of a release (`reload.probe`), by the master of an instance or by one that is started for it here.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use super::check;
use super::screen::{clean, complain, say};
use super::status_view::printed;

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

/// Probes the release of a configuration here: a master is started for this alone, in a runtime directory of its own.
pub(super) fn run_here(file: &Path, listen: &[String]) -> ExitCode {
    match probe_here(file, listen) {
        Ok(true) => {
            let place = "here and as this user, which is not the unit's environment: `ratoon check NAME --probe` asks its master";
            say(&format!("{}: the probe has passed, {place}", file.display()));
            ExitCode::SUCCESS
        }
        Ok(false) => {
            complain(&format!("{}: the probe has failed (here, not in the unit's environment)", file.display()));
            ExitCode::FAILURE
        }
        Err(why) => {
            complain(&format!("{}: the probe cannot run: {why}", file.display()));
            ExitCode::FAILURE
        }
    }
}

fn probe_here(file: &Path, listen: &[String]) -> Result<bool, String> {
    let program = std::env::current_exe().map_err(|error| format!("the path of this program is unknown: {error}"))?;
    let directory = Scratch::new().map_err(|error| format!("no directory for its sockets: {error}"))?;
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
    let status = master.status().map_err(|error| format!("no master can be started: {error}"))?;
    Ok(status.success())
}

/// A directory below the temporary directory, which other users can pass but not list; removed when dropped.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Scratch> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("ratoon-probe-{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o711).create(&path)?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A directory that stays costs nothing but its name.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
