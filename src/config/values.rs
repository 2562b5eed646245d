//! What a single value may look like. Each type is read the same way from the file (serde) and from a flag (`FromStr`).
//!
//! Law: an error says what stands there and what may stand there.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{Error, Visitor};

use super::error::quoted;
use super::types::{Balance, Ready, Surge};
use super::units;

/// A value that is written as one word or one number.
pub(super) trait Scalar: Sized {
    /// Completes the sentence "expected …".
    fn expected() -> String;

    /// From text in quotes, or from a flag's.
    fn from_text(text: &str) -> Result<Self, String> {
        Err(format!("{} is text; expected {}", quoted(text), Self::expected()))
    }

    /// From a whole number.
    fn from_number(number: i128) -> Result<Self, String> {
        Err(format!("{number} is a number; expected {}", Self::expected()))
    }
}

/// Gives a [`Scalar`] its two ways in.
macro_rules! scalar {
    ($type:ty $(, for $($generics:tt)*)?) => {
        impl<'de, $($($generics)*)?> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any($crate::config::values::ScalarVisitor(std::marker::PhantomData))
            }
        }

        impl<$($($generics)*)?> std::str::FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                $crate::config::values::from_flag(text)
            }
        }
    };
}
pub(super) use scalar;

/// A flag has no quotes that would tell a number from a text.
pub(super) fn from_flag<T: Scalar>(text: &str) -> Result<T, String> {
    match text.parse::<i128>() {
        Ok(number) => T::from_number(number),
        Err(_) => T::from_text(text),
    }
}

/// The words of serde for what has the wrong type, made ours.
pub(super) fn own_words(message: &str) -> String {
    if message == "integer number overflowed" || message == "floating-point number overflowed" {
        return "this number is out of range".to_owned();
    }
    let Some((what, expected)) = message.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected ")) else {
        return message.to_owned();
    };
    let what = match what {
        "sequence" => "a list",
        "map" => "a table or a date",
        // It stands between backquotes: integer `3`.
        other => other.split('`').nth(1).unwrap_or(other),
    };
    format!("{what} does not fit here; expected {expected}")
}

/// Reads a [`Scalar`] from the file.
pub(super) struct ScalarVisitor<T>(pub PhantomData<T>);

impl<T: Scalar> Visitor<'_> for ScalarVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&T::expected())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        T::from_number(number.into()).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        T::from_number(number.into()).map_err(E::custom)
    }

    fn visit_i128<E: Error>(self, number: i128) -> Result<T, E> {
        T::from_number(number).map_err(E::custom)
    }
}

/// A duration longer than nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time(pub Duration);

impl Scalar for Time {
    fn expected() -> String {
        r#"a duration such as "500ms", "10s", "1h30min" or 30 (seconds)"#.to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        TimeOrZero::from_text(text)?.above_zero()
    }

    fn from_number(number: i128) -> Result<Self, String> {
        TimeOrZero::from_number(number)?.above_zero()
    }
}
scalar!(Time);

/// A duration that may be nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeOrZero(pub Duration);

impl TimeOrZero {
    fn above_zero(self) -> Result<Time, String> {
        if self.0.is_zero() { Err("0 is not allowed here; write a longer time".to_owned()) } else { Ok(Time(self.0)) }
    }
}

impl Scalar for TimeOrZero {
    fn expected() -> String {
        Time::expected()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match units::duration(text) {
            Ok(duration) => Ok(Self(duration)),
            Err(_) if is_off(text) => Err(format!("{} is not allowed here; expected {}", quoted(text), Self::expected())),
            Err(reason) => Err(format!("{} {reason}; expected {}", quoted(text), Self::expected())),
        }
    }

    fn from_number(number: i128) -> Result<Self, String> {
        match units::duration(&number.to_string()) {
            Ok(duration) => Ok(Self(duration)),
            Err(reason) => Err(format!("{number} {reason}; expected {}", Self::expected())),
        }
    }
}
scalar!(TimeOrZero);

/// Bytes, at least one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size(pub u64);

impl Scalar for Size {
    fn expected() -> String {
        r#"a size such as "512M" or "2G" (1M is 1048576 bytes)"#.to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match units::size(text) {
            Ok(0) => Err(format!("{} is nothing; expected {}", quoted(text), Self::expected())),
            Ok(bytes) => Ok(Self(bytes)),
            Err(reason) => Err(format!("{} {reason}; expected {}", quoted(text), Self::expected())),
        }
    }

    fn from_number(number: i128) -> Result<Self, String> {
        match u64::try_from(number) {
            Ok(bytes) if bytes > 0 && i64::try_from(bytes).is_ok() => Ok(Self(bytes)),
            _ => Err(format!("{number} is out of range; expected {}", Self::expected())),
        }
    }
}
scalar!(Size);

/// A whole number of a range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number<const MIN: u64, const MAX: u64>(pub u64);

impl<const MIN: u64, const MAX: u64> Scalar for Number<MIN, MAX> {
    fn expected() -> String {
        format!("a number from {MIN} to {MAX}")
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let quotes = if text.parse::<u64>().is_ok() { ", without quotes" } else { "" };
        Err(format!("{} is text; expected {}{quotes}", quoted(text), Self::expected()))
    }

    fn from_number(number: i128) -> Result<Self, String> {
        match u64::try_from(number) {
            Ok(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            _ => Err(format!("{number} is out of range; expected {}", Self::expected())),
        }
    }
}
scalar!(Number<MIN, MAX>, for const MIN: u64, const MAX: u64);

/// A value, or `"off"` (also `"infinity"`, or 0): what it would limit is not limited.
#[derive(Clone, Copy, Debug)]
pub(super) struct OrOff<T>(pub Option<T>);

impl<T: Scalar> Scalar for OrOff<T> {
    fn expected() -> String {
        format!("{}, or \"off\"", T::expected())
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if is_off(text) {
            return Ok(Self(None));
        }
        T::from_text(text).map(|value| Self(Some(value))).map_err(|error| format!("{error}, or \"off\""))
    }

    fn from_number(number: i128) -> Result<Self, String> {
        if number == 0 {
            return Ok(Self(None));
        }
        T::from_number(number).map(|value| Self(Some(value))).map_err(|error| format!("{error}, or \"off\""))
    }
}
scalar!(OrOff<T>, for T: Scalar);

/// A value, or `"infinity"`: no limit. Unlike [`OrOff`], 0 is not taken for "no limit".
#[derive(Clone, Copy, Debug)]
pub(super) struct OrInfinity<T>(pub Option<T>);

impl<T: Scalar> Scalar for OrInfinity<T> {
    fn expected() -> String {
        format!("{}, or \"infinity\"", T::expected())
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if is_off(text) {
            return Ok(Self(None));
        }
        T::from_text(text).map(|value| Self(Some(value))).map_err(|error| format!("{error}, or \"infinity\""))
    }

    fn from_number(number: i128) -> Result<Self, String> {
        T::from_number(number).map(|value| Self(Some(value))).map_err(|error| format!("{error}, or \"infinity\""))
    }
}
scalar!(OrInfinity<T>, for T: Scalar);

fn is_off(text: &str) -> bool {
    matches!(text, "off" | "infinity")
}

/// A signal, by name or number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signal(pub i32);

impl Scalar for Signal {
    fn expected() -> String {
        r#"a signal such as "SIGTERM", "QUIT" or 15"#.to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix("SIG").unwrap_or(text);
        match SIGNALS.iter().find(|(known, _)| *known == name) {
            Some((_, number)) => Ok(Self(*number)),
            None => Err(format!("{} is no signal; expected {}", quoted(text), Self::expected())),
        }
    }

    fn from_number(number: i128) -> Result<Self, String> {
        match i32::try_from(number) {
            Ok(number @ 1..=64) => Ok(Self(number)),
            _ => Err(format!("{number} is no signal; expected {}", Self::expected())),
        }
    }
}
scalar!(Signal);

const SIGNALS: &[(&str, i32)] = &[
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ABRT", libc::SIGABRT),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("WINCH", libc::SIGWINCH),
];

impl Scalar for Ready {
    fn expected() -> String {
        r#""notify" or "running""#.to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
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
            Ok(count) if (1..=super::types::COUNT_MAX).contains(&count) => Ok(Self::Count(count)),
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
        Ok(Self(text.to_owned()))
    }

    fn from_number(number: i128) -> Result<Self, String> {
        // The last one means "leave it as it is" to the kernel.
        match u32::try_from(number) {
            Ok(number) if number != u32::MAX => Ok(Self(number.to_string())),
            _ => Err(format!("{number} is no account; expected {}", Self::expected())),
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
