//! Values that are valid alone and contradict each other.

use super::Ready;
use super::types::{Config, Surge, Watch};

/// One contradiction: the keys that make it, the most telling first, and the error message.
pub(super) struct Contradiction {
    pub keys: &'static [&'static str],
    pub message: String,
}

/// All contradictions of a configuration.
pub(super) fn find(config: &Config) -> Vec<Contradiction> {
    let mut found = Vec::new();
    let (worker, restart) = (&config.worker, &config.restart);
    if restart.initial > restart.max {
        found.push(Contradiction {
            keys: &["restart.initial", "restart.max"],
            message: format!(
                "restart.initial ({:?}) is longer than restart.max ({:?}); make one at most the other",
                restart.initial, restart.max
            ),
        });
    }
    if let (Some(min), Some(max)) = (worker.min, worker.max)
        && min > max
    {
        found.push(Contradiction {
            keys: &["worker.min", "worker.max"],
            message: format!("worker.min ({min}) is above worker.max ({max}); make it at most that"),
        });
    }
    if let (Some(min), Some(count)) = (worker.min, worker.count)
        && min > count
    {
        found.push(Contradiction {
            keys: &["worker.min", "worker.count"],
            message: format!(
                "worker.min ({min}) is above worker.count ({count}), which is the number at the start; make count larger, or leave it out"
            ),
        });
    }
    if let (Some(max), Some(count)) = (worker.max, worker.count)
        && max < count
    {
        found.push(Contradiction {
            keys: &["worker.max", "worker.count"],
            message: format!(
                "worker.max ({max}) is below worker.count ({count}), which is the number at the start; make count smaller, or leave it out"
            ),
        });
    }
    if let (Some(high), Some(max)) = (worker.limits.memory_high, worker.limits.memory_max)
        && high > max
    {
        found.push(Contradiction {
            keys: &["worker.limits.memory_high", "worker.limits.memory_max"],
            message: format!(
                "worker.limits.memory_high ({high} bytes) is above worker.limits.memory_max ({max} bytes), so it would never \
                 be reached; make it smaller, or leave it out"
            ),
        });
    }
    if worker.ready == Ready::Running && worker.settle >= worker.start_timeout {
        found.push(Contradiction {
            keys: &["worker.settle", "worker.start_timeout", "worker.ready"],
            message: format!(
                "worker.settle ({:?}) is not shorter than worker.start_timeout ({:?}), so no worker would ever become ready; \
                 make settle shorter or start_timeout longer",
                worker.settle, worker.start_timeout
            ),
        });
    }
    if let (Some(recycle), Some(max)) = (config.recycle.max_memory, worker.limits.memory_max)
        && recycle > max
    {
        found.push(Contradiction {
            keys: &["recycle.max_memory", "worker.limits.memory_max"],
            message: format!(
                "recycle.max_memory ({recycle} bytes) is above worker.limits.memory_max ({max} bytes): a worker would be killed \
                 before it is recycled; make it smaller, or leave it out"
            ),
        });
    }
    if let Some(pair) = config.reload.steps.windows(2).find(|pair| shrinks(pair[0], pair[1])) {
        found.push(Contradiction {
            keys: &["reload.steps"],
            message: format!(
                "a step of reload.steps ({}) has no more workers than the one before ({}); write them in rising order",
                pair[1], pair[0]
            ),
        });
    }
    if matches!(config.reload.watch, Watch::For(_)) && config.reload.keep < 2 {
        found.push(Contradiction {
            keys: &["reload.watch", "reload.keep"],
            message: "reload.watch needs the release before the current one, and reload.keep = 1 keeps none; make it at least 2"
                .to_owned(),
        });
    }
    found
}

/// Whether a step cannot have more workers than the one before. A share and a number cannot be compared.
fn shrinks(before: Surge, step: Surge) -> bool {
    match (before, step) {
        (Surge::Percent(before), Surge::Percent(step)) | (Surge::Count(before), Surge::Count(step)) => step <= before,
        (Surge::Percent(before), Surge::Count(_)) => before == 100,
        (Surge::Count(_), Surge::Percent(_)) => false,
    }
}
