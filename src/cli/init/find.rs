//! Finds the settings of a new instance without questions: directory, program, user, address.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Manager;
use crate::master::listeners::sockets;
use crate::master::releases::release;
use crate::sys::accounts;

/// The `PATH` of systemd's services.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An account, with the fields that a drop-in and the bus's policy need.
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: u32,
    /// Whether the user was found out, and not named on the command line.
    pub(super) guessed: bool,
}

/// The line of a socket unit's drop-in for an address. For this machine, checks that the address can be bound.
pub(super) fn listen(address: &str, here: bool) -> Result<String, String> {
    // systemd reads a port alone as that port on every address of the machine.
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

/// Whether an IPv6 address has the same port as an IPv4 address. systemd could not bind both without `BindIPv6Only=`.
pub(super) fn needs_v6_only(addresses: &[String]) -> bool {
    let is_port = |address: &String| address.bytes().all(|byte| byte.is_ascii_digit());
    let specs: Vec<String> = addresses.iter().map(|it| if is_port(it) { format!("0.0.0.0:{it}") } else { it.clone() }).collect();
    specs.iter().any(|spec| sockets::is_beside_ipv4(spec, &specs))
}

/// The directory of the workers: absolute, and on this machine existing.
pub(super) fn directory(named: Option<&Path>, here: bool) -> Result<PathBuf, String> {
    let current = std::env::current_dir().map_err(|error| format!("cannot tell the current directory: {error}"))?;
    // A symlink such as `current` is kept, because it is followed at each reload.
    let current = as_the_shell_has_it(current, [std::env::var_os("PWD"), of_sudo()]);
    let directory = named.map_or_else(|| current.clone(), |named| current.join(named));
    if here && !directory.is_dir() {
        return Err(format!("--directory {}: there is no such directory; make it first", directory.display()));
    }
    if directory.to_str().is_none_or(|text| text.chars().any(char::is_control)) {
        return Err(format!("--directory {directory:?}: a configuration can only name a directory that is text on one line"));
    }
    Ok(directory)
}

/// The first of these names that leads to the current directory and is absolute without `.` and `..`; else the kernel's name of the
/// directory, which has no symlinks.
fn as_the_shell_has_it(current: PathBuf, names: [Option<OsString>; 2]) -> PathBuf {
    let identity = |path: &Path| std::fs::metadata(path).map(|it| (it.dev(), it.ino())).ok();
    let is_plain = |path: &Path| {
        let mut parts = path.as_os_str().as_bytes().split(|byte| *byte == b'/');
        path.is_absolute() && !parts.any(|part| part == b"." || part == b"..")
    };
    let here = identity(&current);
    let mut names = names.into_iter().flatten().map(PathBuf::from);
    names.find(|path| here.is_some() && is_plain(path) && identity(path) == here).unwrap_or(current)
}

/// `$PWD` of the parent process under sudo, which does not pass it on to this process.
fn of_sudo() -> Option<OsString> {
    std::env::var_os("SUDO_UID")?;
    let parent = rustix::process::getppid()?.as_raw_nonzero();
    let environment = std::fs::read(format!("/proc/{parent}/environ")).ok()?;
    let value = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"PWD="))?;
    Some(OsStr::from_bytes(value).to_owned())
}

/// The command, with a program that a service finds, too: the PATH of a service is not the PATH of this shell.
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

/// The user that an instance of the system runs as: the named user, else the owner of the directory. If root owns the directory, a
/// user must be named, which may be root.
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
            if owner == 0 {
                return Err(format!(
                    "{} belongs to root: say with --user NAME as whom its master and its workers are to run (`useradd --system NAME` \
                     makes a user; --user root if it has to be root)",
                    directory.display()
                ));
            }
            Ok(accounts::name(owner).map(|name| User { name, uid: owner, guessed: true }))
        }
    }
}

/// The directory below which all files are written: `/`, the root of the image, or the user's configuration directory.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_keeps_the_symlink_of_the_shell() {
        let place = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(place.path()).unwrap();
        let (release, link) = (root.join("releases/1"), root.join("current"));
        std::fs::create_dir_all(&release).unwrap();
        std::os::unix::fs::symlink("releases/1", &link).unwrap();
        let name = |first: Option<&Path>, second: Option<&Path>| {
            as_the_shell_has_it(release.clone(), [first, second].map(|path| path.map(|path| path.as_os_str().to_owned())))
        };
        assert_eq!(name(Some(&link), None), link);
        assert_eq!(name(None, Some(&link)), link);
        // Stale names, relative names, and names with `.` or `..`, which a symlink in the path would change.
        for odd in
            [root.as_path(), &root.join("none"), Path::new("current"), &root.join("releases/../current"), &root.join("./current")]
        {
            assert_eq!(name(Some(odd), None), release, "{odd:?}");
        }
        assert_eq!(name(Some(&root), Some(&link)), link);
    }

    #[test]
    fn user_has_to_be_named_for_a_release_of_root() {
        let ask = |named: Option<&str>| user(Manager::System, named.map(str::to_owned), Path::new("/usr"), true);
        let why = ask(None).err().unwrap();
        assert!(why.starts_with("/usr belongs to root: say with --user NAME"), "{why}");
        assert!(ask(Some("root")).unwrap().is_none());
        assert_eq!(ask(Some("nobody")).unwrap().unwrap().name, "nobody");
        // For the image of another machine, the owner of a directory of this machine is ignored.
        assert!(user(Manager::System, None, Path::new("/usr"), false).unwrap().is_none());
    }
}
