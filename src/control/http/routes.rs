//! The table of paths and their handlers. A new path is one more row in [`ROUTES`] and a function in a file of its own.

use std::pin::Pin;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONNECTION, HeaderValue};
use hyper::{Method, Request, StatusCode};

use super::answer::{Answer, error};
use super::call::Call;
use super::{Connection, Peer, changes, events, host, metrics, page, reads};

/// The largest body that a request may have; it is read and ignored.
const BODY: usize = 64 * 1024;
/// Timeout for the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

type Serve = for<'a> fn(Call<'a>) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// The kind of a path, with its handler.
enum Does {
    /// `GET` and `HEAD`, for every peer that may open the socket.
    Read(Serve),
    /// `POST`, for root and the master's own user.
    Change(Serve),
}

/// All paths.
const ROUTES: &[(&str, Does)] = &[
    ("/", Does::Read(|call| Box::pin(page::page(call)))),
    ("/status", Does::Read(|call| Box::pin(reads::status(call)))),
    ("/healthz", Does::Read(|call| Box::pin(reads::healthz(call)))),
    ("/readyz", Does::Read(|call| Box::pin(reads::readyz(call)))),
    ("/metrics", Does::Read(|call| Box::pin(metrics::metrics(call)))),
    ("/history", Does::Read(|call| Box::pin(reads::history(call)))),
    ("/events", Does::Read(|call| Box::pin(events::events(call)))),
    ("/reload", Does::Change(|call| Box::pin(changes::reload(call)))),
    ("/undo", Does::Change(|call| Box::pin(changes::undo(call)))),
    ("/probe", Does::Change(|call| Box::pin(changes::probe(call)))),
    ("/abort", Does::Change(|call| Box::pin(changes::abort(call)))),
    ("/promote", Does::Change(|call| Box::pin(changes::promote(call)))),
    ("/scale", Does::Change(|call| Box::pin(changes::scale(call)))),
    ("/recycle", Does::Change(|call| Box::pin(changes::recycle(call)))),
    ("/pause", Does::Change(|call| Box::pin(changes::pause(call)))),
    ("/resume", Does::Change(|call| Box::pin(changes::resume(call)))),
    ("/upgrade", Does::Change(|call| Box::pin(changes::upgrade(call)))),
];

/// Answers one request of any kind.
pub(super) async fn serve(connection: &Connection, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    // The body is ignored, but its unread bytes would be taken for the next request.
    match tokio::time::timeout(BODY_TIMEOUT, drop_body(Limited::new(body, BODY))).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return last(error(StatusCode::PAYLOAD_TOO_LARGE, "the request's body is over 64 KiB; send none")),
        Err(_) => return last(error(StatusCode::REQUEST_TIMEOUT, "the request's body did not come within 10 s; send none")),
    }
    let path = head.uri.path();
    if let Some(host) = misdirected(connection, &head) {
        return error(StatusCode::MISDIRECTED_REQUEST, host);
    }
    let Some((_, does)) = ROUTES.iter().find(|(known, _)| *known == path) else {
        return error(StatusCode::NOT_FOUND, format!("there is no {path:?} here; there are {}", known_paths()));
    };
    let (query, headers, head_only) = (head.uri.query().unwrap_or(""), &head.headers, head.method == Method::HEAD);
    let call = Call { connection, query, headers, head_only };
    match (does, &head.method) {
        (Does::Read(serve), &Method::GET | &Method::HEAD) => serve(call).await,
        (Does::Read(_), method) => wrong_method(method, path, "GET, HEAD"),
        (Does::Change(serve), &Method::POST) => match forbidden(connection.peer) {
            None => serve(call).await,
            Some(sentence) => error(StatusCode::FORBIDDEN, sentence),
        },
        (Does::Change(_), method) => wrong_method(method, path, "POST"),
    }
}

/// Reads a body to its end and keeps none of it, so that a thousand bodies cost no more memory than a thousand connections.
async fn drop_body<B: hyper::body::Body + Unpin>(mut body: B) -> Result<(), B::Error> {
    while let Some(frame) = body.frame().await {
        drop(frame?);
    }
    Ok(())
}

/// Paths that are answered for every host, because load balancers request them. They tell only whether the pool runs and serves.
const FOR_EVERY_HOST: [&str; 2] = ["/healthz", "/readyz"];

/// The error for a request that names a host for which this server does not answer; `None` when the host is accepted.
fn misdirected(connection: &Connection, head: &hyper::http::request::Parts) -> Option<String> {
    let own = connection.server.own_names.as_ref().filter(|_| !FOR_EVERY_HOST.contains(&head.uri.path()))?;
    let rules = connection.server.handle.readers().rules();
    let host = host::foreign(&head.uri, &head.headers, own, &rules.hosts)?;
    Some(format!(
        "this address does not answer for the host {host:?}, which may be a trick of another web page; ask for localhost, the \
         machine's name or its address, or add the name to status.hosts"
    ))
}

/// The error for a peer that may not change the pool; `None` when it may.
fn forbidden(peer: Peer) -> Option<String> {
    match peer {
        Peer::Owner(_) => None,
        Peer::Stranger(Some(uid)) => Some(format!(
            "user {uid} may read but not change; ask as root or as the user that the master runs as, or over D-Bus, \
             where polkit decides"
        )),
        Peer::Stranger(None) => {
            Some("the kernel does not say which user you are; ask as root or as the user that the master runs as".to_owned())
        }
        Peer::Remote => {
            Some("this address serves reads only; changes are asked for on the control socket (`ratoon reload`)".to_owned())
        }
    }
}

fn wrong_method(method: &Method, path: &str, allowed: &'static str) -> Answer {
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, format!("{path} does not take {method}, only {allowed}"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

/// Makes this answer the last one of its connection.
fn last(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

fn known_paths() -> String {
    ROUTES.iter().map(|(path, _)| *path).collect::<Vec<_>>().join(" ")
}
