//! Values that are one of several words, or name something: a signal, an account, a path, an address.
//!
//! Law: what is accepted has the form that the kernel or the system's tables take; whether it is there, its user sees.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::error::quoted;
use super::types::{Balance, COUNT_MAX, Details, MemoryCheck, Ready, Surge};
use super::values::{Scalar, scalar};
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
}
scalar!(Signal);

impl Scalar for Ready {
    fn expected() -> String {
        r#""auto", "accepting", "notify" or "running""#.to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "accepting" => Ok(Self::Accepting),
            "notify" => Ok(Self::Notify),
            "running" => Ok(Self::Running),
            _ => Err(format!("{} is unknown; expected {}", quoted(text), Self::expected())),
        }
    }
}
scalar!(Ready);

impl Scalar for Balance {
    fn expected() -> String {
        r#""shared" or "per-slot""#.to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "shared" => Ok(Self::Shared),
            "per-slot" => Ok(Self::PerSlot),
            _ => Err(format!("{} is unknown; expected {}", quoted(text), Self::expected())),
        }
    }
}
scalar!(Balance);

impl Scalar for Details {
    fn expected() -> String {
        r#""trusted" or "everyone""#.to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "trusted" => Ok(Self::Trusted),
            "everyone" => Ok(Self::Everyone),
            _ => Err(format!("{} is unknown; expected {}", quoted(text), Self::expected())),
        }
    }
}
scalar!(Details);

/// The name of a host as it stands in a URL, in lower case and without the root's dot.
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
}
scalar!(HostName);

impl Scalar for MemoryCheck {
    fn expected() -> String {
        r#""warn", "refuse" or "ignore""#.to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "warn" => Ok(Self::Warn),
            "refuse" => Ok(Self::Refuse),
            "ignore" => Ok(Self::Ignore),
            _ => Err(format!("{} is unknown; expected {}", quoted(text), Self::expected())),
        }
    }
}
scalar!(MemoryCheck);

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
}
scalar!(Account);

/// A path: not empty, and nothing in it that the kernel refuses.
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
}
scalar!(FilePath);

/// Where to listen: a numeric address with its port, or an absolute path.
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
}
scalar!(Address);

/// `sun_path` of `unix(7)` less its final NUL.
const PATH_MAX: usize = 107;
