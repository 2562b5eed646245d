//! What the tower layer and the stream cost: a hello-world hyper server with and without them, in turn in one run.
//!
//! `cargo bench --all-features --bench layer`. It prints the requests a second, the server thread's CPU time for each
//! request, and the time of the bare calls without sockets. The machine's noise is larger than the difference, so the
//! rounds alternate and medians are compared; CPU time is the steadier figure.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http_body_util::{Empty, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use ratoon::worker::{Connection, layer};
use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpListener;
use tower_layer::Layer;

const ROUNDS: usize = 41;
const REQUESTS: usize = 20_000;
const CONNECTIONS: usize = 16;
const REQUEST: &[u8] = b"GET /report/17?year=2026 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";

fn main() {
    let rounds = std::env::args().filter_map(|text| text.parse().ok()).next().unwrap_or(ROUNDS);
    // For a profiler, which has to see the one without the other.
    for (name, tracked) in [("plain", false), ("tracked", true)] {
        if std::env::args().any(|text| text == name) {
            (0..rounds).for_each(|_| _ = round(tracked));
            return;
        }
    }
    let (mut plain, mut tracked) = (Vec::new(), Vec::new());
    round(true);
    for _ in 0..rounds {
        plain.push(round(false));
        tracked.push(round(true));
    }
    let median = |all: &[Round], figure: fn(&Round) -> f64| median(all.iter().map(figure).collect());
    let show = |name: &str, all: &[Round]| {
        println!(
            "{name:<8} {:>10.0} requests/s {:>8.0} ns of CPU a request",
            median(all, |r| r.per_second),
            median(all, |r| r.cpu)
        );
    };
    println!("{rounds} rounds each, {REQUESTS} requests over {CONNECTIONS} connections; medians");
    show("plain", &plain);
    show("tracked", &tracked);
    // Neighbours on the machine slow a round and its neighbour alike: each tracked round against the plain one before it.
    let pairs = || plain.iter().zip(&tracked);
    let [low, middle, high] = quartiles(pairs().map(|(plain, tracked)| tracked.cpu - plain.cpu).collect());
    println!("tracking costs {middle:.0} ns of CPU a request (quartiles of the pairs: {low:.0} to {high:.0})");
    let [low, middle, high] =
        quartiles(pairs().map(|(plain, tracked)| (1.0 - tracked.per_second / plain.per_second) * 100.0).collect());
    println!("tracking costs {middle:.1} % of the throughput (quartiles of the pairs: {low:.1} to {high:.1})");
    let best = |all: &[Round]| all.iter().map(|round| round.cpu).fold(f64::INFINITY, f64::min);
    println!(
        "best rounds: {:.0} and {:.0} ns of CPU a request: {:.0} ns more",
        best(&plain),
        best(&tracked),
        best(&tracked) - best(&plain)
    );
    let (bare, layered) = (calls(false), calls(true));
    println!("without sockets: a call of the service {bare:.0} ns, tracked {layered:.0} ns: {:.0} ns more", layered - bare);
}

struct Round {
    per_second: f64,
    cpu: f64,
}

/// One server on this thread, one client on another.
fn round(tracked: bool) -> Round {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (done, mut is_done) = tokio::sync::oneshot::channel();
        let client = std::thread::spawn(move || {
            let took = client(address);
            let _ = done.send(());
            took
        });
        for _ in 0..CONNECTIONS {
            let (io, peer) = listener.accept().await.expect("a client");
            io.set_nodelay(true).expect("TCP");
            let http = http1::Builder::new();
            if tracked {
                let io = Connection::new(io, Some(peer));
                let service = io.layer().layer(service_fn(hello));
                tokio::spawn(async move { http.serve_connection(TokioIo::new(io), service).await });
            } else {
                tokio::spawn(async move { http.serve_connection(TokioIo::new(io), service_fn(hello)).await });
            }
        }
        let before = cpu();
        (&mut is_done).await.expect("the client ends");
        let cpu = (cpu() - before).as_nanos() as f64 / REQUESTS as f64;
        let took = client.join().expect("a client without errors");
        Round { per_second: REQUESTS as f64 / took.as_secs_f64(), cpu }
    })
}

/// Asks on all connections, then reads all answers, and so on.
fn client(address: SocketAddr) -> Duration {
    let connect = |_| {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("TCP");
        stream
    };
    let mut streams: Vec<_> = (0..CONNECTIONS).map(connect).collect();
    let mut buffer = [0; 4096];
    let began = Instant::now();
    for _ in 0..REQUESTS / CONNECTIONS {
        streams.iter_mut().for_each(|stream| stream.write_all(REQUEST).expect("a request"));
        for stream in &mut streams {
            let len = stream.read(&mut buffer).expect("an answer");
            assert!(buffer[..len].starts_with(b"HTTP/1.1 200 ") && buffer[..len].ends_with(b"hello world\n"));
        }
    }
    began.elapsed()
}

async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(b"hello world\n"))))
}

/// Nanoseconds of one call of the service, its answer's body read to the end; the best of some runs.
fn calls(tracked: bool) -> f64 {
    const CALLS: u32 = 200_000;
    let service = service_fn(async |_: Request<Empty<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello world\n"))))
    });
    let io = Connection::new(std::io::empty(), Some("192.0.2.1:4711".parse().expect("an address")));
    let (layered, unknown) = (io.layer().layer(&service), layer());
    black_box(unknown);
    let run = || {
        let began = Instant::now();
        for _ in 0..CALLS {
            let request = Request::get("/report/17?year=2026").body(Empty::new()).expect("a request");
            if tracked { finish(layered.call(request)) } else { finish(service.call(request)) }
        }
        began.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    (0..10).map(|_| run()).fold(f64::INFINITY, f64::min)
}

fn finish<B: Body>(answer: impl Future<Output = Result<Response<B>, Infallible>>) {
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(answer)) = pin!(answer).poll(&mut cx) else { panic!("the answer is there at once") };
    let mut body = pin!(answer.into_body());
    while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) {
        black_box(frame.is_ok());
    }
}

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn median(figures: Vec<f64>) -> f64 {
    quartiles(figures)[1]
}

fn quartiles(mut figures: Vec<f64>) -> [f64; 3] {
    figures.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| figures[figures.len() * quarter / 4])
}
