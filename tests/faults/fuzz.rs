//! Bytes of every kind for all that reads from outside: never a panic, never a hang, never more memory than a bound.
//!
//! `RATOON_FUZZ` is how many inputs each reader gets; few by default, millions on a quiet machine. What once broke a reader
//! is in `tests/faults/corpus/` and is read first.

use std::path::Path;

use super::harness::processes;

const SOME: u64 = 20_000;

fn count() -> u64 {
    std::env::var("RATOON_FUZZ").map_or(SOME, |text| text.parse().expect("RATOON_FUZZ is a number"))
}

/// A small generator (splitmix64): the same inputs for the same number.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a [u8]]) -> &'a [u8] {
        from[self.below(from.len())]
    }

    /// Pieces of what a reader knows, and a few bytes that it does not.
    fn text(&mut self, pieces: &[&[u8]], most: usize) -> Vec<u8> {
        let mut text = Vec::new();
        for _ in 0..self.below(most) {
            match self.below(8) {
                0 => text.push(self.next() as u8),
                1 => text.extend_from_slice(self.next().to_string().as_bytes()),
                2 if !text.is_empty() => {
                    let at = self.below(text.len());
                    text[at] ^= 1 << self.below(8);
                }
                _ => text.extend_from_slice(self.pick(pieces)),
            }
        }
        text
    }
}

/// Resident memory of the test itself, KiB.
fn own_memory() -> u64 {
    processes::facts(std::process::id())["VmRSS"].trim_end_matches(" kB").parse().expect("a number")
}

/// Gives a reader its inputs.
fn feed(name: &str, pieces: &[&[u8]], most: usize, read: impl Fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/corpus").join(name);
    for entry in std::fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display())).flatten() {
        read(&std::fs::read(entry.path()).expect("a file"));
    }
    let mut dice = Dice(0x5EED);
    let mut memory = None;
    for number in 0..count() {
        let seed = dice.0;
        let input = dice.text(pieces, most);
        let began = std::time::Instant::now();
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(&input)));
        assert!(done.is_ok(), "input {number} of seed {seed:#x}: {:?}", input.escape_ascii().to_string());
        assert!(began.elapsed().as_secs() < 10, "slow: {:?}", input.escape_ascii().to_string());
        if number == 1000 {
            memory = Some(own_memory());
        }
    }
    if let Some(memory) = memory {
        // The other tests of this process run beside it.
        let grown = own_memory().saturating_sub(memory);
        assert!(grown < 256 << 10, "{grown} KiB more");
    }
}

#[test]
fn words_of_workers() {
    let pieces: [&[u8]; 34] = [
        b"READY=",
        b"STOPPING=",
        b"RELOADING=",
        b"STATUS=",
        b"WATCHDOG=",
        b"WATCHDOG_USEC=",
        b"EXTEND_TIMEOUT_USEC=",
        b"ERRNO=",
        b"MAINPID=",
        b"BARRIER=",
        b"X_RATOON_INFO=",
        b"X_RATOON_COUNTERS=",
        b"FDSTORE=1",
        b"1",
        b"trigger",
        b"\n",
        b"\n",
        b"\n",
        b"\r\n",
        b"\0",
        b"=",
        b"{",
        b"}",
        b"{\"a\":",
        b"\"",
        b"[",
        b"]",
        b"1e999",
        b"-",
        b"18446744073709551616",
        b"\xff\xfe",
        b"\x1b[",
        b"null",
        b"{\"a\":1}",
    ];
    feed("words", &pieces, 64, |input| {
        let Ok(words) = ratoon::master::words::parse(&input[..input.len().min(4096)]) else { return };
        assert!(words.len() <= 64);
        for word in words {
            if let ratoon::master::words::Word::Status(text) = word {
                assert!(!text.contains(char::is_control));
            }
        }
    });
}

#[test]
fn configurations() {
    let keys: Vec<String> = include_str!("../../examples/web.toml")
        .lines()
        .map(|line| line.trim_start_matches('#'))
        .filter(|line| line.starts_with('[') || line.contains(" = "))
        .flat_map(|line| [format!("{line}\n"), line.split(" = ").next().unwrap_or(line).to_owned()])
        .collect();
    let mut pieces: Vec<&[u8]> = keys.iter().map(String::as_bytes).collect();
    let odd: [&[u8]; 22] = [
        b"\n",
        b" = ",
        b"[",
        b"]",
        b"[[",
        b"]]",
        b"{",
        b"}",
        b"\"",
        b"'",
        b"'''",
        b",",
        b"#",
        b"\\u0000",
        b"\xe2\x80\xae",
        b"10s",
        b"\"512M\"",
        b"-1",
        b"99999999999999999999",
        b"true",
        b"1979-05-27T07:32:00Z",
        b"\t",
    ];
    pieces.extend(odd);
    feed("configuration", &pieces, 40, |input| {
        // What is not UTF-8 is refused before.
        let text = String::from_utf8_lossy(input);
        if let Err(error) = ratoon::config::parse(&text, Path::new("web.toml")) {
            assert!(!error.summary().contains('\n') && error.to_string().len() < 20_000);
        }
    });
}
