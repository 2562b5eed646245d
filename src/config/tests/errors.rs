//! The exact words of every error: `snapshots/` holds what is said of each of these texts.

use std::fmt::Write;

use super::read;

/// Each text, and what is said of it.
fn said(texts: &[&str]) -> String {
    let mut all = String::new();
    for text in texts {
        let answer = match read(text) {
            Ok(_) => panic!("nothing is wrong with {text:?}"),
            Err(error) => error,
        };
        writeln!(all, "~~~~~~~~\n{text}\n--------\n{answer}").unwrap();
    }
    all
}

/// The same for lines of `[worker]`, after its command.
fn said_of_worker(lines: &[&str]) -> String {
    let texts: Vec<String> = lines.iter().map(|line| format!("[worker]\ncommand = [\"web\"]\n{line}")).collect();
    said(&texts.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The expression would only repeat what the snapshot shows.
macro_rules! assert_said {
    ($name:literal, $said:expr) => {
        insta::with_settings!({omit_expression => true, prepend_module_to_snapshot => false}, {
            insta::assert_snapshot!($name, $said);
        });
    };
}

#[test]
fn unknown_keys() {
    assert_said!(
        "unknown_keys",
        said_of_worker(&[
            "start_timeuot = \"10s\"",
            "start-timeout = \"10s\"",
            "startTimeout = \"10s\"",
            "workers = 3",
            "xyzzy = 3",
            "memory_max = \"1G\"",
            "limits.memory-max = \"1G\"",
            "[reload]\nstop_timeout = 3",
            "[reload]\nworkers = 3",
            "[reload]\nxyzzy = 3",
            "[reload]\nExecStart = \"/bin/true\"",
            "[releod]\nsurge = 3",
            "[limits]\nmemory_max = 3",
            "[xyzzy]\nmemory_max = 3",
            "[workers]\ncount = 3",
        ])
    );
    assert_said!(
        "unknown_keys_at_the_top",
        said(&["workers = 3", "command = ['a']", "xyzzy = 3\n[worker]\n command=['a']", "limits = 3"])
    );
}

#[test]
fn missing_keys() {
    assert_said!("missing_keys", said(&["", "# nothing\n", "[worker]\ncount = 3", "\n[reload]\nsurge = 1"]));
}
