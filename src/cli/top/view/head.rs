//! The upper part of the screen: a summary of the pool, its rates, the reload, and a picture of slots × generations.

use std::collections::BTreeMap;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style as Look};
use ratatui::text::{Line, Span, Text};

use super::View;
use crate::cli::comparison::comparison;
use crate::cli::screen::{Style, bytes, clean, number, span};
use crate::cli::status_view::{shown_preload, shown_state, state_style, state_word};
use crate::cli::top::columns::per_second;
use crate::status::down::is_down;
use crate::status::tree::Worker;

/// The most generations that have a strip; the newest ones have.
const STRIPS: usize = 4;
/// The most slots in a strip; a screen shows fewer.
const SLOTS: u32 = 512;
/// Width of the progress bar of a reload, columns.
const BAR: usize = 20;

impl View<'_> {
    /// Draws the four lines.
    pub(super) fn head(&self, frame: &mut Frame<'_>, area: Rect) {
        let lines = [self.title(), self.status_line(), self.rates_line(), self.reload_line()];
        let lines = lines.map(|line| self.cut(line, area.width));
        frame.render_widget(Text::from(lines.to_vec()), area);
    }

    fn title(&self) -> Line<'static> {
        let document = &self.state.document;
        let style = match document.workers_ready {
            _ if is_down(document) => Style::Alarm,
            0 if !document.paused && !document.idle => Style::Bad,
            _ => state_style(state_word(&document.state, document.paused), document.degraded),
        };
        let failed = match document.worker_crashes {
            0 => String::new(),
            count => format!(", {} failed so far", number(count)),
        };
        Line::from(vec![
            self.span(clean(&document.instance), Style::Strong),
            Span::raw(" "),
            self.span(shown_state(document), style),
            Span::raw(format!(
                ", generation {}, {}/{} ready{}, up {}{failed}",
                document.generation,
                document.workers_ready,
                document.workers_configured,
                bounds(document),
                self.clock.since(&document.start_time),
            )),
        ])
    }

    fn status_line(&self) -> Line<'static> {
        match &self.state.lost {
            Some((since, why)) => {
                let gone = self.milliseconds(*since);
                let text = format!("MASTER GONE for {gone}, trying again; what you see is old: {why}");
                Line::from(Span::styled(text, self.look(Style::Bad).add_modifier(Modifier::REVERSED)))
            }
            None => Line::from(self.span(clean(&self.state.document.status_text), Style::Faint)),
        }
    }

    fn rates_line(&self) -> Line<'static> {
        let (document, rates) = (&self.state.document, &self.state.rates);
        let sum = |of: fn(&Worker) -> Option<u64>| {
            let known = document.workers.iter().filter_map(of);
            known.fold(None, |sum: Option<u64>, it| Some(sum.unwrap_or(0).saturating_add(it)))
        };
        let queue = document
            .sockets
            .iter()
            .filter_map(|socket| socket.queue)
            .fold(None, |sum: Option<u64>, it| Some(sum.unwrap_or(0).saturating_add(it)));
        let rate = |rate: Option<f64>| rate.map(|it| bytes(it.round() as u64));
        let figures = [
            ("req/s", rates.requests.map(per_second)),
            ("conns", sum(|worker| worker.open_connections).map(number)),
            ("queue", queue.map(number)),
            ("cpu", rates.cpu().map(|cpu| format!("{:.0}%", cpu * 100.0))),
            ("mem", sum(|worker| worker.memory_rss).map(bytes)),
            ("in/s", rate(rates.read)),
            ("out/s", rate(rates.written)),
        ];
        let mut spans = Vec::new();
        for (name, value) in figures {
            spans.push(self.span(format!("{name} "), Style::Faint));
            spans.push(self.span(format!("{}  ", value.unwrap_or_else(|| "-".to_owned())), Style::Strong));
        }
        if let Some(preload) = &document.preload {
            spans.push(self.span("preload ".to_owned(), Style::Faint));
            spans.push(self.span(format!("{}  ", shown_preload(preload)), Style::Strong));
        }
        Line::from(spans)
    }

    fn reload_line(&self) -> Line<'static> {
        let document = &self.state.document;
        if let Some(reload) = &self.state.reload {
            if let Some((label, text)) = comparison(document) {
                return Line::from(self.span(format!("{label}: {text}"), Style::Busy));
            }
            let took = self.milliseconds(reload.since);
            let Some(generation) = reload.generation else {
                return Line::from(self.span(format!("reloading for {took}"), Style::Busy));
            };
            let new = document.workers.iter().filter(|worker| worker.generation == generation);
            let ready = new.filter(|worker| worker.state == "ready").count();
            let wanted = usize::try_from(document.workers_configured).unwrap_or(usize::MAX).max(1);
            let full = (ready.min(wanted) * BAR) / wanted;
            let bar = format!("[{}{}]", "#".repeat(full), ".".repeat(BAR - full));
            let text = format!("reloading to generation {generation} {bar} {ready}/{wanted} ready, {took}");
            return Line::from(self.span(text, Style::Busy));
        }
        if let Some((label, text)) = comparison(document).filter(|(label, _)| *label == "watch") {
            return Line::from(self.span(format!("{label}: {text}"), Style::Busy));
        }
        let Some(last) = &document.last_reload else {
            let none = if document.state == "reloading" { "the first reload is under way" } else { "no reload yet" };
            return Line::from(self.span(none, Style::Faint));
        };
        let style = if last.result == "committed" { Style::Faint } else { Style::Bad };
        let why = if last.reason.is_empty() { String::new() } else { format!(": {}", clean(&last.reason)) };
        let result = clean(&last.result).replace('-', " ");
        let (ago, took) = (self.clock.since(&last.start_time), span(last.duration_ms));
        Line::from(self.span(format!("reload {ago} ago to generation {} {result} after {took}{why}", last.generation), style))
    }

    /// The time that has passed since then, as text.
    fn milliseconds(&self, since: std::time::Instant) -> String {
        span(u64::try_from(self.now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX))
    }

    /// The picture: one line for each generation, with each slot in the same column of all lines.
    pub(super) fn strips(&self) -> Vec<Line<'static>> {
        let document = &self.state.document;
        // By generation, then slot. During a recycle a slot has two workers, and the ready one is shown.
        let mut found = BTreeMap::<u64, BTreeMap<u32, &Worker>>::new();
        found.insert(document.generation, BTreeMap::new());
        for worker in &document.workers {
            let place = found.entry(worker.generation).or_default().entry(worker.slot).or_insert(worker);
            if place.state != "ready" {
                *place = worker;
            }
        }
        let slots = document.workers.iter().map(|worker| worker.slot.saturating_add(1)).max().unwrap_or(0);
        let slots = slots.max(document.workers_configured).min(SLOTS);
        let skip = found.len().saturating_sub(STRIPS);
        found.into_iter().skip(skip).map(|(generation, own)| self.strip(generation, &own, slots)).collect()
    }

    fn strip(&self, generation: u64, own: &BTreeMap<u32, &Worker>, slots: u32) -> Line<'static> {
        let document = &self.state.document;
        let role = match generation.cmp(&document.generation) {
            std::cmp::Ordering::Less => "old",
            std::cmp::Ordering::Equal => "serving",
            std::cmp::Ordering::Greater => "new",
        };
        let mut spans = vec![Span::raw(format!("gen {generation:<5} {role:<8}"))];
        for slot in 0..slots {
            let (mark, colour) = match own.get(&slot).map(|worker| worker.state.as_str()) {
                Some("ready") => ("R", Some(Color::Green)),
                Some("starting") => ("s", Some(Color::Yellow)),
                Some("draining") => ("d", Some(Color::Blue)),
                Some(_) => ("?", Some(Color::Magenta)),
                None if document.failures.iter().any(|it| it.generation == generation && it.slot == slot) => {
                    ("x", Some(Color::Red))
                }
                None => (".", None),
            };
            let look = match colour.filter(|_| self.colour) {
                Some(colour) => Look::new().bg(colour).fg(Color::Black),
                None => Look::new(),
            };
            spans.push(Span::styled(mark, look));
            spans.push(Span::raw(if slot % 8 == 7 { "  " } else { " " }));
        }
        Line::from(spans)
    }
}

/// The bounds of an elastic pool: ` (1 to 16)`; empty for another pool.
fn bounds(document: &crate::status::tree::Document) -> String {
    let (min, max) = (document.workers_min, document.workers_max);
    if min < max { format!(" ({min} to {max})") } else { String::new() }
}
