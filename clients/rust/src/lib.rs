//! The library for workers of Ratoon that are written in Rust, and the formats that a worker and its master share.
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
//! | one process that loads, workers forked from it | `preload`, with the feature of that name |
//! | identity and status | [`identity`]; [`server_status`]: the status document of the pool |
//!
//! ```
//! use http_body_util::Full;
//! use hyper::{Request, Response, body::{Bytes, Incoming}, service::service_fn};
//! use ratoon_worker as worker;
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
//! ```

pub mod document;
#[cfg(feature = "preload")]
pub mod preload;
pub mod scoreboard;
#[doc(hidden)]
pub mod sys;
#[cfg(feature = "worker")]
mod worker;

#[cfg(feature = "worker")]
pub use worker::*;
