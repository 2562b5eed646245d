//! The first and the last lines of one worker.

use std::collections::VecDeque;

use super::{HEAD_LINES, TAIL_LINE_MAX, TAIL_LINES};
use crate::master::log::text::one_line;

/// Lines that a program printed, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Printed {
    /// The first lines, unless they are among the last ones.
    pub head: Vec<String>,
    /// The last lines.
    pub tail: Vec<String>,
}

impl Printed {
    /// All lines in their order; lines between the first and the last ones may be missing.
    pub fn lines(&self) -> Vec<String> {
        self.head.iter().chain(&self.tail).cloned().collect()
    }
}

/// The first [`HEAD_LINES`] and the last [`TAIL_LINES`] lines, each at most [`TAIL_LINE_MAX`] bytes. The bytes are made printable
/// only when requested.
#[derive(Debug, Default)]
pub struct Tail {
    head: Vec<Vec<u8>>,
    /// The last lines after the head.
    rest: VecDeque<Vec<u8>>,
}

impl Tail {
    /// Adds a line, without its line feed; a blank line is left out.
    pub fn push(&mut self, line: &[u8]) {
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        // Keep one byte more than is shown, to see that the line was cut.
        let line = &line[..line.len().min(TAIL_LINE_MAX + 1)];
        if self.head.len() < HEAD_LINES {
            return self.head.push(line.to_vec());
        }
        // Reuse the oldest line's memory.
        let mut kept = if self.rest.len() < TAIL_LINES { Vec::new() } else { self.rest.pop_front().unwrap_or_default() };
        kept.clear();
        kept.extend_from_slice(line);
        self.rest.push_back(kept);
    }

    /// The raw lines, oldest first, from which another tail can go on.
    pub fn raw(&self) -> Vec<Vec<u8>> {
        self.head.iter().chain(&self.rest).cloned().collect()
    }

    /// The first and the last lines, printable.
    pub fn printed(&self) -> Printed {
        let mut head: Vec<String> = self.head.iter().chain(&self.rest).map(|line| one_line(line, TAIL_LINE_MAX)).collect();
        let tail = head.split_off(head.len().saturating_sub(TAIL_LINES));
        Printed { head, tail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(count: usize) -> Tail {
        let mut tail = Tail::default();
        (1..=count).for_each(|n| tail.push(format!("line {n}").as_bytes()));
        tail
    }

    #[test]
    fn tail_keeps_first_and_last_lines_and_none_too_long() {
        let mut tail = of(99);
        tail.push(b"");
        tail.push(&[b'x'; 5000]);
        let Printed { head, tail } = tail.printed();
        assert_eq!((head.len(), tail.len()), (HEAD_LINES, TAIL_LINES));
        assert_eq!((head[0].as_str(), head[9].as_str(), tail[0].as_str()), ("line 1", "line 10", "line 81"));
        assert!(tail[19].len() <= TAIL_LINE_MAX && tail[19].ends_with('…'));
    }

    #[test]
    fn tail_shows_no_line_twice() {
        for count in [0, 1, 10, 19, 20, 21, 25, 30] {
            let printed = of(count).printed();
            assert_eq!(printed.tail.len(), count.min(TAIL_LINES));
            let expected: Vec<String> = (1..=count).map(|n| format!("line {n}")).collect();
            assert_eq!(printed.lines(), expected);
        }
    }

    #[test]
    fn tail_goes_on_from_its_raw_lines() {
        let (before, mut after) = (of(500), Tail::default());
        before.raw().iter().for_each(|line| after.push(line));
        assert_eq!(after.printed(), before.printed());
    }
}
