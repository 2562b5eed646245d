//! Output to terminals: widths, colours, safe text, short figures. A closed pipe is no error.

use std::io::{IsTerminal, Write, stderr, stdout};

use crate::sys::errno;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The properties of standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Screen {
    /// Number of columns of a terminal, to which longer lines are cut; `None` for other outputs, where no line is cut.
    pub(super) width: Option<usize>,
    /// Number of lines of a terminal; `None` for other outputs.
    pub(super) height: Option<usize>,
    /// Whether colours are used.
    pub(super) colour: bool,
}

impl Screen {
    /// Reads the size of the terminal; colours are on unless `NO_COLOR` is set or `TERM=dumb`. Other outputs have no size and no colours.
    pub(super) fn of_stdout() -> Self {
        if !stdout().is_terminal() {
            return Screen { width: None, height: None, colour: false };
        }
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let size = rustix::termios::tcgetwinsize(stdout()).ok().filter(|size| size.ws_col > 0);
        Screen {
            width: Some(size.map_or(80, |size| size.ws_col.into())),
            height: Some(size.filter(|size| size.ws_row > 0).map_or(24, |size| size.ws_row.into())),
            colour: !unwanted && !dumb,
        }
    }

    /// The text in a style, if colours are used.
    pub(super) fn paint(&self, text: &str, style: Style) -> String {
        match style.code().filter(|_| self.colour) {
            Some(code) => format!("\x1b[{code}m{text}\x1b[0m"),
            None => text.to_owned(),
        }
    }

    /// A line, cut to the width. The line must not have colours yet.
    pub(super) fn cut(&self, line: &str) -> String {
        match self.width {
            Some(width) => cut(line, width),
            None => line.to_owned(),
        }
    }
}

/// The style of a text, by its meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Style {
    #[default]
    Plain,
    Good,
    Busy,
    Bad,
    /// Nobody serves: nothing on the screen is more important.
    Alarm,
    Strong,
    Faint,
}

impl Style {
    fn code(self) -> Option<&'static str> {
        match self {
            Style::Plain => None,
            Style::Good => Some("32"),
            Style::Busy => Some("33"),
            Style::Bad => Some("31"),
            Style::Alarm => Some("1;37;41"),
            Style::Strong => Some("1"),
            Style::Faint => Some("2"),
        }
    }
}

/// Width of a text, in columns.
pub(super) fn width(text: &str) -> usize {
    text.width()
}

/// The text in at most so many columns; a `…` stands for the part that is cut off.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut room = columns.saturating_sub(1);
    let mut kept = String::new();
    for character in text.chars() {
        let takes = character.width().unwrap_or(0);
        if takes > room {
            break;
        }
        room -= takes;
        kept.push(character);
    }
    if columns > 0 {
        kept.push('…');
    }
    kept
}

/// The line, wrapped between words to at most this width, if there is one.
pub(super) fn wrapped(line: &str, room: Option<usize>) -> Vec<String> {
    let Some(room) = room else { return vec![line.to_owned()] };
    let mut lines: Vec<String> = Vec::new();
    for word in line.split(' ') {
        match lines.last_mut().filter(|last| width(last) + 1 + width(word) <= room) {
            Some(last) => {
                last.push(' ');
                last.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Foreign text, made safe for a terminal: no character of it can move the cursor, change colours or the direction of writing, or
/// begin a new line.
pub(super) fn clean(text: &str) -> String {
    text.chars()
        .flat_map(|character| harmless(character).map_or_else(|| character.escape_unicode().collect(), |it| vec![it]))
        .collect()
}

/// Whether a terminal shows this character and does nothing else.
pub(super) fn is_harmless(character: char) -> bool {
    harmless(character) == Some(character)
}

fn harmless(character: char) -> Option<char> {
    match character {
        '\t' | '\n' | '\r' => Some(' '),
        // Bidirectional controls, invisible marks, line and paragraph separators.
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{061c}' => None,
        other if other.is_control() => None,
        other => Some(other),
    }
}

/// Writes a text to standard output. Errors are ignored: a reader that closed the pipe wants no more.
pub(super) fn say(text: &str) {
    let mut out = stdout().lock();
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    let _ = write!(out, "{text}{newline}").and_then(|()| out.flush());
}

/// Writes a text to standard error.
pub(super) fn complain(text: &str) {
    let _ = writeln!(stderr().lock(), "{}", errno::plain(text));
}

/// A number of bytes, in units of 1,024: `812`, `4.1K`, `23M`.
pub(super) fn bytes(count: u64) -> String {
    scaled(count, 1024, ["", "K", "M", "G", "T", "P", "E"])
}

/// A count, in units of 1,000: `99999`, `123k`, `4.1M`.
pub(super) fn number(count: u64) -> String {
    if count < 100_000 { count.to_string() } else { scaled(count, 1000, ["", "k", "M", "G", "T", "P", "E"]) }
}

fn scaled(count: u64, step: u64, units: [&str; 7]) -> String {
    let mut whole = count;
    let mut rest = 0;
    let mut unit = 0;
    while whole >= step && unit + 1 < units.len() {
        rest = whole % step;
        whole /= step;
        unit += 1;
    }
    if unit > 0 && whole < 10 {
        format!("{whole}.{}{}", rest * 10 / step, units[unit])
    } else {
        format!("{whole}{}", units[unit])
    }
}

/// A duration: `31 ms`, `1.2 s`, `12 s`, `5m 12s`, `3h 4m`, `2d 7h`.
pub(super) fn span(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0 => format!("{milliseconds} ms"),
        1..10 => format!("{seconds}.{} s", milliseconds % 1000 / 100),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        let shown = [0, 812, 1024, 4200, 24 << 20, 5 << 40, u64::MAX].map(bytes);
        assert_eq!(shown, ["0", "812", "1.0K", "4.1K", "24M", "5.0T", "15E"]);
        assert_eq!([99_999, 100_000, 4_190_000].map(number), ["99999", "100k", "4.1M"]);
        let spans = [0, 850, 1_270, 12_000, 312_000, 11_040_000, 198_000_000].map(span);
        assert_eq!(spans, ["0 ms", "850 ms", "1.2 s", "12 s", "5m 12s", "3h 4m", "2d 7h"]);
    }

    #[test]
    fn a_cut_text_fits_by_columns() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdef", 5), "abcd…");
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(cut("abc", 0), "");
    }

    #[test]
    fn nothing_that_steers_a_terminal_gets_through() {
        assert_eq!(clean("ok \x1b[2J\x07 \u{202e}evil\u{9b}"), "ok \\u{1b}[2J\\u{7} \\u{202e}evil\\u{9b}");
        assert_eq!(clean("two\nlines\tGrüße 日本"), "two lines Grüße 日本");
    }

    #[test]
    fn colours_only_where_welcome() {
        let plain = Screen { width: None, height: None, colour: false };
        assert_eq!(plain.paint("x", Style::Bad), "x");
        assert_eq!(Screen { colour: true, ..plain }.paint("x", Style::Bad), "\x1b[31mx\x1b[0m");
    }
}
