//! What a reader sees at the width of a phone and of a desk, in the light and in the dark, and whether it is accessible (axe-core).

use std::io::Read as _;
use std::net::TcpListener;

use serde_json::{Value, json};

use crate::chromium::{Browser, Page};
use crate::hang;
use crate::support::{Master, example};

/// Widths and heights with their colour schemes.
const VIEWS: [((u32, u32), &str); 4] =
    [((390, 844), "light"), ((390, 844), "dark"), ((1440, 900), "light"), ((1440, 900), "dark")];

/// The checks of axe-core, from the registry of npm (tests/setup).
fn axe() -> String {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/target/axe/package/axe.min.js");
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}: run tests/setup"))
}

/// The violations of the page as it is.
fn violations(browser: &mut Browser, page: &Page) -> Value {
    let check =
        "axe.run(document, {resultTypes: ['violations']}).then(({violations}) => violations.flatMap(({id, help, nodes}) =>
        nodes.map(({html, any}) => `${id}: ${help}: ${html} ${any.map(({message}) => message).join('; ')}`)))";
    browser.js(page, check)
}

/// Fails with the violations of the page as it is.
fn is_accessible(browser: &mut Browser, page: &Page, what: &str) {
    let violations = violations(browser, page);
    assert_eq!(violations, json!([]), "{what}: {violations:#}");
}

/// Fails if something sticks out of the page, or is broken over lines.
fn fits(browser: &mut Browser, page: &Page, what: &str) {
    let wide = "document.documentElement.scrollWidth <= innerWidth";
    assert_eq!(browser.js(page, wide), true, "{what}: the page is wider than the screen");
    let legend = "[...document.querySelectorAll('.legend span')].filter((it) => it.offsetParent && it.offsetHeight > 30).map((it) => it.textContent)";
    assert_eq!(browser.js(page, legend), json!([]), "{what}: an entry of the legend is broken");
    let table = "(({scrollWidth, clientWidth}) => scrollWidth <= clientWidth)(document.getElementById('workers').parentElement)";
    assert_eq!(browser.js(page, table), true, "{what}: the workers' table is wider than the screen");
}

#[test]
#[ignore = "needs what tests/setup installs; tests/run runs it"]
fn page_is_readable_and_accessible_in_every_view() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    let directory = tempfile::tempdir().expect("a directory");
    let (program, down) = (example("chaos"), directory.path().join("down"));
    let script = format!(
        "if [ -e {} ]; then exit 7; fi; if [ $RATOON_GENERATION -gt 1 ]; then echo \"KeyError: <b>'DATABASE_URL'</b>\"; exit 1; fi; exec {}",
        down.display(),
        program.display()
    );
    let mut master = Master::start(&format!(
        "[worker]\ncommand = ['/bin/sh', '-c', {script:?}]\ncount = 2\nstop_timeout = '500ms'\n[restart]\nlimit = 99\n[status]\nlisten = '127.0.0.1:{port}'\ndetails = 'everyone'"
    ));
    let (address, origin) = (master.address(), format!("http://127.0.0.1:{port}/"));
    let crash = || _ = hang(&address, "/crash").read(&mut [0; 16]);
    for times in 1..=3 {
        crash();
        master.wait("it is replaced", |status| status["worker_crashes"] == times && status["workers_ready"] == 2);
    }
    assert_eq!(master.ask(&["reload"]).status.code(), Some(1), "it is rolled back");

    // Without scripts there is what the server has drawn.
    let mut browser = Browser::start();
    let plain = browser.open("about:blank", (390, 844), "light", true);
    browser.call(Some(&plain), "Emulation.setScriptExecutionDisabled", json!({"value": true}));
    browser.call(Some(&plain), "Page.navigate", json!({"url": origin}));
    browser.wait(&plain, "document.readyState === 'complete' && location.port !== ''");
    let html = browser.js(&plain, "document.documentElement.outerHTML");
    let html = html.as_str().expect("markup");
    for text in [
        "Without scripts this is the pool as it was at 20",
        "KeyError: &lt;b&gt;'DATABASE_URL'",
        "Host: ",
        "<td class=\"right\">1</td>",
    ] {
        assert!(html.contains(text), "no {text:?} in {html}");
    }

    let views = VIEWS.map(|(size, scheme)| (browser.open(&origin, size, scheme, size.0 < 400), format!("{size:?}, {scheme}")));
    let axe = axe();
    let banner = "/^20\\d\\d-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\dZ: the reload to generation 2 was rolled back: .*Generation 1 goes on\\.$/.test(document.getElementById('banner-text').textContent)";
    let lines = "document.getElementById('banner-output').innerText.includes(\"KeyError: <b>'DATABASE_URL'</b>\")";
    let grouped = "/×3, slots [01, ]+, generation 1: /.test(document.getElementById('failures').textContent)";
    for (page, what) in &views {
        browser.wait(page, "document.getElementById('link').textContent === 'live'");
        for is_there in [banner, lines, grouped] {
            browser.wait(page, is_there);
        }
        // Two samples make a curve, with its scale and span.
        browser.wait(page, "/^0 to 2$/.test(document.querySelector('#workers-plot .top').textContent)");
        browser.wait(page, "/^last \\d+ (s|min)$/.test(document.querySelector('#queue-plot .span').textContent)");
        fits(&mut browser, page, what);
        let _ = browser.js(page, &axe);
        is_accessible(&mut browser, page, what);
    }
    if std::env::var_os("RATOON_SCREENSHOT").is_some() {
        for (page, what) in &views {
            browser.keep_picture(page, &format!("page {what}.png"));
        }
    }
    // The checks find what they are to find: an image without a text.
    let (desk, _) = &views[2];
    let add = "document.querySelector('main').append(Object.assign(document.createElement('img'), {id: 'extra'}))";
    let _ = browser.js(desk, &format!("{{ {add}; }}"));
    let found = violations(&mut browser, desk).to_string();
    assert!(found.contains("image-alt"), "{found}");
    let _ = browser.js(desk, "document.getElementById('extra').remove()");
    // A reload and its end have marks of their own, in each plot.
    assert_eq!(master.ask(&["reload"]).status.code(), Some(1));
    browser.wait(desk, "document.querySelector('#queue-plot .mark.undone').getAttribute('d').startsWith('M')");
    browser.wait(desk, "!document.getElementById('marks').hidden");
    assert_eq!(browser.js(desk, "document.querySelector('#queue-plot .mark.committed').getAttribute('d')"), "");

    // Nobody serves.
    std::fs::write(&down, "").expect("a file");
    crash();
    crash();
    master.wait("nobody is ready", |status| status["workers_ready"] == 0);
    for (page, what) in &views {
        browser.wait(page, "document.getElementById('state').textContent.startsWith('DOWN')");
        browser.wait(page, "document.getElementById('ready').classList.contains('bad') && document.title.startsWith('DOWN')");
        fits(&mut browser, page, what);
        is_accessible(&mut browser, page, what);
        if std::env::var_os("RATOON_SCREENSHOT").is_some() {
            browser.keep_picture(page, &format!("down {what}.png"));
        }
    }

    // Ages of a master that is gone stand still.
    drop(master);
    browser.wait(desk, "document.getElementById('state').textContent === 'no answer'");
    browser.wait(desk, "/was up .* at 20/.test(document.getElementById('master').textContent)");
    let still =
        "(async () => { const before = now(); await new Promise((done) => setTimeout(done, 50)); return now() === before; })()";
    assert_eq!(browser.js(desk, still), true);
    is_accessible(&mut browser, desk, "the master is gone");
}
