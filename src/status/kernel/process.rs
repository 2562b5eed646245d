//! One process and one cgroup, as `/proc` and the cgroup's files show them.

use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{CWD, Mode, OFlags, RawDir, openat, readlinkat_raw};
use rustix::time::{ClockId, clock_gettime};

use super::diag::Inode;

/// The most descriptors of one process that are read.
const DESCRIPTORS_MAX: u32 = 65_536;
/// Levels below its children to which the descendants of a worker without a cgroup are followed.
const DEPTH_MAX: u32 = 8;
/// The most threads of a process whose children are read.
const THREADS_MAX: usize = 1024;

/// A process, by its PID. The PID of a worker belongs to no other process until the master has reaped the worker. A read at that
/// very moment, or of a process that another parent reaps, could show a later process with the same PID; PIDs are reused
/// after tens of thousands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process(u32);

/// Figures from `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// CPU time of the process and of the children that it has waited for, microseconds.
    pub cpu_usec: u64,
    /// Start of the process, as the time since the boot.
    pub started: Duration,
    /// Number of threads.
    pub threads: u64,
    /// Whether the process is stopped, as by SIGSTOP.
    pub is_stopped: bool,
}

impl Process {
    /// `None` for 0, which is the PID of no process.
    pub fn of(pid: u32) -> Option<Process> {
        (pid != 0).then_some(Process(pid))
    }

    /// `None` when the process has ended or is a zombie.
    pub fn stat(&self) -> Option<Stat> {
        let mut buffer = [0; 1024];
        let text = self.read("stat", &mut buffer)?;
        parse_stat(text, rustix::param::clock_ticks_per_second())
    }

    /// Resident memory, bytes, from `statm`. For `statm` the kernel sums its counters of all CPUs, and waits for no lock of the process:
    /// `smaps_rollup` waits for one, and `stat` is too low by the counts that the CPUs have not added yet.
    pub fn rss(&self) -> Option<u64> {
        let mut buffer = [0; 256];
        let pages: u64 = self.read("statm", &mut buffer)?.split_ascii_whitespace().nth(1)?.parse().ok()?;
        pages.checked_mul(rustix::param::page_size() as u64)
    }

    /// The socket at this descriptor number, if there is one.
    pub fn socket(&self, number: u32) -> Option<Inode> {
        let mut link = [MaybeUninit::uninit(); 32];
        let (link, _) = readlinkat_raw(CWD, self.path(format_args!("fd/{number}")), &mut link[..]).ok()?;
        socket_inode(link)
    }

    /// Calls `each` with the descriptor number and the inode of every socket that the process holds. `false` when not all of them can be
    /// seen: another user's process, a process that is not dumpable, too many descriptors, or no time left.
    pub fn sockets(&self, end: Instant, mut each: impl FnMut(u32, Inode)) -> bool {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(dir) = openat(CWD, self.path("fd"), flags, Mode::empty()) else { return false };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut entries = RawDir::new(&dir, &mut buffer);
        let mut seen = 0;
        while let Some(entry) = entries.next() {
            let Ok(entry) = entry else { return false };
            seen += 1;
            if seen > DESCRIPTORS_MAX || (seen % 256 == 0 && Instant::now() > end) {
                return false;
            }
            // "socket:[12345]"; "." and ".." are no links, and a descriptor may have been closed meanwhile.
            let mut link = [MaybeUninit::uninit(); 32];
            if let Ok((link, _)) = readlinkat_raw(&dir, entry.file_name(), &mut link[..])
                && let Some(inode) = socket_inode(link)
                && let Some(number) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok())
            {
                each(number, inode);
            }
        }
        true
    }

    fn path(&self, file: impl Display) -> String {
        format!("/proc/{}/{file}", self.0)
    }

    fn read<'a>(&self, file: &str, buffer: &'a mut [u8]) -> Option<&'a str> {
        let mut file = File::open(self.path(file)).ok()?;
        let length = file.read(buffer).ok()?;
        // The name in `stat` may hold any bytes; all the rest is ASCII.
        let bytes = &buffer[..length];
        let after = bytes.iter().rposition(|byte| *byte == b')').unwrap_or(0);
        std::str::from_utf8(&bytes[after..]).ok()
    }

    /// The children of all its threads; `None` when they cannot be seen, or there are more than [`THREADS_MAX`] threads.
    fn children(&self) -> Option<Vec<u32>> {
        let mut children = self.children_of(self.0)?;
        if self.stat().is_some_and(|stat| stat.threads > 1) {
            let threads = std::fs::read_dir(self.path("task")).ok()?;
            for (number, thread) in threads.enumerate() {
                let thread: u32 = thread.ok()?.file_name().to_str()?.parse().ok()?;
                if number >= THREADS_MAX {
                    return None;
                }
                if thread != self.0 {
                    // A thread that has ended meanwhile has no children: they are another thread's now.
                    children.extend(self.children_of(thread).into_iter().flatten());
                }
            }
        }
        Some(children)
    }

    fn children_of(&self, thread: u32) -> Option<Vec<u32>> {
        let path = format!("task/{thread}/children");
        let mut buffer = [0; 4096];
        Some(self.read(&path, &mut buffer)?.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
    }
}

/// Reads `/proc/PID/stat` from the parenthesis that ends the name on, proc(5); the first field after it has number 3.
fn parse_stat(text: &str, ticks: u64) -> Option<Stat> {
    let fields: Vec<&str> = text.strip_prefix(')')?.split_ascii_whitespace().collect();
    let field = |number: usize| -> Option<u64> { fields.get(number - 3)?.parse::<i64>().ok()?.try_into().ok() };
    if matches!(*fields.first()?, "Z" | "X" | "x") || ticks == 0 {
        return None;
    }
    // utime, stime, and cutime, cstime of children that were waited for.
    let cpu = (14..=17).try_fold(0u64, |sum, number| sum.checked_add(field(number)?))?;
    let per_tick = 1_000_000 / ticks.min(1_000_000);
    Some(Stat {
        cpu_usec: cpu.saturating_mul(per_tick),
        started: Duration::from_micros(field(22)?.saturating_mul(per_tick)),
        threads: field(20)?,
        is_stopped: fields.first() == Some(&"T"),
    })
}

fn socket_inode(link: &[u8]) -> Option<Inode> {
    std::str::from_utf8(link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?).ok()?.parse().ok()
}

/// Time of the machine's boot, by the present wall clock.
pub(super) fn boot_time() -> Option<SystemTime> {
    let up = clock_gettime(ClockId::Boottime);
    let up = Duration::new(up.tv_sec.try_into().ok()?, up.tv_nsec.try_into().ok()?);
    SystemTime::now().checked_sub(up)
}

/// CPU time of this process, microseconds, without that of the workers and hooks that it has waited for.
pub(super) fn own_cpu() -> u64 {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    (spent.tv_sec.unsigned_abs() * 1_000_000).saturating_add(spent.tv_nsec.unsigned_abs() / 1000)
}

/// Rss and Pss of this process, bytes, from `/proc/self/smaps_rollup`.
pub(super) fn own_rollup() -> (Option<u64>, Option<u64>) {
    rollup("self")
}

/// Proportional memory of a process, bytes; `None` when it is gone or may not be looked at.
pub fn pss(pid: u32) -> Option<u64> {
    rollup(&pid.to_string()).1
}

fn rollup(process: &str) -> (Option<u64>, Option<u64>) {
    let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
    let field = |name: &str| {
        let kib = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib?.checked_mul(1024)
    };
    (field("Rss:"), field("Pss:"))
}

/// The number in a cgroup's file that holds a single number.
pub(super) fn number(path: &Path) -> Option<u64> {
    let mut text = String::new();
    File::open(path).ok()?.take(64).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// `usage_usec` of a cgroup.
pub(super) fn group_cpu(group: &Path) -> Option<u64> {
    let mut text = String::new();
    File::open(group.join("cpu.stat")).ok()?.take(4096).read_to_string(&mut text).ok()?;
    text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse().ok())
}

/// The processes of a cgroup; `None` when it is gone, or holds more than `max`.
pub(super) fn group_members(group: &Path, max: usize) -> Option<Vec<u32>> {
    let mut text = String::new();
    File::open(group.join("cgroup.procs")).ok()?.take(64 * 1024).read_to_string(&mut text).ok()?;
    let members: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    (members.len() <= max).then_some(members)
}

/// The descendants of a process; `None` when they cannot be seen or are more than `max`.
pub(super) fn descendants(main: &Process, max: usize) -> Option<Vec<u32>> {
    let mut all = main.children()?;
    let mut level = all.clone();
    for _ in 0..DEPTH_MAX {
        // A process that has ended meanwhile has no children.
        level = level.iter().filter_map(|pid| Process::of(*pid)?.children()).flatten().collect();
        all.extend_from_slice(&level);
        if level.is_empty() || all.len() > max {
            break;
        }
    }
    (all.len() <= max).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A recorded `/proc/PID/stat`, without what stands before the end of the name.
    const STAT: &str = ") S 1 900 900 0 -1 4194560 1234 0 5 0 150 50 7 3 20 0 4 0 4242 12345678 256 18446744073709551615 1 1 0";

    #[test]
    fn stat_is_read() {
        let stat = parse_stat(STAT, 100).expect("a stat");
        assert_eq!(stat, Stat { cpu_usec: 2_100_000, started: Duration::from_millis(42_420), threads: 4, is_stopped: false });
        assert!(parse_stat(&STAT.replace(" S ", " T "), 100).is_some_and(|stat| stat.is_stopped));
    }

    #[test]
    fn nonsense_and_zombies_are_no_stat() {
        assert_eq!(parse_stat(&STAT.replace(" S ", " Z "), 100), None);
        assert_eq!(parse_stat(&STAT[..50], 100), None);
        assert_eq!(parse_stat(&STAT.replace("150", "-150"), 100), None);
        assert_eq!(parse_stat("", 100), None);
        assert_eq!(parse_stat(STAT, 0), None);
    }

    #[test]
    fn links_are_read() {
        assert_eq!(socket_inode(b"socket:[4294967295]"), Some(u32::MAX));
        for other in ["socket:[4294967296]", "socket:[]", "socket:[-1]", "pipe:[5]", "/tmp/socket:[5]", "socket:[5", ""] {
            assert_eq!(socket_inode(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn we_see_ourselves() {
        let me = Process::of(std::process::id()).expect("procfs");
        let stat = me.stat().expect("we live");
        assert!(stat.threads >= 1 && me.rss().is_some_and(|rss| rss > 0));
        let started = boot_time().expect("a clock") + stat.started;
        let age = SystemTime::now().duration_since(started).unwrap_or_default();
        assert!(age < Duration::from_secs(24 * 3600), "{age:?}");
        assert!(Process::of(0).is_none());
    }
}
