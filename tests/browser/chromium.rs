//! Headless Chromium, spoken to over a pipe in its DevTools protocol.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub const TIMEOUT: Duration = Duration::from_secs(60);
/// Whichever is there.
const BROWSERS: [&str; 4] = ["chromium-headless-shell", "chromium", "google-chrome", "chromium-browser"];

/// A browser, and what it said that was no answer.
pub struct Browser {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    asked: u64,
    pub events: Vec<Value>,
    _profile: tempfile::TempDir,
}

/// A tab of it.
#[derive(Clone)]
pub struct Page(String);

impl Browser {
    pub fn start() -> Browser {
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

    pub fn call(&mut self, page: Option<&Page>, method: &str, params: Value) -> Value {
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

    pub fn open(&mut self, url: &str, (width, height): (u32, u32), scheme: &str, mobile: bool) -> Page {
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

    pub fn js(&mut self, page: &Page, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call(Some(page), "Runtime.evaluate", params);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer:#}");
        answer["result"]["value"].clone()
    }

    /// Waits until this is true.
    pub fn wait(&mut self, page: &Page, expression: &str) {
        let deadline = Instant::now() + TIMEOUT;
        // An element that the expression names may not be there yet.
        let patient = format!("(() => {{ try {{ return {expression}; }} catch {{ return false; }} }})()");
        while self.js(page, &patient) != true {
            if Instant::now() > deadline {
                let text = self.js(page, "document.body.innerText");
                panic!("not within {TIMEOUT:?}: {expression}\n{}", text.as_str().unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn keep_picture(&mut self, page: &Page, name: &str) {
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
