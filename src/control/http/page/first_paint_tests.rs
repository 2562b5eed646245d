use super::super::template::fill;
use super::*;
use crate::control::http::page::FRAME;

fn now() -> Timestamp {
    "2026-07-14T12:00:00Z".parse().expect("a time")
}

fn busy() -> Document {
    serde_json::from_str(include_str!("../../../cli/recorded/busy.json")).expect("a document")
}

fn drawn(document: &Document) -> String {
    fill(FRAME, &of(document, "web1", now()))
}

#[test]
fn first_paint_has_the_pool_its_workers_and_iso_times() {
    let page = drawn(&busy());
    for text in [
        "<title>2/2 web · Ratoon</title>",
        "Host: web1",
        "generation 7, up 2d 3h, 3 failed so far",
        "2026-07-14 11:40:00Z: the reload to generation 7 was rolled back: worker 9 (slot 1): exit 1. Generation 7 goes on.",
        "generation 8, new: 0 of 2 ready",
        "<td class=\"right more\">5001</td>",
        "0.0.0.0:8080",
        "KeyError: &#39;DATABASE_URL&#39;",
    ] {
        assert!(page.contains(text), "no {text:?} in {page}");
    }
    assert!(!page.contains("No reload yet"), "{page}");
}

#[test]
fn first_paint_says_down_and_hides_what_is_hidden() {
    let mut document = Document { workers_ready: 0, state: "running".into(), details_hidden: true, ..busy() };
    let page = drawn(&document);
    assert!(page.contains("class=\"pill bad\" role=\"status\">DOWN<"), "{page}");
    assert!(page.contains("What it printed is hidden here"), "{page}");
    assert!(page.contains("<title>DOWN web"), "{page}");
    document.last_reload = None;
    assert!(drawn(&document).contains("class=\"banner\" role=\"status\" hidden>"));
}

#[test]
fn first_paint_groups_failures_of_one_cause() {
    let failure = |worker, cause: &str| Failure { worker, generation: 3, cause: cause.into(), ..Failure::default() };
    let mut failures: Vec<Failure> = (1..=14).map(|worker| failure(worker, "exit 1")).collect();
    failures.insert(3, failure(99, "exit 2"));
    let page = drawn(&Document { failures, ..Document::default() });
    assert!(page.contains("×14, the last one worker 14 (slot 0, generation 3): exit 1"), "{page}");
    assert_eq!(page.matches("<details").count(), 2, "{page}");
}

#[test]
fn first_paint_escapes_all_texts_and_is_bounded() {
    let evil = "</script><img src=x onerror=alert(1)>\"'{script}";
    let json = serde_json::to_value(busy()).expect("JSON");
    // Every string of the document, whatever it says, with as much as a document may have of all.
    fn poison(value: &mut serde_json::Value, evil: &str) {
        match value {
            serde_json::Value::String(text) => *text = evil.to_owned(),
            serde_json::Value::Array(all) => all.iter_mut().for_each(|it| poison(it, evil)),
            serde_json::Value::Object(all) => all.values_mut().for_each(|it| poison(it, evil)),
            _ => {}
        }
    }
    let mut json = json;
    poison(&mut json, evil);
    let mut document: Document = serde_json::from_value(json).expect("a document");
    document.workers = (0..5000).map(|_| document.workers[0].clone()).collect();
    let page = drawn(&document);
    assert!(page.contains("&lt;/script&gt;&lt;img src=x"), "{page}");
    assert!(!page.contains("<img") && !page.contains("alert(1)>"), "{page}");
    assert!(page.len() < 400 * 1024, "{} bytes", page.len());
    assert!(page.contains("and 4800 more"));
    let absent = fill(FRAME, &without_document(evil, evil));
    assert!(!absent.contains("<img") && absent.contains("role=\"alert\">&lt;/script"), "{absent}");
}
