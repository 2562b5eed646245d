//! `GET /`: one self-contained page, which shows the pool as the server draws it and then updates itself by `GET /events` and
//! `GET /status` of the same address.
//!
//! Law: the page loads nothing from other addresses and runs only its own script: its policy admits scripts and styles with the
//! nonce of the answer, and connections to its own origin. Data from workers is inserted as text only.

mod first_paint;
mod template;

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY};
use jiff::Timestamp;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::sync::OwnedSemaphorePermit;

use self::template::{Value, Values, fill};
use super::answer::{Answer, Reply, answer, error};
use super::call::Call;
use super::reads;
use crate::status::tree::Document;

const FRAME: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
/// The script: its parts in the order in which they build on each other.
const SCRIPT: &str = concat!(
    include_str!("page/model.js"),
    include_str!("page/draw.js"),
    include_str!("page/plots.js"),
    include_str!("page/lists.js"),
    include_str!("page/live.js")
);

/// Length of a nonce, bytes.
const NONCE: usize = 16;

/// Answers with the page.
pub(super) async fn page(call: Call<'_>) -> Answer {
    let Some(nonce) = nonce() else {
        return error(StatusCode::INTERNAL_SERVER_ERROR, "the kernel gave no random number; read /status instead");
    };
    let Ok(policy) = HeaderValue::from_str(&policy(&nonce)) else {
        return error(StatusCode::INTERNAL_SERVER_ERROR, "the page's policy could not be written");
    };
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    let (values, permit) = values(&call).await;
    let mut body = Reply::whole(write(&nonce, values));
    if let Some(permit) = permit {
        body = body.with_permit(permit);
    }
    let mut answer = answer(StatusCode::OK, html, body);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    answer
}

/// The content security policy of the page. `data:` is for the icon, which is embedded in the page.
fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// The values of the frame for this reader, and the place among the large answers, which must be held until the page is sent. A master
/// that does not answer has its page, too: it says so.
async fn values(call: &Call<'_>) -> (Values, Option<OwnedSemaphorePermit>) {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let no_answer = "The master does not answer; this page asks again.";
    let Ok((document, permit)) = reads::document(call).await else {
        return (first_paint::without_document(&host, no_answer), None);
    };
    let details = call.connection.sees_details().await;
    let whole = Arc::clone(&document);
    let values = reads::off_loop(document, move |document| {
        let now = Timestamp::now();
        if details {
            return first_paint::of(document, &host, now);
        }
        let redacted = whole.redacted_line().ok().and_then(|line| serde_json::from_str::<Document>(line).ok());
        redacted
            .map_or_else(|| first_paint::without_document(&host, no_answer), |document| first_paint::of(&document, &host, now))
    });
    match values.await {
        Some(values) => (values, Some(permit)),
        None => (first_paint::without_document("", no_answer), None),
    }
}

/// The page with these values, and with this nonce on its script and style.
fn write(nonce: &str, mut values: Values) -> String {
    values.insert("nonce", nonce.into());
    values.insert("style", Value::Markup(STYLE.trim_end().to_owned()));
    values.insert("script", Value::Markup(SCRIPT.trim_end().to_owned()));
    fill(FRAME, &values)
}

/// A random number in hex that nobody can guess; each is used once. `None` when the kernel gives none.
fn nonce() -> Option<String> {
    let mut bytes = [0; NONCE];
    let filled = getrandom(&mut bytes, GetRandomFlags::empty()).ok()?;
    (filled == NONCE).then(|| bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Size of the page of an empty pool at most, bytes: it is sent anew at each visit, without compression.
    const BUDGET: usize = 64 * 1024;

    #[test]
    fn the_page_is_whole_and_loads_nothing() {
        let page = write("n0nce", first_paint::of(&Document::default(), "web1", Timestamp::UNIX_EPOCH));
        assert!(page.len() < BUDGET, "{} bytes", page.len());
        assert_eq!(page.matches("nonce=\"n0nce\"").count(), 2, "one style, one script");
        let names = FRAME.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name);
        let mut values = first_paint::of(&Document::default(), "", Timestamp::UNIX_EPOCH);
        values.extend(first_paint::without_document("", ""));
        for name in names {
            assert!(values.contains_key(name) || ["nonce", "style", "script"].contains(&name), "{name} has no value");
        }
        assert_eq!((page.matches("<script").count(), page.matches("<style").count()), (1, 1));
        assert_eq!((page.matches("</script>").count(), page.matches("</style>").count()), (1, 1));
        // Only names of XML namespaces look like addresses.
        let page = page.replace("http://www.w3.org/2000/svg", "");
        for outside in ["http:", "https:", "//cdn", " src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside} is in the page");
        }
    }

    #[test]
    fn no_text_becomes_markup() {
        for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "eval(", "Function(", "srcdoc"]
        {
            assert!(!SCRIPT.contains(way), "{way}");
        }
        assert!(!FRAME.contains("style=\"") && !FRAME.contains("onclick"), "what the policy forbids");
    }

    #[test]
    fn a_nonce_is_used_once() {
        let (one, other) = (nonce().unwrap(), nonce().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), 2 * NONCE);
        assert!(HeaderValue::from_str(&policy(&one)).is_ok());
    }
}
