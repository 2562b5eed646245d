//! Reads the status of the whole pool from inside a worker: `GET /status` on the control socket.
//!
//! Law: the wait for an answer and the size of an answer are bounded. Outside of a pool the request is an error.

use std::io;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::identity;
pub use crate::document::Document;

/// The longest wait for an answer. The master answers in milliseconds; a loaded machine may need longer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer in bytes. A thousand workers with ten connections each take some 8 MiB.
const MOST: usize = 64 << 20;

/// The status document of the pool that this worker belongs to (docs/contract.md §6).
///
/// Fails with [`io::ErrorKind::NotFound`] when the program runs alone.
pub async fn server_status() -> io::Result<Document> {
    let Some(control) = &identity().control else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no RATOON_CONTROL: this program runs alone, there is no pool"));
    };
    ask(control).await
}

async fn ask(control: &Path) -> io::Result<Document> {
    match timeout(TIMEOUT, get(control)).await {
        Ok(Ok(document)) => Ok(document),
        Ok(Err(error)) => Err(io::Error::new(error.kind(), format!("GET /status on {}: {error}", control.display()))),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no status from {} in {TIMEOUT:?}", control.display()))),
    }
}

async fn get(control: &Path) -> io::Result<Document> {
    let stream = UnixStream::connect(control).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection); // ends with the sender
    let request = Request::get("/status").header(header::HOST, "ratoon").body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let answer = sender.send_request(request).await.map_err(io::Error::other)?;
    if answer.status() != StatusCode::OK {
        return Err(io::Error::other(format!("status {}", answer.status())));
    }
    let body = Limited::new(answer.into_body(), MOST).collect().await.map_err(io::Error::other)?;
    Ok(serde_json::from_slice(&body.to_bytes())?)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    async fn told(answer: String) -> io::Result<Document> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let listener = UnixListener::bind(&path).unwrap();
        let master = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let len = stream.read(&mut request).await.unwrap();
            assert!(request[..len].starts_with(b"GET /status HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let document = ask(&path).await;
        master.await.unwrap();
        document
    }

    #[tokio::test]
    async fn the_document_of_the_pool() {
        let json = serde_json::to_string(&Document { instance: "web".into(), generation: 7, ..Default::default() }).unwrap();
        let document = told(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{json}", json.len())).await.unwrap();
        assert_eq!((document.instance.as_str(), document.generation), ("web", 7));
        let error = told("HTTP/1.1 503 Not now\r\nContent-Length: 0\r\n\r\n".into()).await.unwrap_err().to_string();
        assert!(error.ends_with("/control: status 503 Service Unavailable"), "{error}");
        let error = told("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno".into()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(ask(Path::new("/nowhere/control")).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
