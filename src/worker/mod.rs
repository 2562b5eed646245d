//! The library for workers written in Rust (feature `worker`; HTTP servers: `worker-http`).
//!
//! Law: the same program runs under Ratoon, under plain systemd and alone; what isn't there is left out. A drain loses
//! nothing: every accepted connection is served, and is told of its end before it is closed.
//!
//! ```no_run
//! # #[cfg(feature = "worker-http")]
//! # mod example {
//! use http_body_util::Full;
//! use hyper::{Request, Response, body::{Bytes, Incoming}, service::service_fn};
//! use ratoon::worker;
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let listener = worker::listen("127.0.0.1:8080")?; // the socket that was handed over, else this address
//!     let service = service_fn(async |_: Request<Incoming>| {
//!         Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from("hello\n"))))
//!     });
//!     worker::ready()?;
//!     worker::serve(listener, service).await // returns after the drain
//! }
//! # }
//! ```
#![forbid(unsafe_code)]

mod board;
mod drain;
mod identity;
mod listen;
mod notify;
mod pool;
#[cfg(feature = "worker-http")]
mod serve;
#[cfg(feature = "worker-http")]
mod stream;
#[cfg(feature = "worker-http")]
mod track;

use std::io;

pub use board::{Counter, counter, info};
pub use drain::{Drain, draining};
pub use identity::{Identity, identity};
pub use listen::{Listener, Listeners, Socket, Which, listen};
pub use notify::{NotifyState, notify, notify_now, status, stopping};
pub use pool::{Document, server_status};
#[cfg(feature = "worker-http")]
pub use serve::{Server, serve, serve_tower};
#[cfg(feature = "worker-http")]
pub use stream::Connection;
#[cfg(feature = "worker-http")]
pub use track::{Handle, Layer, Tracked, TrackedBody, TrackedFuture, layer, request};

/// Says that this worker serves now.
///
/// Before it says so it begins to listen to the stop signal, and after it to feed the watchdog, if one is set; both need
/// a tokio runtime around the call.
pub fn ready() -> io::Result<()> {
    draining();
    notify(&[NotifyState::Ready])?;
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        notify::feed_watchdog(&runtime);
    }
    Ok(())
}
