//! The CPU time of one worker alone, without the cost of a survey.

use std::path::Path;

use super::PROCESSES_MAX;
use super::process::{self, Process};

/// The CPU time of a worker, microseconds: that of its cgroup, else of its main process and the descendants of that, as
/// [`super::Figures::cpu_usec`]. Blocks like a survey.
pub fn cpu(pid: u32, group: Option<&Path>) -> Option<u64> {
    if let Some(spent) = group.and_then(process::group_cpu) {
        return Some(spent);
    }
    let main = Process::of(pid)?;
    let own = main.stat()?.cpu_usec;
    let others = process::descendants(&main, PROCESSES_MAX).unwrap_or_default();
    let others = others.into_iter().filter_map(|other| Some(Process::of(other)?.stat()?.cpu_usec));
    Some(others.fold(own, u64::saturating_add))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_that_of_the_group_else_of_the_processes() {
        let group = tempfile::tempdir().expect("a directory");
        let me = std::process::id();
        let own = cpu(me, Some(group.path())).expect("this process lives");
        std::fs::write(group.path().join("cpu.stat"), "usage_usec 77\nuser_usec 70\n").expect("a file");
        assert_eq!(cpu(me, Some(group.path())), Some(77));
        assert!(cpu(me, None).is_some_and(|spent| spent >= own));
        assert_eq!(cpu(0, None), None);
    }
}
