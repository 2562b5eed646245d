//! Where an instance keeps its control socket: one set of rules for the master that binds it and the clients that look
//! for it (contract §5).
//!
//! | who | where |
//! |---|---|
//! | a unit with `RuntimeDirectory=` | `$RUNTIME_DIRECTORY` |
//! | root | `/run/ratoon/NAME` |
//! | another user | `$XDG_RUNTIME_DIR/ratoon/NAME` |
//! | another user without `XDG_RUNTIME_DIR` | `/tmp/ratoon-UID/NAME` |

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The control socket's name within the runtime directory.
pub const SOCKET: &str = "control";
/// The longest path that fits into a Unix socket's address.
pub const LONGEST: usize = 107;

/// What the rules depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Env {
    /// `$RUNTIME_DIRECTORY`, set by systemd for `RuntimeDirectory=`.
    pub runtime_directory: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`, the user's own.
    pub xdg_runtime_dir: Option<PathBuf>,
    /// `$RATOON_CONTROL`, set for workers.
    pub control: Option<PathBuf>,
    /// The user.
    pub uid: u32,
    /// `/run`, but for tests.
    pub run: PathBuf,
    /// `/tmp`, but for tests.
    pub tmp: PathBuf,
}

impl Env {
    /// From this process.
    pub fn of_process() -> Self {
        Env {
            // systemd separates several directories by colons; the first is the instance's.
            runtime_directory: absolute("RUNTIME_DIRECTORY").map(|all| match all.as_bytes().split(|byte| *byte == b':').next() {
                Some(first) => PathBuf::from(OsStr::from_bytes(first)),
                None => PathBuf::from(all),
            }),
            xdg_runtime_dir: absolute("XDG_RUNTIME_DIR").map(PathBuf::from),
            control: absolute("RATOON_CONTROL").map(PathBuf::from),
            uid: rustix::process::geteuid().as_raw(),
            run: PathBuf::from("/run"),
            tmp: PathBuf::from("/tmp"),
        }
    }

    /// Where a user's own instances are, when there is no systemd to say so.
    fn own_base(&self) -> PathBuf {
        match &self.xdg_runtime_dir {
            Some(directory) => directory.join("ratoon"),
            None => self.tmp.join(format!("ratoon-{}", self.uid)),
        }
    }

    /// Every directory whose entries may be instances, in the order in which a name is looked up.
    fn bases(&self) -> Vec<PathBuf> {
        let mut bases = vec![self.run.join("ratoon")];
        if self.uid != 0 || self.xdg_runtime_dir.is_some() {
            bases.push(self.own_base());
        }
        bases
    }
}

/// An environment variable that holds an absolute path; anything else is as good as unset.
fn absolute(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| value.as_bytes().starts_with(b"/"))
}

/// Whether this can name an instance: what can name a directory, and be shown on one line.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty()
        || name.len() > 64
        || name.starts_with(['.', '-'])
        || name.contains(['/', char::REPLACEMENT_CHARACTER])
        || name.chars().any(char::is_control)
    {
        return Err(format!(
            "{name:?} cannot be an instance's name: it takes 1 to 64 bytes, no slash and no control character, and begins with \
             neither . nor -"
        ));
    }
    Ok(())
}

/// The directory that the instance `name` has to itself.
pub fn runtime_directory(name: &str, env: &Env) -> PathBuf {
    match (&env.runtime_directory, env.uid) {
        (Some(directory), _) => directory.clone(),
        (None, 0) => env.run.join("ratoon").join(name),
        (None, _) => env.own_base().join(name),
    }
}

/// An instance's control socket, alive or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The name of its directory, which is the instance's.
    pub name: String,
    /// The socket.
    pub control: PathBuf,
}

/// Every place where the instance `name` may have its control socket, the likeliest first. Only those that exist and
/// whose owner can be trusted: in a directory that others may write to, anyone could wait for an administrator.
pub fn candidates(name: &str, env: &Env) -> Vec<PathBuf> {
    let own = env.runtime_directory.iter().filter(|directory| directory.file_name() == Some(OsStr::new(name))).cloned();
    let mut found = Vec::new();
    for directory in own.chain(env.bases().into_iter().map(|base| base.join(name))) {
        let control = directory.join(SOCKET);
        if is_trusted_socket(&control, env) && !found.contains(&control) {
            found.push(control);
        }
    }
    found
}

/// All instances of this machine that this user can see, by name.
pub fn instances(env: &Env) -> Vec<Found> {
    let mut bases = env.bases();
    if env.uid == 0 {
        // Instances of `systemctl --user`.
        let users = fs::read_dir(env.run.join("user")).into_iter().flatten().flatten();
        bases.extend(users.map(|user| user.path().join("ratoon")));
    }
    let mut found: Vec<Found> = Vec::new();
    for entry in bases.iter().filter_map(|base| fs::read_dir(base).ok()).flatten().flatten() {
        let control = entry.path().join(SOCKET);
        let Ok(name) = entry.file_name().into_string() else { continue };
        if is_trusted_socket(&control, env) && !found.iter().any(|other| other.control == control) {
            found.push(Found { name, control });
        }
    }
    found.sort_by(|one, other| (&one.name, &one.control).cmp(&(&other.name, &other.control)));
    found
}

/// The socket that the environment names: of the worker that we are, or of the unit that we run in.
pub fn own_control(env: &Env) -> Option<PathBuf> {
    let of_unit = env.runtime_directory.as_ref().map(|directory| directory.join(SOCKET));
    env.control.iter().cloned().chain(of_unit).find(|path| is_socket(path))
}

fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|it| it.file_type().is_socket())
}

fn is_trusted_socket(path: &Path, env: &Env) -> bool {
    // Under /run only root makes directories; what is under /tmp must be ours.
    let shared = path.starts_with(&env.tmp);
    let ours = |path: &Path| fs::symlink_metadata(path).is_ok_and(|it| it.uid() == env.uid);
    let parents_ours = || path.ancestors().skip(1).take(2).all(ours);
    match fs::symlink_metadata(path) {
        Ok(it) => it.file_type().is_socket() && (!shared || (ours(path) && parents_ours())),
        Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied && !shared,
    }
}
