//! Errors of the configuration: the place, the message, the line itself, and a caret under it.
//!
//! Law: a line of the file is shown so that it cannot harm a terminal or a log.

use std::fmt;
use std::ops::Range;
use std::path::Path;

/// Problems of one file that are shown; further ones are only counted.
pub(super) const SHOWN: usize = 20;
/// Characters shown of a long line.
const WIDTH: usize = 100;

/// All problems of a configuration, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    problems: Vec<Problem>,
    unshown: usize,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    /// Where the problem is: `/etc/ratoon/web.toml:3:9`.
    place: String,
    message: String,
    /// The line and the caret; empty where there is no line.
    excerpt: String,
}

/// Where a problem is.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// At these bytes of the text.
    At(Range<usize>),
    /// Nowhere in the text: something is missing from it.
    Whole,
    /// In the flags.
    Flags,
}

/// The name of the flags in errors.
pub(super) const FLAGS: &str = "command line";

impl Error {
    /// A problem that has no line of a file.
    pub(super) fn elsewhere(place: impl fmt::Display, message: impl Into<String>) -> Self {
        let problem = Problem { place: place.to_string(), message: message.into(), excerpt: String::new() };
        Self { problems: vec![problem], unshown: 0 }
    }

    /// Several problems of `text`.
    pub(super) fn of(name: &Path, text: &str, mut found: Vec<(Place, String)>) -> Self {
        found.sort_by_key(|(place, _)| match place {
            Place::At(span) => span.start,
            Place::Whole | Place::Flags => usize::MAX,
        });
        let unshown = found.len().saturating_sub(SHOWN);
        let problem = |(place, message): (Place, String)| match place {
            Place::At(span) => {
                let position = Position::of(text, span);
                let place = format!("{}:{}:{}", name.display(), position.line, position.column);
                Problem { place, message, excerpt: position.excerpt }
            }
            Place::Whole => Problem { place: format!("{}:1:1", name.display()), message, excerpt: String::new() },
            Place::Flags => Problem { place: FLAGS.to_owned(), message, excerpt: String::new() },
        };
        Self { problems: found.into_iter().take(SHOWN).map(problem).collect(), unshown }
    }

    /// The first problem on one line, for a status or a log: without the excerpt, and with the number of the other problems.
    pub fn summary(&self) -> String {
        let mut line = self.problems.first().map_or_else(String::new, |first| format!("{}: {}", first.place, first.message));
        if let Some(end) = line.find('\n') {
            line.truncate(end);
        }
        match self.problems.len() + self.unshown {
            0 | 1 => line,
            all => format!("{line} (and {} more)", all - 1),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}: {}", problem.place, problem.message)?;
            f.write_str(&problem.excerpt)?;
        }
        match self.unshown {
            0 => Ok(()),
            unshown => write!(f, "\nand {unshown} more"),
        }
    }
}

impl std::error::Error for Error {}

/// The place of some bytes in a text, as a person counts (from 1, in characters), and the excerpt.
struct Position {
    line: usize,
    column: usize,
    excerpt: String,
}

impl Position {
    fn of(text: &str, span: Range<usize>) -> Self {
        let start = text.floor_char_boundary(span.start);
        let end = text.ceil_char_boundary(span.end.max(start));
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let line = text[..line_start].matches('\n').count() + 1;
        let before = text[line_start..start].chars().count();
        let marked = text[start..end.min(line_end)].trim_end().chars().count().max(1);
        let source = text[line_start..line_end].trim_end();
        Self { line, column: before + 1, excerpt: excerpt(line, source, before, marked) }
    }
}

/// The line and the caret under it; of a long line, the part around the caret.
fn excerpt(number: usize, source: &str, before: usize, marked: usize) -> String {
    if source.trim().is_empty() {
        return String::new();
    }
    let skipped = if before < WIDTH * 3 / 4 { 0 } else { before - WIDTH / 2 };
    let shown: String = source.chars().skip(skipped).take(WIDTH).map(harmless).collect();
    let marked = marked.min(WIDTH.saturating_sub(before - skipped)).max(1);
    let number = number.to_string();
    let (margin, indent, carets) = (" ".repeat(number.len()), " ".repeat(before - skipped), "^".repeat(marked));
    format!("\n  {number} | {shown}\n  {margin} | {indent}{carets}")
}

/// Replaces control characters and those that change the direction of writing: they would let a file overwrite the message.
fn harmless(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}') =>
        {
            '\u{fffd}'
        }
        c => c,
    }
}

/// A text in quotes for an error message: escaped, and cut after 60 characters.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
