//! The probed worker in the loop: its private sockets, the request to it, and its answer.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use crate::master::event_queue::EventQueue;
use crate::master::listeners::sockets::Listener;
use crate::master::output::Outputs;
use crate::master::releases::prepare::{self, Release};
use crate::master::releases::probe::PrivateSockets;
use crate::master::task_result::{TaskResult, TaskResults};
use crate::master::workers::processes::Process;
use crate::pool::{Event, Reason, WorkerId};
use crate::status::error_line::error_line;

/// The probe under way; there is one at a time.
pub(in crate::master) struct Prober {
    current: Option<(WorkerId, PrivateSockets)>,
    outputs: Outputs,
    results: TaskResults,
}

impl Prober {
    /// A prober that finds the workers' output in `outputs`, and sends [`TaskResult::Probed`].
    pub fn new(outputs: Outputs, results: TaskResults) -> Prober {
        Prober { current: None, outputs, results }
    }

    /// Opens the private sockets of a worker of `release`, in place of those of the instance. Files of Unix sockets are made in
    /// `directory`.
    ///
    /// # Errors
    /// A sentence that names the socket that has no stand-in.
    pub fn open(&mut self, worker: WorkerId, release: &Release, all: &[Listener], directory: &Path) -> Result<(), String> {
        let public: Vec<_> = prepare::listeners(&release.config, all).into_iter().cloned().collect();
        let sockets = PrivateSockets::open(&public, directory, &format!("probe-{worker}"))?;
        if release.config.worker.nonblocking {
            let set = sockets.sockets().iter().try_for_each(|socket| rustix::io::ioctl_fionbio(socket, true));
            set.map_err(|error| format!("worker.nonblocking: {error}"))?;
        }
        self.current = Some((worker, sockets));
        Ok(())
    }

    fn of(&self, worker: WorkerId) -> Option<&PrivateSockets> {
        self.current.as_ref().filter(|(probed, _)| *probed == worker).map(|(_, sockets)| sockets)
    }

    /// The private sockets of this worker, if it is the probed one.
    pub fn sockets(&self, worker: WorkerId) -> Option<Vec<Arc<OwnedFd>>> {
        self.of(worker).map(|sockets| sockets.sockets().to_vec())
    }

    /// The variables that only a probed worker has.
    pub fn environment(&self, worker: WorkerId) -> Vec<CString> {
        self.of(worker).into_iter().flat_map(PrivateSockets::environment).collect()
    }

    /// Sends the request to the probed worker, which is ready. The outcome comes as a task's result; without a request as an event.
    pub fn ask(&self, worker: WorkerId, process: &Process, events: &mut EventQueue) {
        let Some(sockets) = self.of(worker) else {
            // The sockets were those of a master that died.
            return events.push(Event::Probed(worker, Err("its private sockets are gone".into())));
        };
        let Some(request) = sockets.request(&process.release.config) else {
            return events.push(Event::Probed(worker, Ok(())));
        };
        let group = process.group.as_ref().map(|group| group.path().to_owned());
        let (pid, since) = (process.pid, process.started_at);
        let (outputs, results) = (self.outputs.clone(), self.results.clone());
        tokio::spawn(async move {
            let result = match request.send().await {
                Ok(()) => Ok(()),
                Err(reason) => {
                    let output = outputs.tail(worker, pid, group, since).await.lines();
                    let detail = reason.detail.or_else(|| error_line(&output));
                    Err(Reason { detail, output, ..Reason::from(format!("worker {worker}: {}", reason.cause)) })
                }
            };
            let _ = results.send(TaskResult::Probed(worker, result));
        });
    }

    /// Closes the private sockets of this worker, which is gone.
    pub fn forget(&mut self, worker: WorkerId) {
        self.current.take_if(|(probed, _)| *probed == worker);
    }
}
