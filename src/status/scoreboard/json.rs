//! Writes a connection as JSON, in the form of `tree::Connection`, directly from the slot of the page.
//!
//! Law: the output is valid JSON for every content of a slot; serde_json escapes the texts.

use std::cell::Cell;
use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use serde_json::{Map, Value};

use ratoon_worker::scoreboard::entry::{Entry, Request};

const MILLISECONDS_A_DAY: i64 = 24 * 60 * 60 * 1000;

/// Appends one connection.
pub(super) fn connection(out: &mut Vec<u8>, clock: &Clock, entry: &Entry) {
    let guarded = entry.guarded.as_ref();
    text(out, "{\"state\":");
    value(out, if entry.active { "active" } else { "idle" });
    text(out, ",\"start_time\":");
    clock.write(out, guarded.and_then(|guarded| guarded.start));
    text(out, ",\"remote_address\":");
    address(out, guarded.and_then(|guarded| guarded.address));
    text(out, ",\"remote_port\":");
    value(out, &guarded.and_then(|guarded| guarded.port));
    text(out, ",\"idle_since\":");
    match entry.idle_since {
        Some(time) => clock.write(out, Some(time)),
        None => text(out, "null"),
    }
    text(out, ",\"requests\":");
    value(out, &entry.requests);
    text(out, ",\"bytes_read\":");
    value(out, &entry.bytes_read);
    text(out, ",\"bytes_written\":");
    value(out, &entry.bytes_written);
    text(out, ",\"request\":");
    match guarded.and_then(|guarded| guarded.request.as_ref()) {
        Some(inner) => request(out, clock, inner),
        None => text(out, "null"),
    }
    text(out, "}");
}

fn request(out: &mut Vec<u8>, clock: &Clock, request: &Request) {
    text(out, "{\"state\":");
    value(out, request.state);
    text(out, ",\"start_time\":");
    clock.write(out, request.start);
    text(out, ",\"ip\":");
    address(out, request.client);
    text(out, ",\"method\":");
    value(out, request.method.as_str());
    text(out, ",\"url\":");
    value(out, request.url.as_str());
    text(out, ",\"http_version\":");
    value(out, request.version);
    text(out, ",\"info\":");
    match request.info.as_str() {
        "" => text(out, "{}"),
        info => value(out, &serde_json::from_str::<Map<String, Value>>(info).unwrap_or_default()),
    }
    text(out, "}");
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// Appends a value. Cannot fail: the target is memory, and JSON has all values that are written here.
fn value<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    let _ = serde_json::to_writer(out, value);
}

fn address(out: &mut Vec<u8>, address: Option<IpAddr>) {
    match address {
        Some(IpAddr::V4(four)) => {
            for (between, octet) in ["\"", ".", ".", "."].into_iter().zip(four.octets()) {
                text(out, between);
                value(out, &octet);
            }
            text(out, "\"");
        }
        Some(six) => drop(write!(out, "\"{six}\"")),
        None => text(out, "null"),
    }
}

/// Converts times of the monotonic clock to times of the wall clock.
pub(super) struct Clock {
    today: SystemTime,
    monotonic: u64,
    /// The last day that was written, in days since 1970, and its text: `2026-07-14T`.
    day: Cell<Option<(i64, [u8; 11])>>,
}

impl Clock {
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        let monotonic = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        Clock { today: SystemTime::now(), monotonic, day: Cell::new(None) }
    }

    /// Writes a time as RFC 3339, to the millisecond; a time in the future as now, an unknown one as an empty text. The two clocks are
    /// read one after the other, so the microseconds of one moment would differ between two reads.
    fn write(&self, out: &mut Vec<u8>, time: Option<u64>) {
        text(out, "\"");
        if let Some(digits) = time.and_then(|time| self.digits(time)) {
            out.extend_from_slice(&digits);
        }
        text(out, "\"");
    }

    fn digits(&self, time: u64) -> Option<[u8; 24]> {
        let ago = Duration::from_nanos(self.monotonic.saturating_sub(time));
        let at = Timestamp::try_from(self.today.checked_sub(ago)?).ok()?.as_nanosecond();
        let at = i64::try_from(at.div_euclid(1_000_000)).ok()?;
        let (day, rest) = (at.div_euclid(MILLISECONDS_A_DAY), at.rem_euclid(MILLISECONDS_A_DAY));
        let mut digits = *b"0000-00-00T00:00:00.000Z";
        digits[..11].copy_from_slice(&self.day(day)?);
        for (place, number) in [(11, rest / 3_600_000), (14, rest / 60_000 % 60), (17, rest / 1000 % 60), (21, rest % 100)] {
            digits[place] = b'0' + (number / 10) as u8;
            digits[place + 1] = b'0' + (number % 10) as u8;
        }
        digits[20] = b'0' + (rest / 100 % 10) as u8;
        Some(digits)
    }

    fn day(&self, day: i64) -> Option<[u8; 11]> {
        if let Some((_, text)) = self.day.get().filter(|(known, _)| *known == day) {
            return Some(text);
        }
        let midnight = Timestamp::from_millisecond(day.checked_mul(MILLISECONDS_A_DAY)?).ok()?;
        // A year without exactly four digits makes a text of another length.
        let text: [u8; 11] = midnight.to_string().as_bytes().first_chunk().copied().filter(|text| text.ends_with(b"T"))?;
        self.day.set(Some((day, text)));
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn times_are_written_as_others_write_them(seconds in 0..4_000_000_000u64, nanoseconds in 0..1_000_000_000u32, ago in 0..u64::MAX / 2) {
            let today = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
            let clock = Clock { today, monotonic: u64::MAX / 2, day: Cell::new(None) };
            let at = today.checked_sub(Duration::from_nanos(ago)).and_then(|at| Timestamp::try_from(at).ok()).expect("a time");
            let mut out = Vec::new();
            for _ in 0..2 {
                out.clear();
                clock.write(&mut out, Some(u64::MAX / 2 - ago));
                let floor = Timestamp::from_millisecond(at.as_nanosecond().div_euclid(1_000_000) as i64).expect("a time");
                proptest::prop_assert_eq!(std::str::from_utf8(&out).expect("text"), format!("\"{floor:.3}\""));
            }
        }
    }

    #[test]
    fn addresses_are_written_as_others_write_them() {
        for address in ["0.0.0.0", "192.0.2.255", "::1", "2001:db8::7"] {
            let mut out = Vec::new();
            super::address(&mut out, Some(address.parse().expect("an address")));
            assert_eq!(out, format!("\"{address}\"").into_bytes());
        }
    }
}
