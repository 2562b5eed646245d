//! Makes the state from a running master, for the next one.
//!
//! Law: descriptors are copied or borrowed, never taken, so that this master can go on when the next one does not start.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;

use super::store::Store;
use crate::master::Master;
use crate::master::log::journal::Target;
use crate::master::output::{Mode, RelayState};
use crate::master::releases::prepare::Release;
use crate::master::state::Name;
use crate::master::state::fds::Outgoing;
use crate::master::state::{self, Bytes, Document, State};
use crate::pool::{GenerationId, WorkerId};
use crate::sys::program::Start;
use crate::sys::spawn::Plan;

impl Master {
    /// Updates the store, before the loop sleeps.
    pub(in crate::master) fn checkpoint(&mut self) {
        let Some(mut store) = self.store.take() else { return };
        if store.is_due(self.now) {
            // The state has no descriptors of the store itself, which is taken out meanwhile.
            let mut fds = Outgoing::default();
            if let Ok(state) = self.save(None, &mut fds) {
                let document = Document::new(state, BTreeMap::new());
                store.update(&document, &fds, &self.systemd, self.now, self.events.is_empty());
            }
        } else {
            store.on_deadline(&self.systemd, self.now);
        }
        self.store = Some(store);
    }

    /// Saves the state of this master between two loop iterations. `output` is `None` for a state that is not passed over an exec:
    /// the relay keeps the output.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn save<'a>(&'a self, output: Option<&'a RelayState>, fds: &mut Outgoing<'a>) -> io::Result<State> {
        if let Some(store) = &self.store {
            store.lend(fds);
        }
        let mut state = State {
            instance: self.releases.context().instance.to_string(),
            program: self.upgrader.program().as_os_str().into(),
            pool: Some(self.pool.clone()),
            directory: self.releases.source().directory.as_path().into(),
            nofile: self.releases.context().nofile,
            terminal: Some(self.terminal),
            die_with_parent: self.releases.context().die_with_parent,
            sigpipe_ignored: crate::sys::signals::sigpipe_was_ignored(),
            releases: self
                .releases
                .all()
                .iter()
                .map(|(number, release)| (*number, save_release(*number, release, fds)))
                .collect(),
            commits: self.releases.commits().clone(),
            output: save_output(self.outputs.mode(), output, fds),
            log: state::Log {
                level: self.log.journal().level().as_str().to_owned(),
                journal: self.log.journal().target() == Target::Journal,
            },
            unsaid: self.systemd.unsaid().to_vec(),
            waiting: self.requests.waiting().collect(),
            reload_asked: self.upgrader.reload_asked(),
            // For an exec only: after a restart systemd itself passes the stored names.
            stored: output.and(self.store.as_ref()).map_or_else(Vec::new, Store::held),
            ..State::default()
        };
        self.workers.save(&mut state, fds);
        self.listeners.save(&mut state, fds);
        self.status.save(&mut state, fds);
        Ok(state)
    }
}

fn save_release<'a>(number: GenerationId, release: &'a Release, fds: &mut Outgoing<'a>) -> state::Release {
    let plan = &release.plan;
    let (program, script) = plan.program.descriptors();
    let identity = plan.program.identity();
    let bytes = |entries: &[std::ffi::CString]| entries.iter().map(|entry| entry.as_bytes().into()).collect();
    state::Release {
        config: (*release.config).clone(),
        path: plan.program.path().into(),
        program: fds.lend(format!("program-{number}"), program),
        script: script.map(|script| fds.lend(format!("script-{number}"), script)),
        preload: release.preload.as_ref().map(|plan| save_preload(number, plan, fds)),
        starts: plan.program.starts().iter().map(save_start).collect(),
        script_copy: release.script.as_ref().map(|copy| copy.directory().into()),
        pinned_at: release.pinned_at,
        identity: (identity.device, identity.inode, identity.size, identity.modified.0, identity.modified.1),
        argv: bytes(&plan.argv),
        env: bytes(&plan.env),
        variables: release.variables.clone(),
        directory: fds.lend(format!("directory-{number}"), plan.directory.as_fd()),
        user: plan.identity.as_ref().map(|user| (user.uid, user.gid, user.groups.clone())),
        nofile: plan.nofile,
    }
}

fn save_preload<'a>(number: GenerationId, plan: &'a Plan, fds: &mut Outgoing<'a>) -> state::Preload {
    let (program, script) = plan.program.descriptors();
    let identity = plan.program.identity();
    state::Preload {
        path: plan.program.path().into(),
        program: fds.lend(format!("preload-{number}"), program),
        script: script.map(|script| fds.lend(format!("preload-script-{number}"), script)),
        identity: (identity.device, identity.inode, identity.size, identity.modified.0, identity.modified.1),
        argv: plan.argv.iter().map(|word| word.as_bytes().into()).collect(),
    }
}

fn save_start(start: &Start) -> (Bytes, bool, Bytes, Option<Vec<Bytes>>) {
    let head = start.head.as_ref().map(|head| head.iter().map(|word| word.as_bytes().into()).collect());
    (start.path.as_bytes().into(), start.same, start.execute.as_bytes().into(), head)
}

fn save_output<'a>(mode: Mode, handed: Option<&'a RelayState>, fds: &mut Outgoing<'a>) -> state::Output {
    let mut output = state::Output { journal: mode == Mode::Journal, native: mode == Mode::Native, ..state::Output::default() };
    let Some(handed) = handed else { return output };
    let raw = |lines: &[Vec<u8>]| lines.iter().map(|line| Bytes::from(line.as_slice())).collect::<Vec<_>>();
    let mut stream = |id: &WorkerId, fd: &'a std::os::fd::OwnedFd| -> Name { fds.lend(format!("stream-{id}"), fd.as_fd()) };
    output.streams = handed
        .streams
        .iter()
        .map(|(id, identifier, copy)| (*id, identifier.clone(), copy.as_ref().map(|copy| stream(id, copy))))
        .collect();
    for (index, pipe) in handed.pipes.iter().enumerate() {
        output.pipes.push(state::Pipe {
            worker: pipe.worker,
            sink: pipe.sink,
            fd: fds.lend(format!("pipe-{index}"), pipe.fd.as_fd()),
            label: pipe.label.clone(),
            line: pipe.line.as_slice().into(),
            closing: pipe.closing,
        });
    }
    output.pending = raw(&handed.pending);
    output.tails = handed.tails.iter().map(|(id, lines)| (*id, raw(lines))).collect();
    output
}
