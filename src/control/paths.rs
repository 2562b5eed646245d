//! The paths of control sockets: one set of rules for the master, which binds the socket, and the clients, which look for it
//! (docs/contract.md §5).
//!
//! | master | directory |
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

use crate::stored_name::{PREFIX, is_stored};

/// The control socket's name within the runtime directory.
pub const SOCKET: &str = "control";
/// The longest path that fits into a Unix socket's address.
pub const LONGEST: usize = 107;

/// The environment on which the rules depend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Env {
    /// `$RUNTIME_DIRECTORY`, set by systemd for `RuntimeDirectory=`.
    pub runtime_directory: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`, the user's own directory.
    pub xdg_runtime_dir: Option<PathBuf>,
    /// `$RATOON_CONTROL`, set for workers.
    pub control: Option<PathBuf>,
    /// Effective user id.
    pub uid: u32,
    /// `/run`, except in tests.
    pub run: PathBuf,
    /// `/tmp`, except in tests.
    pub tmp: PathBuf,
}

impl Env {
    /// Reads the environment of this process.
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

    /// Parent directory of the user's own instances, where systemd does not set the directory.
    fn own_base(&self) -> PathBuf {
        match &self.xdg_runtime_dir {
            Some(directory) => directory.join("ratoon"),
            None => self.tmp.join(format!("ratoon-{}", self.uid)),
        }
    }

    /// All directories whose entries may be instances, in the order in which a name is looked up.
    fn bases(&self) -> Vec<PathBuf> {
        let system = self.run.join("ratoon");
        match (self.uid, &self.xdg_runtime_dir) {
            (0, None) => vec![system],
            (0, Some(_)) => vec![system, self.own_base()],
            // For a user, the user's own instances come first, because those are the ones that the user can change.
            _ => vec![self.own_base(), system],
        }
    }
}

/// The value of an environment variable that holds an absolute path; any other value counts as unset.
fn absolute(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| value.as_bytes().starts_with(b"/"))
}

/// Whether `name` can name an instance: it must be able to name a directory, and be shown on one line.
///
/// # Errors
/// A sentence that says what is wrong with the name.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.starts_with("ratoon@") || [".service", ".socket"].iter().any(|kind| name.ends_with(kind)) {
        return Err(format!(
            "{name:?} cannot be an instance's name: it is one of a unit; the instance of ratoon@NAME.service is NAME"
        ));
    }
    if is_stored(name) {
        return Err(format!(
            "{name:?} cannot be an instance's name: its sockets would be taken for the descriptor of that name that a master keeps in \
             systemd's store; name it without a number, or without {PREFIX:?}"
        ));
    }
    if name.is_empty()
        || name.len() > 64
        || name.starts_with(['.', '-'])
        || name.contains(['/', ':', char::REPLACEMENT_CHARACTER])
        || name.chars().any(char::is_control)
    {
        return Err(format!(
            "{name:?} cannot be an instance's name: it takes 1 to 64 bytes, no slash, no colon (RuntimeDirectory= of its unit \
             reads what follows one as another path) and no control character, and begins with neither . nor -"
        ));
    }
    Ok(())
}

/// The instance's name in `NAME`, `ratoon@NAME`, `ratoon@NAME.service` or `ratoon@NAME.socket`.
///
/// # Errors
/// As [`check_name`].
pub fn instance_of(text: &str) -> Result<&str, String> {
    let name = match text.strip_prefix("ratoon@") {
        Some(unit) => unit.strip_suffix(".service").or(unit.strip_suffix(".socket")).unwrap_or(unit),
        None => text,
    };
    check_name(name).map(|()| name)
}

/// Whether systemd holds listening sockets for the instance `name`, which means that its socket unit is active.
pub fn has_active_socket_unit(name: &str, env: &Env) -> bool {
    // systemd keeps a link here for each unit that is not inactive.
    let link = format!("systemd/units/invocation:ratoon@{name}.socket");
    std::iter::once(&env.run).chain(&env.xdg_runtime_dir).any(|base| base.join(&link).symlink_metadata().is_ok())
}

/// The directory that belongs to the instance `name` alone.
pub fn runtime_directory(name: &str, env: &Env) -> PathBuf {
    match (&env.runtime_directory, env.uid) {
        (Some(directory), _) => directory.clone(),
        (None, 0) => env.run.join("ratoon").join(name),
        (None, _) => env.own_base().join(name),
    }
}

/// The control socket of an instance, alive or dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The name of the socket's directory, which is the instance's name.
    pub name: String,
    /// The socket.
    pub control: PathBuf,
}

/// The paths where the instance `name` may have its control socket, the likeliest first. Only sockets that exist and whose owner is
/// trusted: in a directory that others may write to, any user could put a socket there and wait for an administrator.
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

/// The instances that a command without a name may mean, sorted by name: those of the system and the user's own.
pub fn instances(env: &Env) -> Vec<Found> {
    instances_in(&env.bases(), env)
}

/// All instances of this machine that this user can see, sorted by name. For root these include the instances of `systemctl --user`.
/// [`instances`] leaves those out, so that root must name them: their users may put any socket there.
pub fn all_instances(env: &Env) -> Vec<Found> {
    let mut bases = env.bases();
    if env.uid == 0 {
        let users = fs::read_dir(env.run.join("user")).into_iter().flatten().flatten();
        bases.extend(users.map(|user| user.path().join("ratoon")));
    }
    instances_in(&bases, env)
}

fn instances_in(bases: &[PathBuf], env: &Env) -> Vec<Found> {
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

/// The control socket that the environment names: of the instance whose worker this process is, or of the unit that it runs in.
pub fn own_control(env: &Env) -> Option<PathBuf> {
    let of_unit = env.runtime_directory.as_ref().map(|directory| directory.join(SOCKET));
    env.control.iter().cloned().chain(of_unit).find(|path| is_socket(path))
}

fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|it| it.file_type().is_socket())
}

fn is_trusted_socket(path: &Path, env: &Env) -> bool {
    // Under /run only root makes directories. A socket under /tmp must belong to this user, and its directories must be safe from others.
    let shared = path.starts_with(&env.tmp);
    let is_safe = || fs::symlink_metadata(path).is_ok_and(|it| it.uid() == env.uid) && weak_directory(path, env).is_none();
    match fs::symlink_metadata(path) {
        Ok(it) => it.file_type().is_socket() && (!shared || is_safe()),
        Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied && !shared,
    }
}

/// The first directory above this path, up to `/tmp`, in which a user other than root and the present one could add or replace a
/// file, with the owner of that directory; `None` when all are safe.
pub fn weak_directory(path: &Path, env: &Env) -> Option<(PathBuf, u32)> {
    let between = path.ancestors().skip(1).take_while(|directory| **directory != env.tmp);
    let weak = |directory: &Path| match fs::symlink_metadata(directory) {
        Ok(it) => {
            let is_foreign = it.uid() != env.uid && it.uid() != 0;
            let is_open = it.mode() & 0o002 != 0 && it.mode() & 0o1000 == 0;
            (is_foreign || is_open || !it.is_dir()).then(|| it.uid())
        }
        Err(_) => Some(u32::MAX),
    };
    between.filter_map(|directory| Some((directory.to_owned(), weak(directory)?))).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    fn env(base: &Path, uid: u32) -> Env {
        let (run, tmp) = (base.join("run"), base.join("tmp"));
        Env { runtime_directory: None, xdg_runtime_dir: None, control: None, uid, run, tmp }
    }

    fn socket(directory: &Path) -> PathBuf {
        fs::create_dir_all(directory).unwrap();
        let path = directory.join(SOCKET);
        drop(UnixListener::bind(&path).unwrap());
        path
    }

    #[test]
    fn the_master_binds_where_the_rules_say() {
        let base = Path::new("/b");
        let root = env(base, 0);
        let user = env(base, 1000);
        let with_session = Env { xdg_runtime_dir: Some("/run/user/1000".into()), ..user.clone() };
        let in_unit = Env { runtime_directory: Some("/run/ratoon/web".into()), ..with_session.clone() };
        for (env, expected) in [
            (root, "/b/run/ratoon/web"),
            (user, "/b/tmp/ratoon-1000/web"),
            (with_session, "/run/user/1000/ratoon/web"),
            (in_unit, "/run/ratoon/web"),
        ] {
            assert_eq!(runtime_directory("web", &env), Path::new(expected));
        }
    }

    #[test]
    fn a_client_finds_what_the_master_bound() {
        let base = tempfile::tempdir().unwrap();
        let own = rustix::process::geteuid().as_raw();
        for env in [
            env(base.path(), own),
            Env { xdg_runtime_dir: Some(base.path().join("session")), ..env(base.path(), own) },
            Env { runtime_directory: Some(base.path().join("elsewhere/web")), ..env(base.path(), own) },
        ] {
            assert_eq!(candidates("web", &env), Vec::<PathBuf>::new());
            let path = socket(&runtime_directory("web", &env));
            assert_eq!(candidates("web", &env), std::slice::from_ref(&path));
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn the_user_comes_before_the_system_and_all_are_listed() {
        let base = tempfile::tempdir().unwrap();
        let env = Env { xdg_runtime_dir: Some(base.path().join("session")), ..env(base.path(), 1000) };
        let system = socket(&base.path().join("run/ratoon/web"));
        let own = socket(&base.path().join("session/ratoon/web"));
        let other = socket(&base.path().join("session/ratoon/api"));
        fs::create_dir_all(base.path().join("run/ratoon/empty")).unwrap();
        assert_eq!(candidates("web", &env), [own.clone(), system.clone()]);
        assert_eq!(candidates("web", &Env { uid: 0, ..env.clone() }), [system.clone(), own.clone()]);
        let found = instances(&env).into_iter().map(|it| (it.name, it.control)).collect::<Vec<_>>();
        assert_eq!(found, [("api".to_owned(), other), ("web".to_owned(), system), ("web".to_owned(), own)]);
    }

    #[test]
    fn root_also_lists_the_instances_of_users() {
        let base = tempfile::tempdir().unwrap();
        let path = socket(&base.path().join("run/user/1000/ratoon/web"));
        assert_eq!(all_instances(&env(base.path(), 0)), [Found { name: "web".into(), control: path }]);
        assert_eq!(instances(&env(base.path(), 0)), []);
        assert_eq!(all_instances(&env(base.path(), 1000)), []);
    }

    #[test]
    fn under_tmp_only_our_own_counts() {
        let base = tempfile::tempdir().unwrap();
        let own = rustix::process::geteuid().as_raw();
        let mine = env(base.path(), own);
        let path = socket(&runtime_directory("web", &Env { uid: own.max(1), ..mine.clone() }));
        let seen_by = |uid| is_trusted_socket(&path, &Env { uid, ..mine.clone() });
        assert!(seen_by(own));
        assert!(!seen_by(own + 1));
    }

    #[test]
    fn weak_directory_is_one_that_others_can_change() {
        let base = tempfile::tempdir().unwrap();
        let env = env(base.path(), rustix::process::geteuid().as_raw());
        let directory = env.tmp.join("parent/web");
        fs::create_dir_all(&directory).unwrap();
        let mode = |mode: u32| fs::set_permissions(env.tmp.join("parent"), fs::Permissions::from_mode(mode)).unwrap();
        let path = directory.join(SOCKET);
        for fine in [0o755, 0o775, 0o1777] {
            mode(fine);
            assert_eq!(weak_directory(&path, &env), None, "{fine:o}");
        }
        mode(0o777);
        assert_eq!(weak_directory(&path, &env), Some((env.tmp.join("parent"), env.uid)));
        mode(0o755);
        // A user cannot attack the directories of root; the directories of another user are unsafe.
        let other = Env { uid: env.uid + 1, ..env.clone() };
        assert_eq!(weak_directory(&path, &other).is_none(), env.uid == 0);
    }

    #[test]
    fn a_worker_and_a_unit_know_their_own_instance() {
        let base = tempfile::tempdir().unwrap();
        let of_unit = socket(&base.path().join("unit"));
        let of_worker = socket(&base.path().join("worker"));
        let mut env = Env { runtime_directory: Some(base.path().join("unit")), ..env(base.path(), 0) };
        assert_eq!(own_control(&env), Some(of_unit.clone()));
        env.control = Some(of_worker.clone());
        assert_eq!(own_control(&env), Some(of_worker));
        // A socket that does not exist any more is skipped.
        env.control = Some(base.path().join("gone"));
        assert_eq!(own_control(&env), Some(of_unit));
        env.runtime_directory = Some(base.path().join("gone"));
        assert_eq!(own_control(&env), None);
    }

    #[test]
    fn instance_of_takes_the_name_of_a_unit() {
        for text in ["web", "ratoon@web", "ratoon@web.service", "ratoon@web.socket"] {
            assert_eq!(instance_of(text), Ok("web"), "{text}");
        }
        for text in ["web.service", "web.socket", "ratoon@", "ratoon@.service", "ratoon@ratoon@web"] {
            assert!(instance_of(text).is_err(), "{text}");
        }
        let said = instance_of("web.service").unwrap_err();
        assert_eq!(
            said,
            "\"web.service\" cannot be an instance's name: it is one of a unit; the instance of ratoon@NAME.service is NAME"
        );
    }

    #[test]
    fn names_that_would_leave_the_directory_are_refused() {
        for name in ["", ".", "..", ".hidden", "-x", "a/b", "/", "a\nb", "a\0b", "a:b", ":", "ratoon-state-0", &"x".repeat(65)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["web", "web-2", "a.b", "8080", "foo\\x2dbar", "grün", "a@c", "ratoon-web", "ratoon-2"] {
            assert_eq!(check_name(name), Ok(()), "{name:?}");
        }
    }
}
