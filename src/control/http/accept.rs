//! Chooses between two content types by the client's `Accept` header (RFC 9110, 12.5.1).
//!
//! Law: every header gives a result; parts of it that cannot be read are ignored.

use hyper::header::{ACCEPT, HeaderMap};

/// Whether the client prefers `this` to `usual`. A client without a preference gets `usual`.
pub(super) fn prefers(headers: &HeaderMap, this: &str, usual: &str) -> bool {
    let values = || headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    quality(values(), this) > quality(values(), usual)
}

/// The quality value of a content type: that of the most specific range that includes it; 0 when none does.
fn quality<'a>(values: impl Iterator<Item = &'a str>, kind: &str) -> f32 {
    let group = kind.split_once('/').map_or(kind, |(group, _)| group);
    let (mut best, mut worth) = (0, 0.0);
    for range in values.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let specific = match name.split_once('/') {
            _ if name.eq_ignore_ascii_case(kind) => 3,
            Some((of, "*")) if of.eq_ignore_ascii_case(group) => 2,
            Some(("*", "*")) => 1,
            _ => continue,
        };
        let q = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let q = q.map_or(1.0, |q| q.parse().unwrap_or(0.0_f32)).clamp(0.0, 1.0);
        // If the same type occurs in several versions, the highest value counts.
        if specific > best || (specific == best && q > worth) {
            (best, worth) = (specific, q);
        }
    }
    worth
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn plain(accept: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(ACCEPT, HeaderValue::from_str(value).unwrap());
        }
        prefers(&headers, "text/plain", "application/openmetrics-text")
    }

    #[test]
    fn who_has_no_wish_gets_what_is_usual() {
        for accept in [
            &[][..],
            &["*/*"],
            &["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"],
            &["application/openmetrics-text"],
            &["application/openmetrics-text, text/plain"],
            &["application/json"],
            &["text/plain;q=0"],
            &["text/plain;q=nonsense"],
            &["", ",;,", "/", "text", ";q=1", "text/plain;q=NaN"],
            // The headers of Prometheus 2 and 3.
            &[
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            ],
            &[
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            ],
        ] {
            assert!(!plain(accept), "{accept:?}");
        }
    }

    #[test]
    fn who_wants_the_other_gets_it() {
        for accept in [
            &["text/plain"][..],
            &["text/plain;version=0.0.4;q=1,*/*;q=0.1"],
            &["Text/Plain; version=0.0.4; q=0.9", "application/openmetrics-text;q=0.5"],
            &["text/*"],
            &["*/*, application/openmetrics-text;q=0"],
            &["application/*;q=0.2,*/*;q=0.7"],
        ] {
            assert!(plain(accept), "{accept:?}");
        }
    }
}
