//! Scripts of a pinned release: how a worker starts again after the release was moved, replaced, or changed in place.
//!
//! Law: a script runs by a path that has its sibling files beside it (`require('./lib')`, `cd "$(dirname "$0")"`). While the script
//! is unchanged, this is its own path, or the same path inside the pinned directory. Once its text has changed, it is a copy of the
//! old text in a mirror of its directory, whose other entries are symlinks. These siblings are the current files, not the old ones.

use std::ffi::{CString, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags};

use crate::sys::program::{Program, Start};

/// Directory of the copies, below the runtime directory.
const COPIES: &str = "scripts";
/// Bytes of a `#!` line that the kernel reads.
const LINE_MAX: usize = 255;
/// The largest number of entries of a directory that is mirrored; with more, no copy is made.
const ENTRIES: usize = 2000;
/// Limits of the search for changes: the number of entries, and the depth below the working directory.
const LOOKED_AT: (usize, usize) = (5000, 4);
/// The number of changed files that a message names.
const TOLD: usize = 3;
/// File name extensions of source files.
const SOURCES: [&str; 12] = ["cjs", "js", "lua", "mjs", "php", "pl", "py", "rb", "sh", "ts", "tsx", "jsx"];

/// The directory of a script's copy; removed when dropped.
#[derive(Debug)]
pub struct ScriptCopy(PathBuf);

impl ScriptCopy {
    /// Takes over a copy that an earlier program of this process has made.
    pub fn from_path(directory: PathBuf) -> ScriptCopy {
        ScriptCopy(directory)
    }

    /// The directory of the copy.
    pub fn directory(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScriptCopy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
        // With the last copy, remove the directory of the copies.
        if let Some(all) = self.0.parent() {
            let _ = fs::remove_dir(all);
        }
    }
}

/// Removes the copies that a dead master left.
pub fn clear(runtime_directory: &Path) {
    let _ = fs::remove_dir_all(runtime_directory.join(COPIES));
}

/// Adds to a program the ways to start it once its path leads to another file. Blocks.
pub fn pin_starts(program: &mut Program, directory: &Path, runtime_directory: &Path) -> Option<ScriptCopy> {
    let interpreter = program.script_text().and_then(|text| Interpreter::of(&text));
    let mut starts = Vec::new();
    let by = |path: &Path, interpreter: Option<&Interpreter>| {
        let path = CString::new(path.as_os_str().as_bytes()).ok()?;
        Some(match interpreter {
            Some(interpreter) => interpreter.start(path),
            None => Start { execute: path.clone(), path, same: true, head: None },
        })
    };
    // The kernel would resolve the interpreter's path again at each start.
    let moving = interpreter.as_ref().filter(|interpreter| interpreter.leads_through_symlink);
    starts.extend(by(program.path(), moving));
    if let Ok(relative) = program.path().strip_prefix(directory) {
        starts.extend(by(&Path::new(".").join(relative), moving));
    }
    let mut kept = None;
    if let (Some(interpreter), Some(text)) = (&interpreter, program.script_text())
        && let Ok((copy, path)) = copy(&text, program.path(), directory, runtime_directory)
    {
        kept = Some(copy);
        starts.extend(by(&path, Some(interpreter)).map(|start| Start { same: false, ..start }));
    }
    program.set_starts(starts);
    kept
}

/// The words of a script's `#!` line: the interpreter, and its argument if there is one. `None` for another program.
pub fn interpreter(program: &Program) -> Option<Vec<String>> {
    let interpreter = Interpreter::of(&program.script_text()?)?;
    let words = [Some(interpreter.path), interpreter.argument].into_iter().flatten();
    words.map(|word| word.into_string().ok()).collect()
}

/// The interpreter that a `#!` line names.
#[derive(Debug, PartialEq, Eq)]
struct Interpreter {
    /// The path of the interpreter, with its directory resolved.
    path: CString,
    argument: Option<CString>,
    /// Whether a symlink that a deployment may move leads to the directory.
    leads_through_symlink: bool,
}

impl Interpreter {
    /// Parses the line as execve(2) does: a path, then the rest of the line as one argument.
    fn of(text: &[u8]) -> Option<Interpreter> {
        let line = text.strip_prefix(b"#!")?;
        let line = &line[..line.len().min(LINE_MAX)];
        let line = line.split(|byte| *byte == b'\n').next()?.trim_ascii();
        let (name, rest) = line.split_at(line.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(line.len()));
        let named = PathBuf::from(OsString::from_vec(name.to_vec()));
        let (parent, file) = (named.parent()?, named.file_name()?);
        let resolved = fs::canonicalize(parent).ok().filter(|_| named.is_absolute()).map(|parent| parent.join(file));
        // /bin and similar directories belong to the distribution, and no deployment moves them.
        let moving = resolved.as_ref().is_some_and(|resolved| *resolved != named) && is_deep(parent);
        let path = CString::new(resolved.unwrap_or(named).into_os_string().into_vec()).ok()?;
        let argument = Some(rest.trim_ascii()).filter(|rest| !rest.is_empty()).map(CString::new).transpose().ok()?;
        Some(Interpreter { path, argument, leads_through_symlink: moving })
    }

    fn start(&self, script: CString) -> Start {
        let head = [Some(&self.path), self.argument.as_ref(), Some(&script)].into_iter().flatten().cloned().collect();
        Start { execute: self.path.clone(), path: script, same: true, head: Some(head) }
    }
}

fn is_deep(directory: &Path) -> bool {
    directory.components().count() > 2
}

/// Resolves the entries of `PATH` that lead through symlinks, which a deployment may move, so that programs are found in this
/// release.
pub fn resolved_path(path: &[u8]) -> Vec<u8> {
    let resolve = |entry: &[u8]| {
        let directory = PathBuf::from(OsString::from_vec(entry.to_vec()));
        let resolved = Some(&directory).filter(|it| it.is_absolute() && is_deep(it)).and_then(|it| fs::canonicalize(it).ok());
        let fits = resolved.map(|it| it.into_os_string().into_vec()).filter(|it| !it.contains(&b':'));
        fits.unwrap_or_else(|| entry.to_vec())
    };
    path.split(|byte| *byte == b':').map(resolve).collect::<Vec<_>>().join(&b':')
}

/// Writes the text into a mirror of the script's directory, and returns the path of the copy.
fn copy(text: &[u8], script: &Path, directory: &Path, runtime_directory: &Path) -> io::Result<(ScriptCopy, PathBuf)> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let name = script.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let home = script.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let top = if home.starts_with(directory) { directory } else { home };
    let all = runtime_directory.join(COPIES);
    make_directory(&all)?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let copy = ScriptCopy(all.join(format!("{}-{number}", std::process::id())));
    make_directory(&copy.0)?;
    let (mut original, mut mirror) = (top.to_owned(), copy.0.clone());
    for component in home.strip_prefix(top).into_iter().flat_map(Path::components) {
        let Component::Normal(component) = component else { return Err(io::ErrorKind::InvalidInput.into()) };
        mirror_entries(&original, &mirror, component)?;
        original.push(component);
        mirror.push(component);
        make_directory(&mirror)?;
    }
    mirror_entries(&original, &mirror, name)?;
    let path = mirror.join(name);
    let owner = fs::metadata(script)?;
    let mut file = File::options().write(true).create_new(true).mode(0o400).open(&path)?;
    file.write_all(text)?;
    if owner.uid() != rustix::process::geteuid().as_raw() || owner.gid() != rustix::process::getegid().as_raw() {
        std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    // Give the copy the read and execute permissions of the script.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(owner.mode() & 0o555))?;
    Ok((copy, path))
}

/// Makes a directory that the workers' user may enter, whatever the umask is.
fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let made = rustix::fs::open(path, flags, Mode::empty())?;
    Ok(rustix::fs::fchmod(made, Mode::from_raw_mode(0o755))?)
}

/// Makes symlinks in `mirror` to all entries of `original` but one.
fn mirror_entries(original: &Path, mirror: &Path, but: &std::ffi::OsStr) -> io::Result<()> {
    for (number, entry) in fs::read_dir(original)?.enumerate() {
        let name = entry?.file_name();
        if number >= ENTRIES {
            return Err(io::Error::other("too many entries"));
        }
        if name != but {
            symlink(original.join(&name), mirror.join(&name))?;
        }
    }
    Ok(())
}

/// Searches for source files below a directory that have changed since then. Returns a sentence for the log. Blocks.
pub fn changed_since(directory: &Path, since: SystemTime) -> Option<String> {
    let since = since.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let mut changed = Vec::new();
    let mut left = LOOKED_AT.0;
    let mut places = vec![(directory.to_owned(), 0)];
    while let Some((place, depth)) = places.pop() {
        for entry in fs::read_dir(&place).into_iter().flatten().flatten() {
            if left == 0 {
                break;
            }
            left -= 1;
            let Ok(kind) = entry.file_type() else { continue };
            let path = entry.path();
            let hidden = entry.file_name().as_bytes().starts_with(b".") || entry.file_name() == "node_modules";
            if kind.is_dir() && depth < LOOKED_AT.1 && !hidden {
                places.push((path, depth + 1));
            } else if kind.is_file() && is_source(&path) && entry.metadata().is_ok_and(|it| status_change(&it) > since) {
                changed.push(path);
            }
        }
    }
    changed.sort();
    let more = changed.len().saturating_sub(TOLD);
    let mut names: Vec<String> = changed.iter().take(TOLD).map(|path| path.display().to_string()).collect();
    if more > 0 {
        names.push(format!("{more} more"));
    }
    let verb = if changed.len() == 1 { "has" } else { "have" };
    (!changed.is_empty()).then(|| format!("{} {verb} changed in place since", names.join(", ")))
}

fn is_source(path: &Path) -> bool {
    path.extension().is_some_and(|ending| SOURCES.iter().any(|source| ending == *source))
}

/// The inode's change time, which copying tools cannot set back.
fn status_change(metadata: &fs::Metadata) -> Duration {
    Duration::new(metadata.ctime().try_into().unwrap_or(0), metadata.ctime_nsec().try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn words(start: &Start) -> Vec<&str> {
        start.head.iter().flatten().map(|word| word.to_str().unwrap()).collect()
    }

    #[test]
    fn interpreter_is_read_as_the_kernel_reads_it() {
        let read = |text: &str| Interpreter::of(text.as_bytes()).map(|it| (it.path, it.argument));
        let path = |text: &str| CString::new(fs::canonicalize("/bin").unwrap().join(text).into_os_string().into_vec()).unwrap();
        assert_eq!(read("#!/bin/sh\nexit"), Some((path("sh"), None)));
        assert_eq!(read("#! /bin/sh \t-e -u \n"), Some((path("sh"), Some(c"-e -u".to_owned()))));
        assert_eq!(read("#!relative/sh"), Some((c"relative/sh".to_owned(), None)));
        for none in ["", "#!", "#!\n/bin/sh", "/bin/sh"] {
            assert_eq!(read(none), None, "{none:?}");
        }
        assert!(!Interpreter::of(b"#!/bin/sh\n").unwrap().leads_through_symlink);
    }

    #[test]
    fn interpreter_behind_a_symlink_is_resolved_once() {
        let place = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(place.path()).unwrap();
        fs::create_dir_all(root.join("v1/bin")).unwrap();
        symlink("v1", root.join("current")).unwrap();
        let text = format!("#!{}\n", root.join("current/bin/python").display());
        let interpreter = Interpreter::of(text.as_bytes()).unwrap();
        assert!(interpreter.leads_through_symlink);
        let resolved = root.join("v1/bin/python");
        assert_eq!(interpreter.path.to_str().unwrap(), resolved.to_str().unwrap());
        let start = interpreter.start(c"/srv/app".to_owned());
        assert_eq!(words(&start), [resolved.to_str().unwrap(), "/srv/app"]);
        let path = format!("{}:bin::/bin", root.join("current/bin").display());
        assert_eq!(resolved_path(path.as_bytes()), format!("{}:bin::/bin", root.join("v1/bin").display()).into_bytes());
    }

    #[test]
    fn copy_has_the_old_text_and_its_siblings_beside_it() {
        let place = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(place.path()).unwrap();
        let (release, run) = (root.join("v1"), root.join("run"));
        fs::create_dir_all(release.join("bin")).unwrap();
        fs::create_dir(&run).unwrap();
        for (name, text) in [("bin/app", "#!/bin/sh -e\nold\n"), ("bin/helper", "helper"), ("lib.sh", "lib")] {
            fs::write(release.join(name), text).unwrap();
        }
        let script = release.join("bin/app");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let mut program = Program::pin(&script).unwrap();
        let copy = pin_starts(&mut program, &release, &run).expect("a copy");
        let starts = program.starts();
        let paths: Vec<&str> = starts.iter().map(|start| start.path.to_str().unwrap()).collect();
        assert_eq!(paths[..2], [script.to_str().unwrap(), "./bin/app"]);
        let copied = Path::new(paths[2]);
        assert!(copied.starts_with(copy.directory()) && copied.ends_with("bin/app"), "{paths:?}");
        assert_eq!(words(&starts[2])[1..], ["-e", paths[2]]);
        assert_eq!(fs::read_to_string(copied).unwrap(), "#!/bin/sh -e\nold\n");
        let home = copied.parent().unwrap();
        assert_eq!(fs::read_to_string(home.join("helper")).unwrap(), "helper");
        assert_eq!(fs::read_to_string(home.join("../lib.sh")).unwrap(), "lib");
        assert_eq!(fs::metadata(home).unwrap().mode() & 0o777, 0o755);
        drop(copy);
        assert!(fs::read_dir(&run).unwrap().next().is_none());
    }

    #[test]
    fn changed_source_files_are_named() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("lib")).unwrap();
        let before = SystemTime::now() - Duration::from_secs(1);
        assert_eq!(changed_since(place.path(), before), None);
        fs::write(place.path().join("data.log"), "").unwrap();
        assert_eq!(changed_since(place.path(), before), None);
        let source = place.path().join("lib/a.js");
        fs::write(&source, "").unwrap();
        let said = changed_since(place.path(), before).expect("one");
        assert_eq!(said, format!("{} has changed in place since", source.display()));
        assert_eq!(changed_since(place.path(), SystemTime::now() + Duration::from_secs(1)), None);
    }
}
