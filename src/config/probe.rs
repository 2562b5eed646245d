//! The values of `reload.probe` and `reload.probe_status`.

use std::ops::RangeInclusive;

use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};

use super::error::quoted;
use super::row::Field;
use super::values::{Scalar, scalar};

/// `reload.probe`: the request to the probed worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `GET` of this path over HTTP/1.1, on the first stream socket.
    Get(String),
    /// A connection that the worker must accept.
    Connect,
}

/// `reload.probe_status`: the HTTP status codes that pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRange(pub RangeInclusive<u16>);

impl Scalar for Probe {
    fn expected() -> String {
        r#""GET /path" or "connect""#.to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match text.split_once(' ') {
            None if text == "connect" => Ok(Probe::Connect),
            Some(("GET", path)) if is_path(path) => Ok(Probe::Get(path.to_owned())),
            Some(("GET", path)) => Err(format!(
                "{} is no path: write one that begins with / and has visible ASCII characters only, as in \"GET /up\"",
                quoted(path)
            )),
            Some((method, _)) if method.bytes().all(|byte| byte.is_ascii_uppercase()) => {
                Err(format!("{} is not sent, only GET is; expected {}", quoted(method), Self::expected()))
            }
            _ => Err(format!("{} is no probe; expected {}", quoted(text), Self::expected())),
        }
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": "^(connect|GET /[!-~]*)$" })
    }
}

/// Whether HTTP/1.1 can ask for this path as it is written.
fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

impl Serialize for Probe {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Probe::Get(path) => serializer.collect_str(&format_args!("GET {path}")),
            Probe::Connect => serializer.serialize_str("connect"),
        }
    }
}

impl Scalar for StatusRange {
    fn expected() -> String {
        r#"an HTTP status such as 204, or a range such as "200-399""#.to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (code(first), code(last)) {
            (Some(first), Some(last)) if first <= last => Ok(StatusRange(first..=last)),
            _ => Err(format!("{} is no HTTP status; expected {}", quoted(text), Self::expected())),
        }
    }

    fn from_number(number: i128) -> Result<Self, String> {
        Self::from_text(&number.to_string()).map_err(|_| format!("{number} is no HTTP status; expected {}", Self::expected()))
    }

    fn schema() -> Json {
        let text = json!({ "type": "string", "pattern": "^ *[1-5][0-9]{2} *(- *[1-5][0-9]{2} *)?$" });
        json!({ "anyOf": [text, { "type": "integer", "minimum": 100, "maximum": 599 }] })
    }
}

fn code(text: &str) -> Option<u16> {
    text.trim().parse().ok().filter(|code| (100..600).contains(code))
}

impl Serialize for StatusRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}-{}", self.0.start(), self.0.end()))
    }
}

scalar!(Probe);

impl Field<Option<Probe>> for Probe {
    fn field(self) -> Option<Probe> {
        Some(self)
    }
}

scalar!(StatusRange);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_is_get_of_a_path_or_connect() {
        assert_eq!(Probe::from_text("GET /up?full=1"), Ok(Probe::Get("/up?full=1".to_owned())));
        assert_eq!(Probe::from_text("connect"), Ok(Probe::Connect));
        for (text, says) in [
            ("GET up", "\"up\" is no path"),
            ("GET /a b", "\"/a b\" is no path"),
            ("POST /up", "\"POST\" is not sent, only GET is"),
            ("Connect", "\"Connect\" is no probe"),
            ("GET /\r\nx: y", "is no path"),
        ] {
            let error = Probe::from_text(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn status_is_a_code_or_a_range() {
        assert_eq!(StatusRange::from_text("200-399"), Ok(StatusRange(200..=399)));
        assert_eq!(StatusRange::from_number(204), Ok(StatusRange(204..=204)));
        for text in ["399-200", "99", "600", "2xx", ""] {
            let error = StatusRange::from_text(text).expect_err(text);
            assert!(error.contains("is no HTTP status"), "{text}: {error}");
        }
    }
}
