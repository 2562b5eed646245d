//! Handlers of changes. Each waits for the loop's answer. If the peer goes away before that, the loop is told.

use hyper::StatusCode;

use super::Peer;
use super::answer::{Answer, error, message};
use super::call::{Call, number};
use crate::api::{Reply, Request};
use crate::config::{self, COUNT_MAX};
use crate::control::messages::{ChangeMessage, ReloadMessage};

/// `POST /reload`: answers at the end of the reload.
pub(super) async fn reload(call: Call<'_>) -> Answer {
    plain(call, Request::Reload).await
}

/// `POST /abort`
pub(super) async fn abort(call: Call<'_>) -> Answer {
    plain(call, Request::Abort).await
}

/// `POST /undo[?generation=N]`: answers as `POST /reload`.
pub(super) async fn undo(call: Call<'_>) -> Answer {
    match number(call.query, "generation") {
        Ok(generation) => ask(call, Request::Undo(generation)).await,
        Err(sentence) => error(StatusCode::BAD_REQUEST, sentence),
    }
}

/// `POST /promote`: ends the step of the canary that waits.
pub(super) async fn promote(call: Call<'_>) -> Answer {
    plain(call, Request::Promote).await
}

/// `POST /probe`: probes the release that a reload would start, and answers at the end of that.
pub(super) async fn probe(call: Call<'_>) -> Answer {
    plain(call, Request::Probe).await
}

/// `POST /pause[?for=TIME]`: answers when the last worker is gone.
pub(super) async fn pause(call: Call<'_>) -> Answer {
    let length = match call.query.strip_prefix("for=") {
        Some(text) => config::pause_length(text).map(Some),
        None if call.query.is_empty() => Ok(None),
        None => Err(format!("cannot read ?{}: say ?for=TIME, such as ?for=30s", call.query)),
    };
    match length {
        Ok(length) => ask(call, Request::Pause(length)).await,
        Err(sentence) => error(StatusCode::BAD_REQUEST, sentence),
    }
}

/// `POST /resume`
pub(super) async fn resume(call: Call<'_>) -> Answer {
    plain(call, Request::Resume).await
}

/// `POST /upgrade`
pub(super) async fn upgrade(call: Call<'_>) -> Answer {
    plain(call, Request::Upgrade).await
}

/// `POST /scale?workers=N`, `POST /scale?workers=auto`
pub(super) async fn scale(call: Call<'_>) -> Answer {
    if call.query == "workers=auto" {
        return ask(call, Request::ScaleAuto).await;
    }
    match number(call.query, "workers") {
        Ok(Some(0)) => {
            error(StatusCode::BAD_REQUEST, "0 workers serve nobody; a pool has at least 1 (to end it, stop its service)")
        }
        Ok(Some(count)) if count > COUNT_MAX => {
            error(StatusCode::BAD_REQUEST, format!("{count} workers are too many; a pool has at most {COUNT_MAX}"))
        }
        Ok(Some(count)) => ask(call, Request::Scale(count)).await,
        Ok(None) => error(StatusCode::BAD_REQUEST, "how many workers? say ?workers=NUMBER or ?workers=auto"),
        Err(sentence) => error(StatusCode::BAD_REQUEST, sentence),
    }
}

/// `POST /recycle[?worker=ID]`
pub(super) async fn recycle(call: Call<'_>) -> Answer {
    match number(call.query, "worker") {
        Ok(worker) => ask(call, Request::Recycle(worker)).await,
        Err(sentence) => error(StatusCode::BAD_REQUEST, sentence),
    }
}

/// A change that takes no argument.
async fn plain(call: Call<'_>, what: Request) -> Answer {
    if call.query.is_empty() {
        return ask(call, what).await;
    }
    error(StatusCode::BAD_REQUEST, format!("this takes no argument, but ?{} was given", call.query))
}

async fn ask(call: Call<'_>, what: Request) -> Answer {
    let connection = call.connection;
    let asking = connection.turn.ask();
    let handle = connection.server.handle.by(match connection.peer {
        Peer::Owner(uid) => format!("user {uid} on the control socket"),
        Peer::Stranger(_) | Peer::Remote => "the control socket".to_owned(),
    });
    let reply = tokio::select! {
        biased;
        reply = handle.ask(what) => reply,
        // The other future is dropped here, which tells the loop that the requester went away.
        () = connection.stream.gone() => {
            // Only a peer that closed one direction can read this.
            return error(
                StatusCode::REQUEST_TIMEOUT,
                "the connection was closed before the end, so the request is withdrawn; keep both directions open",
            );
        }
    };
    drop(asking);
    match reply {
        Ok(Reply::Reload(outcome)) => {
            let outcome = ReloadMessage::from(&outcome);
            message(if outcome.committed() { StatusCode::OK } else { StatusCode::CONFLICT }, &outcome)
        }
        Ok(Reply::Probe(outcome)) => {
            let status = if outcome.passed { StatusCode::OK } else { StatusCode::CONFLICT };
            message(status, &ReloadMessage::from(&outcome))
        }
        Ok(Reply::Done) => message(StatusCode::OK, &ChangeMessage { result: "done".to_owned(), reason: String::new() }),
        Ok(Reply::Failed(reason)) => message(StatusCode::CONFLICT, &ChangeMessage { result: "failed".to_owned(), reason }),
        Err(closed) => error(StatusCode::SERVICE_UNAVAILABLE, format!("{closed}")),
    }
}
