//! The master's request to drain, as a flag and as a future.
//!
//! Law: a drain begins once and is never undone. SIGTERM begins it; SIGINT does, too, when no Ratoon started the program.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::identity;

static PROCESS: LazyLock<Drain> = LazyLock::new(Drain::new);
static LISTENING: AtomicBool = AtomicBool::new(false);

/// A drain: a flag that is set once, and that can be awaited. Clones are the same drain.
#[derive(Clone, Debug)]
pub struct Drain(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    begun: AtomicBool,
    tell: watch::Sender<bool>,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// A separate drain that no signal begins, for tests and for servers within a larger program.
    pub fn new() -> Self {
        Drain(Arc::new(Inner { begun: AtomicBool::new(false), tell: watch::Sender::new(false) }))
    }

    /// Begins the drain; later calls change nothing.
    pub fn begin(&self) {
        self.0.begun.store(true, Ordering::Release);
        self.0.tell.send_replace(true);
    }

    /// Whether the drain has begun.
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.0.begun.load(Ordering::Acquire)
    }

    /// Waits until the drain begins; returns at once when it has begun.
    pub fn begun(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut told = self.0.tell.subscribe();
        let keep = self.clone(); // the sender must outlive the wait
        async move {
            let _ = told.wait_for(|begun| *begun).await;
            drop(keep);
        }
    }
}

/// This process's drain, which the stop signal begins.
///
/// The first call within a tokio runtime installs the signal handlers; before that SIGTERM ends the process at once.
/// ([`ready`](super::ready) and `serve` make that call.)
pub fn draining() -> &'static Drain {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return &PROCESS };
    if !LISTENING.swap(true, Ordering::AcqRel) {
        listen_to(SignalKind::terminate(), &runtime);
        if identity().alone() {
            listen_to(SignalKind::interrupt(), &runtime);
        }
    }
    &PROCESS
}

/// Makes the first signal begin the drain. When the program runs alone, the second signal ends the process, as a person at a
/// terminal expects; in a pool the master kills the worker when its time is over.
fn listen_to(kind: SignalKind, runtime: &tokio::runtime::Handle) {
    let mut stream = match signal(kind) {
        Ok(stream) => stream,
        Err(error) => {
            eprintln!(
                "ratoon worker: cannot listen to signal {}: {error}; it will end this process without a drain",
                kind.as_raw_value()
            );
            return;
        }
    };
    runtime.spawn(async move {
        while stream.recv().await.is_some() {
            if PROCESS.is_draining() && identity().alone() {
                std::process::exit(128 + kind.as_raw_value());
            }
            PROCESS.begin();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiters_before_and_after_are_told() {
        let drain = Drain::new();
        let waiter = tokio::spawn(drain.begun());
        assert!(!drain.is_draining());
        drain.begin();
        drain.begin();
        waiter.await.unwrap();
        assert!(drain.is_draining());
        drain.clone().begun().await;
    }
}
