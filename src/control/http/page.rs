//! `GET /`: one self-contained page, live by `GET /events` and `GET /status` of the same address.
//!
//! Law: the page loads nothing from anywhere and runs no script but its own: its policy admits what bears the answer's
//! own nonce, and connections to where it came from. What workers say goes into it as text only.

use hyper::StatusCode;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY};
use rustix::rand::{GetRandomFlags, getrandom};

use super::answer::{Answer, Reply, answer, error};
use super::routes::Call;

const FRAME: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
/// One script, in the order in which its parts build on each other.
const SCRIPT: &str = concat!(include_str!("page/model.js"), include_str!("page/draw.js"), include_str!("page/live.js"));

/// Bytes that make a nonce.
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

/// What a browser may do with the page. `data:` is for the icon, which stands in the page.
fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// The page, whose script and style bear this nonce.
fn write(nonce: &str) -> String {
    FRAME.replace("{nonce}", nonce).replacen("{style}", STYLE.trim_end(), 1).replacen("{script}", SCRIPT.trim_end(), 1)
}

/// A number that nobody can guess and that is used once.
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
        // Names of XML namespaces are all that looks like an address.
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
