//! The descriptors that systemd passes at the start, sd_listen_fds(3). Every announced value is checked.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{FileType, fcntl_get_seals, fstat};

use super::{Error, Kind, Listener};
use crate::stored_name;
use crate::sys::fd::{RESERVED_FD_BASE, dup_high, inherited, open_numbers};
use crate::sys::process::PidFd;

/// The first passed descriptor (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// The passed descriptors.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The sockets, in the order of their descriptor numbers.
    pub listeners: Vec<Listener>,
    /// Descriptors that an earlier master stored in systemd, by name: process descriptors, its state, notify sockets.
    pub stored: Vec<(String, OwnedFd)>,
    /// Deviations from the announcement, each a line for the log.
    pub warnings: Vec<String>,
}

/// Takes the descriptors that `LISTEN_PID`, `LISTEN_PIDFDID`, `LISTEN_FDS` and `LISTEN_FDNAMES` announce.
///
/// `None` when no descriptor was passed. An announcement for another process, a missing descriptor, and a wrong number of names
/// are warnings; a value that is not a number is an error. Afterwards all descriptors are close-on-exec, with numbers that no
/// worker's descriptors use.
pub fn from_systemd(env: impl Fn(&str) -> Option<OsString>) -> Result<Option<Inherited>, Error> {
    let text = |name: &str| env(name).map(|value| value.to_string_lossy().into_owned());
    let number = |name: &str| match text(name) {
        None => Ok(None),
        Some(value) => value.trim().parse::<u64>().map(Some).map_err(|_| {
            Error(format!("{name}={value:?} is not a number: start ratoon by systemd, or without any LISTEN_ variable"))
        }),
    };
    let own = std::process::id();
    let pid = number("LISTEN_PID")?;
    if pid != Some(u64::from(own)) {
        return Ok(pid
            .filter(|_| number("LISTEN_FDS").is_ok_and(|count| count.unwrap_or(0) > 0))
            .map(|pid| for_another(pid, own)));
    }
    let own_inode = || PidFd::open(own).ok().and_then(|pidfd| pidfd.inode());
    if let (Some(said), Some(inode)) = (number("LISTEN_PIDFDID")?, own_inode())
        && said != inode
    {
        return Ok(Some(for_another(u64::from(own), own)));
    }
    let announced = match number("LISTEN_FDS")? {
        None | Some(0) => return Ok(None),
        Some(count) => count,
    };
    let names: Vec<String> = match text("LISTEN_FDNAMES") {
        Some(names) => names.split(':').map(str::to_owned).collect(),
        None => Vec::new(),
    };
    Ok(Some(take(announced, &names)))
}

/// The result when the announcement names another process: a warning, and no sockets.
fn for_another(pid: u64, own: u32) -> Inherited {
    let warning = format!(
        "LISTEN_PID={pid} names another process than this one ({own}), so the sockets in LISTEN_FDS are not taken: a wrapper stands \
         between systemd and ratoon; let it end in `exec ratoon run ...`"
    );
    Inherited { warnings: vec![warning], ..Inherited::default() }
}

fn take(announced: u64, names: &[String]) -> Inherited {
    let mut all = Inherited::default();
    let end = RawFd::try_from(announced.saturating_add(FIRST as u64)).unwrap_or(RawFd::MAX);
    // The loop goes over the open descriptors, because the announced number may be two thousand millions. All descriptors are
    // taken before the first is examined, so that none can leak.
    let numbers = open_numbers().into_iter().filter(|number| (FIRST..end).contains(number));
    let taken: Vec<(RawFd, OwnedFd)> = numbers.filter_map(|number| Some((number, inherited(number).ok()?))).collect();
    if (taken.len() as u64) < announced {
        all.warnings.push(format!("LISTEN_FDS={announced}, but only {} of these descriptors are there", taken.len()));
    }
    if !names.is_empty() && names.len() as u64 != announced {
        all.warnings.push(format!("LISTEN_FDS={announced}, but LISTEN_FDNAMES has {} names", names.len()));
    }
    for (number, fd) in taken {
        let name = usize::try_from(number - FIRST).ok().and_then(|index| names.get(index));
        // The name that sd_listen_fds_with_names(3) gives to a descriptor without a name.
        let name = name.map_or("unknown", String::as_str).to_owned();
        if stored_name::is_stored(&name) || is_of_store(fd.as_fd()) {
            all.stored.push((name, dup_high(fd, RESERVED_FD_BASE)));
            continue;
        }
        let listener = Listener::of(name, dup_high(fd, RESERVED_FD_BASE), true);
        if listener.kind == Kind::Other {
            all.warnings.push(format!("descriptor {number} ({}) is no listening socket; passed on as it is", listener.address));
        }
        all.listeners.push(listener);
    }
    all
}

/// Whether a descriptor can only come from systemd's descriptor store: a pidfd or a memfd, which no socket unit passes.
fn is_of_store(fd: BorrowedFd<'_>) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    if link.is_ok_and(|path| path.as_os_str() == "anon_inode:[pidfd]" || path.to_string_lossy().starts_with("pidfd:")) {
        return true;
    }
    let regular = fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    regular && fcntl_get_seals(fd).is_ok()
}
