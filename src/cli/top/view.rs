//! Draws the screen of `ratoon top`. Pure: the state and the time come in, cells go out.
//!
//! Law: foreign text is cleaned before it becomes a cell; no state, size or document makes drawing fail.

mod head;
mod pages;
mod workers;

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style as Look};
use ratatui::text::{Line, Span};

use super::state::{Page, State};
use crate::cli::screen::Style;
use crate::cli::status_view::Clock;

/// The line with the main keys.
const KEYS: &str = "q quit  ↑↓ worker  ⏎ its requests  a all requests  f failures  <>r sort  h help";

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
        let strips = self.strips();
        // On a small screen the table has priority over the picture.
        let room = frame.area().height.saturating_sub(8) / 2;
        let pictured = u16::try_from(strips.len()).unwrap_or(u16::MAX).min(room);
        let [head, picture, body, foot] =
            Layout::vertical([Constraint::Length(4), Constraint::Length(pictured), Constraint::Min(1), Constraint::Length(1)])
                .areas(frame.area());
        self.head(frame, head);
        frame.render_widget(ratatui::text::Text::from(strips), picture);
        match self.state.page {
            Page::Workers => self.workers(frame, body),
            Page::Requests(Some(id)) => self.worker(frame, body, id),
            Page::Requests(None) => self.all_requests(frame, body),
            Page::Failures => self.failures(frame, body),
            Page::Help => self.help(frame, body),
        }
        frame.render_widget(self.foot(), foot);
    }

    /// The last line: the last event, or the keys.
    fn foot(&self) -> Line<'static> {
        match &self.state.said {
            Some((text, bad)) => {
                let style = if *bad { Style::Bad } else { Style::Faint };
                Line::from(vec![self.span("h keys  q quit  ", Style::Faint), self.span(text.clone(), style)])
            }
            None => Line::from(self.span(KEYS, Style::Faint)),
        }
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
            Style::Strong => Look::new().add_modifier(Modifier::BOLD),
            Style::Faint => Look::new().add_modifier(Modifier::DIM),
        }
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
