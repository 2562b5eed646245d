//! What the tower layer and the stream cost: a hello-world hyper server with and without them, in turn in one run.
//!
//! `cargo bench --bench layer`. Both servers live on one thread, their connections stay open, and short rounds of
//! requests alternate between them: a neighbour on the machine slows both alike. Told are the medians, and of the differences
//! between neighbouring rounds the median with the 95 % confidence interval that order statistics give. Without sockets and
//! without neighbours: the time of the bare calls, and, where perf(1) can count them, their instructions, which are the
//! same in every run.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::process::Command;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http_body_util::{Empty, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use ratoon_worker::Connection;
use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpListener;
use tower_layer::Layer;

const ROUNDS: usize = 400;
const REQUESTS: usize = 1600;
const CONNECTIONS: usize = 16;
const REQUEST: &[u8] = b"GET /report/17?year=2026 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";
/// Calls of the service of which the instructions are counted: the second number less the first.
const COUNTED: [u32; 2] = [10_000, 30_000];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // What is run again under perf, which has to see one without the other.
    if let [.., name, calls] = &arguments[..]
        && let (Some(tracked), Ok(calls)) = (NAMES.iter().position(|it| it == name), calls.parse())
    {
        return call(tracked == 1, calls, &mut || ());
    }
    let rounds = arguments.iter().filter_map(|text| text.parse().ok()).next().unwrap_or(ROUNDS);
    let (plain, tracked): (Vec<Round>, Vec<Round>) = rounds_of_both(rounds).into_iter().unzip();
    let show = |name: &str, all: &[Round]| {
        let median = |figure: fn(&Round) -> f64| median(all.iter().map(figure).collect()).1;
        println!("{name:<8} {:>10.0} requests/s {:>8.0} ns of CPU a request", median(|r| r.per_second), median(|r| r.cpu));
    };
    println!("{rounds} rounds of {REQUESTS} requests over {CONNECTIONS} connections for each, in turn; medians");
    show(NAMES[0], &plain);
    show(NAMES[1], &tracked);
    let pairs = || plain.iter().zip(&tracked);
    let (low, middle, high) = median(pairs().map(|(plain, tracked)| tracked.cpu - plain.cpu).collect());
    println!("tracking costs {middle:.0} ns of CPU a request (95 % confidence: {low:.0} to {high:.0})");
    let (low, middle, high) =
        median(pairs().map(|(plain, tracked)| (1.0 - tracked.per_second / plain.per_second) * 100.0).collect());
    println!("tracking costs {middle:.2} % of the throughput (95 % confidence: {low:.2} to {high:.2})");
    let (bare, layered) = (nanoseconds(false), nanoseconds(true));
    println!("without sockets: a call of the service {bare:.0} ns, tracked {layered:.0} ns: {:.0} ns more", layered - bare);
    match (instructions(NAMES[0]), instructions(NAMES[1])) {
        (Some(bare), Some(layered)) => println!(
            "without sockets: a call of the service {bare:.0} instructions, tracked {layered:.0}: {:.0} more",
            layered - bare
        ),
        _ => println!("without sockets: instructions were not counted (perf is not installed, or there is no such counter)"),
    }
}

/// As they are called here and on the command line.
const NAMES: [&str; 2] = ["plain", "tracked"];

#[derive(Clone, Copy)]
struct Round {
    per_second: f64,
    cpu: f64,
}

/// Both servers on one thread, the client on this one; in every pair of rounds the other one begins.
fn rounds_of_both(rounds: usize) -> Vec<(Round, Round)> {
    let (addresses, listening) = std::sync::mpsc::channel();
    let (marks, mut marked) = tokio::sync::mpsc::unbounded_channel::<std::sync::mpsc::Sender<Duration>>();
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            for tracked in [false, true] {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                addresses.send(listener.local_addr().expect("its address")).expect("a client");
                serve(&listener, tracked).await;
            }
            // Who asks is told what CPU time this thread has had.
            while let Some(asked) = marked.recv().await {
                asked.send(cpu()).expect("a client");
            }
        });
    });
    let spent = || {
        let (answer, spent) = std::sync::mpsc::channel();
        marks.send(answer).expect("a server");
        spent.recv().expect("a server")
    };
    let mut clients = [0, 1].map(|_| connect(listening.recv().expect("a server")));
    let mut round = |which: usize| {
        let (before, began) = (spent(), Instant::now());
        ask(&mut clients[which]);
        let took = began.elapsed();
        let cpu = (spent() - before).as_nanos() as f64 / REQUESTS as f64;
        Round { per_second: REQUESTS as f64 / took.as_secs_f64(), cpu }
    };
    let mut pairs = Vec::with_capacity(rounds);
    (0..20).for_each(|warm| _ = round(warm % 2));
    for number in 0..rounds {
        let first = round(number % 2);
        let second = round(1 - number % 2);
        pairs.push(if number % 2 == 0 { (first, second) } else { (second, first) });
    }
    drop(marks);
    server.join().expect("a server without errors");
    pairs
}

async fn serve(listener: &TcpListener, tracked: bool) {
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
}

fn connect(address: SocketAddr) -> Vec<TcpStream> {
    let connect = |_| {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("TCP");
        stream
    };
    (0..CONNECTIONS).map(connect).collect()
}

/// Asks on all connections, then reads all answers, and so on.
fn ask(streams: &mut [TcpStream]) {
    let mut buffer = [0; 4096];
    for _ in 0..REQUESTS / CONNECTIONS {
        streams.iter_mut().for_each(|stream| stream.write_all(REQUEST).expect("a request"));
        for stream in &mut *streams {
            let len = stream.read(&mut buffer).expect("an answer");
            assert!(buffer[..len].starts_with(b"HTTP/1.1 200 ") && buffer[..len].ends_with(b"hello world\n"));
        }
    }
}

async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(b"hello world\n"))))
}

/// Calls the service so often, then says so.
fn call(tracked: bool, calls: u32, after: &mut dyn FnMut()) {
    let service = service_fn(async |_: Request<Empty<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello world\n"))))
    });
    let io = Connection::new(std::io::empty(), Some("192.0.2.1:4711".parse().expect("an address")));
    let layered = io.layer().layer(&service);
    for _ in 0..calls {
        let request = Request::get("/report/17?year=2026").body(Empty::new()).expect("a request");
        if tracked { finish(layered.call(request)) } else { finish(service.call(request)) }
    }
    after();
}

/// Nanoseconds of one call of the service, its answer's body read to the end; the best of some runs.
fn nanoseconds(tracked: bool) -> f64 {
    const CALLS: u32 = 200_000;
    let run = || {
        let began = Instant::now();
        let mut took = Duration::ZERO;
        call(tracked, CALLS, &mut || took = began.elapsed());
        took.as_nanos() as f64 / f64::from(CALLS)
    };
    (0..10).map(|_| run()).fold(f64::INFINITY, f64::min)
}

/// Instructions of one call, as perf(1) counts them; `None` where it is not installed or the machine has no such counter.
fn instructions(name: &str) -> Option<f64> {
    let counted = COUNTED.map(|calls| {
        let output = Command::new("perf")
            .args(["stat", "-x,", "-e", "instructions:u"])
            .arg(std::env::current_exe().ok()?)
            .args([name, &calls.to_string()])
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stderr);
        text.lines().find_map(|line| line.split_once(",")?.0.parse::<f64>().ok())
    });
    Some((counted[1]? - counted[0]?) / f64::from(COUNTED[1] - COUNTED[0]))
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

/// The median, between the bounds of its 95 % confidence interval.
fn median(mut figures: Vec<f64>) -> (f64, f64, f64) {
    figures.sort_by(f64::total_cmp);
    let (half, far) = (figures.len() / 2, (0.98 * (figures.len() as f64).sqrt()).ceil() as usize);
    (figures[half.saturating_sub(far)], figures[half], figures[(half + far).min(figures.len() - 1)])
}
