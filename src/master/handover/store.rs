//! What outlives a master that dies: its state in memory, and its descriptors, both in systemd's store of descriptors.
//!
//! Law: kept current at each change before the loop sleeps; nothing is written while nothing changes. The descriptors go
//! first, then the state that names them. Two files of memory take turns, so that a master that is killed in the middle of
//! a writing leaves the state before. Only with `RATOON_SURVIVE` (the drop-in `survive.conf`): systemd kills what is left of
//! a unit otherwise.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create};

use super::fds::{Incoming, Name, Outgoing};
use super::state::{self, Document};
use crate::master::journal::{Journal, Level, Record};
use crate::master::sockets::STORED_PREFIX;
use crate::master::systemd::Systemd;
use crate::master::turn::Master;
use crate::pool::{Event, Said};

/// Says that this unit's workers outlive their master.
const VARIABLE: &str = "RATOON_SURVIVE";
/// What only says that a worker lives is written so often.
const CALM: Duration = Duration::from_secs(1);
/// When systemd takes no more, it is tried again so much later.
const AGAIN: Duration = Duration::from_millis(50);
/// The two files.
const FILES: [&str; 2] = ["state-0", "state-1"];
/// Before the state: which writing it is (0: none), and how many bytes.
const HEAD: u64 = 16;
/// More than any state has, bytes.
const STATE_MAX: u64 = 256 << 20;
/// What is stored of all that a state names; the rest is made anew.
const STORED: [&str; 7] = ["process-", "notify-", "page-", "program-", "script-", "directory-", super::SLOT_PREFIX];

/// The way to the store.
pub struct Store {
    files: [File; 2],
    written: u64,
    stored: BTreeSet<Name>,
    /// What systemd is still to be told: store this, or drop it.
    deeds: VecDeque<(Name, Option<OwnedFd>)>,
    again: Option<Instant>,
    /// The state is another since then, and may wait until then.
    due: Option<Instant>,
}

/// Whether this unit is made for it.
pub fn is_wanted() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|value| !value.is_empty()) && std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// That of this unit, if it is made for it. `fds`: what came and nobody has taken.
pub fn open(fds: &mut Incoming, now: Instant, journal: &mut Journal) -> Option<Store> {
    if !is_wanted() {
        return None;
    }
    let store = Store::resume(fds, now).or_else(|_| Store::new(now));
    let mut store = store
        .map_err(|error| journal.log(Record::new(Level::Warning, format!("no state outlives this master: {error}"))))
        .ok()?;
    for name in fds.names() {
        store.deeds.push_back((name.clone(), None));
    }
    Some(store)
}

impl Store {
    /// An empty one.
    ///
    /// # Errors
    /// No memory.
    pub fn new(now: Instant) -> io::Result<Store> {
        let file = || Ok::<File, io::Error>(memfd_create("ratoon-state", MemfdFlags::CLOEXEC)?.into());
        let files = [file()?, file()?];
        let mut store = Store { files, written: 0, stored: BTreeSet::new(), deeds: VecDeque::new(), again: None, due: Some(now) };
        for (name, file) in FILES.iter().zip(&store.files) {
            store.deeds.push_back(((*name).to_owned(), None));
            store.deeds.push_back(((*name).to_owned(), Some(file.try_clone()?.into())));
        }
        Ok(store)
    }

    /// That of a master that died, or of the program before: what it has and nobody took is dropped.
    ///
    /// # Errors
    /// It is not there.
    pub fn resume(fds: &mut Incoming, now: Instant) -> io::Result<Store> {
        let files: [File; 2] = [fds.take(FILES[0])?.into(), fds.take(FILES[1])?.into()];
        let stored = fds.taken().iter().filter(|name| has_stored_name(name)).cloned().collect();
        let written = files.iter().filter_map(head).map(|(number, _)| number).max().unwrap_or(0);
        Ok(Store { files, written, stored, deeds: VecDeque::new(), again: None, due: Some(now) })
    }

    /// The state that was written last, whole.
    pub fn read(fds: &Incoming) -> Result<Document, String> {
        let files = FILES.iter().filter_map(|name| fds.get(name)?.try_clone().ok()).map(File::from);
        let mut heads: Vec<((u64, u64), File)> = files.filter_map(|file| Some((head(&file)?, file))).collect();
        heads.sort_by_key(|((number, _), _)| *number);
        let ((_, length), file) = heads.pop().ok_or("no state was stored")?;
        let mut bytes = vec![0; usize::try_from(length).map_err(|error| error.to_string())?];
        file.read_exact_at(&mut bytes, HEAD).map_err(|error| format!("the stored state: {error}"))?;
        Document::read(&bytes)
    }

    /// For the next program, which goes on with it.
    pub fn lend<'a>(&'a self, fds: &mut Outgoing<'a>) {
        for (name, file) in FILES.iter().zip(&self.files) {
            fds.lend((*name).to_owned(), file.as_fd());
        }
    }

    /// Something happens.
    pub fn touch(&mut self, event: &Event, now: Instant) {
        let calm = matches!(event, Event::Said(_, Said::Watchdog | Said::Status(_)));
        let due = if calm { now + CALM } else { now };
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    /// When it wants to be looked at.
    pub fn deadline(&self) -> Option<Instant> {
        [self.due, self.again].into_iter().flatten().min()
    }

    fn take_in(&mut self, document: &Document, fds: &Outgoing<'_>, systemd: &Systemd, now: Instant) {
        let named: BTreeMap<&Name, BorrowedFd<'_>> = fds.named().filter(|(name, _)| is_stored(name, document)).collect();
        let gone: Vec<Name> = self.stored.iter().filter(|name| !named.contains_key(name)).cloned().collect();
        for name in gone {
            self.stored.remove(&name);
            self.deeds.push_back((name, None));
        }
        for (name, fd) in named {
            if !self.stored.contains(name)
                && let Ok(copy) = readable(fd)
            {
                self.stored.insert(name.clone());
                self.deeds.push_back((name.clone(), Some(copy)));
            }
        }
        self.tell(systemd, now);
        if let Ok(bytes) = document.write() {
            // What cannot be written is not there: the other file has the state before.
            let _ = self.write(&bytes);
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let number = self.written + 1;
        let file = &self.files[usize::from(number % 2 == 1)];
        file.write_all_at(&[0; 8], 0)?;
        file.write_all_at(bytes, HEAD)?;
        file.write_all_at(&(bytes.len() as u64).to_ne_bytes(), 8)?;
        file.write_all_at(&number.to_ne_bytes(), 0)?;
        self.written = number;
        Ok(())
    }

    /// Tells systemd what it is to keep and to drop; what it does not take now later.
    fn tell(&mut self, systemd: &Systemd, now: Instant) {
        self.again = None;
        while let Some((name, fd)) = self.deeds.pop_front() {
            if !systemd.store(&format!("{STORED_PREFIX}{name}"), fd.as_ref().map(AsFd::as_fd)) {
                self.deeds.push_front((name, fd));
                self.again = Some(now + AGAIN);
                return;
            }
        }
    }
}

/// Which writing a file has, and how long it is; `None` when it is not whole.
fn head(file: &File) -> Option<(u64, u64)> {
    let mut head = [0; HEAD as usize];
    file.read_exact_at(&mut head, 0).ok()?;
    let number = u64::from_ne_bytes(head[..8].try_into().ok()?);
    let length = u64::from_ne_bytes(head[8..].try_into().ok()?);
    (number != 0 && length <= STATE_MAX).then_some((number, length))
}

fn is_stored(name: &str, document: &Document) -> bool {
    // What came from systemd comes from there again.
    let ours = document.state.listeners.iter().any(|listener| !listener.inherited && listener.fd == name);
    ours || has_stored_name(name)
}

fn has_stored_name(name: &str) -> bool {
    STORED.iter().any(|prefix| name.starts_with(prefix)) && !name.starts_with("notify-again-")
}

/// A copy that systemd takes: it has no use for one that was opened as a mere path.
fn readable(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    if !flags.contains(OFlags::PATH) {
        return fd.try_clone_to_owned();
    }
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?)
}

impl Master {
    /// Brings the store up to date, before the loop sleeps.
    pub(in crate::master) fn keep_current(&mut self) {
        let Some(mut store) = self.store.take() else { return };
        if store.due.is_some_and(|due| due <= self.now) {
            store.due = None;
            let mut fds = Outgoing::default();
            if let Ok(state) = self.save(None, Vec::new(), &mut fds) {
                let document = Document {
                    format: state::FORMAT,
                    least: state::least(&fds),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    descriptors: BTreeMap::new(),
                    state,
                };
                store.take_in(&document, &fds, &self.systemd, self.now);
            }
        } else if store.again.is_some_and(|again| again <= self.now) {
            store.tell(&self.systemd, self.now);
        }
        self.store = Some(store);
    }
}
