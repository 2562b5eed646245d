//! The tables of workers: one table, or the older generations and the newest one side by side.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style as Look};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::View;
use crate::cli::screen::{Style, cut, width};
use crate::cli::top::columns::{ALL, Column, DISPENSABLE};
use crate::cli::top::state::Panel;

/// Blanks between two columns.
const GAP: usize = 2;
/// Columns between two tables.
const BETWEEN: u16 = 3;
/// Smallest width of a table, columns. If two tables side by side would be narrower, they are drawn one below the other.
const NARROW: u16 = 45;

impl View<'_> {
    /// Draws all tables.
    pub(super) fn workers(&self, frame: &mut Frame<'_>, area: Rect) {
        let panels = self.state.panels();
        let (chosen, row) = self.state.cursor(&panels);
        let count = u16::try_from(panels.len()).unwrap_or(1).max(1);
        let parts = vec![Constraint::Fill(1); panels.len()];
        let areas = if area.width / count >= NARROW {
            Layout::horizontal(parts).spacing(BETWEEN).split(area)
        } else {
            Layout::vertical(parts).split(area)
        };
        for (number, (panel, area)) in panels.iter().zip(areas.iter()).enumerate() {
            let row = (number == chosen).then_some(row);
            self.panel(frame, *area, panel, row, panels.len() > 1);
        }
    }

    fn panel(&self, frame: &mut Frame<'_>, area: Rect, panel: &Panel<'_>, cursor: Option<usize>, titled: bool) {
        let lines = usize::from(area.height).saturating_sub(1 + usize::from(titled));
        let (title, table) = if titled {
            let [title, table] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
            (Some(title), table)
        } else {
            (None, area)
        };
        if let Some(title) = title {
            frame.render_widget(self.cut(self.title_of(panel), title.width), title);
        }
        // Scrolls by pages, so that rows do not move at each key.
        let first = cursor.map_or(0, |row| row / lines.max(1) * lines.max(1));
        let shown = panel.workers.iter().skip(first).take(lines).collect::<Vec<_>>();
        let columns = self.fitting(area.width.into(), &shown, titled);
        let head = columns.iter().map(|(column, _)| {
            let mark = match (*column == self.state.sort, self.state.down) {
                (true, true) => "▼",
                (true, false) => "▲",
                (false, _) => "",
            };
            aligned(*column, format!("{}{mark}", column.head())).style(self.look(Style::Faint))
        });
        // The status has what the other columns leave.
        let others = columns.iter().filter(|(column, _)| *column != Column::Status).map(|(_, width)| width + GAP).sum::<usize>();
        let left = usize::from(area.width).saturating_sub(others);
        let rows = shown.iter().enumerate().map(|(number, worker)| {
            let cells = columns.iter().map(|(column, _)| {
                let text = column.text(worker, &self.state.rates, self.clock);
                let text = if *column == Column::Status { cut(&text, left) } else { text };
                aligned(*column, text).style(self.look(column.style(worker, self.state.document.generation)))
            });
            let look = if cursor == Some(first + number) { Look::new().add_modifier(Modifier::REVERSED) } else { Look::new() };
            Row::new(cells).style(look)
        });
        let widths = columns.iter().map(|(column, width)| match column {
            Column::Status => Constraint::Fill(1),
            _ => Constraint::Length(u16::try_from(*width).unwrap_or(u16::MAX)),
        });
        let gap = u16::try_from(GAP).unwrap_or(2);
        frame.render_widget(Table::new(rows, widths).header(Row::new(head)).column_spacing(gap), table);
        if panel.workers.is_empty() {
            frame.render_widget(Paragraph::new("no worker"), Rect { y: table.y.saturating_add(1), ..table }.intersection(table));
        }
    }

    fn title_of(&self, panel: &Panel<'_>) -> Line<'static> {
        let numbers = panel.generations.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let committed = self.state.document.generation;
        let role = match panel.generations.last() {
            Some(newest) if *newest > committed => "new",
            Some(newest) if *newest == committed => "serving",
            _ => "old",
        };
        let of = |state: &str| panel.workers.iter().filter(|worker| worker.state == state).count();
        let counts = ["ready", "starting", "draining"].map(|state| (state, of(state)));
        let counts = counts.iter().filter(|(_, count)| *count > 0).map(|(state, count)| format!("{count} {state}"));
        let text = format!("generation {numbers}, {role}: {}", counts.collect::<Vec<_>>().join(", "));
        Line::from(self.span(text, Style::Strong))
    }

    /// The columns for which there is room, with their widths.
    fn fitting(&self, room: usize, workers: &[&&crate::status::tree::Worker], titled: bool) -> Vec<(Column, usize)> {
        let wide = |column: Column| {
            let texts = workers.iter().map(|worker| width(&column.text(worker, &self.state.rates, self.clock)));
            // The name of the sort column has the mark of the order behind it.
            texts.max().unwrap_or(0).max(width(column.head()) + usize::from(column == self.state.sort))
        };
        let mut columns = ALL.map(|column| (column, wide(column))).to_vec();
        // A table with a title has no generation column, because the title names the generations.
        if titled {
            columns.retain(|(column, _)| *column != Column::Generation);
        }
        let taken = |columns: &[(Column, usize)]| {
            let texts = columns.iter().map(|(column, width)| if *column == Column::Status { 8 } else { *width });
            texts.sum::<usize>() + GAP * columns.len().saturating_sub(1)
        };
        for column in DISPENSABLE {
            if taken(&columns) <= room {
                break;
            }
            columns.retain(|(it, _)| *it != column || *it == self.state.sort);
        }
        columns
    }
}

fn aligned(column: Column, text: String) -> Cell<'static> {
    let side = if column.right() { Alignment::Right } else { Alignment::Left };
    Cell::from(Text::from(text).alignment(side))
}
