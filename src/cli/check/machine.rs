//! Checks users, directories, programs and files that a configuration names on this machine. Runs with the rights of the service's user.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Findings;
use crate::config::Config;
use crate::master::releases::account::Account;
use crate::master::releases::hooks::Setting;
use crate::master::releases::release::{self, Pinned};
use crate::sys::access::{self, Want};
use crate::sys::spawn::as_user;
use crate::sys::trust;

/// The `PATH` of systemd's services.
const SERVICE_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Checks all that can be checked before the start. `is_service`: systemd starts the instance.
pub(super) fn check(config: &Config, is_service: bool) -> Findings {
    let mut found = Findings::default();
    let here = if is_service { PathBuf::from("/") } else { std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")) };
    let directory = config.worker.directory.clone().unwrap_or(here);
    let path = if is_service { Some(OsString::from(SERVICE_PATH)) } else { std::env::var_os("PATH") };
    let variables = found.keep(config.environment(&directory)).unwrap_or_default();
    let account = found.keep(Account::of_workers(config));
    let command = found.keep(release::pin("worker.command", &config.worker.command, &directory, path.as_deref()));
    let setting = Setting { config, directory: &directory, variables: &variables, path: path.as_deref() };
    if command.is_some() {
        found.errors.extend(setting.errors());
    }
    if let (Some(account), Some(command)) = (&account, &command) {
        found.warnings.extend(setting.warnings_of_root(account, command));
        let as_worker = || usable(command);
        let usable = match account.identity() {
            Some(identity) => as_user(&identity, as_worker)
                .unwrap_or_else(|error| Err(format!("cannot look at it as {}: {error}", account.shown()))),
            None => as_worker(),
        };
        found.keep(usable);
    }
    found
}

/// Checks whether the worker's user can enter the directory, and execute the program and its interpreter.
fn usable(command: &Pinned) -> Result<(), String> {
    access::check_directory(&command.directory, &command.directory_path)
        .map_err(|denied| format!("worker.directory {}: {denied}", command.directory_path.display()))?;
    let program = command.program.path();
    let execute = |path: &Path| access::check(path, Want::Execute);
    execute(program).map_err(|denied| format!("worker.command {}: {denied}", program.display()))?;
    let Some(interpreter) = trust::interpreter(program) else { return Ok(()) };
    let missing = std::fs::symlink_metadata(&interpreter).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    let why = match execute(&interpreter) {
        Ok(()) => return Ok(()),
        Err(_) if missing => "there is no such file".to_owned(),
        Err(denied) => denied.to_string(),
    };
    Err(format!("worker.command {}: its interpreter {}: {why}", program.display(), interpreter.display()))
}
