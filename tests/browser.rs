//! The live page in a real browser: headless Chromium, spoken to over a pipe in its DevTools protocol.
//!
//! `RATOON_SCREENSHOT=docs cargo test --all-features --test browser -- --ignored pictures` makes the pictures of the
//! documentation.
#![forbid(unsafe_code)]

#[allow(dead_code)]
mod support;

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Master, example};

const TIMEOUT: Duration = Duration::from_secs(60);
/// Whichever is there.
const BROWSERS: [&str; 4] = ["chromium-headless-shell", "chromium", "google-chrome", "chromium-browser"];

/// A browser, and what it said that was no answer.
struct Browser {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    asked: u64,
    events: Vec<Value>,
    _profile: tempfile::TempDir,
}

/// A tab of it.
#[derive(Clone)]
struct Page(String);

impl Browser {
    fn start() -> Browser {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let is_there = |name: &&str| std::env::split_paths(&path).any(|directory| directory.join(name).exists());
        let program = BROWSERS.iter().find(|name| is_there(name)).expect("no Chromium: run tests/setup");
        let profile = tempfile::tempdir().expect("a directory");
        // It speaks on the descriptors 3 and 4.
        let mut child = Command::new("/bin/sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", program])
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
            ])
            .args(["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(["--remote-debugging-pipe", "about:blank"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let to = child.stdin.take().expect("piped");
        let mut said = BufReader::new(child.stdout.take().expect("piped"));
        let (tell, from) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while said.read_until(0, &mut message).is_ok_and(|length| length > 0) {
                message.pop();
                if serde_json::from_slice(&message).is_ok_and(|message: Value| tell.send(message).is_err()) {
                    break;
                }
                message.clear();
            }
        });
        Browser { child, to, from, asked: 0, events: Vec::new(), _profile: profile }
    }

    fn call(&mut self, page: Option<&Page>, method: &str, params: Value) -> Value {
        self.asked += 1;
        let mut message = json!({"id": self.asked, "method": method, "params": params});
        if let Some(Page(session)) = page {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).expect("the browser listens");
        loop {
            let answer = self.from.recv_timeout(TIMEOUT).unwrap_or_else(|error| panic!("{method}: the browser: {error}"));
            if answer["id"] == self.asked {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }

    fn open(&mut self, url: &str, (width, height): (u32, u32), scheme: &str, mobile: bool) -> Page {
        let target = self.call(None, "Target.createTarget", json!({"url": "about:blank"}))["targetId"].clone();
        let attached = self.call(None, "Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        let page = Page(attached["sessionId"].as_str().expect("a session").to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.call(Some(&page), &format!("{domain}.enable"), json!({}));
        }
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile});
        self.call(Some(&page), "Emulation.setDeviceMetricsOverride", metrics);
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call(Some(&page), "Emulation.setEmulatedMedia", media);
        // A Chromium with windows hides all tabs but the last, and a hidden page asks nothing.
        self.call(Some(&page), "Emulation.setFocusEmulationEnabled", json!({"enabled": true}));
        self.call(Some(&page), "Page.navigate", json!({"url": url}));
        page
    }

    fn js(&mut self, page: &Page, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call(Some(page), "Runtime.evaluate", params);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer:#}");
        answer["result"]["value"].clone()
    }

    /// Waits until this is true.
    fn wait(&mut self, page: &Page, expression: &str) {
        let deadline = Instant::now() + TIMEOUT;
        // What it looks at may not be there yet.
        let patient = format!("(() => {{ try {{ return {expression}; }} catch {{ return false; }} }})()");
        while self.js(page, &patient) != true {
            if Instant::now() > deadline {
                let text = self.js(page, "document.body.innerText");
                panic!("not within {TIMEOUT:?}: {expression}\n{}", text.as_str().unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn keep_picture(&mut self, page: &Page, name: &str) {
        let directory = std::env::var_os("RATOON_SCREENSHOT").expect("RATOON_SCREENSHOT: the directory for the pictures");
        let data = self.call(Some(page), "Page.captureScreenshot", json!({"format": "png"}))["data"].clone();
        let file = std::fs::File::create(std::path::Path::new(&directory).join(name)).expect("a file for the picture");
        let mut decode = Command::new("base64").arg("-d").stdin(Stdio::piped()).stdout(file).spawn().expect("base64");
        decode.stdin.take().expect("piped").write_all(data.as_str().expect("a picture").as_bytes()).expect("base64 reads");
        assert!(decode.wait().expect("base64").success());
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

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

/// Not a test of anything that the other does not test: it makes the pictures, of a pool with some traffic in a reload.
#[test]
#[ignore = "makes the picture of README.md, with RATOON_SCREENSHOT"]
fn pictures() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    let directory = tempfile::tempdir().expect("a directory");
    let settings = directory.path().join("chaos");
    std::fs::write(&settings, "status=waiting for requests\n").expect("settings");
    let program = example("chaos");
    let script = format!("CHAOS_START_MS=$((RATOON_SLOT * 900 * (RATOON_GENERATION - 1))) exec {}", program.display());
    let master = Master::start(&format!(
        "[worker]\ncommand = ['/bin/sh', '-c', {script:?}]\ndirectory = {:?}\ncount = 8\n[status]\nlisten = '127.0.0.1:{port}'\ndetails = 'everyone'",
        directory.path()
    ));
    let address = master.address();
    let origin = format!("http://127.0.0.1:{port}/");
    let mut browser = Browser::start();
    let desk = browser.open(&origin, (1000, 820), "light", false);
    let phone = browser.open(&origin, (390, 844), "dark", true);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut held = Vec::new();
            for turn in 0_u64.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                for path in ["/where", "/body?bytes=5000", "/"] {
                    let _ = hang(&address, path).read(&mut [0; 64]);
                }
                if turn.is_multiple_of(250) {
                    held.extend(["/describe?about=report%2017&ms=70000", "/sleep?ms=21000"].map(|path| hang(&address, path)));
                }
                std::thread::sleep(Duration::from_millis(15 + 25 * (turn / 200 % 3)));
            }
        });
        std::thread::sleep(Duration::from_secs(45));
        let _ = hang(&address, "/crash").read(&mut [0; 16]);
        std::thread::sleep(Duration::from_secs(5));
        scope.spawn(|| master.ask(&["reload"]));
        browser.wait(&desk, "/: [345] of 8 ready/.test(document.getElementById('reload-text').textContent)");
        std::thread::sleep(Duration::from_millis(400)); // its colours fade in
        browser.keep_picture(&desk, "page.png");
        browser.keep_picture(&phone, "phone.png");
        over.store(true, Ordering::Relaxed);
    });
}
