//! Durations and sizes as systemd writes them: `systemd.time(7)`, and the sizes of `systemd.resource-control(5)`.
//!
//! Law: no floating-point arithmetic and no overflow. A text that is not understood is refused, and the error says what is expected.

use std::time::Duration;

use super::error::quoted;

/// Most digits of a number, before and after its point each; no plausible value needs more.
const DIGITS_MAX: usize = 18;
/// Longest duration (ten years): the clock's arithmetic stays far from its limits.
const LONGEST: Duration = Duration::from_secs(10 * 31_557_600);

/// Reads a duration: `"500ms"`, `"1h 30min"`, `"1.5s"`, `"30"` (seconds).
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("is empty".to_owned());
    }
    let mut micros: u64 = 0;
    while !rest.is_empty() {
        let number = Number::take(&mut rest)?;
        let unit = take_while(&mut rest, |c| c.is_alphabetic());
        rest = rest.trim_start();
        let unit = match unit {
            "us" | "usec" | "µs" | "μs" => 1,
            "ms" | "msec" => 1_000,
            "" | "s" | "sec" | "second" | "seconds" => 1_000_000,
            "m" | "min" | "minute" | "minutes" => 60_000_000,
            "h" | "hr" | "hour" | "hours" => 3_600_000_000,
            "d" | "day" | "days" => 86_400_000_000,
            "w" | "week" | "weeks" => 604_800_000_000,
            "M" | "month" | "months" => 2_629_800_000_000,
            "y" | "year" | "years" => 31_557_600_000_000,
            other => return Err(format!("has the unknown unit {}", quoted(other))),
        };
        let part = number.times(unit).ok_or_else(too_long)?;
        micros = micros.checked_add(part).ok_or_else(too_long)?;
    }
    let duration = Duration::from_micros(micros);
    if duration > LONGEST { Err(too_long()) } else { Ok(duration) }
}

/// Reads the length of a pause, which is not zero.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn pause_length(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Ok(Duration::ZERO) => Err(format!("a pause of {} would end at once; say 30s or 5min", quoted(text))),
        Ok(length) => Ok(length),
        Err(why) => Err(format!("the length of the pause, {}, {why}; say 30s or 5min", quoted(text))),
    }
}

fn too_long() -> String {
    "is longer than ten years".to_owned()
}

/// Reads a size in bytes: `"512M"`, `"1.5G"`, `"4096"`. Each unit is 1024 times the one before.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let mut rest = text.trim();
    let number = Number::take(&mut rest)?;
    let unit = match rest.trim_start() {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        other => return Err(format!("has the unknown unit {}", quoted(other))),
    };
    number.times(unit).filter(|bytes| *bytes <= i64::MAX as u64).ok_or_else(|| "is too large".to_owned())
}

/// A decimal number, kept as digits so that a fraction is exact.
struct Number {
    whole: u64,
    fraction: u64,
    /// 10 to the power of the number of digits of the fraction.
    scale: u64,
}

impl Number {
    fn take(rest: &mut &str) -> Result<Self, String> {
        if rest.starts_with('-') {
            return Err("is negative".to_owned());
        }
        let whole = take_while(rest, |c| c.is_ascii_digit());
        if whole.is_empty() {
            return Err("does not begin with a number".to_owned());
        }
        let mut fraction = "";
        if let Some(after) = rest.strip_prefix('.') {
            *rest = after;
            fraction = take_while(rest, |c| c.is_ascii_digit());
            if fraction.is_empty() {
                return Err("has no digit after its point".to_owned());
            }
        }
        *rest = rest.trim_start();
        if whole.len() > DIGITS_MAX || fraction.len() > DIGITS_MAX {
            return Err("has too many digits".to_owned());
        }
        let parse = |digits: &str| digits.parse::<u64>().unwrap_or(0);
        Ok(Self { whole: parse(whole), fraction: parse(fraction), scale: 10_u64.pow(fraction.len() as u32) })
    }

    /// This number of units, in the smallest unit and rounded down.
    fn times(&self, unit: u64) -> Option<u64> {
        let fraction = u128::from(self.fraction) * u128::from(unit) / u128::from(self.scale);
        self.whole.checked_mul(unit)?.checked_add(u64::try_from(fraction).ok()?)
    }
}

fn take_while<'t>(rest: &mut &'t str, wanted: impl Fn(char) -> bool) -> &'t str {
    let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
    let (taken, after) = rest.split_at(end);
    *rest = after;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_systemd_reads_them() {
        for (text, micros) in [
            ("0", 0),
            ("30", 30_000_000),
            ("1.5", 1_500_000),
            ("500ms", 500_000),
            ("250us", 250),
            ("10s", 10_000_000),
            ("10 s", 10_000_000),
            ("1min", 60_000_000),
            ("2m", 120_000_000),
            ("1h30min", 5_400_000_000),
            ("1h 30min", 5_400_000_000),
            (" 1h  30 ", 3_630_000_000),
            ("1.25s", 1_250_000),
            ("0.5ms", 500),
            ("1d", 86_400_000_000),
            ("2w", 1_209_600_000_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_micros(micros)), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_duration() {
        for (text, reason) in [
            ("", "is empty"),
            ("  ", "is empty"),
            ("s", "does not begin with a number"),
            ("-1s", "is negative"),
            ("+1s", "does not begin with a number"),
            ("10x", "has the unknown unit \"x\""),
            ("10S", "has the unknown unit \"S\""),
            ("1.s", "has no digit after its point"),
            ("1,5s", "does not begin with a number"),
            ("1e3", "has the unknown unit \"e\""),
            ("11y", "is longer than ten years"),
            ("10y", "ok"),
            ("119M", "ok"),
            ("1 fortnight", "has the unknown unit \"fortnight\""),
            ("521w 5d", "ok"),
            ("522w", "is longer than ten years"),
            ("999999999999999999h", "is longer than ten years"),
            ("9999999999999999999", "has too many digits"),
        ] {
            match duration(text) {
                Ok(_) => assert_eq!(reason, "ok", "{text:?}"),
                Err(error) => assert_eq!(error, reason, "{text:?}"),
            }
        }
    }

    #[test]
    fn sizes_are_binary() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("1K", 1024),
            ("512M", 512 << 20),
            ("512MiB", 512 << 20),
            ("1.5G", 3 << 29),
            ("1 T", 1 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text:?}");
        }
        for (text, reason) in [
            ("", "does not begin with a number"),
            ("512MB", "has the unknown unit \"MB\""),
            ("512m", "has the unknown unit \"m\""),
            ("1G 1M", "has the unknown unit \"G 1M\""),
            ("9999999T", "is too large"),
            ("-1", "is negative"),
        ] {
            assert_eq!(size(text), Err(reason.to_owned()), "{text:?}");
        }
    }
}
