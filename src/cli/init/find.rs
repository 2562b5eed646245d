//! What a new instance needs and nobody should have to be asked: directory, program, user, address.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Manager;
use crate::master::{release, sockets};
use crate::sys::accounts;

/// Where systemd's services look for programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An account as a drop-in and the bus's policy need it.
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: u32,
    /// Nobody named it.
    pub(super) guessed: bool,
}

/// A line of a socket unit's drop-in for an address; one that can be bound, if it is for this machine.
pub(super) fn listen(address: &str, here: bool) -> Result<String, String> {
    // As systemd reads it: on every address of the machine.
    let everywhere = address.bytes().all(|byte| byte.is_ascii_digit()) && address.parse::<u16>().is_ok_and(|port| port > 0);
    let asked = if everywhere { format!("0.0.0.0:{address}") } else { address.to_owned() };
    sockets::check(&asked).map_err(|error| error.to_string())?;
    let path = address.strip_prefix("unix:").unwrap_or(address);
    if here && !path.starts_with(['/', '@']) {
        sockets::bind(&asked).map_err(|error| error.to_string())?;
    }
    let (kind, address) = match address.strip_prefix("udp:") {
        Some(address) => ("ListenDatagram", address),
        None => ("ListenStream", path.strip_prefix("tcp:").unwrap_or(path)),
    };
    Ok(format!("{kind}={}", address.replace('%', "%%")))
}

/// Where the workers run: absolute, and there.
pub(super) fn directory(named: Option<&Path>, here: bool) -> Result<PathBuf, String> {
    let current = std::env::current_dir().map_err(|error| format!("cannot tell the current directory: {error}"))?;
    // A symlink such as `current` is kept: it is followed at each reload.
    let directory = named.map_or_else(|| current.clone(), |named| current.join(named));
    if here && !directory.is_dir() {
        return Err(format!("--directory {}: there is no such directory; make it first", directory.display()));
    }
    if directory.to_str().is_none_or(|text| text.chars().any(char::is_control)) {
        return Err(format!("--directory {directory:?}: a configuration can only name a directory that is text on one line"));
    }
    Ok(directory)
}

/// The command, with a program that a service finds too: this shell's PATH is not its own.
pub(super) fn command(mut command: Vec<String>, directory: &Path) -> Result<Vec<String>, String> {
    let Err(error) = release::pin("COMMAND", &command, directory, Some(OsStr::new(PATH))) else { return Ok(command) };
    let own = std::env::var_os("PATH").unwrap_or_default();
    let Some(program) = command.first_mut().filter(|program| !program.contains('/')) else { return Err(error.to_string()) };
    let found = std::env::split_paths(&own).map(|place| place.join(&*program)).find(|path| path.is_absolute() && path.is_file());
    match found.and_then(|path| path.into_os_string().into_string().ok()) {
        Some(path) => *program = path,
        None => return Err(error.to_string()),
    }
    release::pin("COMMAND", &command, directory, None).map_err(|error| error.to_string())?;
    Ok(command)
}

/// The user whom a system's instance runs as: the one named, else the directory's owner, if that is not root.
pub(super) fn user(manager: Manager, named: Option<String>, directory: &Path, here: bool) -> Result<Option<User>, String> {
    let unknown =
        |name: &str| format!("--user {name}: there is no such user; make one (`useradd --system {name}`), or name another");
    match (manager, named) {
        (Manager::User, Some(name)) => {
            Err(format!("--user {name}: only root can set up an instance of another user; leave it out, or use sudo"))
        }
        (Manager::User, None) => Ok(None),
        (Manager::System, Some(name)) if name == "root" => Ok(None),
        (Manager::System, Some(name)) => {
            let account = accounts::user(&name).ok_or_else(|| unknown(&name))?;
            Ok(Some(User { name, uid: account.uid, guessed: false }))
        }
        (Manager::System, None) if !here => Ok(None),
        (Manager::System, None) => {
            let owner = std::fs::metadata(directory).map_or(0, |it| it.uid());
            let name = accounts::name(owner).filter(|_| owner != 0);
            Ok(name.map(|name| User { name, uid: owner, guessed: true }))
        }
    }
}

/// Below what everything is written: `/`, the image's root, or the user's configuration.
pub(super) fn base(manager: Manager, root: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(root) = root {
        return if root.is_dir() {
            Ok(root.to_path_buf())
        } else {
            Err(format!("--root {}: there is no such directory", root.display()))
        };
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    match manager {
        Manager::System => Ok(PathBuf::from("/")),
        Manager::User => absolute("XDG_CONFIG_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".config")))
            .ok_or_else(|| "neither XDG_CONFIG_HOME nor HOME says where your configuration is: set HOME".to_owned()),
    }
}
