//! Values that name something: a signal, a share, an account, a path, an address.
//!
//! Law: an accepted value has the form that the kernel or the system's tables take. The code that uses it finds out whether the
//! named thing exists.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::error::quoted;
use super::types::{COUNT_MAX, Surge};
use super::values::{Scalar, field, scalar};
use crate::sys::{accounts, signals};

/// A signal, by name or number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signal(pub i32);

impl Scalar for Signal {
    fn expected() -> String {
        r#"a signal such as "SIGTERM", "QUIT" or 15"#.to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match signals::from_name(text) {
            Some(number) => Ok(Self(number)),
            None => Err(format!("{} is no signal; expected {}", quoted(text), Self::expected())),
        }
    }

    fn from_number(number: i128) -> Result<Self, String> {
        match signals::from_name(&number.to_string()) {
            Some(number) => Ok(Self(number)),
            None => Err(format!("{number} is no signal; expected {}", Self::expected())),
        }
    }

    fn schema() -> Json {
        json!({ "anyOf": [{ "type": "string", "pattern": "^\\s*[A-Za-z0-9+-]+\\s*$" }, { "type": "integer", "minimum": 1, "maximum": 64 }] })
    }
}
scalar!(Signal);
field!(Signal => i32);

/// The name of a host as it stands in a URL, in lower case and without the final dot.
#[derive(Clone, Debug)]
pub(super) struct HostName(pub String);

impl Scalar for HostName {
    fn expected() -> String {
        r#"a host's name without a port, such as "status.example.org""#.to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let name = text.strip_suffix('.').unwrap_or(text);
        let label = |label: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            (1..=63).contains(&label.len()) && label.chars().all(plain) && !label.starts_with('-') && !label.ends_with('-')
        };
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(format!("{} is no host's name; expected {}", quoted(text), Self::expected()));
        }
        Ok(Self(name.to_ascii_lowercase()))
    }

    fn schema() -> Json {
        let label = "[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?";
        json!({ "type": "string", "pattern": format!(r"^{label}(\.{label})*\.?$") })
    }
}
scalar!(HostName);
field!(HostName => String);

impl Scalar for Surge {
    fn expected() -> String {
        r#""1%" to "100%" of the workers, or a number of them from 1 on"#.to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let percent = text.strip_suffix('%').and_then(|digits| digits.trim_end().parse::<u32>().ok());
        match percent {
            Some(percent @ 1..=100) => Ok(Self::Percent(percent)),
            Some(_) => Err(format!("{} is out of range; expected {}", quoted(text), Self::expected())),
            None => Err(format!("{} is no such number; expected {}", quoted(text), Self::expected())),
        }
    }

    fn from_number(number: i128) -> Result<Self, String> {
        match u32::try_from(number) {
            Ok(count) if (1..=COUNT_MAX).contains(&count) => Ok(Self::Count(count)),
            _ => Err(format!("{number} is out of range; expected {}", Self::expected())),
        }
    }

    fn schema() -> Json {
        let percent = json!({ "type": "string", "pattern": "^0*(100|[1-9][0-9]?)\\s*%$" });
        json!({ "anyOf": [percent, { "type": "integer", "minimum": 1, "maximum": COUNT_MAX }] })
    }
}
scalar!(Surge);

/// A user or a group, by name or number.
#[derive(Clone, Debug)]
pub(super) struct Account(pub String);

impl Scalar for Account {
    fn expected() -> String {
        "the name or number of an account".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let odd = |c: char| c.is_control() || c.is_whitespace() || matches!(c, ':' | '/' | ',');
        if text.is_empty() || text.len() > 255 || text.starts_with('-') || text.contains(odd) {
            return Err(format!("{} is no account; expected {}", quoted(text), Self::expected()));
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) && accounts::number(text).is_none() {
            return Err(format!("{} is no account's number, which is at most {}", quoted(text), u32::MAX - 1));
        }
        Ok(Self(text.to_owned()))
    }

    fn from_number(number: i128) -> Result<Self, String> {
        match accounts::number(&number.to_string()) {
            Some(number) => Ok(Self(number.to_string())),
            None => Err(format!("{number} is no account; expected {}", Self::expected())),
        }
    }

    fn schema() -> Json {
        let name = json!({ "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[^-:/,\\s][^:/,\\s]*$" });
        json!({ "anyOf": [name, { "type": "integer", "minimum": 0, "maximum": u32::MAX - 1 }] })
    }
}
scalar!(Account);
field!(Account => String);

/// A path: not empty, and without a NUL byte.
#[derive(Clone, Debug)]
pub(super) struct FilePath(pub PathBuf);

impl Scalar for FilePath {
    fn expected() -> String {
        "a path".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains('\0') {
            return Err(format!("{} is no path; expected {}", quoted(text), Self::expected()));
        }
        Ok(Self(PathBuf::from(text)))
    }

    fn schema() -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
}
scalar!(FilePath);
field!(FilePath => PathBuf);

/// An address to listen on: a numeric address with its port, or an absolute path.
#[derive(Clone, Debug)]
pub(super) struct Address(pub String);

impl Scalar for Address {
    fn expected() -> String {
        r#"an address such as "127.0.0.1:9090", "[::1]:9090" or "/run/web-status.sock""#.to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return match text.len() {
                _ if text.ends_with('/') || text.contains('\0') => {
                    Err(format!("{} is no socket's path; expected {}", quoted(text), Self::expected()))
                }
                ..=PATH_MAX => Ok(Self(text.to_owned())),
                length => Err(format!("this path has {length} bytes; the kernel takes {PATH_MAX} for a socket's; shorten it")),
            };
        }
        match text.parse::<SocketAddr>() {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(format!("{} is no address; expected {}", quoted(text), Self::expected())),
        }
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": "^(/.*[^/]|[0-9.]+:[0-9]+|\\[[0-9A-Fa-f:.%]+\\]:[0-9]+)$" })
    }
}
scalar!(Address);
field!(Address => String);

/// Longest path of a socket, in bytes: `sun_path` of `unix(7)` less its final NUL.
const PATH_MAX: usize = 107;
