//! Tests of the writer and the reader together, of hostile pages, and of a writer that is killed.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::json;

use std::time::SystemTime;

use jiff::Timestamp;

use super::*;
use crate::status::tree::Connection;
use ratoon_worker::scoreboard::connection::{Connection as Writer, Head, Stage};
use ratoon_worker::scoreboard::writer::Board;
use ratoon_worker::scoreboard::{INFO, MAGIC, URL};

fn pair() -> (Scoreboard, Arc<Board>) {
    let page = Scoreboard::create(Duration::from_secs(7)).unwrap();
    let board = Board::shared(&page).unwrap();
    (page, Arc::new(board))
}

/// The content of a page, and its connections.
fn read(page: &Scoreboard) -> Option<(Shown, Vec<Connection>)> {
    let mut json = b"before".to_vec();
    let shown = page.read(&mut Buffers::default(), &mut json);
    let list = json.strip_prefix(b"before").expect("what was there stays");
    let Some(shown) = shown else {
        assert_eq!(list, b"");
        return None;
    };
    let connections: Vec<Connection> = serde_json::from_slice(list).expect("valid JSON");
    assert_eq!(connections.len(), shown.connections);
    Some((shown, connections))
}

fn nothing() -> (Shown, Vec<Connection>) {
    let totals = Totals { counted: Counted::by_page(0), ..Totals::default() };
    (Shown { totals, ..Shown::default() }, Vec::new())
}

fn get(url: &str) -> Head<'_> {
    Head { method: "GET", url, version: 11 }
}

fn peer() -> Option<SocketAddr> {
    Some("192.0.2.7:4711".parse().unwrap())
}

#[test]
fn no_lie_of_a_worker_s_spoils_the_sums_of_the_pool() {
    let told = |name: String, value| Totals { counters: [(name, value)].into(), ..Totals::default() };
    // Each value is finite; their sum would be infinite, which JSON cannot express.
    let mut sums = Totals::default();
    (0..3).for_each(|_| sums.add(&told("jobs".into(), 1e308)));
    let text = serde_json::to_string(&sums).unwrap();
    assert_eq!(serde_json::from_str::<Totals>(&text).unwrap_or_else(|error| panic!("{error}: {text}")), sums);
    // A worker that uses another counter name after each restart.
    (0..5000).for_each(|life| sums.add(&told(format!("life {life}"), 1.0)));
    sums.add(&told("life 7".into(), 1.0));
    assert!(sums.counters.len() <= 1024, "{}", sums.counters.len());
    assert_eq!(sums.counters["life 7"], 2.0, "what is known is still counted");

    // An implausibly large figure is ignored: with it the sum could not grow any more.
    let (page, board) = pair();
    let memory = ratoon_worker::sys::map::Words::shared(&page).unwrap();
    for word in (header::CONNECTIONS..=header::BYTES_WRITTEN).chain(header::TIMED..=header::TIMED_SQUARES) {
        memory[word].store(u64::MAX, Relaxed);
    }
    board.counter("jobs").unwrap().store(u64::MAX, Relaxed);
    let lies = page.totals().unwrap();
    let counted = Counted::by_page(0);
    assert_eq!(lies, Totals { counters: [("jobs".into(), 0.0)].into(), counted, ..Totals::default() });
}

#[test]
fn what_is_written_is_read() {
    let page = Scoreboard::create(Duration::from_secs(7)).unwrap();
    assert_eq!((page.totals(), read(&page)), (None, None), "nobody writes it yet");
    let board = Arc::new(Board::shared(&page).unwrap());
    assert_eq!(read(&page), Some(nothing()));
    assert_eq!((board.stop_timeout(), Board::private().stop_timeout()), (Some(Duration::from_secs(7)), None));

    let before = SystemTime::now();
    let connection = Writer::new(board.clone(), peer());
    connection.read(100);
    let number = connection.begin(get("/report?year=2026"));
    assert!(connection.set_info(number, r#"{"user":"eva"}"#));
    connection.wrote(7);
    connection.stage(Stage::Sending);
    board.counter("jobs").unwrap().fetch_add(3, Relaxed);
    // 2^10 µs, and two times beyond the ends.
    [1024, 0, u64::MAX].into_iter().for_each(|usec| board.count_time(Duration::from_micros(usec)));

    let (shown, connections) = read(&page).unwrap();
    let totals = Totals {
        connections: 1,
        requests: 1,
        bytes_read: 100,
        bytes_written: 7,
        counters: [("jobs".into(), 3.0)].into(),
        counted: Counted::by_page(0),
        times: Times { count: 3, logs: 160 + 640, squares: 160 * 160 + 640 * 640 },
    };
    assert_eq!(shown.totals, totals);
    let [seen] = &connections[..] else { panic!("{shown:?}") };
    let request = seen.request.clone().unwrap();
    assert_eq!(
        *seen,
        Connection {
            state: "active".into(),
            start_time: seen.start_time.clone(),
            remote_address: Some("192.0.2.7".into()),
            remote_port: Some(4711),
            idle_since: None,
            requests: 1,
            bytes_read: 100,
            bytes_written: 7,
            request: Some(Request {
                state: "sending".into(),
                start_time: request.start_time.clone(),
                ip: Some("192.0.2.7".into()),
                method: "GET".into(),
                url: Some("/report?year=2026".into()),
                http_version: "1.1".into(),
                info: json!({"user": "eva"}).as_object().cloned(),
            }),
        }
    );
    let ms = Duration::from_millis(20); // the two clocks are read one after the other, and cut
    for time in [&seen.start_time, &request.start_time] {
        let time: SystemTime = time.parse::<Timestamp>().unwrap().into();
        assert!(time >= before - ms && time <= SystemTime::now() + ms, "{time:?}");
    }
    let [again] = &page.serving().0[..] else { panic!("{:?}", page.serving()) };
    assert_eq!((&again.url, &again.info, &again.state), (&request.url, &request.info, &request.state));

    connection.stage(Stage::Finished);
    let (_, connections) = read(&page).unwrap();
    let seen = &connections[0];
    assert_eq!((seen.state.as_str(), seen.idle_since.is_some()), ("idle", true));
    assert!(page.serving().0.is_empty());
    drop(connection);
    assert_eq!(read(&page).unwrap(), (Shown { totals, all: true, ..Shown::default() }, Vec::new()));
}

#[test]
fn texts_that_are_too_long_or_strange_are_cut_and_cleaned() {
    let (page, board) = pair();
    let connection = Writer::new(board, Some("[2001:db8::1]:9".parse().unwrap()));
    let long = format!("/{}", "ä".repeat(URL));
    let number = connection.begin(Head { method: "AVERYLONGMETHODNAME", url: &long, version: 99 });
    assert!(!connection.set_info(number, &" ".repeat(INFO + 1)));
    assert!(connection.set_info(number, "[1]"), "no object, so it is not shown");
    let request = page.serving().0.remove(0);
    assert_eq!((request.method.as_str(), request.http_version.as_str()), ("AVERYLONGMETHODN", ""));
    assert_eq!(request.url, Some(format!("/{}", "ä".repeat((URL - 1) / 2))));
    assert_eq!((request.ip.as_deref(), request.info.as_ref().map_or(0, serde_json::Map::len)), (Some("2001:db8::1"), 0));
    connection.begin(get("/\x1b[2J\u{9b}"));
    assert_eq!(page.serving().0[0].url.as_deref(), Some("/\u{fffd}[2J\u{fffd}"));
    connection.set_client(2, "203.0.113.5".parse().unwrap());
    connection.set_client(1, "203.0.113.6".parse().unwrap());
    assert_eq!(page.serving().0[0].ip.as_deref(), Some("203.0.113.5"), "only the last request can be described");
}

#[test]
fn more_connections_than_slots_are_counted_all_the_same() {
    let page = Scoreboard::with_slots(70, Duration::ZERO).unwrap();
    let board = Arc::new(Board::shared(&page).unwrap());
    let mut all: Vec<_> = (0..100).map(|_| Writer::new(board.clone(), None)).collect();
    all.iter().for_each(|connection| _ = connection.begin(get("/")));
    let (shown, connections) = read(&page).unwrap();
    assert_eq!((shown.totals.connections, shown.totals.requests, connections.len()), (100, 100, 70));
    assert_eq!((shown.unlisted, page.serving().0.len(), page.serving().1), (30, 70, 30));
    all.iter().skip(90).for_each(|connection| connection.stage(Stage::Finished));
    assert_eq!((read(&page).unwrap().0.unlisted, page.serving().1), (30, 20));
    all.truncate(10);
    assert_eq!((read(&page).unwrap().0.unlisted, page.serving().1), (0, 0));
    assert_eq!(read(&page).unwrap().1.len(), 10);
    let again = Writer::new(board.clone(), peer());
    let (_, connections) = read(&page).unwrap();
    assert_eq!((connections.len(), &connections[10].request), (11, &None), "a slot that is used again is clean");
    assert_eq!(connections[10].remote_port, Some(4711));
    drop(again);
}

#[test]
fn figures_are_unknown_only_where_the_writer_says_so() {
    let (page, board) = pair();
    let connection = Writer::new(board.clone(), peer());
    // A request in work, with no byte of its answer written yet.
    connection.begin(get("/"));
    let totals = page.totals().unwrap();
    assert_eq!((totals.known_bytes_written(), totals.known_connections()), (Some(0), Some(1)));
    board.count_requests_only();
    assert_eq!(page.totals().unwrap().known_bytes_read(), Some(0), "connections are counted already");

    let (page, board) = pair();
    board.count_requests_only();
    for requests in 0..2 {
        let totals = page.totals().unwrap();
        assert_eq!(totals.known_requests(), Some(requests));
        assert_eq!((totals.known_connections(), totals.known_bytes_read(), totals.known_bytes_written()), (None, None, None));
        Writer::unknown(board.clone()).begin(get("/"));
    }
    // The sum is known as soon as one page counts it.
    let mut sum = Totals::default();
    assert_eq!(sum.known_requests(), None);
    sum.add(&page.totals().unwrap());
    assert_eq!((sum.known_requests(), sum.known_bytes_written()), (Some(2), None));
    sum.add(&Totals { counted: Counted::by_page(0), ..Totals::default() });
    assert_eq!(sum.known_bytes_written(), Some(0));
}

#[test]
fn counters_of_many_threads_lose_nothing() {
    let (page, board) = pair();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let board = &board;
            scope.spawn(move || {
                for n in 0..1000 {
                    board.counter(["a", "b", "c"][n % 3]).unwrap().fetch_add(1, Relaxed);
                    let connection = Writer::new(board.clone(), None);
                    connection.begin(get("/"));
                    connection.read(thread);
                }
            });
        }
    });
    let totals = page.totals().unwrap();
    assert_eq!((totals.connections, totals.requests, totals.bytes_read), (8000, 8000, 28_000));
    assert_eq!(totals.counters, [("a".into(), 2672.0), ("b".into(), 2664.0), ("c".into(), 2664.0)].into());
    assert!(read(&page).unwrap().1.is_empty());
    let long = "ö".repeat(40);
    board.counter(&long).unwrap().fetch_add(1, Relaxed);
    board.counter(&long[..48]).unwrap().fetch_add(1, Relaxed);
    assert_eq!(page.totals().unwrap().counters[&long[..48]], 2.0);
    assert!((0..40).map(|n| board.counter(&format!("n{n}")).is_some()).filter(|made| *made).count() == 28);
    assert!(board.counter("").is_none());
}

/// Method, URL and info of a request always belong together, at whatever moment the page is read.
#[test]
fn no_torn_request_is_shown() {
    let (page, board) = pair();
    let stop = AtomicBool::new(false);
    let urls = ["/a".repeat(100), "/b".repeat(30)];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let connection = Writer::new(board.clone(), peer());
            while !stop.load(Relaxed) {
                for (method, url) in ["AAA", "BBBBBB"].into_iter().zip(&urls) {
                    connection.begin(Head { method, url, version: 11 });
                }
            }
        });
        let _stop_at_the_end = Stop(&stop); // also when an assertion fails
        let (mut whole, mut looks) = (0, 0);
        while whole < 2000 {
            looks += 1;
            assert!(looks < 1_000_000, "only {whole} of {looks} readings were whole");
            for request in page.serving().0 {
                whole += 1;
                let wanted = if request.method == "AAA" { &urls[0] } else { &urls[1] };
                assert_eq!((request.url.as_ref(), request.method.len() % 3), (Some(wanted), 0), "torn: {request:?}");
            }
        }
    });
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn a_page_has_one_writer() {
    let (page, _board) = pair();
    page.0.write_all_at(&1u64.to_ne_bytes(), header::PID as u64 * 8).unwrap();
    assert_eq!(Board::shared(&page).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
}

/// The test program runs itself as the other process, which writes its inherited page and is killed by SIGKILL while it writes.
#[test]
fn totals_and_the_request_survive_a_killed_writer() {
    const PAGE: &str = "RATOON_TEST_SCOREBOARD";
    if let Ok(number) = std::env::var(PAGE) {
        let board = Arc::new(Board::shared(crate::sys::fd::inherited(number.parse().unwrap()).unwrap()).unwrap());
        let connection = Writer::new(board.clone(), peer());
        for _ in 0..1000 {
            connection.begin(get("/other"));
            connection.stage(Stage::Finished);
        }
        connection.begin(get("/report/17"));
        board.counter("last words").unwrap().fetch_add(1, Relaxed);
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        unreachable!("SIGKILL");
    }
    let page = Scoreboard::create(Duration::from_secs(7)).unwrap();
    let passed = rustix::io::dup(&page).unwrap(); // without close-on-exec
    let name = "status::scoreboard::tests::totals_and_the_request_survive_a_killed_writer";
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([name, "--exact", "--nocapture"]).env(PAGE, passed.as_raw_fd().to_string());
    let ended = child.output().unwrap();
    assert!(std::os::unix::process::ExitStatusExt::signal(&ended.status) == Some(9), "{ended:?}");
    let totals = page.totals().unwrap();
    assert_eq!((totals.requests, totals.counters["last words"]), (1001, 1.0));
    assert_eq!(page.serving().0[0].url.as_deref(), Some("/report/17"));
}

fn hostile_word() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(2),
        Just(u64::MAX),
        Just(MAGIC),
        0..5000u64,
        any::<u64>(),
        (0..64u32).prop_map(|bit| 1 << bit)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    /// With every header, reading ends, and shows no more connections than the page has room for.
    #[test]
    fn no_header_harms_the_reader(lies in prop::collection::vec((0..28usize, hostile_word()), 1..6)) {
        let (page, board) = pair();
        let connection = Writer::new(board, peer());
        connection.begin(get("/"));
        for (word, lie) in lies {
            page.0.write_all_at(&lie.to_ne_bytes(), word as u64 * 8).unwrap();
        }
        if let Some((shown, connections)) = read(&page) {
            prop_assert!(connections.len() <= SLOTS && shown.totals.counters.len() <= 32);
        }
    }

    /// With every content of slots and counters, the output is bounded and is valid JSON.
    #[test]
    fn no_slot_harms_the_reader(words in prop::collection::vec(hostile_word(), slot::WORDS), state in 0..4u64, even: bool) {
        let (page, board) = pair();
        let _connection = Writer::new(board, peer());
        let mut words = words;
        words[slot::STATE] = state;
        words[slot::SEQUENCE] = words[slot::SEQUENCE] & !1 | u64::from(!even);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        page.0.write_all_at(&bytes, 4096).unwrap();
        page.0.write_all_at(&bytes, header::WORDS as u64 * 8).unwrap();
        let (shown, connections) = read(&page).unwrap();
        prop_assert_eq!(connections.len(), usize::from(state == 1 || state == 2));
        for connection in &connections {
            prop_assert!(even || connection.request.is_none());
            let json = serde_json::to_string(connection).unwrap();
            prop_assert!(json.len() < 4000, "{}", json);
            prop_assert_eq!(&serde_json::from_str::<Connection>(&json).unwrap(), connection);
            if let Some(request) = &connection.request {
                prop_assert!(!(request.url.clone().unwrap_or_default() + &request.method).chars().any(char::is_control));
            }
        }
        serde_json::to_string(&shown.totals.counters).unwrap();
    }
}

#[test]
fn a_page_that_says_something_else_has_another_mark() {
    let (page, board) = pair();
    let mut marks = vec![page.mark().expect("a mark")];
    let mut changed = |page: &Scoreboard| {
        let mark = page.mark().expect("a mark");
        assert!(!marks.contains(&mark), "{marks:?} {mark}");
        assert_eq!(page.mark(), Some(mark), "and the same as long as it says the same");
        marks.push(mark);
    };
    let connection = Writer::new(board.clone(), peer());
    changed(&page);
    let number = connection.begin(get("/"));
    changed(&page);
    assert!(connection.set_info(number, "{}"));
    changed(&page);
    connection.wrote(7);
    changed(&page);
    connection.stage(Stage::Sending);
    changed(&page);
    board.counter("jobs").expect("room").fetch_add(1, Relaxed);
    changed(&page);
    drop(connection);
    changed(&page);
    let _more: Vec<_> = (0..=MARKED).map(|_| Writer::new(board.clone(), None)).collect();
    assert_eq!(page.mark(), None, "too much to look at on the loop");
}
