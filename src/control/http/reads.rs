//! Handlers of reads: the status document, and whether the master runs and the pool serves.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::answer::{Answer, JSON, Reply, answer, error, message};
use super::call::Call;
use crate::control::messages::SummaryMessage;
use crate::status::rendered::{Line, RenderedStatus};
use crate::status::tree::Document;

/// Timeout for the loop's answer, and for the wait for a place among the large answers.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Number of workers and connections from which on a document is written out on another thread.
const LARGE: usize = 64;

/// `GET /status`: docs/contract.md §6.
pub(super) async fn status(call: Call<'_>) -> Answer {
    let (document, permit) = match document(&call).await {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    let details = call.connection.sees_details().await;
    let line = Line { document: Arc::clone(&document), details };
    // The line with details is written already.
    let written = if details { Some(document.line().is_ok()) } else { redact(document).await };
    match written {
        Some(true) => answer(StatusCode::OK, JSON, Reply::whole(Bytes::from_owner(line)).with_permit(permit)),
        Some(false) | None => error(StatusCode::INTERNAL_SERVER_ERROR, "the status document could not be written out"),
    }
}

/// `GET /history`: the committed releases that are kept, newest first.
pub(super) async fn history(call: Call<'_>) -> Answer {
    match timeout(TIMEOUT, call.connection.server.handle.history()).await {
        Ok(Ok(releases)) => message(StatusCode::OK, &releases),
        Ok(Err(closed)) => error(StatusCode::SERVICE_UNAVAILABLE, format!("{closed}")),
        Err(_) => error(StatusCode::SERVICE_UNAVAILABLE, "the master did not answer within 5 s"),
    }
}

/// The document, and a place among the large answers, which must be held until the answer is sent.
pub(super) async fn document(call: &Call<'_>) -> Result<(Arc<RenderedStatus>, OwnedSemaphorePermit), Answer> {
    let server = &call.connection.server;
    let places = if call.connection.peer.may_change() { &server.reserved_documents } else { &server.documents };
    let Ok(Ok(permit)) = timeout(TIMEOUT, Arc::clone(places).acquire_owned()).await else {
        return Err(error(StatusCode::SERVICE_UNAVAILABLE, "too many status documents are being read; try again"));
    };
    match timeout(TIMEOUT, server.handle.document()).await {
        Ok(Ok(document)) => Ok((document, permit)),
        Ok(Err(closed)) => Err(error(StatusCode::SERVICE_UNAVAILABLE, format!("{closed}"))),
        Err(_) => Err(error(StatusCode::SERVICE_UNAVAILABLE, "the master did not answer within 5 s")),
    }
}

/// Makes the line without details, if no reader has needed it yet; returns whether it could be made.
async fn redact(document: Arc<RenderedStatus>) -> Option<bool> {
    if document.workers.len() + document.connections() < LARGE {
        return Some(document.redacted_line().is_ok());
    }
    tokio::task::spawn_blocking(move || document.redacted_line().is_ok()).await.ok()
}

/// Writes a document out: a small one at once, a large one on another thread, because the pool's loop runs on this one.
pub(super) async fn off_loop<T: Send + 'static>(
    document: Arc<RenderedStatus>,
    write: impl FnOnce(&Document) -> T + Send + 'static,
) -> Option<T> {
    if document.workers.len() + document.connections() < LARGE {
        return Some(write(&document));
    }
    tokio::task::spawn_blocking(move || write(&document)).await.ok()
}

/// `GET /healthz`: 200 while the master's loop answers.
pub(super) async fn healthz(call: Call<'_>) -> Answer {
    match timeout(TIMEOUT, call.connection.server.handle.workers()).await {
        Ok(Ok(_)) => {
            let text = hyper::header::HeaderValue::from_static("text/plain; charset=utf-8");
            answer(StatusCode::OK, text, Reply::whole(Bytes::from_static(b"ok\n")))
        }
        Ok(Err(closed)) => error(StatusCode::SERVICE_UNAVAILABLE, format!("{closed}")),
        Err(_) => error(StatusCode::SERVICE_UNAVAILABLE, "the master did not answer within 5 s"),
    }
}

/// `GET /readyz`: 200 while at least one worker is ready, or the first connection starts one, else 503; the body is the summary.
pub(super) async fn readyz(call: Call<'_>) -> Answer {
    let summary = SummaryMessage::from(&*call.connection.server.handle.summary().borrow());
    let status = if (summary.workers_ready >= 1 || summary.idle) && !summary.paused {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    message(status, &summary)
}
