//! Limits of the configuration that cannot be applied, because the control group or a controller for them is missing.
//!
//! Law: a configured limit that does not hold is told in the answer to a reload and in STATUS=, not only in the log.

use crate::config::Limits;

/// A sentence about the limits of `[worker.limits]` that need a controller that is not there; `None` when all can be applied.
/// `controllers`: the enabled controllers of the delegated control group; `None` without such a group.
pub fn sentence(limits: &Limits, controllers: Option<&[&str]>) -> Option<String> {
    let keys = [
        ("memory_max", "memory", limits.memory_max.is_some()),
        ("memory_high", "memory", limits.memory_high.is_some()),
        ("tasks_max", "pids", limits.tasks_max.is_some()),
        ("cpu_weight", "cpu", limits.cpu_weight.is_some()),
    ];
    let is_there = |controller: &str| controllers.is_some_and(|all| all.contains(&controller));
    let missing = keys.iter().filter(|(_, controller, is_set)| *is_set && !is_there(controller));
    let keys: Vec<String> = missing.clone().map(|(key, ..)| format!("worker.limits.{key}")).collect();
    let mut names: Vec<&str> = missing.map(|(_, controller, _)| *controller).collect();
    names.dedup();
    let verb = match keys.len() {
        0 => return None,
        1 => "is",
        _ => "are",
    };
    let why = match controllers {
        None => "systemd delegated no control group to this master (Delegate=yes in the unit)".to_owned(),
        Some(_) => format!("the delegated control group has no controller for {}", names.join(", ")),
    };
    Some(format!("{} {verb} not applied: {why}", keys.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentence_names_the_limits_without_a_controller() {
        let limits =
            Limits { memory_max: Some(1), memory_high: Some(1), cpu_weight: Some(7), nofile: Some(9), ..Limits::default() };
        assert_eq!(
            sentence(&limits, None).unwrap(),
            "worker.limits.memory_max, worker.limits.memory_high, worker.limits.cpu_weight are not applied: systemd delegated no \
             control group to this master (Delegate=yes in the unit)"
        );
        assert_eq!(
            sentence(&limits, Some(&["memory", "pids"])).unwrap(),
            "worker.limits.cpu_weight is not applied: the delegated control group has no controller for cpu"
        );
        assert_eq!(
            sentence(&limits, Some(&["pids"])).unwrap(),
            "worker.limits.memory_max, worker.limits.memory_high, worker.limits.cpu_weight are not applied: the delegated control group \
             has no controller for memory, cpu"
        );
    }

    #[test]
    fn sentence_is_none_when_all_limits_hold() {
        let limits = Limits { memory_max: Some(1), tasks_max: Some(1), ..Limits::default() };
        assert_eq!(sentence(&limits, Some(&["memory", "pids"])), None);
        // The number of open files needs no control group.
        assert_eq!(sentence(&Limits { nofile: Some(9), ..Limits::default() }, None), None);
    }
}
