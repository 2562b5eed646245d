//! The library itself; the crate's page shows it.
#![forbid(unsafe_code)]

mod board;
mod drain;
mod identity;
mod listen;
mod notify;
mod pool;
#[cfg(feature = "http")]
mod serve;
#[cfg(feature = "http")]
mod stream;
#[cfg(feature = "http")]
mod track;

use std::io;

pub use board::{Counter, counter, info};
pub use drain::{Drain, draining};
pub use identity::{Identity, identity};
pub use listen::{Listener, Listeners, Socket, Which, listen};
pub use notify::{NotifyState, notify, notify_now, status, stopping};
pub use pool::{Document, server_status};
#[cfg(feature = "http")]
pub use serve::{Server, serve, serve_tower};
#[cfg(feature = "http")]
pub use stream::Connection;
#[cfg(feature = "http")]
pub use track::{Handle, Layer, Tracked, TrackedBody, TrackedFuture, layer, request};

/// Sends `READY=1`: this worker serves now.
///
/// Before that it installs the handler of the stop signal; after that it starts to feed the watchdog, if one is set. Both need a
/// tokio runtime around the call.
pub fn ready() -> io::Result<()> {
    draining();
    notify(&[NotifyState::Ready])?;
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        notify::feed_watchdog(&runtime);
    }
    Ok(())
}
