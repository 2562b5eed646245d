//! `ratoon init NAME -- COMMAND…`: writes the files of a new instance, and prints the next commands. It asks no questions: it finds
//! missing settings out, or leaves them to the defaults.
//!
//! Law: no existing file is overwritten, and if one of the files exists, none is written. Errors in the settings are reported before
//! any file is written.

mod files;
mod find;
mod server;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueHint;
use clap::builder::TypedValueParser as _;

use self::files::Instance;
use super::screen::{complain, say};
use crate::config;
use crate::control::paths::check_name;
use crate::master::service_manager::systemd_version;

#[derive(clap::Args)]
pub(super) struct Options {
    /// The new instance
    #[arg(value_hint = ValueHint::Other)]
    name: String,
    /// Where it listens: 8080 (everyone), 127.0.0.1:8080, [::]:80, /run/x.sock; may be repeated
    #[arg(long, short, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: Vec<String>,
    /// User as whom its master and its workers run [default: the owner of the directory, if that is not root]
    #[arg(long, value_hint = ValueHint::Username)]
    user: Option<String>,
    /// Directory in which the workers run [default: the current one]
    #[arg(long, value_name = "PATH")]
    directory: Option<PathBuf>,
    /// Number of workers [default: the CPUs that may be used]
    #[arg(long, value_name = "N", value_hint = ValueHint::Other, value_parser = config::value_reader("worker.count").try_map(|n| n.parse::<u32>()))]
    workers: Option<u32>,
    /// Condition on which a worker counts as ready [default: auto]
    #[arg(long, value_parser = config::value_reader("worker.ready"))]
    ready: Option<String>,
    /// Write below this directory instead of /, for the image of another machine
    #[arg(long, value_name = "PATH")]
    root: Option<PathBuf>,
    /// The workers' program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// The service manager that is to run the instance.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manager {
    /// `systemctl`, with /etc.
    System,
    /// `systemctl --user`, with ~/.config.
    User,
}

/// Exit status 0 when all files are written, 1 when none is.
pub(super) fn run(options: Options) -> ExitCode {
    match write(options) {
        Ok(next) => {
            say(&next);
            ExitCode::SUCCESS
        }
        Err(why) => {
            complain(&format!("ratoon: {why}"));
            ExitCode::FAILURE
        }
    }
}

fn write(options: Options) -> Result<String, String> {
    let name = options.name;
    check_name(&name)?;
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)) {
        return Err(format!("{name:?} cannot be the name of a unit's instance as it is: use letters, digits, and _ - ."));
    }
    let manager = match (&options.root, rustix::process::geteuid().is_root()) {
        (None, false) => Manager::User,
        _ => Manager::System,
    };
    // The files are for the image of another machine: users, directories and addresses of this machine say nothing about it.
    let here = options.root.is_none();
    let listen = options.listen.iter().map(|address| find::listen(address, here)).collect::<Result<Vec<_>, _>>()?;
    let v6_only = find::needs_v6_only(&options.listen);
    let directory = find::directory(options.directory.as_deref(), here)?;
    let command = if here { find::command(options.command, &directory)? } else { options.command };
    let user = find::user(manager, options.user, &directory, here)?;
    let instance =
        Instance { name, manager, listen, v6_only, user, directory, command, workers: options.workers, ready: options.ready };
    let base = find::base(manager, options.root.as_deref())?;
    let written = instance.write(&base)?;
    if here {
        systemd_version::complaint().into_iter().chain(no_units(manager)).for_each(|what| complain(&format!("ratoon: {what}")));
    }
    Ok(instance.next(&written))
}

/// The warning that the template units are not installed; `None` when they are.
fn no_units(manager: Manager) -> Option<String> {
    let kind = if manager == Manager::System { "system" } else { "user" };
    let places = ["/etc/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd", "/lib/systemd"];
    let there = places.iter().any(|place| Path::new(place).join(kind).join("ratoon@.service").exists());
    (!there).then(|| {
        format!(
            "ratoon@.service and ratoon@.socket are in none of {}: install the package, or copy them to /etc/systemd/{kind}",
            places.map(|place| format!("{place}/{kind}")).join(", ")
        )
    })
}
