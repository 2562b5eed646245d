//! When the next request is due: at once (closed loop), or by the clock (open loop); and when it is enough.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Open loop: how long after the end arrivals that were due before it are still sent.
const LAST_CALL: Duration = Duration::from_secs(1);

pub struct Pace {
    open: bool,
    think: Duration,
    /// Open loop: arrivals that no client has taken.
    due: RefCell<VecDeque<Instant>>,
    arrived: Notify,
    left: Cell<Option<u64>>,
    until: Option<Instant>,
    stopped: Cell<Option<Instant>>,
    stop: Notify,
}

impl Pace {
    pub fn new(rate: Option<f64>, requests: Option<u64>, until: Option<Instant>, think: Duration) -> Self {
        Pace {
            open: rate.is_some(),
            think,
            due: RefCell::default(),
            arrived: Notify::new(),
            left: Cell::new(requests),
            until,
            stopped: Cell::new(None),
            stop: Notify::new(),
        }
    }

    /// Waits for a client's next request; gives the moment from which its latency counts, `None` when it is enough.
    pub async fn next(&self, first: bool) -> Option<Instant> {
        if self.open {
            loop {
                let given_up = self.stopped.get().is_some_and(|stopped| stopped.elapsed() > LAST_CALL);
                if !given_up && let Some(due) = self.due.borrow_mut().pop_front() {
                    return Some(due);
                }
                if self.over() {
                    self.arrived.notify_one(); // the next who waits shall see it, too
                    return None;
                }
                self.arrived.notified().await;
            }
        }
        if !self.think.is_zero() && !first {
            let stopped = self.stop.notified();
            let _ = tokio::time::timeout(self.think, stopped).await;
        }
        (!self.over() && self.take_one()).then(Instant::now)
    }

    fn take_one(&self) -> bool {
        match self.left.get() {
            Some(0) => false,
            Some(left) => {
                self.left.set(Some(left - 1));
                true
            }
            None => true,
        }
    }

    fn over(&self) -> bool {
        self.stopped.get().is_some() || self.left.get() == Some(0) || self.until.is_some_and(|until| Instant::now() >= until)
    }

    pub fn stop(&self) {
        self.stopped.set(self.stopped.get().or_else(|| Some(Instant::now())));
        self.stop.notify_waiters();
        self.arrived.notify_one();
    }

    /// Arrivals that were due and never sent.
    pub fn waiting(&self) -> usize {
        self.due.borrow().len()
    }
}

/// The open loop's clock: a thread that sleeps to the microsecond, since tokio's timer only knows milliseconds.
pub async fn arrivals(pace: Rc<Pace>, rate: f64, started: Instant) {
    let (send, mut due) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for n in 0u32.. {
            let at = started + Duration::from_secs_f64(f64::from(n) / rate);
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            if send.send(at).is_err() {
                break; // it is enough
            }
        }
    });
    while let Some(at) = due.recv().await {
        if pace.over() || pace.until.is_some_and(|until| at >= until) || !pace.take_one() {
            break;
        }
        pace.due.borrow_mut().push_back(at);
        pace.arrived.notify_one();
    }
    pace.stop();
}
