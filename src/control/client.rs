//! The client of the control socket: one connection for each request, typed calls, errors with a cause and a hint.
//!
//! Law: dropping a call's future closes its connection at once, and that withdraws a reload. Unknown fields in answers of a master
//! of another version are ignored; missing fields get defaults.

mod error;
mod events;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderValue};
use hyper::http::uri::{InvalidUri, Uri};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

pub use self::error::Error;
pub use self::events::Events;
use super::messages::{ChangeMessage, ErrorMessage, Event, ReloadMessage, SummaryMessage};
use crate::status::tree::{Document, Release};

/// Value of the header `server` in answers of this version.
pub const OWN: &str = concat!("ratoon/", env!("CARGO_PKG_VERSION"));
/// Timeout of requests that a master answers at once.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// The most tries of a request of which no byte could be sent.
const TRIES: u32 = 5;
/// Timeout for the last events after the answer to a reload.
const LAST_EVENTS: Duration = Duration::from_secs(1);
/// The largest answer that is read, bytes. A document of 1,000 workers with 10,000 connections has about 5 MB.
const LARGEST: usize = 256 << 20;

/// A client of one master. It opens a connection for each call.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
    patience: Duration,
}

impl Client {
    /// A client of the control socket at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Client { path: path.into(), patience: TIMEOUT }
    }

    /// The client with another timeout of requests that a master answers at once.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The control socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The status document.
    ///
    /// # Errors
    /// [`Error`], as for all calls.
    pub async fn status(&self) -> Result<Document, Error> {
        let answer = self.within(self.ask(Method::GET, "/status")).await?;
        if answer.status == StatusCode::OK { self.understood(&answer) } else { Err(self.refusal(&answer)) }
    }

    /// The status document as the master wrote it, with fields that this version may not know.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn status_text(&self) -> Result<Bytes, Error> {
        let answer = self.within(self.ask(Method::GET, "/status")).await?;
        if answer.status == StatusCode::OK { Ok(answer.body) } else { Err(self.refusal(&answer)) }
    }

    /// The summary of the pool.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn summary(&self) -> Result<SummaryMessage, Error> {
        let answer = self.within(self.ask(Method::GET, "/readyz")).await?;
        match answer.status {
            StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE if !is_error(&answer.body) => self.understood(&answer),
            _ => Err(self.refusal(&answer)),
        }
    }

    /// A stream of the changes from now on; the first event is the summary.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn events(&self) -> Result<Events, Error> {
        self.within(async {
            let (talk, answer) = self.begin(Method::GET, "/events").await?;
            if answer.status() != StatusCode::OK {
                return Err(self.refusal(&self.answered(answer).await?));
            }
            Ok(Events { body: answer.into_body(), text: Vec::new(), path: self.path.clone(), _talk: talk })
        })
        .await
    }

    /// Requests a reload and waits for its end without a timeout. `progress` gets the events meanwhile, beginning with the summary;
    /// with a master that has no events it gets none.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn reload(&self, progress: impl FnMut(&Event)) -> Result<ReloadMessage, Error> {
        self.new_generation("/reload", progress).await
    }

    /// Goes back to the release of this generation, or of the one before the current one; as [`Self::reload`].
    ///
    /// # Errors
    /// [`Error`]
    pub async fn undo(&self, generation: Option<u64>, progress: impl FnMut(&Event)) -> Result<ReloadMessage, Error> {
        let query = generation.map_or_else(String::new, |generation| format!("?generation={generation}"));
        self.new_generation(&format!("/undo{query}"), progress).await
    }

    /// The committed releases that are kept, newest first.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn history(&self) -> Result<Vec<Release>, Error> {
        let answer = self.within(self.ask(Method::GET, "/history")).await?;
        if answer.status == StatusCode::OK { self.understood(&answer) } else { Err(self.refusal(&answer)) }
    }

    async fn new_generation(&self, path: &str, mut progress: impl FnMut(&Event)) -> Result<ReloadMessage, Error> {
        let mut events = match self.events().await {
            Ok(mut events) => match self.within(events.next()).await {
                Ok(Some(first)) => {
                    progress(&first);
                    Some(events)
                }
                _ => None,
            },
            Err(Error::Answer(..)) => None,
            Err(error) => return Err(error),
        };
        let asking = self.ask(Method::POST, path);
        tokio::pin!(asking);
        let mut finished = None;
        let answer = loop {
            let Some(open) = &mut events else { break asking.await? };
            tokio::select! {
                biased;
                event = open.next() => match event {
                    Ok(Some(event)) => {
                        if let Event::ReloadFinished(outcome) = &event {
                            finished = Some(outcome.generation);
                        }
                        progress(&event);
                    }
                    _ => events = None,
                },
                answer = &mut asking => break answer?,
            }
        };
        if !matches!(answer.status, StatusCode::OK | StatusCode::CONFLICT) {
            return Err(self.refusal(&answer));
        }
        let outcome: ReloadMessage = self.understood(&answer)?;
        let until = Instant::now() + LAST_EVENTS;
        while let Some(open) = events.as_mut().filter(|_| finished != Some(outcome.generation) && outcome.generation != 0) {
            let Ok(Ok(Some(event))) = timeout_at(until, open.next()).await else { break };
            if let Event::ReloadFinished(outcome) = &event {
                finished = Some(outcome.generation);
            }
            progress(&event);
        }
        Ok(outcome)
    }

    /// Probes the release that a reload would start, and waits for the end of that without a timeout.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn probe(&self) -> Result<ReloadMessage, Error> {
        self.change("/probe").await
    }

    /// Rolls back the reload that is under way.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn abort(&self) -> Result<ChangeMessage, Error> {
        self.change("/abort").await
    }

    /// Ends the step of the canary that waits.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn promote(&self) -> Result<ChangeMessage, Error> {
        self.change("/promote").await
    }

    /// Sets the number of workers.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn scale(&self, workers: u32) -> Result<ChangeMessage, Error> {
        self.change(&format!("/scale?workers={workers}")).await
    }

    /// The number of workers is the configuration's again.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn scale_auto(&self) -> Result<ChangeMessage, Error> {
        self.change("/scale?workers=auto").await
    }

    /// Replaces this worker, or all workers.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn recycle(&self, worker: Option<u64>) -> Result<ChangeMessage, Error> {
        match worker {
            Some(id) => self.change(&format!("/recycle?worker={id}")).await,
            None => self.change("/recycle").await,
        }
    }

    /// Drains all workers and keeps the sockets, for this time or until [`Self::resume`]; waits until the last worker is gone.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn pause(&self, length: Option<Duration>) -> Result<ChangeMessage, Error> {
        match length {
            Some(length) => self.change(&format!("/pause?for={}us", length.as_micros())).await,
            None => self.change("/pause").await,
        }
    }

    /// Starts the workers of the paused instance again.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn resume(&self) -> Result<ChangeMessage, Error> {
        self.change("/resume").await
    }

    /// Replaces the master's own program.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn upgrade(&self) -> Result<ChangeMessage, Error> {
        self.change("/upgrade").await
    }

    /// Requests a change. Waits for the answer without a timeout, but first checks that the
    /// master answers at all.
    async fn change<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.summary().await?;
        let answer = self.ask(Method::POST, path).await?;
        match answer.status {
            StatusCode::OK | StatusCode::CONFLICT => self.understood(&answer),
            _ => Err(self.refusal(&answer)),
        }
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Answered, Error> {
        let (_talk, answer) = self.begin(method, path).await?;
        self.answered(answer).await
    }

    /// Connects and sends the request.
    async fn begin(&self, method: Method, path: &str) -> Result<(Talk, Response<Incoming>), Error> {
        let uri: Uri = path.parse().map_err(|error: InvalidUri| Error::Broken(self.path.clone(), error.to_string()))?;
        let mut tries = TRIES;
        loop {
            let mut talk = self.connect().await?;
            match talk.request(&method, &uri).await {
                Ok(answer) => return Ok((talk, answer)),
                // The server closed the connection before the request was sent: try again.
                Err(error) if error.is_canceled() && tries > 1 => tries -= 1,
                Err(error) => return Err(self.broken(&error)),
            }
        }
    }

    async fn answered(&self, answer: Response<Incoming>) -> Result<Answered, Error> {
        let status = answer.status();
        let server = answer.headers().get(hyper::header::SERVER).map(|server| String::from_utf8_lossy(server.as_bytes()).into());
        match Limited::new(answer.into_body(), LARGEST).collect().await {
            Ok(body) => Ok(Answered { status, server, body: body.to_bytes() }),
            Err(error) => Err(Error::Broken(self.path.clone(), error.to_string())),
        }
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match timeout(self.patience, call).await {
            Ok(result) => result,
            Err(_) => Err(Error::Silent(self.path.clone(), self.patience)),
        }
    }

    async fn connect(&self) -> Result<Talk, Error> {
        let stream = self.within(self.open()).await?;
        let (send, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        // Dropping the set ends the task, and that closes the connection.
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            let _ = connection.await;
        });
        Ok(Talk { send, _driver: driver })
    }

    async fn open(&self) -> Result<UnixStream, Error> {
        loop {
            match UnixStream::connect(&self.path).await {
                Ok(stream) => return Ok(stream),
                Err(error) => match error.kind() {
                    // The accept queue of the socket is full; a non-blocking connect(2) does not wait for a place in it.
                    io::ErrorKind::WouldBlock => sleep(Duration::from_millis(20)).await,
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => return Err(Error::Missing(self.path.clone())),
                    io::ErrorKind::ConnectionRefused => return Err(Error::Dead(self.path.clone())),
                    io::ErrorKind::PermissionDenied => return Err(Error::Denied(self.path.clone())),
                    io::ErrorKind::InvalidInput => return Err(Error::TooLong(self.path.clone())),
                    _ => return Err(Error::Broken(self.path.clone(), error.to_string())),
                },
            }
        }
    }

    fn understood<T: DeserializeOwned>(&self, answer: &Answered) -> Result<T, Error> {
        serde_json::from_slice(&answer.body).map_err(|error| {
            let words = format!("this is not what a Ratoon of this version says ({error}){}", answer.whose());
            Error::Answer(self.path.clone(), answer.status.as_u16(), words)
        })
    }

    fn refusal(&self, answer: &Answered) -> Error {
        let words = match serde_json::from_slice::<ErrorMessage>(&answer.body) {
            Ok(message) if !message.error.is_empty() => message.error,
            _ => String::from_utf8_lossy(&answer.body[..answer.body.len().min(300)]).trim().to_owned(),
        };
        match answer.status {
            StatusCode::FORBIDDEN => Error::Forbidden(words),
            status => Error::Answer(self.path.clone(), status.as_u16(), words + &answer.whose()),
        }
    }

    fn broken(&self, error: &hyper::Error) -> Error {
        Error::Broken(self.path.clone(), error.to_string())
    }
}

/// Whether a body is an error, and not the summary of a pool that is not ready.
fn is_error(body: &[u8]) -> bool {
    serde_json::from_slice::<ErrorMessage>(body).is_ok_and(|message| !message.error.is_empty())
}

/// A whole answer.
struct Answered {
    status: StatusCode,
    /// The header `server`: `ratoon/0.1.0`.
    server: Option<String>,
    body: Bytes,
}

impl Answered {
    /// A hint for the end of an error message: the server's version, if it is not this one.
    fn whose(&self) -> String {
        match self.server.as_deref() {
            Some(OWN) => String::new(),
            Some(other) => format!(
                "; {other:?} answered there, and this program is {OWN:?}: ask with a `ratoon` of that version, or let the master run \
                 this one (`ratoon upgrade`, or a restart)"
            ),
            None => format!("; what answered there does not say that it is a Ratoon, and this program is {OWN:?}: is it one?"),
        }
    }
}

/// One connection; closed when dropped.
struct Talk {
    send: SendRequest<Empty<Bytes>>,
    _driver: JoinSet<()>,
}

impl Talk {
    async fn request(&mut self, method: &Method, uri: &Uri) -> hyper::Result<Response<Incoming>> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri.clone();
        request.headers_mut().insert(HOST, HeaderValue::from_static("ratoon"));
        self.send.send_request(request).await
    }
}
