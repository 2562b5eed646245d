//! The end of the instance: all workers drain, then the master ends.

use super::Pool;
use super::first_start::Stopping;
use super::ids::Slot;
use super::timers::Key;
use super::vocabulary::{Action, Answer, Kind, Outcome};
use super::worker::StopReason;

impl Pool {
    /// Begins to stop; `now`: kills all workers instead of draining them. `code`: the exit status of the master.
    pub(super) fn stop(&mut self, now: bool, code: u8) {
        if self.stopping.is_none() {
            self.stopping = Some(Stopping { code, now, exited: false });
            self.act(Action::Stopping);
            self.log(Kind::Info, "stopping".to_owned(), None, None);
            self.rollback(Outcome::Aborted, "the instance is stopping".into());
            self.refuse_waiting();
            self.end_watch();
            self.abandon_probe();
            self.abandon_pause("the instance is stopping");
            self.idling.end();
            self.recycle_over(&Answer::Failed("the instance is stopping".to_owned()));
            self.timers.clear(Key::GiveUp);
            self.timers.clear(Key::Recover);
            let slots = self.generations.get(&self.current).map_or(0, |home| home.slots.len());
            for slot in 0..slots {
                self.timers.clear(Key::Restart(self.current, slot as Slot));
            }
            for id in self.workers.keys().copied().collect::<Vec<_>>() {
                self.drain(id, StopReason::Asked);
            }
        }
        if let Some(stopping) = self.stopping.as_mut().filter(|_| now) {
            // The drains are cut short, so the exit status is 1.
            (stopping.now, stopping.code) = (true, 1);
            for id in self.workers.keys().copied().collect::<Vec<_>>() {
                self.act(Action::Kill(id));
            }
        }
    }
}
