//! What a single value may look like. Each type is read the same way from the file (serde) and from a flag (`FromStr`).
//!
//! Law: an error says what stands there and what may stand there.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::{Error, Visitor};

use super::error::quoted;
use super::types::COUNT_MAX;
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

/// Workers.
pub(super) type Count = Number<1, { COUNT_MAX as u64 }>;
/// Crashes of a pool.
pub(super) type Crashes = Number<0, 1_000_000>;
/// Requests of a worker.
pub(super) type Requests = Number<1, { i64::MAX as u64 }>;
/// Processes and threads: no kernel has more (`PID_MAX_LIMIT`).
pub(super) type Tasks = Number<1, 4_194_304>;
/// What `cpu.weight` takes.
pub(super) type Weight = Number<1, 10_000>;
/// Open files: below 16 there is no room for the sockets, and no kernel has more (`sysctl_nr_open_max`).
pub(super) type Files = Number<16, 1_073_741_816>;

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
