//! Handles the results of other threads and tasks.

use crate::master::log::journal::{Level, Record};
use crate::master::releases::prepare::Release;
use crate::master::tasks::{TaskId, TaskResult};
use crate::master::turn::Master;
use crate::pool::{Event, GenerationId, Outcome, Reason, Settings};

impl Master {
    /// Handles a result of another thread.
    pub(super) fn take_result(&mut self, result: TaskResult) {
        if !matches!(result, TaskResult::Composed) {
            self.status_cache.touch();
        }
        let events = &mut self.events;
        match result {
            TaskResult::Prepared(task, number, result) => self.prepared(task, number, result),
            TaskResult::ReadyToStop(task, result) => self.releases.shutdown_hook_ended(task, result, events),
            TaskResult::ReleaseChanged(number, what) => self.release_changed(number, &what),
            TaskResult::SocketsMissing(why) => self.sockets_missing(why),
            TaskResult::Orphaned(worker, found) => {
                let slot = self.pool.worker(worker).map(|it| it.slot);
                self.workers.orphaned_found(worker, slot, found, events);
            }
            TaskResult::Discarded(worker, progress) => self.workers.discarded(worker, progress),
            TaskResult::Orphans => self.workers.children(events),
            TaskResult::Readiness(worker, seen) => self.workers.readiness_seen(worker, &seen, events),
            TaskResult::Composed => self.composed(),
            TaskResult::RecycleDue(worker, why) => events.push(Event::RecycleDue(worker, why)),
            TaskResult::Checked(task, result) => self.next_program_said(task, result),
            TaskResult::Tail(worker, lines, serving) => self.tail_known(worker, lines, serving),
        }
    }

    /// Handles the end of a preparation. The result counts only if it is the preparation that the master waits for.
    fn prepared(&mut self, id: TaskId, number: GenerationId, result: Result<(Settings, Box<Release>), Reason>) {
        if !self.releases.is_prepared_by(id) {
            // The result is dropped, which closes the pinned files.
            return;
        }
        let slots = |(settings, release): (Settings, Box<Release>)| {
            let made = self.listeners.make_slots(&release.config, self.pool.target());
            made.map(|()| (settings, release)).map_err(|error| error.to_string().into())
        };
        match result.and_then(slots) {
            Ok((settings, mut release)) => {
                release.reload_warnings.extend(self.workers.missing_limits(&release));
                for warning in &release.reload_warnings {
                    self.log.record(Record { generation: Some(number), ..Record::new(Level::Warning, warning.clone()) });
                }
                self.conditions.prepared(number, release.reload_warnings.clone());
                self.status.prepared(number, release.status.take());
                self.releases.insert(number, *release);
                self.keep_reader_rules();
                self.extend();
                self.events.push(Event::Prepared(number, settings));
            }
            Err(reason) => self.events.push(Event::Refused(number, reason)),
        }
    }

    /// Handles the outcome of a reload: applies the changes to the master itself if the reload was committed, else drops them.
    pub(super) fn reload_decided(&mut self, number: GenerationId, outcome: Outcome) {
        if outcome != Outcome::Committed {
            return self.status.withdrawn();
        }
        if let Err(error) = self.status.committed(number, self.workers.runtime_dir().handle(), &self.registry) {
            self.log.record(Record::new(Level::Error, format!("status.listen: {error}")));
        }
        self.keep_conditions(number);
    }

    /// Tells from now on the parts of this generation's configuration that are not applied.
    pub(super) fn keep_conditions(&mut self, number: GenerationId) {
        let Some(release) = self.releases.get(number) else { return };
        let (wanted, served) = (release.config.status.listen.as_deref(), self.status.address());
        let address = (wanted != served).then(|| match (wanted, served) {
            (Some(wanted), Some(served)) => format!("status.listen = {wanted:?} is not served, {served:?} still is"),
            (Some(wanted), None) => format!("status.listen = {wanted:?} is not served"),
            (None, _) => "status.listen is still served".to_owned(),
        });
        let unapplied = address.into_iter().chain(self.workers.missing_limits(release)).collect();
        self.conditions.committed(unapplied);
    }

    /// Warns of the limits of this generation that cannot be applied here, if there are some.
    pub(super) fn warn_of_limits(&mut self, number: GenerationId) {
        if let Some(sentence) = self.releases.get(number).and_then(|release| self.workers.missing_limits(release)) {
            self.log.record(Record { generation: Some(number), ..Record::new(Level::Warning, sentence) });
        }
    }

    /// Warns that failed workers of this generation, and their replacements, may have run files of another release.
    fn release_changed(&mut self, number: GenerationId, what: &str) {
        for failure in self.failures.iter_mut().filter(|failure| failure.generation == number) {
            failure.release_changed = Some(what.to_owned());
        }
        self.log.warn_once(&format!(
            "the release of generation {number} is not what it was: {what}; its workers start again from these files as they are \
             now. Deploy each release into a directory of its own, with a symlink that moves (worker.directory)"
        ));
    }
}
