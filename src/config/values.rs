//! Single values. Each type is read the same way from the file (serde) and from a flag ([`from_flag`]).
//!
//! Law: an error says what is written and what is expected.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::{Deserialize, Error, Visitor};
use serde_json::{Value as Json, json};

use super::error::quoted;
use super::row::{Field, Shape};
use super::types::COUNT_MAX;
use super::units;

/// A value that is written as one word or one number.
pub(super) trait Scalar: Sized {
    /// Completes the sentence "expected …".
    fn expected() -> String;

    /// Reads text in quotes, or the text of a flag.
    fn from_text(text: &str) -> Result<Self, String> {
        Err(format!("{} is text; expected {}", quoted(text), Self::expected()))
    }

    /// Reads a whole number.
    fn from_number(number: i128) -> Result<Self, String> {
        Err(format!("{number} is a number; expected {}", Self::expected()))
    }

    /// Reads a number with decimal places.
    fn from_fraction(number: f64) -> Result<Self, String> {
        Err(format!("{number:?} does not fit here; expected {}", Self::expected()))
    }

    /// JSON Schema of what `from_text` and `from_number` accept.
    fn schema() -> Json {
        json!({ "type": "string" })
    }

    /// The words of an enum; empty for another type.
    fn words() -> &'static [&'static str] {
        &[]
    }
}

impl<T: Scalar> Shape for T {
    fn schema() -> Json {
        <T as Scalar>::schema()
    }

    fn words() -> &'static [&'static str] {
        <T as Scalar>::words()
    }
}

/// A value that becomes a field unchanged: an enum, a switch.
impl<T: Scalar + for<'de> Deserialize<'de>> Field<T> for T {
    fn field(self) -> T {
        self
    }
}

/// Lists the words: `"a", "b" or "c"`.
pub(super) fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// Makes a [`Scalar`] readable from the file, by [`ScalarVisitor`].
macro_rules! scalar {
    ($type:ty $(, for $($generics:tt)*)?) => {
        impl<'de, $($($generics)*)?> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any($crate::config::values::ScalarVisitor(std::marker::PhantomData))
            }
        }
    };
}
pub(super) use scalar;

/// Makes a type that wraps one value a [`Field`] of every type that the value converts into.
macro_rules! field {
    ($type:ty => $value:ty $(, for $($generics:tt)*)?) => {
        impl<F: From<$value>, $($($generics)*)?> $crate::config::row::Field<F> for $type {
            fn field(self) -> F {
                self.0.into()
            }
        }
    };
}
pub(super) use field;

/// Reads the text of a flag. A flag has no quotes that would tell a text from a number, so a whole number is read as a number.
pub(super) fn from_flag<T: Scalar>(text: &str) -> Result<T, String> {
    match text.parse::<i128>() {
        Ok(number) => T::from_number(number),
        Err(_) => T::from_text(text),
    }
}

/// Replaces serde's messages for a wrong type with ours.
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
        // The value stands between backquotes: integer `3`.
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

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        T::from_fraction(number).map_err(E::custom)
    }

    fn visit_i128<E: Error>(self, number: i128) -> Result<T, E> {
        T::from_number(number).map_err(E::custom)
    }
}

/// A switch: without quotes in the file, where serde reads it.
impl Scalar for bool {
    fn expected() -> String {
        "true or false".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("{} is unknown; expected {}", quoted(text), Self::expected()))
    }

    fn schema() -> Json {
        json!({ "type": "boolean" })
    }

    fn words() -> &'static [&'static str] {
        &["true", "false"]
    }
}

/// A duration; 0 is allowed only with `ZERO`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span<const ZERO: bool>(Duration);

pub(super) type Time = Span<false>;
pub(super) type TimeOrZero = Span<true>;

impl<const ZERO: bool> Span<ZERO> {
    fn read(text: &str, shown: &str) -> Result<Self, String> {
        match units::duration(text) {
            Ok(Duration::ZERO) if !ZERO => Err("0 is not allowed here; write a longer time".to_owned()),
            Ok(duration) => Ok(Self(duration)),
            Err(_) if is_off(text) => Err(format!("{shown} is not allowed here; expected {}", Self::expected())),
            Err(reason) => Err(format!("{shown} {reason}; expected {}", Self::expected())),
        }
    }
}

impl<const ZERO: bool> Scalar for Span<ZERO> {
    fn expected() -> String {
        r#"a duration such as "500ms", "10s", "1h30min" or 30 (seconds)"#.to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        Self::read(text, &quoted(text))
    }

    fn from_number(number: i128) -> Result<Self, String> {
        let text = number.to_string();
        Self::read(&text, &text)
    }

    fn schema() -> Json {
        let zero = if ZERO { "^$" } else { "^[^1-9]*$" };
        let text = json!({ "type": "string", "pattern": DURATION, "not": { "pattern": zero } });
        json!({ "anyOf": [text, { "type": "integer", "minimum": u8::from(!ZERO) }] })
    }
}
scalar!(Span<ZERO>, for const ZERO: bool);
field!(Span<ZERO> => Duration, for const ZERO: bool);

/// Regular expression of a duration (`systemd.time(7)`), as [`units::duration`] reads it.
const DURATION: &str = concat!(
    r"^\s*([0-9]+(\.[0-9]+)?\s*",
    "(us|usec|µs|μs|ms|msec|s|sec|seconds?|m|min|minutes?|h|hr|hours?|d|days?|w|weeks?|M|months?|y|years?)?",
    r"\s*)+$"
);
/// Regular expression of a size, as [`units::size`] reads it.
const SIZE: &str = r"^\s*[0-9]+(\.[0-9]+)?\s*(B|[KMGT](iB)?)?\s*$";

/// A size in bytes, at least 1.
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

    fn schema() -> Json {
        let text = json!({ "type": "string", "pattern": SIZE, "not": { "pattern": "^[^1-9]*$" } });
        json!({ "anyOf": [text, { "type": "integer", "minimum": 1 }] })
    }
}
scalar!(Size);
field!(Size => u64);

/// A whole number from `MIN` to `MAX`.
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

    fn schema() -> Json {
        json!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}
scalar!(Number<MIN, MAX>, for const MIN: u64, const MAX: u64);

impl<const MIN: u64, const MAX: u64> Field<u64> for Number<MIN, MAX> {
    fn field(self) -> u64 {
        self.0
    }
}

/// For numbers whose range fits into `u32`.
impl<const MIN: u64, const MAX: u64> Field<u32> for Number<MIN, MAX> {
    fn field(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

impl<T, const MIN: u64, const MAX: u64> Field<Option<T>> for Number<MIN, MAX>
where
    Self: Field<T>,
{
    fn field(self) -> Option<T> {
        Some(self.field())
    }
}

/// A percentage from 1 to 100, as in `"70%"`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Percentage(u32);

impl Scalar for Percentage {
    fn expected() -> String {
        r#"a percentage from "1%" to "100%""#.to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let digits = text.strip_suffix('%').map(str::trim_end).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        match digits.and_then(|digits| digits.parse().ok()) {
            Some(percent @ 1..=100) => Ok(Self(percent)),
            _ => Err(format!("{} is no such share; expected {}", quoted(text), Self::expected())),
        }
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"^0*(100|[1-9][0-9]?)\s*%$" })
    }
}
scalar!(Percentage);
field!(Percentage => u32);

/// A number of workers.
pub(super) type Count = Number<1, { COUNT_MAX as u64 }>;
/// The least number of workers.
pub(super) type Least = Number<0, { COUNT_MAX as u64 }>;
/// A number of crashes.
pub(super) type Crashes = Number<0, 1_000_000>;
/// A number of releases that are kept.
pub(super) type Kept = Number<1, 100>;
/// A number of requests of a worker.
pub(super) type Requests = Number<1, { i64::MAX as u64 }>;
/// A number of processes and threads, at most what any kernel has (`PID_MAX_LIMIT`).
pub(super) type Tasks = Number<1, 4_194_304>;
/// A weight, in the range of `cpu.weight`.
pub(super) type Weight = Number<1, 10_000>;
/// A number of open files. Below 16 there is no room for the sockets, and no kernel allows more than `sysctl_nr_open_max`.
pub(super) type Files = Number<16, 1_073_741_816>;

/// A value, or no limit: `"off"` or `"infinity"`. Errors name the word that fits the key. 0 means no limit only with `ZERO`.
#[derive(Clone, Copy, Debug)]
pub(super) struct OrNone<T, const ZERO: bool>(Option<T>);

pub(super) type OrOff<T> = OrNone<T, true>;
pub(super) type OrInfinity<T> = OrNone<T, false>;

impl<T, const ZERO: bool> OrNone<T, ZERO> {
    fn or_none(expected: &str) -> String {
        format!("{expected}, or {:?}", if ZERO { "off" } else { "infinity" })
    }
}

impl<T: Scalar, const ZERO: bool> Scalar for OrNone<T, ZERO> {
    fn expected() -> String {
        Self::or_none(&T::expected())
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if is_off(text) {
            return Ok(Self(None));
        }
        T::from_text(text).map(|value| Self(Some(value))).map_err(|error| Self::or_none(&error))
    }

    fn from_number(number: i128) -> Result<Self, String> {
        if ZERO && number == 0 {
            return Ok(Self(None));
        }
        T::from_number(number).map(|value| Self(Some(value))).map_err(|error| Self::or_none(&error))
    }

    fn schema() -> Json {
        let none = if ZERO { json!(["off", "infinity", 0]) } else { json!(["off", "infinity"]) };
        json!({ "anyOf": [T::schema(), { "enum": none }] })
    }
}
scalar!(OrNone<T, ZERO>, for T: Scalar, const ZERO: bool);

impl<T: Scalar + Field<U>, U, const ZERO: bool> Field<Option<U>> for OrNone<T, ZERO> {
    fn field(self) -> Option<U> {
        self.0.map(T::field)
    }
}

fn is_off(text: &str) -> bool {
    matches!(text, "off" | "infinity")
}
