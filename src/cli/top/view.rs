//! Draws the screen of `ratoon top`. Pure: the state and the time come in, cells go out.
//!
//! Law: foreign text is cleaned before it becomes a cell; no state, size or document makes drawing fail.

mod head;
mod pages;
mod plots;
mod workers;

use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style as Look};
use ratatui::text::{Line, Span};

use super::state::{Page, State};
use crate::cli::screen::{Style, cut};
use crate::cli::status_view::Clock;

/// The line with the main keys.
const KEYS: &str = "q quit  ↑↓ worker  ⏎ its requests  a all requests  f failures  <>r sort  h help";

/// The letters of the picture of slots.
const SLOTS: &str = "each slot: R ready  s starting  d draining  x failed  . empty";
/// Columns and lines from which on a screen has room for the plots, too.
const LARGE: (u16, u16) = (64, 22);
/// How long the last line tells of an event; then it has the keys again.
const SAID_FOR: Duration = Duration::from_secs(20);

/// The data for one drawing.
pub(super) struct View<'a> {
    pub(super) state: &'a State,
    pub(super) clock: &'a Clock,
    pub(super) now: Instant,
    pub(super) colour: bool,
}

impl View<'_> {
    /// Draws the whole screen.
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let mut strips = self.strips();
        let screen = frame.area();
        let is_large = self.state.page == Page::Workers && screen.height >= LARGE.1 && screen.width >= LARGE.0;
        if is_large {
            strips.push(Line::from(self.span(SLOTS, Style::Faint)));
        }
        // On a small screen the table has priority over the pictures.
        let room = screen.height.saturating_sub(8) / 2;
        let pictured = u16::try_from(strips.len()).unwrap_or(u16::MAX).min(room);
        let curves = if is_large { Constraint::Length(3) } else { Constraint::Length(0) };
        let [head, plots, picture, body, foot] = Layout::vertical([
            Constraint::Length(4),
            curves,
            Constraint::Length(pictured),
            Constraint::Min(1),
            Constraint::Length(1),
        ])
        .areas(screen);
        self.head(frame, head);
        self.plots(frame, plots);
        frame.render_widget(ratatui::text::Text::from(strips), picture);
        match self.state.page {
            Page::Workers => self.workers(frame, body),
            Page::Requests(Some(id)) => self.worker(frame, body, id),
            Page::Requests(None) => self.all_requests(frame, body),
            Page::Failures => self.failures(frame, body),
            Page::Help => self.help(frame, body),
        }
        frame.render_widget(self.cut(self.foot(), foot.width), foot);
    }

    /// The last line: the last event, or the keys.
    fn foot(&self) -> Line<'static> {
        let fresh = |at: &Instant| self.now.saturating_duration_since(*at) < SAID_FOR;
        match self.state.said.as_ref().filter(|(.., at)| fresh(at)) {
            Some((text, bad, _)) => {
                let style = if *bad { Style::Bad } else { Style::Faint };
                Line::from(vec![self.span("h keys  q quit  ", Style::Faint), self.span(text.clone(), style)])
            }
            None => Line::from(self.span(KEYS, Style::Faint)),
        }
    }

    /// The line in at most so many columns; a `…` stands for the part that is cut off.
    fn cut(&self, line: Line<'static>, columns: u16) -> Line<'static> {
        let columns = usize::from(columns);
        if line.width() <= columns {
            return line;
        }
        let mut room = columns;
        let mut kept = Line { spans: Vec::new(), ..line.clone() };
        for span in line.spans {
            let takes = span.width();
            // The last column is for the mark, as more follows.
            if takes < room {
                room -= takes;
                kept.spans.push(span);
                continue;
            }
            let text = format!("{}…", cut(&span.content, room).trim_end_matches('…'));
            kept.spans.push(Span::styled(cut(&text, room), span.style));
            break;
        }
        kept
    }

    /// A text in a style, with colours if they are used.
    fn span(&self, text: impl Into<String>, style: Style) -> Span<'static> {
        Span::styled(text.into(), self.look(style))
    }

    fn look(&self, style: Style) -> Look {
        let colour = |colour| if self.colour { Look::new().fg(colour) } else { Look::new() };
        match style {
            Style::Plain => Look::new(),
            Style::Good => colour(Color::Green),
            Style::Busy => colour(Color::Yellow),
            Style::Bad => colour(Color::Red),
            Style::Alarm if self.colour => Look::new().fg(Color::White).bg(Color::Red).add_modifier(Modifier::BOLD),
            Style::Alarm => Look::new().add_modifier(Modifier::BOLD | Modifier::REVERSED),
            Style::Strong => Look::new().add_modifier(Modifier::BOLD),
            Style::Faint => Look::new().add_modifier(Modifier::DIM),
        }
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
