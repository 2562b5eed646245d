//! `ratoon init NAME -- COMMAND…`: writes what a new instance needs, and says what to type next. It asks nothing: what it is
//! not told it finds out, or leaves to the defaults.
//!
//! Law: nothing that is there is overwritten, and where one file is in the way none is written; what is wrong is said
//! before anything is written.

mod files;
mod find;

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
    /// What makes a worker ready [default: auto]
    #[arg(long, value_parser = config::value_reader("worker.ready"))]
    ready: Option<String>,
    /// Write below this directory instead of /, for the image of another machine
    #[arg(long, value_name = "PATH")]
    root: Option<PathBuf>,
    /// The workers' program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Whose service manager is to run it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manager {
    /// `systemctl`, with /etc.
    System,
    /// `systemctl --user`, with ~/.config.
    User,
}

/// 0 when everything is written, 1 when nothing is.
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
    // In another machine's image nothing of this one counts.
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

/// What to say where the units themselves are not installed.
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
