//! Tests of the layer: requests on the scoreboard.

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use tower_layer::Layer as _;
use tower_service::Service as _;

use super::*;
use crate::scoreboard::entry::Entry;
use crate::scoreboard::writer::Board;
use crate::worker::Drain;

struct Rig {
    board: Arc<Board>,
    state: Arc<State>,
}

impl Rig {
    fn new() -> Self {
        let board = Arc::new(Board::private());
        let shown = Connection::new(board.clone(), Some("192.0.2.1:80".parse().unwrap()));
        Rig { state: State::new(Drain::new(), shown, false, None), board }
    }

    fn entry(&self) -> Entry {
        let [entry] = &self.board.entries()[..] else { panic!("one connection") };
        entry.clone()
    }

    fn counted(&self, name: &str) -> u64 {
        self.board.counter(name).map_or(0, |total| total.load(std::sync::atomic::Ordering::Relaxed))
    }

    fn request_state(&self) -> &'static str {
        self.entry().guarded.unwrap().request.map_or("none", |request| request.state)
    }
}

/// A tower service that calls a function.
#[derive(Clone)]
struct Answering<F>(F);

impl<F, R> tower_service::Service<Request<()>> for Answering<F>
where
    F: Fn(Request<()>) -> R,
    R: Future<Output = Result<Response<Full<Bytes>>, io::Error>>,
{
    type Response = Response<Full<Bytes>>;
    type Error = io::Error;
    type Future = R;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> R {
        self.0(request)
    }
}

fn get(url: &str) -> Request<()> {
    Request::get(url).body(()).unwrap()
}

#[tokio::test]
async fn a_request_is_shown_from_head_to_last_byte() {
    let rig = Rig::new();
    let mut service = Layer::of(rig.state.clone()).layer(Answering(async |_| {
        request().unwrap().set_info(&serde_json::json!({"user": 17})).unwrap();
        tokio::task::yield_now().await;
        assert!(request().is_some(), "after an await, too");
        Ok(Response::new(Full::new(Bytes::from("hello"))))
    }));
    assert_eq!(rig.request_state(), "none");
    let answer = service.call(get("http://x/report?a=1"));
    assert_eq!(rig.request_state(), "processing");
    assert!(rig.state.busy() && request().is_none());
    let answer = answer.await.unwrap();
    let shown = rig.entry().guarded.unwrap().request.unwrap();
    assert_eq!((shown.method.as_str(), shown.url.as_str(), shown.version), ("GET", "/report?a=1", "1.1"));
    assert_eq!((shown.state, shown.info.as_str()), ("sending", r#"{"user":17}"#));
    assert!(answer.headers().get(CONNECTION).is_none());
    let body = answer.into_body();
    assert_eq!(body.size_hint().exact(), Some(5));
    assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
    assert_eq!(rig.request_state(), "finished");
    assert!(!rig.state.busy() && !rig.entry().active);
    // The time of the answer was taken once, at its head.
    let [timed, logs, squares] = rig.board.times();
    assert_eq!((timed, squares), (1, logs * logs));
}

#[tokio::test]
async fn ends_of_every_kind() {
    let rig = Rig::new();
    let layer = Layer::of(rig.state.clone());
    let mut failing = layer.layer(Answering(async |_| Err(io::Error::other("no"))));
    failing.call(get("/")).await.map(drop).unwrap_err();
    assert_eq!(rig.request_state(), "aborted");
    let mut service = layer.layer(Answering(async |_| Ok(Response::new(Full::new(Bytes::from("hello"))))));
    drop(service.call(get("/")));
    assert_eq!(rig.request_state(), "aborted", "the handler was dropped");
    drop(service.call(get("/")).await.unwrap());
    assert_eq!(rig.request_state(), "aborted", "nobody took the body");
    let mut body = service.call(get("/")).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!(rig.request_state(), "finished", "all bytes were taken, though not the end");
    drop(service.call(Request::head("/").body(()).unwrap()).await.unwrap());
    assert_eq!(rig.request_state(), "finished", "HEAD");
    assert!(!rig.state.busy());
    assert_eq!(rig.entry().requests, 5);
    assert_eq!(["errors", "responses_2xx", "responses_5xx"].map(|name| rig.counted(name)), [3, 2, 0]);
}

#[tokio::test]
async fn answers_are_counted_by_their_class() {
    let rig = Rig::new();
    let mut service = Layer::of(rig.state.clone()).layer(Answering(async |request: Request<()>| {
        let status: u16 = request.uri().path()[1..].parse().expect("a status");
        Ok(Response::builder().status(status).body(Full::from("x")).expect("an answer"))
    }));
    for status in [200, 204, 301, 404, 500, 503, 599, 999] {
        drop(service.call(get(&format!("/{status}"))).await.unwrap().into_body().collect().await);
    }
    let classes = ["responses_1xx", "responses_2xx", "responses_3xx", "responses_4xx", "responses_5xx", "errors"];
    assert_eq!(classes.map(|name| rig.counted(name)), [0, 2, 1, 1, 3, 1]);
}

#[tokio::test]
async fn while_draining_answers_announce_the_end() {
    let rig = Rig::new();
    let mut service = Layer::of(rig.state.clone()).layer(Answering(async |request: Request<()>| {
        let status = if request.uri() == "/upgrade" { StatusCode::SWITCHING_PROTOCOLS } else { StatusCode::OK };
        let answer = Response::builder().status(status).header(CONNECTION, "as the handler says");
        Ok(answer.body(Full::default()).unwrap())
    }));
    let mut connection_header = async |url, version| {
        let mut request = get(url);
        *request.version_mut() = version;
        service.call(request).await.unwrap().headers()[CONNECTION].to_str().unwrap().to_owned()
    };
    assert_eq!(connection_header("/", Version::HTTP_11).await, "as the handler says");
    rig.state.drain.begin();
    assert_eq!(connection_header("/", Version::HTTP_11).await, "close");
    assert_eq!(connection_header("/", Version::HTTP_10).await, "close");
    assert_eq!(connection_header("/", Version::HTTP_2).await, "as the handler says");
    assert_eq!(connection_header("/upgrade", Version::HTTP_11).await, "as the handler says");
}

#[tokio::test]
async fn a_handle_outlives_its_request_without_harm() {
    let rig = Rig::new();
    let kept = std::cell::RefCell::new(None);
    let mut service = Layer::of(rig.state.clone()).layer(Answering(async |_| {
        *kept.borrow_mut() = request();
        Ok(Response::new(Full::new(Bytes::new())))
    }));
    service.call(get("/1")).await.unwrap();
    let first = kept.take().unwrap();
    service.call(get("/2")).await.unwrap();
    first.set_info(&serde_json::json!({"wrong": true})).unwrap();
    first.set_client("203.0.113.9".parse().unwrap());
    let shown = rig.entry().guarded.unwrap().request.unwrap();
    assert_eq!((shown.url.as_str(), shown.info.as_str(), shown.client), ("/2", "", Some("192.0.2.1".parse().unwrap())));
    assert!(first.set_info(&serde_json::json!({"long": "x".repeat(300)})).is_err());
    let Rig { board, state } = rig;
    drop((service, state));
    assert!(board.entries().is_empty(), "a handle keeps no connection on the board");
    first.set_info(&serde_json::json!({})).unwrap();
}

#[test]
fn a_panic_in_a_handler_leaves_no_request_behind() {
    let rig = Rig::new();
    let mut service = Layer::of(rig.state.clone()).layer(Answering(async |_| panic!("a bug of the handler")));
    let call = std::panic::AssertUnwindSafe(|| {
        let future = std::pin::pin!(service.call(get("/")));
        let _ = future.poll(&mut Context::from_waker(std::task::Waker::noop()));
    });
    std::panic::catch_unwind(call).unwrap_err();
    assert!(request().is_none());
    assert!(!rig.state.busy());
    assert_eq!(rig.request_state(), "aborted");
}

#[test]
fn request_stays_in_work_when_exit_ends_its_thread() {
    let rig = Rig::new();
    let state = rig.state.clone();
    let handler = std::thread::spawn(move || {
        let service = Layer::of(state).layer(());
        let mut running = Some(service.begin(&get("/report/17")));
        // exit(3) runs the destructors of its thread's thread-local variables while the handler is still running.
        std::mem::forget(Within::enter(&mut running));
    });
    handler.join().expect("no panic");
    assert_eq!((rig.request_state(), rig.entry().active), ("processing", true));
}

#[tokio::test]
async fn without_a_connection_requests_are_shown_all_the_same() {
    let before = board().entries().len();
    let mut service = layer().layer(Answering(async |_| {
        let shown = board().entries().into_iter().filter_map(|entry| entry.guarded?.request);
        assert_eq!(shown.filter(|request| request.url == "/alone-and-unknown").count(), 1);
        Ok(Response::new(Full::new(Bytes::new())))
    }));
    service.call(get("/alone-and-unknown")).await.unwrap();
    drop((service, before));
}
