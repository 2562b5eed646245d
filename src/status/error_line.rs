//! Finds the line of a program's output that looks like its error: the last line of a Python traceback, Node's `Error:` line, Ruby's
//! first line, Java's root cause, Go's panic. Adds the file and the line of the program's own code where the output has them.
//!
//! Law: the output is hostile text. A wrong guess does no harm, since the lines themselves are shown beside it.

/// The longest result, bytes.
const MAX: usize = 500;

/// The error in these lines, which are oldest first; `None` when no line looks like one. Lines in between may be missing.
pub fn error_line<S: AsRef<str>>(lines: &[S]) -> Option<String> {
    let lines: Vec<&str> = lines.iter().map(AsRef::as_ref).collect();
    let finders = [python, java, ruby, node, go, rust, php, perl, plain];
    let mut found = finders.iter().find_map(|find| find(&lines))?;
    if found.len() > MAX {
        let end = (0..=MAX).rev().find(|end| found.is_char_boundary(*end)).unwrap_or_default();
        found.truncate(end);
        found.push('…');
    }
    Some(found)
}

/// The error with the place of the code that raised it.
fn located(error: &str, place: Option<String>) -> String {
    let error = error.trim();
    match place.filter(|place| !error.contains(place.as_str())) {
        Some(place) => format!("{error} ({place})"),
        None => error.to_owned(),
    }
}

/// Python: the first line after the last frame (`  File "app.py", line 3, in f`) that is not indented.
fn python(lines: &[&str]) -> Option<String> {
    let frame = |line: &str| {
        let (file, rest) = line.trim_start().strip_prefix("File \"")?.split_once("\", line ")?;
        let number = rest.split(|c: char| !c.is_ascii_digit()).next().filter(|number| !number.is_empty())?;
        Some((file.to_owned(), number.to_owned()))
    };
    let last = lines.iter().rposition(|line| frame(line).is_some())?;
    let error = lines[last + 1..].iter().find(|line| !line.starts_with([' ', '\t']) && names_exception(line))?;
    let begin = lines[..last].iter().rposition(|line| line.contains("Traceback (most recent call last)")).unwrap_or_default();
    let foreign = |file: &str| ["<", "/lib/python", "/lib64/python", "-packages/"].iter().any(|part| file.contains(part));
    let own = lines[begin..=last].iter().rev().filter_map(|line| frame(line)).find(|(file, _)| !foreign(file));
    Some(located(error, own.map(|(file, number)| format!("{file}:{number}"))))
}

/// Whether a line is the name of an exception, with or without a text: `KeyError: 'port'`.
fn names_exception(line: &str) -> bool {
    let name = line.split(':').next().unwrap_or_default();
    name.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.'))
}

/// Java: the last `Caused by:`, which is the root, else the exception that ended a thread.
fn java(lines: &[&str]) -> Option<String> {
    let at = |line: &&&str| line.trim_start().starts_with("at ");
    let cause = lines.iter().rposition(|line| line.trim_start().starts_with("Caused by: "));
    let thrown = || lines.iter().rposition(|line| line.starts_with("Exception in thread \""));
    let index = cause.or_else(thrown)?;
    let frames = lines[index + 1..].iter().take_while(at);
    let own = frames
        .map(|line| line.trim_start())
        .find(|line| !["at java.", "at javax.", "at jdk.", "at sun."].iter().any(|start| line.starts_with(start)));
    let place = own.and_then(|line| line.split_once('(')).and_then(|(_, place)| place.strip_suffix(')'));
    Some(located(lines[index], place.map(str::to_owned)))
}

/// Ruby: the line before the first `from`, which has the file and the line itself; or Puma's message that an application fails to load.
fn ruby(lines: &[&str]) -> Option<String> {
    if let Some(line) = lines.iter().find(|line| line.starts_with("! Unable to load application: ")) {
        return Some(line.trim_start_matches("! ").to_owned());
    }
    let raised = |line: &str| line.contains(":in `") || line.contains(":in '") || line.ends_with("Error)");
    let from = |line: &&str| line.trim_start() != *line && line.trim_start().starts_with("from ");
    let first = (1..lines.len()).rev().find(|index| {
        let before = lines[index - 1];
        from(&lines[*index]) && !from(&before) && raised(before)
    });
    let alone = || lines.iter().rev().find(|line| line.contains(".rb:") && line.ends_with("Error)") && !from(line)).copied();
    first.map(|index| lines[index - 1]).or_else(alone).map(|line| line.trim().to_owned())
}

/// Node: the last line `SomeError: text` that is followed by frames (`    at …`).
fn node(lines: &[&str]) -> Option<String> {
    let frame = |line: &str| line.starts_with("    at ");
    let error = |line: &str| {
        let line = line.strip_prefix("Uncaught ").unwrap_or(line);
        let name = line.split([':', ' ']).next().unwrap_or_default();
        names_exception(line.split([':', '[']).next().unwrap_or_default().trim_end()) && name.ends_with("Error")
    };
    let index = (0..lines.len()).rev().find(|index| error(lines[*index]) && lines[index + 1..].iter().any(|line| frame(line)))?;
    // Before the error, Node prints the place of the error and below it that line of source code.
    let shown = lines[..index].iter().rev().take(6).find_map(|line| place_of_source(line));
    let foreign = |place: &str| place.starts_with("node:") || place.contains("/node_modules/");
    let frames = || lines[index + 1..].iter().filter(|line| frame(line)).filter_map(|line| place_of_frame(line));
    Some(located(lines[index], shown.or_else(|| frames().find(|place| !foreign(place)))))
}

/// Reads a place that is alone on its line: `/srv/app/server.js:3`.
fn place_of_source(line: &str) -> Option<String> {
    let (file, number) = line.strip_prefix("file://").unwrap_or(line).rsplit_once(':')?;
    let is_place =
        file.starts_with('/') && !file.contains(' ') && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    is_place.then(|| format!("{file}:{number}"))
}

/// The place of `    at f (/srv/app/server.js:3:9)`, without its column.
fn place_of_frame(line: &str) -> Option<String> {
    let place = line.trim().rsplit(['(', ' ']).next()?.trim_end_matches(')');
    let (place, column) = place.strip_prefix("file://").unwrap_or(place).rsplit_once(':')?;
    column.bytes().all(|byte| byte.is_ascii_digit()).then(|| place.to_owned())
}

/// Go: `panic: …` or `fatal error: …`, with the first place outside the runtime.
fn go(lines: &[&str]) -> Option<String> {
    let starts = |line: &&&str| line.starts_with("panic: ") || line.starts_with("fatal error: ");
    let index = lines.iter().position(|line| starts(&line))?;
    let places = lines[index + 1..].iter().filter_map(|line| {
        let place = line.strip_prefix('\t')?.split(' ').next()?;
        place.contains(".go:").then(|| place.to_owned())
    });
    let own = places.into_iter().find(|place| !place.contains("/src/runtime/"));
    Some(located(lines[index], own))
}

/// Rust: `thread 'main' panicked at src/main.rs:4:5:`, and the next line, which has the text of the panic.
fn rust(lines: &[&str]) -> Option<String> {
    let index = lines.iter().rposition(|line| line.starts_with("thread '") && line.contains(" panicked at "))?;
    let text = lines.get(index + 1).filter(|_| lines[index].ends_with(':')).map_or_else(String::new, |text| format!(" {text}"));
    Some(format!("{}{text}", lines[index]))
}

/// PHP: the first fatal error.
fn php(lines: &[&str]) -> Option<String> {
    let fatal = ["Fatal error:", "Parse error:"];
    let found = lines.iter().find(|line| {
        let line = line.strip_prefix("PHP ").unwrap_or(line);
        fatal.iter().any(|start| line.starts_with(start))
    });
    found.map(|line| line.trim().to_owned())
}

/// Perl: the first line that ends with ` at FILE line N.`
fn perl(lines: &[&str]) -> Option<String> {
    let dies = |line: &str| {
        let number = line.strip_suffix('.').and_then(|line| line.rsplit_once(" line ")).filter(|(text, _)| text.contains(" at "));
        number.is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    lines.iter().find(|line| dies(line)).map(|line| line.trim().to_owned())
}

/// Any other program: the last line that has a word for an error.
fn plain(lines: &[&str]) -> Option<String> {
    const WORDS: [&str; 9] =
        ["error", "fatal", "exception", "panic", "cannot ", "can't ", "not found", "denied", "no such file or directory"];
    let speaks = |line: &&&str| {
        let line = line.to_lowercase();
        WORDS.iter().any(|word| line.contains(word))
    };
    lines.iter().rev().find(speaks).map(|line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded output of real programs; the line that begins with `==` has the expected result.
    const RECORDED: &str = include_str!("recorded/tracebacks.txt");

    #[test]
    fn error_line_is_found_in_real_tracebacks() {
        let mut count = 0;
        for section in RECORDED.split("\n== ").skip(1) {
            let mut lines = section.lines();
            let (wanted, all) = (lines.next().expect("what is to be found"), lines.filter(|line| !line.trim().is_empty()));
            let all: Vec<&str> = all.collect();
            assert_eq!(error_line(&all).as_deref(), Some(wanted), "{section}");
            count += 1;
        }
        assert!(count >= 15, "{count} sections");
    }

    #[test]
    fn error_line_is_found_in_first_and_last_lines() {
        for section in RECORDED.split("\n== ").skip(1) {
            let mut lines = section.lines();
            let wanted = lines.next().expect("what is to be found");
            // The lines that are cut out may have the place, but never the error itself.
            let error = wanted.split(" (/").next().unwrap_or_default();
            let all: Vec<&str> = lines.filter(|line| !line.trim().is_empty()).collect();
            let cut = all.len().saturating_sub(20).max(10).min(all.len());
            let shown: Vec<&str> = all[..10.min(all.len())].iter().chain(&all[cut..]).copied().collect();
            assert!(error_line(&shown).is_some_and(|found| found.starts_with(error)), "{section}");
        }
    }

    #[test]
    fn error_line_is_none_without_an_error() {
        assert_eq!(error_line::<&str>(&[]), None);
        assert_eq!(error_line(&["listening on 3", "worker 7 is ready", "bye"]), None);
    }

    #[test]
    fn error_line_is_bounded() {
        let found = error_line(&[format!("error: {}", "é".repeat(1000))]).expect("an error");
        assert!(found.len() <= MAX + '…'.len_utf8() && found.ends_with('…'), "{}", found.len());
    }

    proptest::proptest! {
        #[test]
        fn error_line_takes_any_text(lines in proptest::collection::vec("(  File \"|    at |\tfrom |panic: |Caused by: )?\\PC{0,20}", 0..12)) {
            let _ = error_line(&lines);
        }
    }
}
