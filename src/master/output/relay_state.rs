//! The state of the workers' output, for another program to go on with.
//!
//! Law: no line is lost and none is printed twice: the relay's thread ends before its state is passed on.

use std::io;
use std::os::fd::OwnedFd;

use super::{Mode, Outputs, Transport, relay};

pub use super::relay::HandedPipe as Pipe;

/// The state of the relay after its thread has ended; see [`Outputs::settle`].
#[derive(Debug)]
pub struct Settled(relay::RelayState);

/// The state of the output of all workers.
#[derive(Debug, Default)]
pub struct RelayState {
    /// Streams to journald: worker, identifier, a copy of the stream.
    pub streams: Vec<(u64, String, Option<OwnedFd>)>,
    /// The relay's pipes.
    pub pipes: Vec<Pipe>,
    /// Lines that the relay has read and not written yet, for the master's stdout and stderr.
    pub pending: Vec<Vec<u8>>,
    /// The first and the last lines of each worker.
    pub tails: Vec<(u64, Vec<Vec<u8>>)>,
}

impl Outputs {
    /// The destination of the output.
    pub fn mode(&self) -> Mode {
        match &self.inner.transport {
            Transport::Journal(_) => Mode::Journal,
            Transport::Relay(relay) if relay.is_native() => Mode::Native,
            Transport::Relay(_) | Transport::Inherit => Mode::Relay,
        }
    }

    /// Ends the relay's thread once it has written the lines that the reader takes; `None` when the thread hangs (about two
    /// seconds). After that, output waits until [`Self::take_over`], here or in another program.
    pub async fn settle(&self) -> Option<Settled> {
        match &self.inner.transport {
            Transport::Relay(relay) => relay.hand_over().await.map(Settled),
            Transport::Journal(_) | Transport::Inherit => Some(Settled(relay::RelayState::default())),
        }
    }

    /// Goes on in this program, because no other program takes over.
    pub fn take_back(&self, settled: Settled) {
        // `handed` fails only when streams cannot be copied, and this program still has those.
        if let Ok(handed) = self.handed(settled) {
            self.take_over(handed);
        }
    }

    /// The whole state of the output.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn handed(&self, settled: Settled) -> io::Result<RelayState> {
        let Settled(mut relayed) = settled;
        Ok(match &self.inner.transport {
            Transport::Journal(streams) => RelayState { streams: streams.handed()?, ..RelayState::default() },
            Transport::Relay(relay) => {
                relay.late(&mut relayed);
                let relay::RelayState { pipes, pending } = relayed;
                RelayState { streams: Vec::new(), pipes, pending, tails: relay.tails() }
            }
            Transport::Inherit => RelayState::default(),
        })
    }

    /// Goes on with the state of another program or of this one.
    pub fn take_over(&self, handed: RelayState) {
        let RelayState { streams, pipes, pending, tails } = handed;
        match &self.inner.transport {
            Transport::Journal(known) => known.take_over(streams),
            Transport::Relay(relay) => relay.take_over(relay::RelayState { pipes, pending }, tails),
            // Keep the pipes open: a worker that writes to a pipe without a reader is killed by SIGPIPE. So the worker waits once
            // the pipe is full.
            Transport::Inherit => std::mem::forget(pipes),
        }
    }
}
