//! At rest the master lets go of the memory that only a start, a reload or a question needed.
//!
//! Law: once for each of them, a second after the last change, and not before what was made for questions is forgotten: what
//! is freed or mapped after it would stay. A master that is left alone does not wake for it.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::api::Summary;
use crate::master::status::status_cache::Forgotten;
use crate::sys::trim::trim;

/// So long nothing changes before it is worth while.
const SETTLED: Duration = Duration::from_secs(1);

/// Whoever has something to be dropped before the master rests.
pub(super) struct IdleTrim {
    forgotten: mpsc::UnboundedSender<Forgotten>,
}

impl IdleTrim {
    /// Within a tokio runtime; it ends with the master's loop.
    pub fn new(summary: watch::Receiver<Summary>) -> IdleTrim {
        let (forgotten, to_drop) = mpsc::unbounded_channel();
        tokio::spawn(run(summary, to_drop));
        IdleTrim { forgotten }
    }

    /// This is dropped, then all that is free is given back.
    pub fn tidy(&self, forgotten: Forgotten) {
        let _ = self.forgotten.send(forgotten);
    }
}

async fn run(mut summary: watch::Receiver<Summary>, mut to_drop: mpsc::UnboundedReceiver<Forgotten>) {
    let mut changed_at = Instant::now();
    let mut untidy = true;
    loop {
        // The outcome of a job is not waited for: what runs after it maps again what it has let go of.
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
