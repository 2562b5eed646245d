//! A server that loads once and is forked for each worker: `command = ["preloaded"]`, `preload = ["preloaded"]`.
//!
//! An answer names its worker, as that of `hello`, and the pid of the process that has loaded. The file `loading` in its directory says how it
//! fails to load: `fail`, `hang`, `leave` (exit 0) or `kill`.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use ratoon_worker as worker;
use ratoon_worker::preload::Preload;

fn main() -> io::Result<()> {
    let preload = Preload::begin()?; // first of all
    let loaded = load();
    let argv: Vec<OsString> = match preload {
        None => std::env::args_os().collect(),
        Some(preload) => match preload.serve()? {
            Some(worker) => worker.argv,
            None => return Ok(()),
        },
    };
    // Threads and a runtime only in the worker.
    serve(argv.first().map(|word| word.to_string_lossy().into_owned()), loaded)
}

/// Stands for the part of a start that takes long. Returns the pid of the process that has loaded.
fn load() -> u32 {
    match std::fs::read_to_string("loading").unwrap_or_default().trim() {
        "fail" => {
            eprintln!("the application cannot be loaded, on purpose");
            std::process::exit(3)
        }
        "hang" => std::thread::sleep(std::time::Duration::from_secs(1000)),
        "leave" => std::process::exit(0),
        "kill" => drop(rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)),
        _ => {}
    }
    std::process::id()
}

#[tokio::main(flavor = "current_thread")]
async fn serve(command: Option<String>, loaded: u32) -> io::Result<()> {
    let listener = worker::listen("127.0.0.1:8080")?;
    let me = worker::identity();
    let text = Bytes::from(format!(
        "hello from pid {} generation {} worker {} version {} loaded by {loaded} as {}\n",
        std::process::id(),
        me.generation.unwrap_or(0),
        me.worker.unwrap_or(0),
        std::fs::read_to_string("version").as_deref().map_or("none", str::trim),
        command.as_deref().unwrap_or("nothing"),
    ));
    let service = service_fn(move |_: Request<Incoming>| {
        let text = text.clone();
        async { Ok::<_, Infallible>(Response::new(Full::new(text))) }
    });
    worker::ready()?;
    worker::serve(listener, service).await // returns when the drain is done
}
