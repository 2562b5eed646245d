//! The pictures of the documentation.

use std::io::Read as _;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::chromium::Browser;
use crate::hang;
use crate::support::{Master, example};

/// Makes the pictures of a pool with some traffic in a reload. The other tests are those of the page.
#[test]
#[ignore = "makes the picture of README.md, with RATOON_SCREENSHOT"]
fn pictures() {
    // Asked for first, as the pictures take a minute.
    std::env::var_os("RATOON_SCREENSHOT").expect("RATOON_SCREENSHOT: the directory for the pictures");
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
    /// Ends the traffic, also when the test fails.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let _end = End(&over);
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
    });
}
