//! What is under way between workers and the reader of their output, for another program to go on with.
//!
//! Law: no line is lost, none is printed twice: the relay's thread ends before what it had in hand is given away.

use std::io;
use std::os::fd::OwnedFd;

use super::{Mode, Outputs, Way, relay};

pub use super::relay::HandedPipe as Pipe;

/// The relay's thread has ended; see [`Outputs::settle`].
#[derive(Debug)]
pub struct Settled(relay::RelayState);

/// Everything.
#[derive(Debug, Default)]
pub struct RelayState {
    /// Streams to journald: worker, identifier, a copy of the stream.
    pub streams: Vec<(u64, String, Option<OwnedFd>)>,
    /// The relay's pipes.
    pub pipes: Vec<Pipe>,
    /// What the relay has read and not written yet, for our stdout and stderr.
    pub pending: Vec<Vec<u8>>,
    /// The last lines of workers.
    pub tails: Vec<(u64, Vec<Vec<u8>>)>,
}

impl Outputs {
    /// Which way the output goes.
    pub fn mode(&self) -> Mode {
        match &self.inner.way {
            Way::Journal(_) => Mode::Journal,
            Way::Relay(relay) if relay.is_native() => Mode::Native,
            Way::Relay(_) | Way::Inherit => Mode::Relay,
        }
    }

    /// Ends the relay's thread once it has written what can be written; `None` when it hangs (about two seconds). From
    /// then on workers wait for [`Self::take_over`], here or in another program.
    pub async fn settle(&self) -> Option<Settled> {
        match &self.inner.way {
            Way::Relay(relay) => relay.hand_over().await.map(Settled),
            Way::Journal(_) | Way::Inherit => Some(Settled(relay::RelayState::default())),
        }
    }

    /// Goes on: no other program does.
    pub fn take_back(&self, settled: Settled) {
        // Only copies of streams can fail, and those are still here.
        if let Ok(handed) = self.handed(settled) {
            self.take_over(handed);
        }
    }

    /// All there is to go on with.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn handed(&self, settled: Settled) -> io::Result<RelayState> {
        let Settled(mut relayed) = settled;
        Ok(match &self.inner.way {
            Way::Journal(streams) => RelayState { streams: streams.handed()?, ..RelayState::default() },
            Way::Relay(relay) => {
                relay.late(&mut relayed);
                let relay::RelayState { pipes, pending } = relayed;
                RelayState { streams: Vec::new(), pipes, pending, tails: relay.tails() }
            }
            Way::Inherit => RelayState::default(),
        })
    }

    /// Goes on with what another program, or this one, had under way.
    pub fn take_over(&self, handed: RelayState) {
        let RelayState { streams, pipes, pending, tails } = handed;
        match &self.inner.way {
            Way::Journal(known) => known.take_over(streams),
            Way::Relay(relay) => relay.take_over(relay::RelayState { pipes, pending }, tails),
            // A pipe that nobody reads any more would kill its worker at the next line: better it waits.
            Way::Inherit => std::mem::forget(pipes),
        }
    }
}
