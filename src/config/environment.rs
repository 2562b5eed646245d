//! Environment variables: environment files as systemd's `EnvironmentFile=` reads them, and the merge of all sources.
//!
//! The syntax is that of `systemd.exec(5)`: `NAME=value` lines, `#` and `;` comments, single and double quotes.
//! A backslash at the end of a line joins it with the next, and nothing is expanded. A line that systemd skips with a warning
//! is an error here. A comment ends with its line, as in systemd since version 254.
//!
//! Law: an error never quotes a value. These files hold passwords, and errors appear in a status that anybody may read.

use std::iter::Peekable;
use std::path::Path;
use std::str::Chars;

use super::error::{Error, quoted};
use super::file;
use super::types::Config;

/// Longest `NAME=value` that the kernel takes, in bytes (`MAX_ARG_STRLEN` of `execve(2)`, less the final NUL).
const ASSIGNMENT_MAX: usize = 131_071;
/// Variables that the master sets for each worker; the configuration may not set them.
const OURS: &[&str] =
    &["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

impl Config {
    /// The variables to add to the master's own, read anew at each call. Later sources win: `worker.environment`, then the
    /// files in their order (as in systemd, `EnvironmentFile=` wins over `Environment=`), then the flags.
    /// Each name occurs once. Relative files are looked up in `base_directory`.
    ///
    /// # Errors
    /// A file that cannot be read or has a bad line.
    pub fn environment(&self, base_directory: &Path) -> Result<Vec<(String, String)>, Error> {
        self.environment_with(base_directory, |_| ())
    }

    /// As [`Config::environment`]; `before` is called with the path of each file before it is read.
    ///
    /// # Errors
    /// As [`Config::environment`].
    pub fn environment_with(&self, base_directory: &Path, before: impl Fn(&Path)) -> Result<Vec<(String, String)>, Error> {
        let mut merged = self.worker.environment.clone();
        for listed in &self.worker.environment_file {
            let (path, may_be_missing) = match listed.to_str().and_then(|path| path.strip_prefix('-')) {
                Some(path) => (Path::new(path), true),
                None => (listed.as_path(), false),
            };
            let path = base_directory.join(path);
            before(&path);
            let text = if may_be_missing {
                file::read_if_there(&path, file::Kind::Environment)?
            } else {
                Some(file::read(&path, file::Kind::Environment)?)
            };
            if let Some(text) = text {
                let assignments = parse(&text)
                    .map_err(|(line, message)| Error::elsewhere(format_args!("{}:{line}", path.display()), message))?;
                merged.extend(assignments);
            }
        }
        merged.extend(self.worker.environment_override.iter().cloned());
        Ok(last_of_each(merged))
    }
}

/// Keeps the last value of each name, at the position of the name's first occurrence.
fn last_of_each(all: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut places = std::collections::HashMap::new();
    let mut kept: Vec<(String, String)> = Vec::new();
    for (name, value) in all {
        match places.get(&name) {
            Some(&place) => {
                let (_, old): &mut (String, String) = &mut kept[place];
                *old = value;
            }
            None => {
                places.insert(name.clone(), kept.len());
                kept.push((name, value));
            }
        }
    }
    kept
}

/// Splits `NAME=value` and checks both parts.
pub(super) fn assignment(text: &str) -> Result<(String, String), String> {
    let Some((name, value)) = text.split_once('=') else {
        return Err("this is no assignment: it has no \"=\"; write \"NAME=value\"".to_owned());
    };
    check_name(name)?;
    check_value(name, value)?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Checks the name of a variable.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.strip_prefix("export").is_some_and(|rest| rest.starts_with([' ', '\t'])) {
        return Err("no shell reads this; leave out the word \"export\"".to_owned());
    }
    if name.starts_with(|c: char| c.is_ascii_digit())
        || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        || name.is_empty()
    {
        return Err(format!(
            "{} is no name of a variable; it may have letters, digits and _, and begins with no digit",
            quoted(name)
        ));
    }
    if OURS.contains(&name) || name.starts_with("RATOON_") {
        return Err(format!("the variable {} is set by Ratoon itself for each worker; remove it here", quoted(name)));
    }
    Ok(())
}

/// Checks the value of the variable `name`.
pub(super) fn check_value(name: &str, value: &str) -> Result<(), String> {
    if value.contains('\0') {
        return Err(format!("the value of {name} has a NUL byte in it, which no environment can hold"));
    }
    let length = name.len() + 1 + value.len();
    if length > ASSIGNMENT_MAX {
        return Err(format!("{name} and its value are {length} bytes; the kernel takes {ASSIGNMENT_MAX} at most"));
    }
    Ok(())
}

/// The assignments of a file, or the line of the first error (from 1) and its message.
fn parse(text: &str) -> Result<Vec<(String, String)>, (usize, String)> {
    let mut scanner = Scanner { rest: text.strip_prefix('\u{feff}').unwrap_or(text).chars().peekable(), line: 1 };
    let mut assignments = Vec::new();
    while let Some(first) = scanner.rest.peek().copied() {
        let line = scanner.line;
        match first {
            '#' | ';' => scanner.skip_line(),
            c if c.is_ascii_whitespace() => {
                scanner.next();
            }
            _ => {
                let name = scanner
                    .name()
                    .ok_or_else(|| (line, "this line has no \"=\"; write NAME=value, or # before a comment".to_owned()))?;
                check_name(&name).map_err(|message| (line, message))?;
                let value = scanner.value().map_err(|(at, reason)| (at, format!("{reason} in the value of {name}")))?;
                check_value(&name, &value).map_err(|message| (line, message))?;
                assignments.push((name, value));
            }
        }
    }
    Ok(assignments)
}

struct Scanner<'t> {
    rest: Peekable<Chars<'t>>,
    line: usize,
}

impl Scanner<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.next();
        if c == Some('\n') {
            self.line += 1;
        }
        c
    }

    fn skip_line(&mut self) {
        while let Some(c) = self.next() {
            if is_newline(c) {
                break;
            }
        }
    }

    /// Reads the name up to the `=`; `None` when the line ends before.
    fn name(&mut self) -> Option<String> {
        let mut name = String::new();
        loop {
            match self.next()? {
                '=' => break,
                c if is_newline(c) => return None,
                c => name.push(c),
            }
        }
        name.truncate(name.trim_end().len());
        Some(name)
    }

    /// Reads the value up to the end of a line that no backslash joins with the next. Quoted parts come first, one after the other;
    /// in the text after them, quotes are ordinary characters.
    fn value(&mut self) -> Result<String, (usize, &'static str)> {
        let mut value = String::new();
        loop {
            match self.rest.peek().copied() {
                Some(c) if !is_newline(c) && c.is_ascii_whitespace() => {
                    self.next();
                }
                Some('\'') => self.single_quoted(&mut value)?,
                Some('"') => self.double_quoted(&mut value)?,
                _ => break,
            }
        }
        let quoted = value.len();
        // White space at the end is stripped, except next to a backslash (before or after it).
        let mut keep = quoted;
        while let Some(c) = self.next() {
            match c {
                '\\' => {
                    if let Some(escaped) = self.next().filter(|escaped| !is_newline(*escaped)) {
                        value.push(escaped);
                    }
                    keep = value.len();
                }
                c if is_newline(c) => break,
                c => {
                    value.push(c);
                    if !c.is_ascii_whitespace() {
                        keep = value.len();
                    }
                }
            }
        }
        value.truncate(keep);
        Ok(value)
    }

    fn single_quoted(&mut self, value: &mut String) -> Result<(), (usize, &'static str)> {
        let line = self.line;
        self.next();
        loop {
            match self.next().ok_or((line, "a ' is never closed"))? {
                '\'' => return Ok(()),
                c => value.push(c),
            }
        }
    }

    fn double_quoted(&mut self, value: &mut String) -> Result<(), (usize, &'static str)> {
        let line = self.line;
        let open = (line, "a \" is never closed");
        self.next();
        loop {
            match self.next().ok_or(open)? {
                '"' => return Ok(()),
                '\\' => match self.next().ok_or(open)? {
                    c @ ('"' | '\\' | '`' | '$') => value.push(c),
                    '\n' => {}
                    c => value.extend(['\\', c]),
                },
                c => value.push(c),
            }
        }
    }
}

fn is_newline(c: char) -> bool {
    matches!(c, '\n' | '\r')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The assignments of the text, as `NAME=value`.
    fn read(text: &str) -> Vec<String> {
        parse(text).unwrap().into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn as_systemd_reads_it() {
        for (text, expected) in [
            ("", &[][..]),
            ("A=1", &["A=1"]),
            ("A=1\nB=2\n", &["A=1", "B=2"]),
            ("A=1\r\nB=2\r\n", &["A=1", "B=2"]),
            ("\u{feff}A=1", &["A=1"]),
            ("A=\n", &["A="]),
            ("  A \t= 1 \t\n", &["A=1"]),
            ("# a comment\n; another\n  # a third\nA=1 # not one", &["A=1 # not one"]),
            ("# a comment goes not on \\\nA=1", &["A=1"]),
            ("A=b=c=d", &["A=b=c=d"]),
            ("A=b\\\nc", &["A=bc"]),
            ("A=b\\ \n", &["A=b "]),
            ("A=b \\\n", &["A=b "]),
            ("A=b\\\\c\\x", &["A=b\\cx"]),
            ("A=$HOME `id` $(id) ~ *", &["A=$HOME `id` $(id) ~ *"]),
            ("A=' b '", &["A= b "]),
            ("A=' b\\\n\"$c\n'", &["A= b\\\n\"$c\n"]),
            ("A=\" b \"", &["A= b "]),
            ("A=\"b\\\nc\"", &["A=bc"]),
            ("A=\"b\nc\"\nD=1", &["A=b\nc", "D=1"]),
            ("A=\"\\\" \\\\ \\` \\$ \\n\"", &["A=\" \\ ` $ \\n"]),
            ("A=\"b\" 'c' d \"e\"", &["A=bcd \"e\""]),
            ("A=b\"c\"", &["A=b\"c\""]),
            ("A=1\nA=2", &["A=1", "A=2"]),
        ] {
            assert_eq!(read(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_a_value() {
        for (text, line, expected) in [
            ("A=1\nsecret\n", 2, "this line has no \"=\"; write NAME=value, or # before a comment"),
            ("secret", 1, "this line has no \"=\"; write NAME=value, or # before a comment"),
            ("A='x\ny'\n\nexport B=secret", 4, "no shell reads this; leave out the word \"export\""),
            ("=secret", 1, "\"\" is no name of a variable; it may have letters, digits and _, and begins with no digit"),
            ("1A=secret", 1, "\"1A\" is no name of a variable; it may have letters, digits and _, and begins with no digit"),
            ("A-B=secret", 1, "\"A-B\" is no name of a variable; it may have letters, digits and _, and begins with no digit"),
            ("A=1\n\nB='secret\n\n", 3, "a ' is never closed in the value of B"),
            ("A=\"secret\\\"", 1, "a \" is never closed in the value of A"),
            ("A=\"secret\\", 1, "a \" is never closed in the value of A"),
            ("A=secret\0", 1, "the value of A has a NUL byte in it, which no environment can hold"),
            ("A\0=secret", 1, "\"A\\0\" is no name of a variable; it may have letters, digits and _, and begins with no digit"),
            ("LISTEN_PID=1", 1, "the variable \"LISTEN_PID\" is set by Ratoon itself for each worker; remove it here"),
            ("WATCHDOG_USEC=1", 1, "the variable \"WATCHDOG_USEC\" is set by Ratoon itself for each worker; remove it here"),
            ("RATOON_X=1", 1, "the variable \"RATOON_X\" is set by Ratoon itself for each worker; remove it here"),
        ] {
            assert_eq!(parse(text), Err((line, expected.to_owned())), "{text:?}");
        }
        // These names resemble the reserved ones, and are allowed.
        assert_eq!(read("LISTEN_ADDRESS=a\nWATCHDOG=b\nRATOON=c").len(), 3);
    }

    #[test]
    fn what_no_exec_would_take() {
        let fits = format!("A={}", "x".repeat(ASSIGNMENT_MAX - 2));
        assert_eq!(read(&fits), [fits.as_str()]);
        let said = "A and its value are 131072 bytes; the kernel takes 131071 at most";
        assert_eq!(parse(&format!("{fits}x")), Err((1, said.to_owned())));
    }

    #[test]
    fn of_each_name_the_last_value_stays() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let merged = last_of_each(vec![pair("A", "1"), pair("B", "2"), pair("A", "3"), pair("A", "4")]);
        assert_eq!(merged, [pair("A", "4"), pair("B", "2")]);
    }

    proptest! {
        #[test]
        fn any_text_ends(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_read_can_be_handed_on(text in "([AB_1 =\\\\\"'#;\nx\r\0é]|A=){0,60}") {
            for (name, value) in parse(&text).unwrap_or_default() {
                prop_assert!(check_name(&name).is_ok());
                prop_assert!(!value.contains('\0'));
            }
        }

        #[test]
        fn a_quoted_value_comes_back(value in "[^\0]{0,40}") {
            let escaped: String = value.chars().flat_map(|c| {
                let escape = matches!(c, '"' | '\\' | '`' | '$').then_some('\\');
                escape.into_iter().chain([c])
            }).collect();
            prop_assert_eq!(parse(&format!("A=\"{escaped}\"\n")), Ok(vec![("A".to_owned(), value)]));
        }
    }
}
