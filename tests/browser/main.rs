//! The live page in a real browser.
//!
//! `RATOON_SCREENSHOT=docs cargo test --all-features --test browser -- --ignored pictures` makes the pictures of the
//! documentation.
#![forbid(unsafe_code)]

mod chromium;
mod looks;
mod pictures;
#[allow(dead_code)]
#[path = "../support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use serde_json::Value;

use chromium::{Browser, Page, TIMEOUT};
use support::{Master, example};

/// Asks a worker for something that takes its time.
fn hang(address: &str, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("a connection");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("a request");
    stream
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn the_page_lives_in_a_browser() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    let program = example("chaos");
    let mut master = Master::start(&format!(
        "worker.command = [{program:?}]\nworker.count = 4\nworker.stop_timeout = '500ms'\nreload.watch = '1h'\nstatus.listen = '127.0.0.1:{port}'\nstatus.details = 'everyone'"
    ));
    let address = master.address();
    let origin = format!("http://127.0.0.1:{port}/");
    let mut browser = Browser::start();
    let desk = browser.open(&origin, (1000, 900), "light", false);
    let phone = browser.open(&origin, (390, 844), "dark", true);
    for page in [&desk, &phone] {
        browser.wait(page, "document.getElementById('state').textContent === 'running'");
        browser.wait(page, "document.getElementById('link').textContent === 'live'");
        browser.wait(page, "document.querySelectorAll('#pool .cell.ready').length === 4");
    }

    // A request that takes long is there, with what is said of it; markup in it stays text.
    let evil = "/describe?about=%3Cimg%20src=x%3E&ms=600000&%3Cimg%20src=x%20onerror=alert(1)%3E";
    let _long = hang(&address, evil);
    browser.wait(&desk, "document.getElementById('longest').textContent.includes('about=<img src=x>')");
    assert_eq!(browser.js(&desk, "document.querySelectorAll('img').length"), 0);

    // A crash, told without being asked.
    let mut doomed = hang(&address, "/crash");
    let _ = doomed.read(&mut [0; 16]);
    browser.wait(&desk, "/signal SIGABRT/.test(document.getElementById('failures').textContent)");
    browser.wait(&desk, "/while serving GET \\/crash for/.test(document.getElementById('failures').textContent)");
    master.wait("it is replaced", |status| status["workers_ready"] == 4);
    browser.wait(&desk, "document.querySelectorAll('#pool .cell.ready').length === 4");

    // A reload: the page follows by itself.
    browser.js(&desk, "window.same = true");
    master.ok(&["reload"]);
    browser.wait(&desk, "document.getElementById('generation').textContent.includes('2')");
    browser.wait(&desk, "document.getElementById('last-reload').textContent.includes('generation 2, committed')");
    browser.wait(&desk, "document.querySelectorAll('#log li').length > 0 && window.same");
    let release = "/^Release: \\/.*\\/chaos in \\/.* since .*\\d/.test(document.getElementById('release').textContent)";
    browser.wait(&desk, release);
    browser.wait(&desk, "/^Watching generation 2 for another .*; failed requests: .*generation 1/.test(document.getElementById('comparison').textContent)");
    // A worker's own requests, at a press.
    browser.js(&desk, "document.querySelector('#workers tbody tr').click()");
    browser.wait(&desk, "document.getElementById('longest-title').textContent.startsWith('Requests of worker')");

    // At the width of a phone nothing sticks out; in the dark it is dark.
    assert_eq!(browser.js(&phone, "document.documentElement.scrollWidth <= innerWidth"), true);
    let light = |page: &Page, browser: &mut Browser| {
        let colour = browser.js(page, "getComputedStyle(document.body).backgroundColor");
        let numbers: Vec<u32> =
            colour.as_str().expect("a colour").split(|c: char| !c.is_ascii_digit()).flat_map(str::parse).collect();
        numbers[..3].iter().sum::<u32>() / 3
    };
    assert!(light(&phone, &mut browser) < 64 && light(&desk, &mut browser) > 192);

    // More connections than a worker's page has room for.
    master.ok(&["scale", "1"]);
    master.wait("one worker is left", |status| status["workers"].as_array().is_some_and(|workers| workers.len() == 1));
    let crowd: Vec<TcpStream> = (0..450).map(|_| hang(&address, "/")).collect();
    browser.wait(&phone, "/more connections have no room/.test(document.getElementById('longest-note').textContent)");
    drop(crowd);

    // Nothing from elsewhere was asked for, and nothing went wrong.
    let mut by_method: HashMap<&str, Vec<&Value>> = HashMap::new();
    for event in &browser.events {
        by_method.entry(event["method"].as_str().unwrap_or_default()).or_default().push(event);
    }
    for wrong in ["Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening"] {
        assert!(!by_method.contains_key(wrong), "{:#?}", by_method[wrong]);
    }
    let requests = &by_method["Network.requestWillBeSent"];
    assert!(requests.len() > 4);
    for request in requests {
        let url = request["params"]["request"]["url"].as_str().expect("a URL");
        assert!(url.starts_with(&origin) || url.starts_with("data:image/svg+xml,"), "{url}");
    }
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn page_names_the_release_and_both_sides_of_a_canary() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    let directory = tempfile::tempdir().expect("a directory");
    let lead_to = |release: &str| {
        std::fs::create_dir_all(directory.path().join(release)).expect("a release");
        let next = directory.path().join("next");
        std::os::unix::fs::symlink(release, &next).expect("a symlink");
        std::fs::rename(next, directory.path().join("current")).expect("the symlink leads there");
    };
    lead_to("v1");
    let (current, program) = (directory.path().join("current"), example("chaos"));
    let master = Master::start(&format!(
        "[worker]\ncommand = [{program:?}]\ndirectory = {current:?}\ncount = 4\nstop_timeout = '500ms'\n[reload]\nsteps = ['1']\nstep_time = 'manual'\n[status]\nlisten = '127.0.0.1:{port}'"
    ));
    let address = master.address();
    let mut browser = Browser::start();
    let page = browser.open(&format!("http://127.0.0.1:{port}/"), (1000, 900), "light", false);
    let release = |text: &str| format!("/{text}$/.test(document.getElementById('release').textContent)");
    browser.wait(&page, &release(r"^Release: \/.*\/chaos in \/.*\/v1 since [^;]+"));
    lead_to("v2");
    browser.wait(&page, &release(r"\/v1 since [^;]+; the path leads to another release now"));
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| master.ask(&["reload"]));
        let canary = r"/^Canary, step 1 of 1: generation 2 has 1\/4 workers, waits for ratoon promote/";
        browser.wait(&page, &format!("{canary}.test(document.getElementById('comparison').textContent)"));
        // The share of the canary on a shared socket is the kernel's: until it has had a request.
        let both = r"/; failed requests: 0 of [1-9]\d* \(generation 2\), 0 of \d+ \(generation 1\)/.test(document.getElementById('comparison').textContent)";
        let deadline = Instant::now() + TIMEOUT;
        while browser.js(&page, both) != true {
            let text = browser.js(&page, "document.getElementById('comparison').textContent");
            assert!(Instant::now() < deadline, "the figures of both generations: {text}");
            for _ in 0..50 {
                let _ = hang(&address, "/").read(&mut [0; 64]);
            }
        }
        // Plots of both generations.
        for name in ["Requests a second", "Failed requests", "Time to answer"] {
            browser.wait(
                &page,
                &format!("[...document.querySelectorAll('#sides .card')].some((it) => it.textContent.startsWith('{name}') && it.querySelector('.second').getAttribute('d') !== '')"),
            );
        }
        if std::env::var_os("RATOON_SCREENSHOT").is_some() {
            browser.keep_picture(&page, "canary.png");
        }
        master.ok(&["promote"]);
        let reload = reload.join().expect("a reload");
        assert!(reload.status.success(), "{}", support::stderr(&reload));
    });
    browser.wait(&page, "document.getElementById('comparison').hidden");
    browser.wait(&page, &release(r"^Release: \/.*\/chaos in \/.*\/v2 since [^;]+"));
}
