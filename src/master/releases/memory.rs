//! The memory check before a reload (`reload.memory`): whether a second generation fits beside the one that serves.
//!
//! Law: never on the loop, because reading these files of /proc may wait for a worker. A figure that is not known neither warns nor
//! refuses.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::config::{Config, MemoryCheck};
use crate::pool::Room;

/// The largest number of workers that are measured, evenly spread; each takes some ten microseconds.
const ASKED: usize = 64;
/// Bytes of shared memory above which the worker's proportional share is read, which takes the kernel longer.
const SHARED: u64 = 1 << 20;

/// A sample of the generation that serves: pid and control group of each worker, and the master's control group.
#[derive(Debug)]
pub struct Footprint {
    workers: Vec<(u32, Option<PathBuf>)>,
    /// The number of all workers.
    count: u32,
    group: Option<PathBuf>,
}

impl Footprint {
    /// A sample of these workers. `group`: the control group of the master.
    pub fn of(workers: &[(u32, Option<&Path>)], group: Option<&Path>) -> Footprint {
        let some = workers.iter().step_by(workers.len().div_ceil(ASKED).max(1));
        Footprint {
            workers: some.map(|(pid, group)| (*pid, group.map(Path::to_owned))).collect(),
            count: workers.len() as u32,
            group: group.map(Path::to_owned),
        }
    }

    /// The memory for further such workers.
    pub fn room(&self) -> Option<Room> {
        let ((left, _), worker) = room(self.group.as_deref()).zip(self.mean())?;
        Some(Room { left, worker })
    }

    /// Returns a warning if the new workers that will live beside the old ones do not fit into memory.
    ///
    /// # Errors
    /// With `reload.memory = "refuse"`, the same sentence: the memory needed, the memory left, and what to do.
    pub fn look_ahead(&self, config: &Config) -> Result<Option<String>, String> {
        if config.reload.memory == MemoryCheck::Ignore {
            return Ok(None);
        }
        // An elastic pool brings as many as serve.
        let (min, max) = config.worker.bounds();
        let workers = if min < max { self.count.max(min).min(max) } else { config.worker.workers() };
        let short = room(self.group.as_deref())
            .zip(self.mean())
            .and_then(|((room, whose), each)| shortage(each, config.reload.surge.of(workers), workers, room, whose));
        match (short, config.reload.memory) {
            (Some(short), MemoryCheck::Refuse) => Err(short),
            (short, MemoryCheck::Warn | MemoryCheck::Refuse | MemoryCheck::Ignore) => Ok(short),
        }
    }

    /// Average bytes that a worker of this generation does not share with others.
    fn mean(&self) -> Option<u64> {
        let known: Vec<u64> = self.workers.iter().filter_map(|(pid, group)| own_memory(*pid, group.as_deref())).collect();
        let sum = known.iter().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
        sum.checked_div(known.len() as u64)
    }
}

fn shortage(each: u64, beside: u32, workers: u32, room: u64, whose: &str) -> Option<String> {
    let needed = each.saturating_mul(u64::from(beside));
    (needed > room).then(|| {
        format!(
            "not enough memory for {beside} new workers beside the old ones: a worker of this generation has {} for itself, so they \
             need {}, and {} are left {whose}; set reload.surge below {workers}, for instance to {}, or give the service more memory",
            Bytes(each),
            Bytes(needed),
            Bytes(room),
            (room / each.max(1)).clamp(1, u64::from(beside))
        )
    })
}

/// Bytes that another such worker would add: anonymous memory and its share of shared memory. Mapped files are left out, because
/// the kernel keeps them once for all workers and can read them again.
fn own_memory(pid: u32, group: Option<&Path>) -> Option<u64> {
    let of_group = group.and_then(|group| {
        let stat = whole(&group.join("memory.stat")).ok()?;
        Some(field(&stat, "anon ")?.saturating_add(field(&stat, "shmem ")?))
    });
    of_group.or_else(|| {
        let status = whole(Path::new(&format!("/proc/{pid}/status"))).ok()?;
        let (anonymous, shared) = (kilobytes(&status, "RssAnon:")?, kilobytes(&status, "RssShmem:")?);
        // A segment that all workers map is counted in each of them: read the proportional share.
        let share = || kilobytes(&whole(Path::new(&format!("/proc/{pid}/smaps_rollup"))).ok()?, "Pss_Shmem:");
        let shared = if shared > SHARED { share().unwrap_or(shared) } else { shared };
        Some(anonymous.saturating_add(shared))
    })
}

/// Bytes that may still be used, and where the limit is: the tightest of the control group, its ancestors, and the machine.
fn room(group: Option<&Path>) -> Option<(u64, &'static str)> {
    let machine = whole(Path::new("/proc/meminfo")).ok();
    let machine = machine
        .and_then(|info| Some(kilobytes(&info, "MemAvailable:")?.saturating_add(kilobytes(&info, "SwapFree:").unwrap_or(0))));
    let groups = group.into_iter().flat_map(Path::ancestors).filter_map(|group| {
        let limit = number(&group.join("memory.max"))?;
        let used = number(&group.join("memory.current"))?;
        // The kernel reclaims the page cache before it kills. Shared memory counts as cache there, but cannot be reclaimed.
        let stat = whole(&group.join("memory.stat")).unwrap_or_default();
        let cache = field(&stat, "file ").unwrap_or(0).saturating_sub(field(&stat, "shmem ").unwrap_or(0));
        Some((limit.saturating_sub(used.saturating_sub(cache)), "below the limit of its control group (MemoryMax=)"))
    });
    groups.chain(machine.map(|room| (room, "on this machine"))).min_by_key(|(room, _)| *room)
}

/// Reads a file of /proc or the cgroup file system. A read that does not fill the buffer is the last, to save a system call during
/// the reload.
fn whole(path: &Path) -> std::io::Result<String> {
    let (mut file, mut text, mut piece) = (fs::File::open(path)?, Vec::new(), [0; 4096]);
    loop {
        let length = file.read(&mut piece)?;
        text.extend_from_slice(&piece[..length]);
        if length < piece.len() {
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
    }
}

/// The number in a file; `None` for `max`.
fn number(path: &Path) -> Option<u64> {
    whole(path).ok()?.trim().parse().ok()
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    field(text, name).map(|kilobytes| kilobytes.saturating_mul(1024))
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)).and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok())
}

/// Bytes, shown as in a configuration: `210M`.
struct Bytes(u64);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            bytes if bytes >= 10 << 30 => write!(f, "{}G", bytes >> 30),
            bytes if bytes >= 10 << 20 => write!(f, "{}M", bytes >> 20),
            bytes => write!(f, "{}K", bytes.div_ceil(1024)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortage_is_one_sentence_with_a_remedy() {
        assert_eq!(shortage(100 << 20, 4, 4, 400 << 20, "there"), None);
        let why = shortage(100 << 20, 4, 4, 250 << 20, "below the limit").expect("too little");
        assert!(
            why.contains("need 400M, and 250M are left below the limit; set reload.surge below 4, for instance to 2"),
            "{why}"
        );
    }

    /// A control group below a limit: the worker has 100 MiB, and 10 MiB are left.
    fn tight() -> (tempfile::TempDir, Footprint) {
        let above = tempfile::tempdir().unwrap();
        let group = above.path().join("group");
        fs::create_dir(&group).unwrap();
        for (name, text) in [("memory.max", "1048576000\n"), ("memory.current", "1038090240\n"), ("memory.stat", "file 0\n")] {
            fs::write(above.path().join(name), text).unwrap();
        }
        fs::write(group.join("memory.stat"), "anon 94371840\nfile 524288000\nshmem 10485760\n").unwrap();
        let footprint = Footprint { workers: vec![(1, Some(group.clone()))], count: 1, group: Some(group) };
        (above, footprint)
    }

    #[test]
    fn shortage_warns_unless_the_configuration_refuses() {
        let (_above, footprint) = tight();
        let mut config = Config::for_command(vec!["x".to_owned()]);
        config.worker.count = Some(2);
        let warned = footprint.look_ahead(&config).expect("no refusal").expect("a warning");
        assert!(warned.contains("has 100M for itself, so they need 200M, and 10M are left below the limit"), "{warned}");
        config.reload.memory = MemoryCheck::Refuse;
        assert_eq!(footprint.look_ahead(&config), Err(warned));
        config.reload.memory = MemoryCheck::Ignore;
        assert_eq!(footprint.look_ahead(&config), Ok(None));
    }

    #[test]
    fn mapped_files_and_past_peaks_are_not_counted() {
        let pid = std::process::id();
        // More than the peak of this process is read back from a file that is mapped and dropped again.
        let own = own_memory(pid, None).expect("figures of this process");
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let (rss, peak) = (kilobytes(&status, "VmRSS:").unwrap(), kilobytes(&status, "VmHWM:").unwrap());
        assert!(own > 100_000 && own < peak && rss <= peak, "{own} of {rss}, peak {peak}");
        assert!(room(None).is_some_and(|(room, whose)| room > 0 && whose == "on this machine"));
    }

    #[test]
    fn limit_above_the_group_counts_and_the_cache_of_files_does_not() {
        let above = tempfile::tempdir().unwrap();
        let group = above.path().join("group");
        fs::create_dir(&group).unwrap();
        for (path, text) in [
            (above.path().join("memory.max"), "1000\n"),
            (above.path().join("memory.current"), "900\n"),
            (above.path().join("memory.stat"), "anon 300\nfile 600\nshmem 100\nfile_mapped 5\n"),
            (group.join("memory.max"), "max\n"),
        ] {
            fs::write(path, text).unwrap();
        }
        assert_eq!(room(Some(&group)).map(|(room, _)| room), Some(600));
    }
}
