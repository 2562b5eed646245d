//! What a status over D-Bus takes, beside the bus's own cost for a reply of that size: `bus INSTANCE ROUNDS`.
//!
//! One client asks Ratoon's `GetStatus` and a bare service, which answers with as many bytes that it has ready, by turns,
//! and prints the times in microseconds as JSON. Both services are processes of their own. Part of `benches/run`.
#![allow(missing_docs)]
#![forbid(unsafe_code)]

use std::time::Instant;

use zbus::export::futures_core::Stream;

const BARE: &str = "org.ratoon1.bare";

fn main() -> zbus::Result<()> {
    let mut args = std::env::args().skip(1);
    let usage = "bus INSTANCE ROUNDS, or bus --serve";
    let instance = args.next().expect(usage);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    if instance == "--serve" {
        return runtime.block_on(serve());
    }
    let rounds = args.next().and_then(|it| it.parse().ok()).expect(usage);
    runtime.block_on(measure(&instance, rounds))
}

/// Answers each call with a text of the length that it names, which is made only when the length changes.
async fn serve() -> zbus::Result<()> {
    let connection = zbus::connection::Builder::system().name(BARE).build().await?;
    let mut calls = zbus::MessageStream::from(&connection);
    let mut text = String::new();
    while let Some(call) = next(&mut calls).await {
        let call = call?;
        let header = call.header();
        if header.message_type() != zbus::message::Type::MethodCall {
            continue;
        }
        let size: u64 = call.body().deserialize().unwrap_or(0);
        if text.len() as u64 != size {
            text = "x".repeat(size as usize);
        }
        connection.reply(&header, &text).await?;
    }
    Ok(())
}

async fn measure(instance: &str, rounds: usize) -> zbus::Result<()> {
    let connection = zbus::Connection::system().await?;
    let (name, path) = (format!("org.ratoon1.{instance}"), "/org/ratoon1");
    let (mut ours, mut bare, mut size) = (vec![], vec![], 0);
    // The first round warms both and is not counted.
    for round in 0..=rounds {
        let began = Instant::now();
        let answer = connection.call_method(Some(&*name), path, Some("org.ratoon1.Manager"), "GetStatus", &()).await?;
        let took = began.elapsed();
        size = answer.body().deserialize::<&str>()?.len();
        let began = Instant::now();
        let answer = connection.call_method(Some(BARE), path, Some(BARE), "Text", &(size as u64)).await?;
        assert_eq!(answer.body().deserialize::<&str>()?.len(), size);
        if round > 0 {
            ours.push(took.as_secs_f64() * 1e6);
            bare.push(began.elapsed().as_secs_f64() * 1e6);
        }
    }
    println!("{}", serde_json::json!({ "bytes": size, "ratoon_us": ours, "bare_us": bare }));
    Ok(())
}

/// The next message of a stream; `None` when the connection is lost.
async fn next(stream: &mut zbus::MessageStream) -> Option<zbus::Result<zbus::Message>> {
    std::future::poll_fn(|context| std::pin::Pin::new(&mut *stream).poll_next(context)).await
}
