//! Workers that have used up what they may: `recycle.max_memory`, `recycle.max_requests`. And the look ahead before a
//! reload: is there memory for a second generation beside this one?
//!
//! Law: looked at only where the configuration asks for it, on another thread; a figure that is not known recycles
//! nobody and refuses nothing.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::publish::told;
use super::turn::{Brought, Master};
use crate::config::Config;
use crate::pool::{Phase, WorkerId};
use crate::status::kernel;
use crate::status::scoreboard::Scoreboard;

/// So often the workers are looked at, where a limit is set.
const PERIOD: Duration = Duration::from_secs(5);
/// No more workers are asked how much memory they ever had, which takes some ten microseconds for each.
const ASKED: usize = 64;

impl Master {
    /// When the workers are looked at next; never without a limit.
    pub(super) fn wear_deadline(&self) -> Option<Instant> {
        let recycle = &self.releases.get(&self.pool.generation())?.config.recycle;
        (recycle.max_memory.is_some() || recycle.max_requests.is_some()).then_some(self.wear_at)
    }

    /// Looks at them, when it is time.
    pub(super) fn look_at_wear(&mut self) {
        if self.wear_deadline().is_none_or(|at| at > self.now) {
            return;
        }
        self.wear_at = self.now + PERIOD;
        let Some(recycle) = self.releases.get(&self.pool.generation()).map(|release| release.config.recycle.clone()) else {
            return;
        };
        let generation = self.pool.generation();
        let ready: Vec<WorkerId> = self
            .pool
            .workers()
            .filter(|(_, worker)| worker.phase == Phase::Ready && worker.generation == generation)
            .map(|(id, _)| id)
            .collect();
        let mut subjects = Vec::new();
        for worker in ready {
            let Some(process) = self.processes.get(&worker) else { continue };
            // Up to a tenth less for each, so that workers that wear alike do not go together.
            let share = 1.0 - (worker.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54) as f64 / 10_240.0;
            if let Some(limit) = recycle.max_requests {
                let totals = told(process.scoreboard.as_deref().and_then(Scoreboard::totals), process.counters());
                if totals.known_requests().is_some_and(|requests| requests as f64 >= limit as f64 * share) {
                    self.events.push_back(crate::pool::Event::Worn(worker, "recycle.max_requests"));
                    continue;
                }
            }
            if let Some(limit) = recycle.max_memory {
                let group = process.group.as_ref().map(|group| group.path().to_owned());
                subjects.push(((worker, process.pid, group), (limit as f64 * share) as u64));
            }
        }
        if subjects.is_empty() {
            return;
        }
        let bring = self.bring.clone();
        tokio::task::spawn_blocking(move || {
            let (subjects, limits): (Vec<kernel::Subject>, Vec<u64>) = subjects.into_iter().unzip();
            let survey = kernel::survey(&subjects, &[] as &[std::os::fd::OwnedFd]);
            for ((worker, ..), limit) in subjects.iter().zip(limits) {
                let used = survey.worker(*worker).and_then(|figures| figures.memory_current.or(figures.rss));
                if used.is_some_and(|used| used >= limit) {
                    let _ = bring.send(Brought::Worn(*worker, "recycle.max_memory"));
                }
            }
        });
    }

    /// What the look ahead needs of the living generation; of many workers it asks some.
    pub(super) fn footprint(&self) -> Arc<Footprint> {
        let generation = self.pool.generation();
        let living = || self.processes.values().filter(|process| process.generation == generation);
        let some = living().step_by(living().count().div_ceil(ASKED).max(1));
        Arc::new(Footprint {
            workers: some.map(|process| (process.pid, process.group.as_ref().map(|group| group.path().to_owned()))).collect(),
            peak: OnceLock::new(),
            group: self.cgroups.as_ref().map(|cgroups| cgroups.base().to_owned()),
        })
    }
}

/// The living generation, for whoever wants to know how much a second one needs.
#[derive(Debug)]
pub struct Footprint {
    workers: Vec<(u32, Option<PathBuf>)>,
    peak: OnceLock<Option<u64>>,
    group: Option<PathBuf>,
}

impl Footprint {
    /// Finds out how much a worker ever had. Only the kernel is asked: the loop may, while a thread reads the configuration.
    pub fn measure(&self) {
        let _ = self.peak.set(self.find());
    }

    fn find(&self) -> Option<u64> {
        self.workers.iter().filter_map(|(pid, group)| peak(*pid, group.as_deref())).max()
    }

    /// Whether there is room for as many workers of the new generation as will live beside the old ones.
    ///
    /// # Errors
    /// A sentence that says how much is needed, how much there is, and what to do.
    pub fn look_ahead(&self, config: &Config) -> Result<(), String> {
        let Some((room, whose)) = room(self.group.as_deref()) else { return Ok(()) };
        // Nobody waits for who measures.
        let peak = self.peak.get().copied();
        let Some(largest) = peak.unwrap_or_else(|| self.find()) else { return Ok(()) };
        refuse_if_short(largest, config.reload.surge.of(config.worker.workers()), config.worker.workers(), room, whose)
    }
}

fn refuse_if_short(largest: u64, beside: u32, workers: u32, room: u64, whose: &str) -> Result<(), String> {
    let needed = largest.saturating_mul(u64::from(beside));
    if needed <= room {
        return Ok(());
    }
    Err(format!(
        "not enough memory for {beside} new workers beside the old ones: a worker of this generation took up to {}, so they need {}, \
         and {} are left {whose}; set reload.surge below {workers}, for instance to {}, or give the service more memory",
        Bytes(largest),
        Bytes(needed),
        Bytes(room),
        (room / largest.max(1)).max(1)
    ))
}

/// The most that a worker ever had, bytes.
fn peak(pid: u32, group: Option<&Path>) -> Option<u64> {
    let of_group = group.and_then(|group| number(&group.join("memory.peak")));
    of_group.or_else(|| {
        let status = whole(Path::new(&format!("/proc/{pid}/status"))).ok()?;
        kilobytes(&status, "VmHWM:")
    })
}

/// How much may still be used, and where that is limited: the tightest of the control group, those above it, and the machine.
fn room(group: Option<&Path>) -> Option<(u64, &'static str)> {
    let machine = whole(Path::new("/proc/meminfo")).ok();
    let machine = machine
        .and_then(|info| Some(kilobytes(&info, "MemAvailable:")?.saturating_add(kilobytes(&info, "SwapFree:").unwrap_or(0))));
    let groups = group.into_iter().flat_map(Path::ancestors).filter_map(|group| {
        let limit = number(&group.join("memory.max"))?;
        let used = number(&group.join("memory.current"))?;
        // The kernel gives up its cache of files before it kills.
        let cache = whole(&group.join("memory.stat")).map_or(0, |stat| field(&stat, "file ").unwrap_or(0));
        Some((limit.saturating_sub(used.saturating_sub(cache)), "below the limit of its control group (MemoryMax=)"))
    });
    groups.chain(machine.map(|room| (room, "on this machine"))).min_by_key(|(room, _)| *room)
}

/// A file of the kernel's: a read that does not fill the buffer is the last, for a reload waits for each call.
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

/// A file with a number in it; `max` is none.
fn number(path: &Path) -> Option<u64> {
    whole(path).ok()?.trim().parse().ok()
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    field(text, name).map(|kilobytes| kilobytes.saturating_mul(1024))
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)).and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok())
}

/// Bytes as a configuration writes them: `210M`.
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
    fn a_reload_that_would_invite_the_oom_killer_is_refused_in_a_sentence() {
        assert_eq!(refuse_if_short(100 << 20, 4, 4, 400 << 20, "there"), Ok(()));
        let why = refuse_if_short(100 << 20, 4, 4, 250 << 20, "below the limit").unwrap_err();
        assert!(
            why.contains("need 400M, and 250M are left below the limit; set reload.surge below 4, for instance to 2"),
            "{why}"
        );
    }

    #[test]
    fn own_figures_are_known() {
        assert!(peak(std::process::id(), None).is_some_and(|peak| peak > 100_000));
        assert!(room(None).is_some_and(|(room, whose)| room > 0 && whose == "on this machine"));
    }

    #[test]
    fn a_limit_above_the_group_counts_and_the_cache_of_files_does_not() {
        let above = tempfile::tempdir().unwrap();
        let group = above.path().join("group");
        fs::create_dir(&group).unwrap();
        for (path, text) in [
            (above.path().join("memory.max"), "1000\n"),
            (above.path().join("memory.current"), "900\n"),
            (above.path().join("memory.stat"), "anon 300\nfile 600\nfile_mapped 5\n"),
            (group.join("memory.max"), "max\n"),
        ] {
            fs::write(path, text).unwrap();
        }
        assert_eq!(room(Some(&group)).map(|(room, _)| room), Some(700));
    }
}
