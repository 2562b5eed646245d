//! The CPUs of each slot (`worker.cpus`).

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::config::{Config, Cpus};
use crate::pool::Slot;

/// The CPUs of a slot; `None`: all that the master may use, or those are not known.
pub fn of_slot(slot: Slot, config: &Config) -> Option<CpuSet> {
    if config.worker.cpus == Cpus::Off {
        return None;
    }
    // Asked each time, since the unit's AllowedCPUs= can change.
    let usable = sched_getaffinity(None).ok()?;
    let usable: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| usable.is_set(*cpu)).collect();
    let mut set = CpuSet::new();
    for cpu in divide(&usable, slot as usize, config.worker.bounds().1 as usize) {
        set.set(*cpu);
    }
    (set.count() > 0).then_some(set)
}

/// The part of a slot when CPUs are divided among `slots`. A slot beyond those shares the part of one of them.
fn divide(usable: &[usize], slot: usize, slots: usize) -> &[usize] {
    let (cpus, slots) = (usable.len(), slots.max(1));
    if cpus == 0 {
        return usable;
    }
    if slots >= cpus {
        let cpu = slot % cpus;
        return &usable[cpu..=cpu];
    }
    let slot = slot % slots;
    &usable[slot * cpus / slots..(slot + 1) * cpus / slots]
}

/// Gives the CPUs of its slot to a process that was forked by a preload process. One that has ended meanwhile needs none.
pub fn give(pid: u32, slot: Slot, config: &Config) {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let (Some(process), Some(cpus)) = (process, of_slot(slot, config)) {
        let _ = sched_setaffinity(Some(process), &cpus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_divided_among_the_slots() {
        let usable = [0, 1, 4, 5, 6, 7, 9];
        let parts = |slots| (0..slots).map(|slot| divide(&usable, slot, slots).to_vec()).collect::<Vec<_>>();
        assert_eq!(parts(1), [usable.to_vec()]);
        assert_eq!(parts(3), [vec![0, 1], vec![4, 5], vec![6, 7, 9]]);
        assert_eq!(parts(7).concat(), usable);
        // More slots than CPUs: each CPU has as many as any other, or one more.
        assert_eq!(parts(9).concat(), [0, 1, 4, 5, 6, 7, 9, 0, 1]);
        // A slot that `scale` has added.
        assert_eq!(divide(&usable, 4, 3), divide(&usable, 1, 3));
        assert_eq!((divide(&usable, 8, 7), divide(&[], 3, 2)), (&[1][..], &[][..]));
    }
}
