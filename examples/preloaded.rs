//! A server that loads once and is forked for each worker: `command = ["preloaded"]`, `preload = ["preloaded"]`.
//!
//! It answers every request with the pid of the process that has loaded, its own and the command.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::TcpListener;

use ratoon_worker::preload::Preload;

fn main() -> io::Result<()> {
    let preload = Preload::begin()?;
    let loaded = std::process::id(); // what takes long is loaded here
    let argv: Vec<OsString> = match preload {
        None => std::env::args_os().collect(),
        Some(preload) => match preload.serve()? {
            Some(worker) => worker.argv,
            None => return Ok(()),
        },
    };
    let listener = TcpListener::from(ratoon_worker::sys::fd::inherited(3)?);
    let command = argv.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let worker = std::env::var("RATOON_WORKER").unwrap_or_default();
    let body = format!("{{\"loaded\":{loaded},\"pid\":{},\"command\":\"{command}\",\"worker\":{worker}}}", std::process::id());
    for client in listener.incoming() {
        let mut client = client?;
        if client.read(&mut [0; 4096])? > 0 {
            write!(client, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())?;
        }
    }
    Ok(())
}
