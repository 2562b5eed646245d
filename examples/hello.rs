//! What a Rust worker looks like: an HTTP server that says who answered.
//!
//! `ratoon run --workers 2 --listen 127.0.0.1:8080 -- target/release/examples/hello`, or alone: it then listens on
//! 127.0.0.1:8080 itself (`HELLO_LISTEN` names another address).

use std::convert::Infallible;
use std::io;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use ratoon_worker as worker;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    // The socket that was handed over; when the program runs alone, one of its own.
    let address = std::env::var("HELLO_LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".into());
    let listener = worker::listen(&address)?;

    let text = Bytes::from(who_i_am());
    let service = service_fn(move |_: Request<Incoming>| {
        let text = text.clone();
        async { Ok::<_, Infallible>(Response::new(Full::new(text))) }
    });

    worker::status("waiting for requests")?;
    worker::ready()?;
    worker::serve(listener, service).await // returns when the drain is done
}

fn who_i_am() -> String {
    let me = worker::identity();
    let version = std::env::var("HELLO_VERSION").ok().or_else(|| std::fs::read_to_string("version").ok());
    format!(
        "hello from pid {} generation {} worker {} version {}\n",
        std::process::id(),
        me.generation.unwrap_or(0),
        me.worker.unwrap_or(0),
        version.as_deref().map_or("none", str::trim),
    )
}
