//! Bytes of every kind for all that reads from outside: never a panic, never a hang, never more memory than a bound.
//!
//! `RATOON_FUZZ` is how many inputs each reader gets; few by default, millions on a quiet machine. What once broke a reader
//! is in `tests/faults/corpus/` and is read first.

use std::os::fd::IntoRawFd;
use std::path::Path;

use super::dice::{Dice, count};
use super::harness::processes;

/// Resident memory of the test itself, KiB.
fn own_memory() -> u64 {
    processes::facts(std::process::id())["VmRSS"].trim_end_matches(" kB").parse().expect("a number")
}

/// Gives a reader its inputs.
fn feed(name: &str, pieces: &[&[u8]], most: usize, read: impl Fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/corpus").join(name);
    let entries = std::fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
    let known: Vec<_> = entries.flatten().map(|entry| std::fs::read(entry.path()).expect("a file")).collect();
    known.iter().for_each(|input| read(input));
    let mut dice = Dice(0x5EED);
    let mut memory = None;
    for number in 0..count(20_000) {
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
        let Ok(words) = ratoon::master::workers::sd_notify::parse(&input[..input.len().min(4096)]) else { return };
        assert!(words.len() <= 64);
        for word in words {
            if let ratoon::master::workers::sd_notify::Assignment::Status(text) = word {
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

/// The sockets that a service manager announces. In a process of its own: what is announced is taken, whoever owns it.
#[test]
fn announcements_of_sockets() {
    const OWN: &str = "RATOON_FUZZ_OWN_PROCESS";
    if std::env::var_os(OWN).is_none() {
        let mut again = std::process::Command::new(std::env::current_exe().expect("this program"));
        again.args(["--exact", "fuzz::announcements_of_sockets", "--nocapture", "--test-threads=1"]);
        let output = again.env(OWN, "1").output().expect("this program");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    // SAFETY: what whoever started the tests left open is nobody's here.
    assert!(unsafe { libc::close_range(3, u32::MAX, 0) } == 0);
    let own = std::process::id().to_string();
    let pieces: [&[u8]; 17] = [
        own.as_bytes(),
        b"0",
        b"1",
        b"2",
        b"3",
        b"-1",
        b" ",
        b":",
        b"::",
        b"web",
        b"ratoon-worker-1",
        b"unknown",
        b"2000000000",
        b"18446744073709551615",
        b"18446744073709551616",
        b"\xff",
        b"\n",
    ];
    feed("announcements", &pieces, 8, |input| {
        // Two descriptors are there, whatever is said of them: all that this process has beside its standard streams.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
        let numbers = [listener.into_raw_fd(), 5];
        // SAFETY: number 5 is nobody's in this process, which runs this test alone.
        assert!(unsafe { libc::dup2(numbers[0], numbers[1]) } == numbers[1]);
        let mut values = input.split(|&byte| byte == b'\n');
        let mut value = || std::ffi::OsString::from(String::from_utf8_lossy(values.next().unwrap_or(b"2")).into_owned());
        let (count, names, pidfd) = (value(), value(), value());
        let inherited = ratoon::master::listeners::sockets::from_systemd(|name| match name {
            "LISTEN_PID" => Some(own.clone().into()),
            "LISTEN_FDS" => Some(count.clone()),
            "LISTEN_FDNAMES" => Some(names.clone()),
            "LISTEN_PIDFDID" if input.len() % 7 == 0 => Some(pidfd.clone()),
            _ => None,
        });
        if let Ok(Some(inherited)) = inherited {
            assert!(inherited.listeners.len() + inherited.stored.len() <= 2);
            assert!(inherited.warnings.len() < 8);
        }
        for number in numbers {
            // SAFETY: whatever was taken is closed by now; these two are nobody's but ours if they are still there.
            unsafe { libc::close(number) };
        }
    });
}
