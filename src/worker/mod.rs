//! The library for workers written in Rust (feature `worker`; HTTP servers: `worker-http`).
//!
//! Law: the same program runs under Ratoon, under plain systemd and alone; absent features are skipped. A drain loses no
//! request: every accepted connection is served, and gets `Connection: close` before it is closed.
//!
//! | what | how |
//! |---|---|
//! | listening sockets | [`listen`], or [`Listeners`] by order or by name, as tokio, std and socket2 types |
//! | notifications | [`ready`], [`status`], [`stopping`], [`info`]; [`notify`] for all others; the watchdog is fed automatically |
//! | the master's request to drain | [`draining`]: a flag and a future |
//! | serving | `serve` (hyper), `serve_tower` (axum and others), `Server` to set its timeouts |
//! | requests on the scoreboard | shown automatically; `request` returns a handler's own request, to describe it; [`counter`] |
//! | other HTTP servers | `layer`, and `Connection` for servers that accept by themselves |
//! | identity and status | [`identity`]; [`server_status`]: the status document of the pool |
//!
//! ```
//! # #[cfg(feature = "worker-http")]
//! # mod example {
//! use http_body_util::Full;
//! use hyper::{Request, Response, body::{Bytes, Incoming}, service::service_fn};
//! use ratoon::worker;
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let listener = worker::listen("127.0.0.1:0")?; // the passed socket, else this address
//!     let asked = worker::counter("asked");
//!     let service = service_fn(move |request: Request<Incoming>| {
//!         asked.increment();
//!         async move {
//!             let text = format!("hello, you asked for {}\n", request.uri().path());
//!             Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(text))))
//!         }
//!     });
//!     worker::ready()?;
//! #   worker::draining().begin(); // as SIGTERM does
//!     worker::serve(listener, service).await // returns after the drain
//! }
//! # pub fn run() { main().unwrap() }
//! # }
//! # #[cfg(feature = "worker-http")]
//! # example::run();
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
