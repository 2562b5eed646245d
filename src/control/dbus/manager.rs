//! `org.ratoon1.Manager`: the properties of the manager, and the methods that change the pool.

use std::sync::Arc;

use zbus::{Connection, Message, MessageStream, Variant};

use super::access;
use super::call::{self, Call, Fault, error};
use super::{Properties, Shared, clean, microseconds};
use crate::api::{Reply, Request, Summary};
use crate::control::access::verb;
use crate::pool::Outcome;
use crate::status::rendered::RenderedStatus;

/// The largest document, bytes, that is copied into a message on the loop's thread.
const COPIED: usize = 512 << 10;
const FAILED: &str = "org.ratoon1.Error.Failed";

pub(super) fn properties(summary: &Summary) -> Properties<'_> {
    let last = summary.last_reload.as_ref();
    let last = last.map_or((0, "", "".into(), 0), |(generation, outcome, reason, end)| {
        (*generation, outcome.as_str(), clean(reason), microseconds(*end))
    });
    [
        ("Version", Variant::from(env!("CARGO_PKG_VERSION"))),
        ("Instance", Variant::from(clean(&summary.instance))),
        ("State", Variant::from(summary.state.as_str())),
        ("Degraded", Variant::from(summary.degraded)),
        ("StatusText", Variant::from(clean(&summary.status_text))),
        ("Generation", Variant::from(summary.generation)),
        ("WorkersConfigured", Variant::from(summary.workers_configured)),
        ("WorkersReady", Variant::from(summary.workers_ready)),
        ("Crashes", Variant::from(summary.crashes)),
        ("StartedAt", Variant::from(microseconds(summary.started_at))),
        ("LastReload", Variant::from(last)),
    ]
    .into()
}

/// The properties whose values differ.
pub(super) fn changes<'a>(old: &Summary, new: &'a Summary) -> Properties<'a> {
    let old = properties(old);
    let mut changed = properties(new);
    changed.retain(|name, value| old.get(name) != Some(value));
    changed
}

/// Requests a change for the caller, if the caller may change the pool, and waits for the outcome. A caller that wants no reply does
/// not count as a requester; a caller that leaves the bus meanwhile stops being one.
///
/// # Errors
/// The error for the caller.
pub(super) async fn change(
    shared: Arc<Shared>,
    connection: Connection,
    call: Call,
    ask: Request,
) -> Result<Option<Message>, Fault> {
    if !call.wants_reply() {
        match access::check(&shared, &connection, &call, verb(&ask)).await {
            Ok(_) => shared.handle.ask_unattended(ask),
            Err(fault) => shared.say_sometimes(format!("no {} by {}: {}", verb(&ask), call.caller(), fault.text)),
        }
        return Ok(None);
    }
    // Subscribed before the first request to the bus, so that no departure of the caller is missed between two of them.
    let mut gone = departure(&connection, &call.caller()).await?;
    let reply = async {
        let uid = access::check(&shared, &connection, &call, verb(&ask)).await?;
        shared.handle.by(format!("user {uid} on D-Bus")).ask(ask).await.map_err(|closed| Fault::new(FAILED, closed.to_string()))
    };
    tokio::select! {
        reply = reply => answer(&call, reply?).map(Some),
        _ = call::next(&mut gone) => Ok(None),
    }
}

/// A stream that gives a message (or ends) when the caller leaves the bus.
async fn departure(connection: &Connection, caller: &str) -> Result<MessageStream, Fault> {
    let rule = format!("type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='{caller}'");
    Ok(MessageStream::for_match_rule(rule.as_str(), connection, None).await?)
}

fn answer(call: &Call, reply: Reply) -> Result<Message, Fault> {
    match reply {
        Reply::Reload(answer) => {
            let name = match answer.outcome {
                Outcome::Committed => return call.reply(&answer.generation),
                Outcome::RolledBack => "org.ratoon1.Error.RolledBack",
                // Never an answer to a reload: its requesters were answered at the commit.
                Outcome::Undone => "org.ratoon1.Error.RolledBack",
                Outcome::Aborted => "org.ratoon1.Error.Aborted",
                Outcome::Refused => "org.ratoon1.Error.Refused",
            };
            let mut reason =
                if answer.reason.is_empty() { format!("the reload was {}", answer.outcome.as_str()) } else { answer.reason };
            // Only the caller gets the detail.
            if let Some(detail) = answer.detail {
                reason += &format!(": {detail}");
            }
            Err(Fault::new(name, reason))
        }
        // There is no method on the bus that asks for a probe.
        Reply::Probe(answer) if answer.passed => call.reply(&()),
        Reply::Probe(answer) => Err(Fault::new(FAILED, answer.reason)),
        Reply::Done => call.reply(&()),
        Reply::Failed(sentence) => Err(Fault::new(FAILED, sentence)),
    }
}

/// The status document. Each call takes a permit, so that a client that calls without pause leaves time of the loop to others.
///
/// # Errors
/// When the master is ending.
pub(super) async fn document(shared: &Shared) -> Result<Arc<RenderedStatus>, Fault> {
    let _permit = shared.documents.acquire().await;
    shared.handle.document().await.map_err(|closed| Fault::new(error::FAILED, closed.to_string()))
}

/// The status document as JSON, with details for callers that may see them.
///
/// # Errors
/// When the master is ending, or the document does not fit into a message.
pub(super) async fn status(shared: Arc<Shared>, connection: Connection, call: Call) -> Result<Option<Message>, Fault> {
    let details = access::sees_details(&shared, &connection, &call).await;
    let document = document(&shared).await?;
    let bytes = document.line().map_or(0, str::len);
    let write = move || {
        let line = if details { document.line() } else { document.redacted_line() };
        let line = line.map_err(|problem| Fault::new(error::FAILED, problem.to_string()))?;
        call.reply(&line.trim_end())
    };
    // Copying half a megabyte takes less time than waking a thread.
    if bytes <= COPIED {
        return write().map(Some);
    }
    off_loop(write).await.map(Some)
}

/// The committed releases that are kept, as JSON.
///
/// # Errors
/// When the master is ending.
pub(super) async fn history(shared: Arc<Shared>, call: Call) -> Result<Option<Message>, Fault> {
    let releases = shared.handle.history().await.map_err(|closed| Fault::new(error::FAILED, closed.to_string()))?;
    let text = serde_json::to_string(&releases).map_err(|problem| Fault::new(error::FAILED, problem.to_string()))?;
    call.reply(&text).map(Some)
}

/// Makes a message: here, or on another thread when it has so many items that it would delay the loop.
///
/// # Errors
/// Those of `make`.
pub(super) async fn heavy<F>(things: usize, make: F) -> Result<Message, Fault>
where
    F: FnOnce() -> Result<Message, Fault> + Send + 'static,
{
    if things <= 100 {
        return make();
    }
    off_loop(make).await
}

async fn off_loop<F>(make: F) -> Result<Message, Fault>
where
    F: FnOnce() -> Result<Message, Fault> + Send + 'static,
{
    let made = tokio::task::spawn_blocking(make).await;
    made.unwrap_or_else(|problem| Err(Fault::new(error::FAILED, problem.to_string())))
}
