//! Columns that line up by display width.

use super::screen::{Screen, Style, clean, cut, width};

/// Number of blanks between two columns.
const GAP: usize = 2;

/// One field of a row.
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell with a text in a style. The text is made safe for a terminal.
    pub(super) fn styled(text: &str, style: Style) -> Self {
        Cell { text: clean(text), style }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Cell::styled(text.as_ref(), Style::Plain)
    }
}

/// A table: rows under a head.
pub(super) struct Table {
    head: Vec<Cell>,
    right: Vec<bool>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these columns; `>` before a name aligns its column to the right.
    pub(super) fn new(columns: &[&str]) -> Self {
        Table {
            head: columns.iter().map(|name| Cell::styled(name.trim_start_matches('>'), Style::Faint)).collect(),
            right: columns.iter().map(|name| name.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, with one cell for each column.
    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.head.len());
        self.rows.push(cells);
    }

    /// All lines, cut to the screen.
    pub(super) fn render(&self, screen: &Screen) -> String {
        let all = || std::iter::once(&self.head).chain(&self.rows);
        let widths = (0..self.head.len())
            .map(|column| all().filter_map(|row| row.get(column)).map(|cell| width(&cell.text)).max().unwrap_or(0))
            .collect::<Vec<_>>();
        all().map(|row| self.line(row, &widths, screen) + "\n").collect()
    }

    fn line(&self, row: &[Cell], widths: &[usize], screen: &Screen) -> String {
        let mut line = String::new();
        // Blanks are written only before a text, so that no line ends with blanks.
        let mut blanks = 0;
        let mut room = screen.width.unwrap_or(usize::MAX);
        for ((cell, wanted), right) in row.iter().zip(widths).zip(&self.right) {
            let padding = wanted.saturating_sub(width(&cell.text));
            if *right {
                blanks += padding;
            }
            if !cell.text.is_empty() && blanks < room {
                let text = cut(&cell.text, room - blanks);
                room -= blanks + width(&text);
                line.extend(std::iter::repeat_n(' ', blanks));
                line.push_str(&screen.paint(&text, cell.style));
                blanks = 0;
            }
            blanks += GAP + if *right { 0 } else { padding };
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_the_screen_cuts() {
        let mut table = Table::new(&["NAME", ">N", "TEXT"]);
        table.row(vec!["日本".into(), "7".into(), "short".into()]);
        table.row(vec!["web".into(), "1234".into(), "longer than the screen".into()]);
        let wide = Screen { width: None, height: None, colour: false };
        assert_eq!(table.render(&wide), "NAME     N  TEXT\n日本     7  short\nweb   1234  longer than the screen\n");
        let narrow = Screen { width: Some(18), ..wide };
        assert_eq!(table.render(&narrow), "NAME     N  TEXT\n日本     7  short\nweb   1234  longe…\n");
    }

    #[test]
    fn an_empty_cell_leaves_no_blanks_at_the_end() {
        let mut table = Table::new(&["A", "B"]);
        table.row(vec!["x".into(), "".into()]);
        assert_eq!(table.render(&Screen { width: None, height: None, colour: false }), "A  B\nx\n");
    }
}
