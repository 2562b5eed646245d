//! Parses a worker's notification: the assignments of sd_notify(3), and Ratoon's own `X_RATOON_` assignments.
//!
//! Law: the parser is slightly more tolerant than PID 1, and never panics. A bad value makes only its own assignment invalid. A
//! datagram is refused as a whole only if it is empty or has a NUL before its end.

use std::collections::BTreeMap;

/// One assignment.
#[derive(Clone, Debug, PartialEq)]
pub enum Assignment {
    /// `READY=1`
    Ready,
    /// `STOPPING=1`
    Stopping,
    /// `RELOADING=1`
    Reloading,
    /// `STATUS=`, one line without control characters.
    Status(String),
    /// `WATCHDOG=1`
    Watchdog,
    /// `WATCHDOG=trigger`
    WatchdogTrigger,
    /// `WATCHDOG_USEC=`, microseconds.
    WatchdogUsec(u64),
    /// `EXTEND_TIMEOUT_USEC=`, microseconds.
    ExtendTimeoutUsec(u64),
    /// `ERRNO=`
    Errno(i32),
    /// `MAINPID=`
    MainPid(u32),
    /// `BARRIER=1`
    Barrier,
    /// `X_RATOON_INFO=`
    Info(serde_json::Map<String, serde_json::Value>),
    /// `X_RATOON_COUNTERS=`: running totals, each finite and at least 0.
    Counters(BTreeMap<String, f64>),
    /// An invalid value of this key: ignored, and logged.
    Bad(&'static str),
    /// An unknown key, or a line without `=`.
    Unknown,
}

/// The reason why a datagram is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// The datagram has no assignment.
    Empty,
    /// The datagram has a NUL before its end.
    Nul,
}

impl std::fmt::Display for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Bad::Empty => "an empty message",
            Bad::Nul => "a message with a NUL inside",
        })
    }
}

impl std::error::Error for Bad {}

/// The longest `X_RATOON_INFO`, bytes.
const INFO_MAX: usize = 3 << 10;
/// The most counters of a worker; also the longest name of a counter, bytes.
pub const COUNTERS_MAX: usize = 64;
/// The largest pid that Linux can have (`PID_MAX_LIMIT`).
const PID_MAX: u64 = 1 << 22;
/// The largest errno.
const ERRNO_MAX: u64 = 4095;

/// The most assignments of one datagram that are read.
const WORDS_MAX: usize = 64;

/// Parses the assignments of one datagram. The result has them in their order, only the first of each kind: 4,096 bytes of small
/// assignments must not cost more than a few. One trailing NUL and any number of newlines are allowed.
pub fn parse(message: &[u8]) -> Result<Vec<Assignment>, Bad> {
    let message = message.strip_suffix(b"\0").unwrap_or(message);
    if message.contains(&0) {
        return Err(Bad::Nul);
    }
    let lines = message.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut words: Vec<Assignment> = Vec::new();
    for word in lines.filter(|line| !line.is_empty()).take(WORDS_MAX).map(word) {
        if !words.iter().any(|said| alike(said, &word)) {
            words.push(word);
        }
    }
    if words.is_empty() { Err(Bad::Empty) } else { Ok(words) }
}

/// Whether two assignments are of the same kind.
fn alike(one: &Assignment, other: &Assignment) -> bool {
    match (one, other) {
        (Assignment::Bad(one), Assignment::Bad(other)) => one == other,
        (one, other) => std::mem::discriminant(one) == std::mem::discriminant(other),
    }
}

fn word(line: &[u8]) -> Assignment {
    let Some(equals) = line.iter().position(|&byte| byte == b'=') else { return Assignment::Unknown };
    let (key, value) = (&line[..equals], &line[equals + 1..]);
    match key {
        b"READY" => only_one(value, Assignment::Ready, "READY"),
        b"STOPPING" => only_one(value, Assignment::Stopping, "STOPPING"),
        b"RELOADING" => only_one(value, Assignment::Reloading, "RELOADING"),
        b"BARRIER" => only_one(value, Assignment::Barrier, "BARRIER"),
        b"WATCHDOG" => match value {
            b"1" => Assignment::Watchdog,
            b"trigger" => Assignment::WatchdogTrigger,
            _ => Assignment::Bad("WATCHDOG"),
        },
        b"STATUS" => Assignment::Status(line_of_text(value)),
        b"WATCHDOG_USEC" => number(value).map_or(Assignment::Bad("WATCHDOG_USEC"), Assignment::WatchdogUsec),
        b"EXTEND_TIMEOUT_USEC" => number(value).map_or(Assignment::Bad("EXTEND_TIMEOUT_USEC"), Assignment::ExtendTimeoutUsec),
        b"ERRNO" => match number(value) {
            Some(errno @ 0..=ERRNO_MAX) => Assignment::Errno(errno as i32),
            _ => Assignment::Bad("ERRNO"),
        },
        b"MAINPID" => match number(value) {
            Some(pid @ 1..=PID_MAX) => Assignment::MainPid(pid as u32),
            _ => Assignment::Bad("MAINPID"),
        },
        b"X_RATOON_INFO" => info(value).map_or(Assignment::Bad("X_RATOON_INFO"), Assignment::Info),
        b"X_RATOON_COUNTERS" => counters(value).map_or(Assignment::Bad("X_RATOON_COUNTERS"), Assignment::Counters),
        _ => Assignment::Unknown,
    }
}

/// The assignment of a key whose only valid value is 1; `READY=0` is invalid.
fn only_one(value: &[u8], word: Assignment, key: &'static str) -> Assignment {
    if value == b"1" { word } else { Assignment::Bad(key) }
}

fn number(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?.trim();
    // Digits only, because `parse` would accept a plus sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The value as text for people: invalid UTF-8 and control characters are replaced.
fn line_of_text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn info(value: &[u8]) -> Option<serde_json::Map<String, serde_json::Value>> {
    if value.len() > INFO_MAX {
        return None;
    }
    serde_json::from_slice(value).ok()
}

fn counters(value: &[u8]) -> Option<BTreeMap<String, f64>> {
    let counters: BTreeMap<String, f64> = serde_json::from_slice(value).ok()?;
    let sane = |(name, total): (&String, &f64)| {
        (1..=COUNTERS_MAX).contains(&name.len()) && !name.contains(char::is_control) && total.is_finite() && *total >= 0.0
    };
    (counters.len() <= COUNTERS_MAX && counters.iter().all(sane)).then_some(counters)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> Assignment {
        let mut words = parse(text.as_bytes()).unwrap();
        assert_eq!(words.len(), 1, "{text:?}");
        words.remove(0)
    }

    #[test]
    fn every_assignment_of_the_contract() {
        let text = "READY=1\nSTATUS=all is well = fine\nSTOPPING=1\nRELOADING=1\nWATCHDOG=1\nWATCHDOG=trigger\nWATCHDOG_USEC=20000000\n\
            EXTEND_TIMEOUT_USEC=18446744073709551615\nERRNO=2\nMAINPID=4711\nBARRIER=1\nFDSTORE=1\nnonsense\nX_RATOON_INFO={\"a\":[1]}\n\
            X_RATOON_COUNTERS={\"requests\": 12, \"seconds\": 0.5}";
        let info = serde_json::json!({"a": [1]}).as_object().unwrap().clone();
        let counters = BTreeMap::from([("requests".to_owned(), 12.0), ("seconds".to_owned(), 0.5)]);
        assert_eq!(
            parse(text.as_bytes()).unwrap(),
            [
                Assignment::Ready,
                Assignment::Status("all is well = fine".to_owned()),
                Assignment::Stopping,
                Assignment::Reloading,
                Assignment::Watchdog,
                Assignment::WatchdogTrigger,
                Assignment::WatchdogUsec(20_000_000),
                Assignment::ExtendTimeoutUsec(u64::MAX),
                Assignment::Errno(2),
                Assignment::MainPid(4711),
                Assignment::Barrier,
                Assignment::Unknown,
                Assignment::Info(info),
                Assignment::Counters(counters),
            ]
        );
    }

    #[test]
    fn newlines_and_one_nul_at_the_end_are_allowed() {
        for text in ["READY=1", "READY=1\n", "READY=1\n\n\n", "\n\nREADY=1", "READY=1\0", "READY=1\n\0", "READY=1\r\n"] {
            assert_eq!(one(text), Assignment::Ready, "{text:?}");
        }
        for text in ["READY=1\0\0", "READY=1\0STATUS=x", "\0READY=1"] {
            assert_eq!(parse(text.as_bytes()), Err(Bad::Nul), "{text:?}");
        }
        for text in ["", "\n", "\0", "\r\n\n"] {
            assert_eq!(parse(text.as_bytes()), Err(Bad::Empty), "{text:?}");
        }
    }

    #[test]
    fn a_status_is_one_clean_line() {
        assert_eq!(parse(b"STATUS=gr\xfc\xdfe").unwrap(), [Assignment::Status("gr\u{fffd}\u{fffd}e".to_owned())]);
        assert_eq!(one("STATUS=\x1b[31mred\u{7}\tend"), Assignment::Status("\u{fffd}[31mred\u{fffd}\u{fffd}end".to_owned()));
        assert_eq!(one("STATUS="), Assignment::Status(String::new()));
        // A newline ends the status; the next line is another assignment, as for PID 1.
        assert_eq!(parse(b"STATUS=a\nREADY=1").unwrap(), [Assignment::Status("a".to_owned()), Assignment::Ready]);
    }

    #[test]
    fn a_bad_value_spoils_only_itself() {
        for (text, key) in [
            ("READY=0", "READY"),
            ("READY=", "READY"),
            ("WATCHDOG=2", "WATCHDOG"),
            ("WATCHDOG_USEC=-1", "WATCHDOG_USEC"),
            ("WATCHDOG_USEC=", "WATCHDOG_USEC"),
            ("EXTEND_TIMEOUT_USEC=+5", "EXTEND_TIMEOUT_USEC"),
            ("EXTEND_TIMEOUT_USEC=18446744073709551616", "EXTEND_TIMEOUT_USEC"),
            ("ERRNO=4096", "ERRNO"),
            ("MAINPID=0", "MAINPID"),
            ("MAINPID=4194305", "MAINPID"),
            ("X_RATOON_INFO=[]", "X_RATOON_INFO"),
            ("X_RATOON_INFO={", "X_RATOON_INFO"),
            ("X_RATOON_COUNTERS={\"a\":-1}", "X_RATOON_COUNTERS"),
            ("X_RATOON_COUNTERS={\"a\":\"1\"}", "X_RATOON_COUNTERS"),
            ("X_RATOON_COUNTERS={\"a\":1e999}", "X_RATOON_COUNTERS"),
            ("X_RATOON_COUNTERS={\"\":1}", "X_RATOON_COUNTERS"),
            ("X_RATOON_COUNTERS={\"a\\n\":1}", "X_RATOON_COUNTERS"),
        ] {
            assert_eq!(
                parse(format!("{text}\nREADY=1").as_bytes()).unwrap(),
                [Assignment::Bad(key), Assignment::Ready],
                "{text:?}"
            );
        }
    }

    #[test]
    fn of_each_kind_the_first_counts() {
        let flood = "MAINPID=7\nMAINPID=8\nSTATUS=a\nSTATUS=b\nERRNO=x\nERRNO=y\n?\n!\n".repeat(100);
        assert_eq!(
            parse(flood.as_bytes()).unwrap(),
            [Assignment::MainPid(7), Assignment::Status("a".to_owned()), Assignment::Bad("ERRNO"), Assignment::Unknown]
        );
        let late = format!("{}READY=1", "?\n".repeat(WORDS_MAX));
        assert_eq!(parse(late.as_bytes()).unwrap(), [Assignment::Unknown]);
    }

    #[test]
    fn objects_are_bounded() {
        let info = |length: usize| format!("X_RATOON_INFO={{\"a\":\"{}\"}}", "x".repeat(length - 8));
        assert!(matches!(one(&info(INFO_MAX)), Assignment::Info(_)));
        assert_eq!(one(&info(INFO_MAX + 1)), Assignment::Bad("X_RATOON_INFO"));
        let counters = |count: usize| {
            let entries: Vec<String> = (0..count).map(|n| format!("\"c{n}\":{n}")).collect();
            format!("X_RATOON_COUNTERS={{{}}}", entries.join(","))
        };
        assert!(matches!(one(&counters(64)), Assignment::Counters(map) if map.len() == 64));
        assert_eq!(one(&counters(65)), Assignment::Bad("X_RATOON_COUNTERS"));
        let named = |length: usize| format!("X_RATOON_COUNTERS={{\"{}\":1}}", "n".repeat(length));
        assert!(matches!(one(&named(64)), Assignment::Counters(_)));
        assert_eq!(one(&named(65)), Assignment::Bad("X_RATOON_COUNTERS"));
        // The parser refuses deep nesting before the stack overflows.
        assert_eq!(one(&format!("X_RATOON_INFO={{\"a\":{}", "[".repeat(3000))), Assignment::Bad("X_RATOON_INFO"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let words = parse(&bytes);
            let nul = bytes.strip_suffix(b"\0").unwrap_or(&bytes).contains(&0);
            prop_assert_eq!(words == Err(Bad::Nul), nul);
        }

        #[test]
        fn any_value_under_any_key_is_parsed_without_a_panic(
            key in prop::sample::select(vec!["READY", "STATUS", "WATCHDOG_USEC", "ERRNO", "MAINPID", "X_RATOON_INFO", "X_RATOON_COUNTERS"]),
            value in "[^\n\0]{0,200}",
        ) {
            let words = parse(format!("{key}={value}").as_bytes()).unwrap();
            for word in &words {
                if let Assignment::Status(text) = word {
                    prop_assert!(!text.contains(char::is_control));
                }
            }
        }
    }
}
