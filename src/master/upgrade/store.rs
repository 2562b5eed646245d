//! Store: keeps the master's state and descriptors in systemd's descriptor store, so that they outlive a master that dies.
//!
//! Law: the store is updated after each change, before the loop sleeps; nothing is written while nothing changes. The descriptors
//! go first, then the state that names them. Two memory files are written in turn, so that a master that is killed during a write
//! leaves the state before.
//!
//! A worker's message is written to the store before it is taken from its socket, so that it is not lost whenever the master dies.
//! A message may be handled twice, because no message adds to an earlier one. The store exists only with `RATOON_SURVIVE` (the
//! drop-in `survive.conf`): otherwise systemd kills the remaining processes of the unit.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create};

use super::store_index::StoreIndex;
use crate::master::log::journal::{Journal, Level, Record};
use crate::master::service_manager::systemd::Systemd;
use crate::master::state::Name;
use crate::master::state::bundle::{self, Members};
use crate::master::state::fds::{Incoming, Outgoing};
use crate::master::state::{Document, LISTENER_PREFIX, READING_PREFIX, SLOT_PREFIX};
use crate::pool::{Event, Notification, WorkerId};
use crate::stored_name::PREFIX;

/// Environment variable that says that this unit's workers outlive their master.
const VARIABLE: &str = "RATOON_SURVIVE";
/// The longest delay before a change that only shows that a worker lives (`WATCHDOG=1`, `STATUS=`) is written.
const CALM: Duration = Duration::from_secs(1);
/// Delay before the next try when systemd takes no more messages.
const AGAIN: Duration = Duration::from_millis(50);
/// Names of the two state files.
const FILES: [&str; 2] = ["state-0", "state-1"];
/// Name of the file with the workers' messages since the last write of the state.
const MESSAGES: &str = "words";
/// Upper bound of that file's content, bytes; further messages are not kept until the state is written.
const MESSAGES_MAX: usize = 1 << 20;
/// Bytes before the state in a file: the number of the write (0: none), and the length in bytes.
const HEAD: u64 = 16;
/// Upper bound of the state's size, bytes.
const STATE_MAX: u64 = 256 << 20;
/// Prefixes of the names that are stored; the other descriptors of a state are made anew.
const STORED: [&str; 6] = [LISTENER_PREFIX, "process-", "notify-", "page-", READING_PREFIX, SLOT_PREFIX];
/// Prefixes of the names of a release's files, which are stored, too.
const OF_RELEASE: [&str; 4] = ["program-", "script-", "preload-", "directory-"];

/// The state files, and the index of systemd's descriptor store.
pub struct Store {
    files: [File; 2],
    written: u64,
    /// Messages of workers since the last write: the total length in bytes, then for each message the worker, the length, and the
    /// bytes.
    messages: File,
    noted: usize,
    index: StoreIndex,
    again: Option<Instant>,
    /// When a change of the state is written at the latest; `None`: nothing has changed.
    due: Option<Instant>,
}

/// Whether this unit's workers are to outlive their master.
pub fn is_wanted() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|value| !value.is_empty()) && std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Opens the store of this unit, if [`is_wanted`]. `fds`: the received descriptors that are not taken yet.
pub fn open(fds: &mut Incoming, now: Instant, journal: &Journal) -> Option<Store> {
    if !is_wanted() {
        return None;
    }
    let store = Store::resume(fds, now);
    store.map_err(|error| journal.log(Record::new(Level::Warning, format!("no state outlives this master: {error}")))).ok()
}

impl Store {
    /// Makes an empty store.
    ///
    /// # Errors
    /// No memory is left.
    #[cfg(test)]
    fn new(now: Instant) -> io::Result<Store> {
        Store::resume(&mut Incoming::default(), now)
    }

    /// Opens the store of a dead master or of the earlier program. A file that was not received is made. At the next write of the
    /// state, stored descriptors that are not needed are dropped, and missing ones are added.
    ///
    /// # Errors
    /// No memory is left.
    pub fn resume(fds: &mut Incoming, now: Instant) -> io::Result<Store> {
        // An earlier version does not say what it has told systemd. Then every name is sent again, and systemd ignores those that
        // it has.
        let mut index = StoreIndex::of(fds.held().clone());
        for name in fds.given_up() {
            index.give_up(name);
        }
        let mut file = |name: &str| -> io::Result<File> {
            let (file, came) = match fds.take(name) {
                Ok(file) => (File::from(file), true),
                Err(_) => (memfd_create("ratoon-state", MemfdFlags::CLOEXEC)?.into(), false),
            };
            if !(came && index.has(name)) {
                index.replace(name.to_owned(), file.try_clone()?.into());
            }
            Ok(file)
        };
        let (files, messages) = ([file(FILES[0])?, file(FILES[1])?], file(MESSAGES)?);
        let written = files.iter().filter_map(head).map(|(number, _)| number).max().unwrap_or(0);
        let noted = read_messages(&messages).map_or(0, |bytes| bytes.len());
        Ok(Store { files, written, messages, noted, index, again: None, due: Some(now) })
    }

    /// Reads the state that was written last and is whole.
    pub fn read(fds: &Incoming) -> Result<Document, String> {
        let files = FILES.iter().filter_map(|name| fds.get(name)?.try_clone().ok()).map(File::from);
        let mut heads: Vec<((u64, u64), File)> = files.filter_map(|file| Some((head(&file)?, file))).collect();
        heads.sort_by_key(|((number, _), _)| *number);
        let ((_, length), file) = heads.pop().ok_or("no state was stored")?;
        let mut bytes = vec![0; usize::try_from(length).map_err(|error| error.to_string())?];
        file.read_exact_at(&mut bytes, HEAD).map_err(|error| format!("the stored state: {error}"))?;
        Document::read(&bytes)
    }

    /// Messages of workers that are not part of that state, oldest first.
    pub fn messages(fds: &Incoming) -> Vec<(WorkerId, Vec<u8>)> {
        let file = fds.get(MESSAGES).and_then(|file| file.try_clone().ok()).map(File::from);
        let bytes = file.and_then(|file| read_messages(&file)).unwrap_or_default();
        let (mut rest, mut messages) = (bytes.as_slice(), Vec::new());
        while let Some((head, more)) = rest.split_at_checked(HEAD as usize) {
            let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
            let length = usize::try_from(number(&head[8..])).unwrap_or(usize::MAX);
            let Some((said, next)) = more.split_at_checked(length) else { break };
            messages.push((number(&head[..8]), said.to_vec()));
            rest = next;
        }
        messages
    }

    /// Keeps a worker's message, so that the next master gets it if this one dies before the message is part of the state.
    pub fn note(&mut self, worker: WorkerId, bytes: &[u8], now: Instant) {
        let record = [&worker.to_ne_bytes(), &(bytes.len() as u64).to_ne_bytes(), bytes].concat();
        let noted = self.noted + record.len();
        if noted > MESSAGES_MAX {
            self.due = Some(now);
            return;
        }
        // Write the message first, then the total length that includes it.
        let written = self.messages.write_all_at(&record, 8 + self.noted as u64);
        if written.and_then(|()| self.messages.write_all_at(&(noted as u64).to_ne_bytes(), 0)).is_ok() {
            self.noted = noted;
        }
    }

    /// The names that systemd holds according to the messages sent so far.
    pub fn held(&self) -> Vec<Name> {
        self.index.held().iter().cloned().collect()
    }

    /// Passes the files to the next program over an exec.
    pub fn lend<'a>(&'a self, fds: &mut Outgoing<'a>) {
        for (name, file) in FILES.iter().zip(&self.files).chain([(&MESSAGES, &self.messages)]) {
            fds.lend((*name).to_owned(), file.as_fd());
        }
    }

    /// Notes that an event changes the state, and sets when the state is written.
    pub fn touch(&mut self, event: &Event, now: Instant) {
        let calm = matches!(
            event,
            Event::Notification(_, Notification::Watchdog | Notification::Status(_)) | Event::Hangs(..) | Event::Well(_)
        );
        let due = if calm { now + CALM } else { now };
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    /// Whether the state is to be written now. After a `true` not again before the next change.
    pub fn is_due(&mut self, now: Instant) -> bool {
        self.due.take_if(|due| *due <= now).is_some()
    }

    /// Sends changes again that systemd did not take, when it is time.
    pub fn on_deadline(&mut self, systemd: &Systemd, now: Instant) {
        if self.again.is_some_and(|again| again <= now) {
            self.tell(systemd, now);
        }
    }

    /// When the store is to be updated next.
    pub fn deadline(&self) -> Option<Instant> {
        [self.due, self.again].into_iter().flatten().min()
    }

    /// Writes the state. `all`: every message of a worker is part of it, so the file of messages is emptied.
    pub fn update(&mut self, document: &Document, fds: &Outgoing<'_>, systemd: &Systemd, now: Instant, all: bool) {
        let entries = entries(document, fds);
        self.index.want(&entries, &[FILES[0], FILES[1], MESSAGES], bundle::PREFIX, |name, members| match members.as_slice() {
            [(_, fd)] if !name.starts_with(bundle::PREFIX) => copy_for_systemd(name, *fd),
            members => bundle::pack(members),
        });
        self.tell(systemd, now);
        if let Ok(bytes) = document.write() {
            // After a failed write the other file still has the state before.
            let written = self.write(&bytes);
            if written.is_ok() && all && self.noted > 0 && self.messages.write_all_at(&[0; 8], 0).is_ok() {
                self.noted = 0;
            }
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

    /// Sends pending changes to systemd, and sets a retry for those that it does not take now.
    fn tell(&mut self, systemd: &Systemd, now: Instant) {
        let tell = |name: &Name, fd: Option<BorrowedFd<'_>>| systemd.store(&format!("{PREFIX}{name}"), fd);
        self.again = if self.index.tell(tell) { None } else { Some(now + AGAIN) };
    }
}

/// The content of a message file; `None` when the file is not valid.
fn read_messages(file: &File) -> Option<Vec<u8>> {
    let mut length = [0; 8];
    file.read_exact_at(&mut length, 0).ok()?;
    let length = usize::try_from(u64::from_ne_bytes(length)).ok().filter(|length| *length <= MESSAGES_MAX)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 8).ok()?;
    Some(bytes)
}

/// The write number and length of a state file; `None` when its state is not whole.
fn head(file: &File) -> Option<(u64, u64)> {
    let mut head = [0; HEAD as usize];
    file.read_exact_at(&mut head, 0).ok()?;
    let number = u64::from_ne_bytes(head[..8].try_into().ok()?);
    let length = u64::from_ne_bytes(head[8..].try_into().ok()?);
    (number != 0 && length <= STATE_MAX).then_some((number, length))
}

/// The entries of the store: bundles of what the workers have beside their processes, and all other descriptors under their own names. A
/// process has an entry of its own, because a master of another release that cannot read the state knows the workers by that alone.
fn entries<'a>(document: &'a Document, fds: &'a Outgoing<'_>) -> BTreeMap<Name, Members<'a>> {
    let state = &document.state;
    let mut named: BTreeMap<&Name, BorrowedFd<'_>> = fds.named().filter(|(name, _)| is_stored(name)).collect();
    let slot = |id: WorkerId| state.pool.as_ref().and_then(|pool| Some(pool.worker(id)?.slot)).unwrap_or(0);
    let workers = state.workers.iter().map(|(id, process)| {
        let names = [Some(&process.notify), process.scoreboard.as_ref()].into_iter().flatten().chain(&process.output);
        (slot(*id), names.filter_map(|name| named.remove_entry(name)).collect())
    });
    let mut entries: BTreeMap<_, _> = bundle::divide(workers).into_iter().collect();
    entries.extend(named.into_iter().map(|(name, fd)| (name.clone(), vec![(name, fd)])));
    entries
}

fn is_stored(name: &str) -> bool {
    STORED.iter().chain(&OF_RELEASE).any(|prefix| name.starts_with(prefix)) && !name.starts_with("notify-again-")
}

/// A copy for systemd. It does not store a descriptor that was opened with O_PATH, nor a duplicate of one that it has under another name,
/// such as that of a release which an undo has brought back: files are opened again.
fn copy_for_systemd(name: &str, fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    if !OF_RELEASE.iter().any(|prefix| name.starts_with(prefix)) {
        return fd.try_clone_to_owned();
    }
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn release_under_two_names_is_no_duplicate_for_systemd() {
        let script = File::from(memfd_create("script", MemfdFlags::CLOEXEC).unwrap());
        script.write_all_at(b"#!/bin/sh", 0).unwrap();
        let copies = ["script-2", "script-4"].map(|name| copy_for_systemd(name, script.as_fd()).unwrap());
        assert!(["script-2", "preload-2", "preload-script-2"].into_iter().all(is_stored));
        // Each has an offset of its own.
        for copy in copies {
            let mut text = String::new();
            File::from(copy).read_to_string(&mut text).unwrap();
            assert_eq!(text, "#!/bin/sh");
        }
    }

    fn messages(store: &Store) -> Vec<(WorkerId, Vec<u8>)> {
        let file = store.messages.try_clone().unwrap().into();
        Store::messages(&Incoming::by_name(vec![(MESSAGES.to_owned(), file)], ""))
    }

    #[test]
    fn what_was_said_is_read_in_its_order_until_the_first_that_is_not_whole() {
        let now = Instant::now();
        let mut store = Store::new(now).unwrap();
        assert_eq!(messages(&store), []);
        let said = [(7, b"READY=1".to_vec()), (8, Vec::new()), (7, vec![b'x'; 4096])];
        for (worker, bytes) in &said {
            store.note(*worker, bytes, now);
        }
        assert_eq!(messages(&store), said);
        // As if killed after the message was written and before the total length.
        store.messages.write_all_at(&[1; 20], 8 + store.noted as u64).unwrap();
        assert_eq!(messages(&store), said);
        for length in [store.noted as u64 - 1, 8, u64::MAX] {
            store.messages.write_all_at(&length.to_ne_bytes(), 0).unwrap();
            assert!(messages(&store).len() < said.len(), "{length}");
        }
    }

    #[test]
    fn descriptors_in_bundles_come_under_their_own_names() {
        let file = tempfile::tempfile().unwrap();
        let names = ["notify-7".to_owned(), "page-7".to_owned()];
        let members: Members<'_> = names.iter().map(|name| (name, file.as_fd())).collect();
        let bundle = (format!("{PREFIX}bundle-0-1"), bundle::pack(&members).unwrap());
        let broken = (format!("{PREFIX}bundle-1-1"), tempfile::tempfile().unwrap().into());
        let mut fds = Incoming::by_name(vec![bundle, broken], PREFIX);
        assert!(names.iter().all(|name| fds.take(name).is_ok()));
        // The store holds what it held, and the bundle that cannot be read is to be replaced.
        assert_eq!(fds.held().iter().collect::<Vec<_>>(), ["bundle-0-1", "bundle-1-1"]);
        assert_eq!(fds.given_up().iter().collect::<Vec<_>>(), ["bundle-1-1"]);
    }

    #[test]
    fn store_names_are_told_from_those_of_sockets() {
        for name in STORED.map(|prefix| format!("{prefix}1")).iter().map(String::as_str).chain(FILES).chain([MESSAGES]) {
            assert!(crate::stored_name::is_stored(&format!("{PREFIX}{name}")), "{name}");
        }
    }

    #[test]
    fn there_is_an_end_to_what_is_kept() {
        let now = Instant::now();
        let mut store = Store::new(now).unwrap();
        for _ in 0..1000 {
            store.note(1, &[b'x'; 4096], now + CALM);
        }
        assert!(store.noted <= MESSAGES_MAX && messages(&store).len() > 200);
        assert_eq!(store.due, Some(now + CALM));
    }
}
