//! The record of committed releases, which outlives the machine: `releases.json` in the state directory (`StateDirectory=`). If the release
//! on disk does not come up at a start, the newest recorded one that still exists is started instead (`start.fallback`).
//!
//! Law: no variable and no content of a file is recorded, since they may be secret. What is read is checked as if a stranger had written it.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::master::releases::commits::Commit;
use crate::master::releases::prepare::Release;
use crate::sys::credentials::own_uid;
use crate::sys::program::{Identity, Program};

/// The file in the state directory.
const FILE: &str = "releases.json";
/// The version of the file's form.
const FORMAT: u32 = 1;
/// The largest file that is read, bytes.
const LARGEST: u64 = 256 << 10;
/// The variable in which systemd hands over the state directories.
const VARIABLE: &str = "STATE_DIRECTORY";

/// A committed release, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The generation for which it was read, in the instance that recorded it.
    pub release: u64,
    /// When it was committed.
    pub committed_at: SystemTime,
    /// `worker.command`
    pub command: Vec<String>,
    /// The directory of the workers, symlinks resolved.
    pub directory: PathBuf,
    /// `worker.environment_file`: read again at a start.
    pub environment_file: Vec<PathBuf>,
    /// The program's device, inode, size (bytes) and time of modification (seconds, nanoseconds).
    pub program: (u64, u64, i64, i64, i64),
}

#[derive(Serialize, Deserialize)]
struct Document {
    format: u32,
    releases: Vec<Recorded>,
}

/// The recorded releases of an instance, newest first, and where they are recorded.
#[derive(Debug, Default)]
pub struct LastGood {
    /// The state directory; `None` without one.
    directory: Option<PathBuf>,
    releases: Vec<Recorded>,
    writes: Arc<Writes>,
}

/// Keeps the newest record in the file, although each record is written on a thread of its own.
#[derive(Debug, Default)]
struct Writes {
    /// The number of the newest record.
    newest: AtomicU64,
    /// Locked while the file is written.
    file: Mutex<()>,
}

/// A record that is to be written.
#[derive(Debug)]
pub struct Record {
    directory: PathBuf,
    releases: Vec<Recorded>,
    number: u64,
    writes: Arc<Writes>,
}

impl Recorded {
    /// The record of a release.
    pub fn of(number: u64, release: &Release, commit: &Commit) -> Recorded {
        Recorded {
            release: number,
            committed_at: commit.at,
            command: release.config.worker.command.clone(),
            directory: release.plan.directory_path(),
            environment_file: release.config.worker.environment_file.clone(),
            program: identity(release.plan.program.identity()),
        }
    }

    /// Puts the command of this release in the place of the one in the configuration. The directory of the configuration stays: it tells
    /// whether the path leads to another release.
    pub fn apply(&self, config: &mut Config) {
        config.worker.command.clone_from(&self.command);
        config.worker.environment_file.clone_from(&self.environment_file);
    }

    /// Checks that the program is the one that was recorded. The device does not count: many file systems get another number at each start
    /// of the machine.
    ///
    /// # Errors
    /// The sentence for the administrator.
    pub fn check(&self, program: &Program) -> Result<(), String> {
        let (_, inode, size, seconds, nanoseconds) = identity(program.identity());
        if self.is_program((inode, size, seconds, nanoseconds)) {
            return Ok(());
        }
        Err(format!("the program of the last good release, {}, has changed since it was committed", program.path().display()))
    }

    /// Whether the program in the directory is the one that was recorded. A program from the master's `PATH` is not looked at here.
    fn has_its_program(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let Some(program) = self.command.first().filter(|program| program.contains('/')) else { return true };
        std::fs::metadata(self.directory.join(program))
            .is_ok_and(|now| self.is_program((now.ino(), now.size().cast_signed(), now.mtime(), now.mtime_nsec())))
    }

    /// Whether a file with this inode, size and time of modification (seconds, nanoseconds) is the recorded program.
    fn is_program(&self, file: (u64, i64, i64, i64)) -> bool {
        let (_, inode, size, seconds, nanoseconds) = self.program;
        file == (inode, size, seconds, nanoseconds)
    }

    /// Whether this is the same release: the same program in the same directory.
    fn is(&self, directory: &Path, program: Identity) -> bool {
        self.directory == directory && self.program == identity(program)
    }
}

fn identity(of: Identity) -> (u64, u64, i64, i64, i64) {
    (of.device, of.inode, of.size, of.modified.0, of.modified.1)
}

impl LastGood {
    /// Reads the record of this instance. A record that cannot be used is left out, with a sentence for the administrator. Blocks.
    pub fn read(instance: &str) -> (LastGood, Option<String>) {
        let directory = std::env::var_os(VARIABLE).and_then(|all| own_directory(&all, instance));
        let Some(directory) = directory else { return (LastGood::default(), None) };
        let (releases, fault) = match read(&directory.join(FILE)) {
            Ok(releases) => (releases, None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Vec::new(), None),
            Err(error) => {
                (Vec::new(), Some(format!("the record of releases {} is not used: {error}", directory.join(FILE).display())))
            }
        };
        (LastGood { directory: Some(directory), releases, ..LastGood::default() }, fault)
    }

    /// Whether releases can be recorded.
    pub fn is_recorded(&self) -> bool {
        self.directory.is_some()
    }

    /// The recorded releases without `failed`, which did not come up, newest first.
    pub fn others(&self, failed: Option<&Release>) -> Vec<Recorded> {
        let is_failed = |recorded: &Recorded| {
            failed.is_some_and(|failed| recorded.is(&failed.plan.directory_path(), failed.plan.program.identity()))
        };
        self.releases.iter().filter(|recorded| !is_failed(recorded)).cloned().collect()
    }

    /// Puts the releases of this master, newest first, before those of earlier ones, and keeps `keep` of them. Returns the record
    /// to write; `None` without a state directory.
    pub fn record(&mut self, own: Vec<Recorded>, keep: usize) -> Option<Record> {
        let same = |one: &Recorded, other: &Recorded| (&one.directory, one.program) == (&other.directory, other.program);
        let mut releases: Vec<Recorded> = Vec::new();
        for recorded in own.into_iter().chain(std::mem::take(&mut self.releases)) {
            if releases.len() < keep.max(1) && !releases.iter().any(|known| same(known, &recorded)) {
                releases.push(recorded);
            }
        }
        self.releases = releases;
        let directory = self.directory.clone()?;
        let number = self.writes.newest.fetch_add(1, Ordering::Relaxed) + 1;
        Some(Record { directory, releases: self.releases.clone(), number, writes: self.writes.clone() })
    }
}

impl Record {
    /// The directory of the file.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes the record, unless there is a newer one. Blocks.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self) -> io::Result<()> {
        let _lock = self.writes.file.lock().unwrap_or_else(PoisonError::into_inner);
        if self.number < self.writes.newest.load(Ordering::Relaxed) {
            return Ok(());
        }
        write(&self.directory, &self.releases)
    }
}

/// The newest of these releases that still exists with the program that was recorded; if there is none, the newest whose directory exists,
/// so that the reason names it. Blocks.
pub fn existing(releases: &[Recorded]) -> Option<&Recorded> {
    let there = || releases.iter().filter(|recorded| recorded.directory.is_dir());
    there().find(|recorded| recorded.has_its_program()).or_else(|| there().next())
}

/// Writes a new file, then renames it, so that a crash leaves the former file or the new one.
fn write(directory: &Path, releases: &[Recorded]) -> io::Result<()> {
    let document = Document { format: FORMAT, releases: releases.to_vec() };
    let (file, fresh) = (directory.join(FILE), directory.join(format!("{FILE}.new")));
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    out.write_all(&serde_json::to_vec(&document)?)?;
    out.sync_all()?;
    std::fs::rename(&fresh, &file)?;
    File::open(directory)?.sync_all()
}

fn read(file: &Path) -> io::Result<Vec<Recorded>> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(file)?;
    let about = opened.metadata()?;
    let bad = |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    if !about.is_file() {
        return bad("it is no regular file".to_owned());
    }
    if about.uid() != own_uid() || about.mode() & 0o022 != 0 {
        return bad(format!("another user may have written it (owner {}, mode {:04o})", about.uid(), about.mode() & 0o7777));
    }
    let mut text = Vec::new();
    opened.take(LARGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LARGEST {
        return bad(format!("it has more than {LARGEST} bytes"));
    }
    let Document { format, releases } = serde_json::from_slice(&text)?;
    if format != FORMAT {
        return bad(format!("it has format {format}, and this version knows format {FORMAT}"));
    }
    Ok(releases)
}

/// The state directory of the master among those of the unit: `ratoon/NAME`; a drop-in may add others for the workers.
fn own_directory(all: &OsStr, instance: &str) -> Option<PathBuf> {
    let wanted = Path::new("ratoon").join(instance);
    parts(all).map(PathBuf::from).find(|path| path.is_absolute() && path.ends_with(&wanted))
}

/// A variable of the master for its workers: the state directories without that of the master, which is not theirs.
pub fn without_own_directory(name: OsString, value: OsString, instance: &str) -> Option<(OsString, OsString)> {
    if name != VARIABLE {
        return Some((name, value));
    }
    let own = own_directory(&value, instance);
    let others: Vec<&OsStr> = parts(&value).filter(|part| own.as_deref() != Some(Path::new(part))).collect();
    (!others.is_empty()).then(|| (name, others.join(OsStr::new(":"))))
}

fn parts(all: &OsStr) -> impl Iterator<Item = &OsStr> {
    all.as_bytes().split(|byte| *byte == b':').filter(|part| !part.is_empty()).map(OsStr::from_bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn recorded(release: u64, directory: &Path) -> Recorded {
        Recorded {
            release,
            committed_at: SystemTime::UNIX_EPOCH,
            command: vec!["./server".to_owned()],
            directory: directory.to_owned(),
            environment_file: Vec::new(),
            program: (1, release, 3, 4, 5),
        }
    }

    #[test]
    fn record_is_written_and_read() {
        let place = tempfile::tempdir().expect("a directory");
        let releases = vec![recorded(2, place.path()), recorded(1, Path::new("/gone"))];
        write(place.path(), &releases).expect("written");
        write(place.path(), &releases).expect("written again");
        let file = place.path().join(FILE);
        assert_eq!(read(&file).expect("a record"), releases);
        assert_eq!(std::fs::metadata(&file).expect("a file").permissions().mode() & 0o7777, 0o600);
        assert_eq!(existing(&releases).map(|recorded| recorded.release), Some(2));
        assert_eq!(existing(&releases[1..]), None);
    }

    #[test]
    fn existing_prefers_a_release_whose_program_is_unchanged() {
        let [newer, older] = [2, 1].map(|release| (release, tempfile::tempdir().expect("a directory")));
        let releases = [&newer, &older].map(|(release, place)| {
            let program = place.path().join("server");
            std::fs::copy("/bin/true", &program).expect("a program");
            let program = crate::sys::program::Program::pin(&program).expect("a program");
            Recorded { program: identity(program.identity()), ..recorded(*release, place.path()) }
        });
        let found = || existing(&releases).map(|recorded| recorded.release);
        assert_eq!(found(), Some(2));
        std::fs::write(newer.1.path().join("server"), "another").expect("replaced in place");
        assert_eq!(found(), Some(1));
        std::fs::remove_file(older.1.path().join("server")).expect("removed");
        assert_eq!(found(), Some(2), "the reason names the newest");
    }

    #[test]
    fn record_of_a_stranger_is_not_used() {
        let place = tempfile::tempdir().expect("a directory");
        let file = place.path().join(FILE);
        let why = |file: &Path| read(file).expect_err("no record").to_string();
        write(place.path(), &[]).expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o620)).expect("a mode");
        assert!(why(&file).contains("another user may have written it"), "{}", why(&file));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("a mode");
        let link = place.path().join("link");
        symlink(&file, &link).expect("a link");
        assert!(why(&link).contains("symbolic link"), "{}", why(&link));
        std::fs::write(&file, r#"{"format":9,"releases":[]}"#).expect("written");
        assert!(why(&file).contains("format 9"), "{}", why(&file));
        std::fs::write(&file, vec![b' '; LARGEST as usize + 9]).expect("written");
        assert!(why(&file).contains("more than"), "{}", why(&file));
        std::fs::remove_file(&file).expect("removed");
        rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::RUSR).expect("a FIFO");
        assert!(why(&file).contains("no regular file"), "{}", why(&file));
    }

    #[test]
    fn newest_releases_are_kept_once() {
        let place = tempfile::tempdir().expect("a directory");
        let releases = vec![recorded(5, Path::new("/a")), recorded(4, Path::new("/b"))];
        let mut known = LastGood { directory: Some(place.path().to_owned()), releases, ..LastGood::default() };
        let own = vec![recorded(9, Path::new("/c")), recorded(5, Path::new("/a"))];
        let older = known.record(own, 3).expect("a directory");
        let newer = known.record(vec![recorded(10, Path::new("/d"))], 2).expect("a directory");
        let numbers = |releases: &[Recorded]| releases.iter().map(|recorded| recorded.release).collect::<Vec<_>>();
        assert_eq!((numbers(&older.releases), numbers(&newer.releases)), (vec![9, 5, 4], vec![10, 9]));
        // The threads that write them may come in any order.
        newer.write().expect("written");
        older.write().expect("a newer one is there");
        assert_eq!(numbers(&read(&place.path().join(FILE)).expect("a record")), [10, 9]);
        assert!(LastGood::default().record(vec![recorded(1, Path::new("/a"))], 3).is_none());
    }

    #[test]
    fn state_directory_of_the_master_is_not_the_workers() {
        let without = |value: &str| without_own_directory(VARIABLE.into(), value.into(), "web").map(|(_, value)| value);
        assert_eq!(without("/var/lib/ratoon/web"), None);
        assert_eq!(without("/var/lib/ratoon/web:/var/lib/shop"), Some("/var/lib/shop".into()));
        assert_eq!(without("/var/lib/shop"), Some("/var/lib/shop".into()));
        assert_eq!(own_directory(OsStr::new("/var/lib/shop:/var/lib/ratoon/web"), "web"), Some("/var/lib/ratoon/web".into()));
        assert_eq!(own_directory(OsStr::new("ratoon/web"), "web"), None);
        let other = ("HOME".into(), "/".into());
        assert_eq!(without_own_directory("HOME".into(), "/".into(), "web"), Some(other));
    }
}
