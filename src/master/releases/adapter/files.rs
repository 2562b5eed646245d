//! The files of the adapters, as this program has them, and their copies below the runtime directory, from which workers load them.
//!
//! Law: only the master writes there, and every user can read it. The copies of another version of the program have another directory, since
//! workers that were started with them may read them again.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

/// Directory of the copies, below the runtime directory.
const COPIES: &str = "adapters";

/// Makes the list of files: the path in the directory of copies, and the text.
macro_rules! files {
    ($($name:literal = $source:literal,)*) => {
        &[$(($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $source))),)*]
    };
}

/// Every file.
static FILES: &[(&str, &str)] = files![
    "node/adapter.js" = "clients/node/lib/adapter.js",
    "node/drain.js" = "clients/node/lib/drain.js",
    "node/index.js" = "clients/node/lib/index.js",
    "node/notify.js" = "clients/node/lib/notify.js",
    "node/scoreboard.js" = "clients/node/lib/scoreboard.js",
    "node/sockets.js" = "clients/node/lib/sockets.js",
    "python/ratoon/__init__.py" = "clients/python/src/ratoon/__init__.py",
    "python/ratoon/_drain.py" = "clients/python/src/ratoon/_drain.py",
    "python/ratoon/_identity.py" = "clients/python/src/ratoon/_identity.py",
    "python/ratoon/_notify.py" = "clients/python/src/ratoon/_notify.py",
    "python/ratoon/_scoreboard.py" = "clients/python/src/ratoon/_scoreboard.py",
    "python/ratoon/_sockets.py" = "clients/python/src/ratoon/_sockets.py",
    "python/ratoon/asgi/__init__.py" = "clients/python/src/ratoon/asgi/__init__.py",
    "python/ratoon/asgi/__main__.py" = "clients/python/src/ratoon/asgi/__main__.py",
    "python/ratoon/asgi/_accept.py" = "clients/python/src/ratoon/asgi/_accept.py",
    "python/ratoon/asgi/_hypercorn.py" = "clients/python/src/ratoon/asgi/_hypercorn.py",
    "python/ratoon/asgi/_uvicorn.py" = "clients/python/src/ratoon/asgi/_uvicorn.py",
    "python/ratoon/django.py" = "clients/python/src/ratoon/django.py",
    "python/ratoon/flask.py" = "clients/python/src/ratoon/flask.py",
    "python/ratoon/gunicorn.py" = "clients/python/src/ratoon/gunicorn.py",
    "python/ratoon/preload/__init__.py" = "clients/python/src/ratoon/preload/__init__.py",
    "python/ratoon/preload/__main__.py" = "clients/python/src/ratoon/preload/__main__.py",
    "python/ratoon/preload/_fork.py" = "clients/python/src/ratoon/preload/_fork.py",
    "python/ratoon/preload/_protocol.py" = "clients/python/src/ratoon/preload/_protocol.py",
    "python/ratoon/preload/_run.py" = "clients/python/src/ratoon/preload/_run.py",
    "python/ratoon/preload/_server.py" = "clients/python/src/ratoon/preload/_server.py",
    "python/ratoon/wsgi.py" = "clients/python/src/ratoon/wsgi.py",
    "ruby/puma/plugin/ratoon.rb" = "clients/ruby/lib/puma/plugin/ratoon.rb",
    "ruby/ratoon/adapter.rb" = "clients/ruby/lib/ratoon/adapter.rb",
    "ruby/ratoon/drain.rb" = "clients/ruby/lib/ratoon/drain.rb",
    "ruby/ratoon/identity.rb" = "clients/ruby/lib/ratoon/identity.rb",
    "ruby/ratoon/notify.rb" = "clients/ruby/lib/ratoon/notify.rb",
    "ruby/ratoon/preload.rb" = "clients/ruby/lib/ratoon/preload.rb",
    "ruby/ratoon/preload/channel.rb" = "clients/ruby/lib/ratoon/preload/channel.rb",
    "ruby/ratoon/preload/command.rb" = "clients/ruby/lib/ratoon/preload/command.rb",
    "ruby/ratoon/preload/request.rb" = "clients/ruby/lib/ratoon/preload/request.rb",
    "ruby/ratoon/preload/stub.rb" = "clients/ruby/lib/ratoon/preload/stub.rb",
    "ruby/ratoon/puma.rb" = "clients/ruby/lib/ratoon/puma.rb",
    "ruby/ratoon/rack.rb" = "clients/ruby/lib/ratoon/rack.rb",
    "ruby/ratoon/scoreboard.rb" = "clients/ruby/lib/ratoon/scoreboard.rb",
    "ruby/ratoon/version.rb" = "clients/ruby/lib/ratoon/version.rb",
    "ruby/ratoon.rb" = "clients/ruby/lib/ratoon.rb",
];

/// Writes the copies where they are missing or damaged, and returns their directory. Blocks.
///
/// # Errors
/// The copy that could not be written, and why.
pub(super) fn unpack(runtime_directory: &Path) -> Result<PathBuf, String> {
    let mut hasher = DefaultHasher::new();
    FILES.hash(&mut hasher);
    let all = runtime_directory.join(COPIES);
    let directory = all.join(format!("{:016x}", hasher.finish()));
    let failed = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    for directory in [&all, &directory] {
        make_directory(directory).map_err(|error| failed(directory, error))?;
    }
    let mut made = BTreeSet::new();
    for (name, text) in FILES {
        let ancestors: Vec<&Path> = Path::new(name).ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
        for ancestor in ancestors.into_iter().rev().filter(|path| made.insert(*path)) {
            make_directory(&directory.join(ancestor)).map_err(|error| failed(&directory.join(ancestor), error))?;
        }
        let path = directory.join(name);
        if fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
            write(&path, text).map_err(|error| failed(&path, error))?;
        }
    }
    Ok(directory)
}

/// Removes the copies, when the instance ends.
pub fn clear(runtime_directory: &Path) {
    let _ = fs::remove_dir_all(runtime_directory.join(COPIES));
}

/// Makes a directory that everybody may enter, whatever the umask is.
fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.and_then(|()| Ok(rustix::fs::fchmod(File::open(path)?, Mode::from_raw_mode(0o755))?)),
    }
}

/// Writes a file that everybody may read. A worker that reads it meanwhile sees the whole text or no file.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    let _ = fs::remove_file(&fresh);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_are_all_that_the_libraries_have() {
        let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
        let mut there = BTreeSet::new();
        for (name, source, kind) in [("node", "node/lib", "js"), ("python", "python/src", "py"), ("ruby", "ruby/lib", "rb")] {
            let mut directories = vec![tree.join(source)];
            while let Some(directory) = directories.pop() {
                for entry in fs::read_dir(directory).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_dir() {
                        directories.push(path);
                    } else if path.extension().is_some_and(|it| it == kind) {
                        there.insert(Path::new(name).join(path.strip_prefix(tree.join(source)).unwrap()));
                    }
                }
            }
        }
        assert_eq!(FILES.iter().map(|(name, _)| PathBuf::from(name)).collect::<BTreeSet<_>>(), there);
    }

    #[test]
    fn unpack_mends_copies_and_leaves_whole_ones_alone() {
        let run = tempfile::tempdir().unwrap();
        let directory = unpack(run.path()).unwrap();
        let adapter = directory.join("node/adapter.js");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&adapter), mode(&directory.join("python/ratoon/asgi"))), (0o644, 0o755));
        let whole = fs::read_to_string(&adapter).unwrap();
        fs::write(&adapter, "half").unwrap();
        fs::remove_dir_all(directory.join("ruby")).unwrap();
        assert_eq!(unpack(run.path()).unwrap(), directory);
        assert_eq!(fs::read_to_string(&adapter).unwrap(), whole);
        assert!(directory.join("ruby/ratoon/adapter.rb").exists());
        clear(run.path());
        assert_eq!(fs::read_dir(run.path()).unwrap().count(), 0);
    }
}
