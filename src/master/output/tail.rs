//! The last lines of one worker.

use std::collections::VecDeque;

use super::{TAIL_LINE_MAX, TAIL_LINES};
use crate::master::text::one_line;

/// The last [`TAIL_LINES`] lines, of each at most [`TAIL_LINE_MAX`] bytes; made readable only when asked for.
#[derive(Debug, Default)]
pub(super) struct Tail(VecDeque<Vec<u8>>);

impl Tail {
    /// Adds a line (without its line feed); empty ones say nothing and are left out.
    pub fn push(&mut self, line: &[u8]) {
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        // A busy worker's lines use the same memory again and again.
        let mut kept = if self.0.len() < TAIL_LINES { Vec::new() } else { self.0.pop_front().unwrap_or_default() };
        kept.clear();
        // One byte more than is shown, to see that something was cut.
        kept.extend_from_slice(&line[..line.len().min(TAIL_LINE_MAX + 1)]);
        self.0.push_back(kept);
    }

    /// As they came, for whoever goes on with this tail.
    pub fn raw(&self) -> Vec<Vec<u8>> {
        self.0.iter().cloned().collect()
    }

    /// Oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.0.iter().map(|line| one_line(line, TAIL_LINE_MAX)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_lines_only_and_none_too_long() {
        let mut tail = Tail::default();
        for n in 0..100 {
            tail.push(format!("line {n}").as_bytes());
        }
        tail.push(b"");
        tail.push(&[b'x'; 5000]);
        let lines = tail.lines();
        assert_eq!(lines.len(), TAIL_LINES);
        assert_eq!(lines[0], "line 81");
        assert!(lines[19].len() <= TAIL_LINE_MAX && lines[19].ends_with('…'));
    }
}
