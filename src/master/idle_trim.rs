//! Idle trim: gives memory that only a start, a reload or a status request needed back to the kernel.
//!
//! Law: one trim for each of them, a second after the last change, and only after the cached status document is dropped: memory that
//! is freed or mapped after the trim would stay. An idle master does not wake up for it.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::api::Summary;
use crate::master::status::status_cache::Forgotten;
use crate::sys::trim::trim;

/// Time without a change before a trim is worth its cost.
const SETTLED: Duration = Duration::from_secs(1);

/// Sends cached documents to the idle-trim task, which drops them before it trims.
pub(super) struct IdleTrim {
    forgotten: mpsc::UnboundedSender<Forgotten>,
}

impl IdleTrim {
    /// Spawns the idle-trim task within a tokio runtime; the task ends with the master's loop.
    pub fn new(summary: watch::Receiver<Summary>) -> IdleTrim {
        let (forgotten, to_drop) = mpsc::unbounded_channel();
        tokio::spawn(run(summary, to_drop));
        IdleTrim { forgotten }
    }

    /// Drops `forgotten` on another thread, then trims; after a recent change the trim follows when nothing has changed for a second.
    pub fn tidy(&self, forgotten: Forgotten) {
        let _ = self.forgotten.send(forgotten);
    }
}

async fn run(mut summary: watch::Receiver<Summary>, mut to_drop: mpsc::UnboundedReceiver<Forgotten>) {
    let mut changed_at = Instant::now();
    let mut untidy = true;
    loop {
        // The job is not awaited: code that runs after it would map the memory again that it has given back.
        tokio::select! {
            changed = summary.changed() => {
                if changed.is_err() {
                    return;
                }
                summary.mark_unchanged();
                (changed_at, untidy) = (Instant::now(), true);
            }
            forgotten = to_drop.recv() => {
                let Some(forgotten) = forgotten else { return };
                untidy = changed_at.elapsed() < SETTLED;
                let trims = !untidy;
                crate::sys::trim::gather();
                drop(tokio::task::spawn_blocking(move || {
                    drop(forgotten);
                    match trims {
                        true => drop(trim()),
                        false => crate::sys::heap::sort(),
                    }
                }));
            }
            () = sleep_until(changed_at + SETTLED), if untidy => {
                untidy = false;
                crate::sys::trim::gather();
                drop(tokio::task::spawn_blocking(trim));
            }
        }
    }
}
