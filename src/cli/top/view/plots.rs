//! Three plots with a label, a scale and a span: requests a second, ready workers, waiting connections.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::Line;
use ratatui::widgets::Sparkline;

use super::View;
use crate::cli::screen::{Style, number, span};
use crate::cli::top::columns::per_second;
use crate::cli::top::rates::Sample;

/// Width of the labels with the scale, columns.
const LABEL: u16 = 22;
/// Largest width of a curve, columns: one for each sample.
const CURVE: u16 = 120;
/// Width of the span behind the curves, columns.
const SPAN: u16 = 12;

/// The label, the figure of a sample in tenths, and the text of the largest figure.
type Plot = (&'static str, fn(&Sample) -> Option<u64>, fn(u64) -> String);

/// Requests are in tenths, so that a pool with few of them has a curve, too.
const PLOTS: [Plot; 3] = [
    ("req/s", |sample| sample.requests.map(|rate| (rate * 10.0).round() as u64), |tenths| per_second(tenths as f64 / 10.0)),
    ("ready", |sample| Some(u64::from(sample.workers) * 10), |tenths| number(tenths / 10)),
    ("queue", |sample| sample.queue.map(|queue| queue.saturating_mul(10)), |tenths| number(tenths / 10)),
];

impl View<'_> {
    /// Draws a line for each plot, as far as there are lines.
    pub(super) fn plots(&self, frame: &mut Frame<'_>, area: Rect) {
        let width = area.width.saturating_sub(LABEL + SPAN).min(CURVE);
        let history = &self.state.rates.history;
        let shown = || history.iter().skip(history.len().saturating_sub(width.into()));
        let lines = Layout::vertical([Constraint::Length(1); PLOTS.len()]).split(area);
        for ((name, figure, text), line) in PLOTS.iter().zip(lines.iter().copied().filter(|line| line.height > 0)) {
            let columns = [Constraint::Length(LABEL), Constraint::Length(width), Constraint::Length(SPAN)];
            let [label, curve, time] = Layout::horizontal(columns).areas(line);
            let data = shown().map(|sample| figure(sample).unwrap_or(0)).collect::<Vec<_>>();
            let most = shown().filter_map(figure).max();
            let scale = match most {
                None => "no figures yet".to_owned(),
                Some(0) => "0".to_owned(),
                Some(most) => format!("0 to {}", text(most)),
            };
            frame.render_widget(Line::from(self.span(format!("{name:<6}{scale}"), Style::Faint)), label);
            frame.render_widget(Sparkline::default().data(data).style(self.look(Style::Good)), curve);
            if let Some(first) = shown().next().filter(|_| history.len() > 1) {
                let past = self.now.saturating_duration_since(first.at);
                let past = span(u64::try_from(past.as_millis()).unwrap_or(u64::MAX));
                frame.render_widget(Line::from(self.span(format!(" last {past}"), Style::Faint)), time);
            }
        }
    }
}
