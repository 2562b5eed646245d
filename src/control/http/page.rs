//! `GET /`: one self-contained page, which updates itself by `GET /events` and `GET /status` of the same address.
//!
//! Law: the page loads nothing from other addresses and runs only its own script: its policy admits scripts and styles with the
//! nonce of the answer, and connections to its own origin. Data from workers is inserted as text only.

use hyper::StatusCode;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY};
use rustix::rand::{GetRandomFlags, getrandom};

use super::answer::{Answer, Reply, answer, error};
use super::call::Call;

const FRAME: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
/// The script: its parts in the order in which they build on each other.
const SCRIPT: &str = concat!(include_str!("page/model.js"), include_str!("page/draw.js"), include_str!("page/live.js"));

/// Length of a nonce, bytes.
const NONCE: usize = 16;

/// Answers with the page.
pub(super) async fn page(_: Call<'_>) -> Answer {
    let Some(nonce) = nonce() else {
        return error(StatusCode::INTERNAL_SERVER_ERROR, "the kernel gave no random number; read /status instead");
    };
    let Ok(policy) = HeaderValue::from_str(&policy(&nonce)) else {
        return error(StatusCode::INTERNAL_SERVER_ERROR, "the page's policy could not be written");
    };
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    let mut answer = answer(StatusCode::OK, html, Reply::whole(write(&nonce)));
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

/// The page, with this nonce on its script and style.
fn write(nonce: &str) -> String {
    FRAME.replace("{nonce}", nonce).replacen("{style}", STYLE.trim_end(), 1).replacen("{script}", SCRIPT.trim_end(), 1)
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

    #[test]
    fn the_page_is_whole_and_loads_nothing() {
        let page = write("n0nce");
        assert_eq!(page.matches("nonce=\"n0nce\"").count(), 2, "one style, one script");
        for left in ["{nonce}", "{style}", "{script}"] {
            assert!(!page.contains(left), "{left} is left");
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
