//! Tests of screens of recorded documents.

use std::time::Duration;

use jiff::tz::TimeZone;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent};

use super::*;
use crate::cli::top::feed::News;
use crate::status::tree::{Document, Worker};

fn recorded(text: &str) -> Document {
    serde_json::from_str(text).unwrap()
}

/// A state with two documents, two seconds apart, in which this worker served 3,000 requests.
fn with_rates(document: Document, id: u64) -> (State, Instant) {
    let start = Instant::now();
    let mut state = State::new(document.clone(), start);
    let mut later = document;
    later.requests = later.requests.map(|count| count + 3000);
    later.bytes_written = later.bytes_written.map(|count| count + (8 << 20));
    for worker in later.workers.iter_mut().filter(|worker| worker.id == id) {
        worker.requests = worker.requests.map(|count| count + 3000);
        worker.cpu_usec = worker.cpu_usec.map(|usec| usec + 900_000);
    }
    let now = start + Duration::from_secs(2);
    state.learn(News::Document(Box::new(later), now), now);
    (state, now)
}

fn draw(state: &State, now: Instant, width: u16, height: u16, colour: bool) -> Buffer {
    let clock = Clock { now: "2026-07-14T12:00:00Z".parse().unwrap(), zone: TimeZone::fixed(jiff::tz::offset(2)) };
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| View { state, clock: &clock, now, colour }.draw(frame)).unwrap();
    terminal.backend().buffer().clone()
}

fn screen(state: &State, now: Instant, width: u16, height: u16) -> String {
    text(&draw(state, now, width, height, false))
}

fn text(buffer: &Buffer) -> String {
    let line = |cells: &[ratatui::buffer::Cell]| cells.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned();
    buffer.content.chunks(usize::from(buffer.area.width).max(1)).map(line).collect::<Vec<_>>().join("\n")
}

fn press(state: &mut State, code: KeyCode) {
    state.key(KeyEvent::from(code));
}

#[test]
fn a_reload_under_way_has_its_generations_side_by_side() {
    let (state, now) = with_rates(recorded(include_str!("../recorded/busy.json")), 5);
    insta::assert_snapshot!(screen(&state, now, 130, 16));
}

#[test]
fn a_calm_pool_on_a_usual_terminal() {
    let (state, now) = with_rates(recorded(include_str!("../recorded/serving.json")), 5);
    insta::assert_snapshot!(screen(&state, now, 80, 14));
}

#[test]
fn a_workers_requests() {
    let (mut state, now) = with_rates(recorded(include_str!("../recorded/serving.json")), 5);
    press(&mut state, KeyCode::Enter);
    insta::assert_snapshot!(screen(&state, now, 110, 16));
    // After the worker is gone, its failure is shown.
    state.document.workers.clear();
    state.document.failures[0].worker = 5;
    let gone = screen(&state, now, 110, 16);
    assert!(gone.contains("worker 5 is gone") && gone.contains("while serving GET /crash for 4.0 s"), "{gone}");
}

#[test]
fn all_requests_and_failures_and_keys() {
    let (mut state, now) = with_rates(recorded(include_str!("../recorded/serving.json")), 5);
    let mut all = String::new();
    for key in ['a', 'f', 'h'] {
        press(&mut state, KeyCode::Char(key));
        let shown = screen(&state, now, 100, 24);
        all += &shown.lines().skip(5).collect::<Vec<_>>().join("\n");
        all += "\n-----\n";
    }
    insta::assert_snapshot!(all);
}

#[test]
fn a_lost_master_is_not_overlooked() {
    let (mut state, now) = with_rates(recorded(include_str!("../recorded/serving.json")), 5);
    state.learn(News::Lost("the master of /run/x is dead".into()), now);
    let shown = screen(&state, now + Duration::from_secs(7), 120, 20);
    assert!(shown.contains("MASTER GONE for 7.0 s, trying again; what you see is old: the master of /run/x is dead"), "{shown}");
}

#[test]
fn last_line_forgets_an_event_after_a_while() {
    let (mut state, now) = with_rates(recorded(include_str!("../recorded/serving.json")), 5);
    state.said = Some((format!("worker 5: {}", "long ".repeat(40)), true, now));
    let last = |after: u64| screen(&state, now + Duration::from_secs(after), 80, 20).lines().last().unwrap().to_owned();
    assert!(last(19).contains("worker 5: long") && last(19).ends_with('…'), "{}", last(19));
    assert_eq!(last(20), KEYS);
}

#[test]
fn a_large_screen_has_plots_with_scale_and_span() {
    let (mut state, now) = with_rates(recorded(include_str!("../recorded/serving.json")), 5);
    let later = now + Duration::from_secs(90);
    let mut document = state.document.clone();
    document.requests = document.requests.map(|count| count + 900);
    state.learn(News::Document(Box::new(document), later), later);
    insta::assert_snapshot!(screen(&state, later, 80, 24));
    assert!(!screen(&state, later, 80, 21).contains("last 1m 30s"), "a small screen has the table");
}

#[test]
fn no_size_and_no_document_makes_it_fail() {
    let mut hostile = recorded(include_str!("../recorded/busy.json"));
    hostile.workers.push(Worker {
        slot: u32::MAX,
        id: u64::MAX,
        generation: u64::MAX,
        state: "\x1b[2J".into(),
        ..Worker::default()
    });
    hostile.workers_configured = u32::MAX;
    let many =
        (0..1000).map(|id| Worker { id, slot: id as u32, generation: 1 + id % 7, state: "ready".into(), ..Worker::default() });
    let many = Document { workers: many.collect(), generation: 7, workers_configured: 1000, ..Document::default() };
    for document in [Document::default(), hostile, many] {
        let now = Instant::now();
        let mut state = State::new(document, now);
        for key in ['s', 'g', 'a', 'f', 'h', 'h'].map(KeyCode::Char).into_iter().chain([KeyCode::End, KeyCode::Enter]) {
            press(&mut state, key);
            for (width, height) in [(0, 0), (1, 1), (5, 3), (20, 9), (80, 24), (300, 70)] {
                let shown = screen(&state, now, width, height);
                assert!(!shown.contains('\x1b'), "{shown:?}");
            }
        }
    }
}

#[test]
fn the_cursor_is_on_the_screen_wherever_it_goes() {
    let workers =
        (0..100).map(|id| Worker { id: 1000 + id, slot: id as u32, generation: 1, state: "ready".into(), ..Worker::default() });
    let document = Document { workers: workers.collect(), generation: 1, workers_configured: 100, ..Document::default() };
    let now = Instant::now();
    let mut state = State::new(document, now);
    for row in 0..100 {
        let shown = screen(&state, now, 80, 20);
        assert!(shown.contains(&format!(" {}  ", 1000 + row)), "{row}: {shown}");
        press(&mut state, KeyCode::Down);
    }
}

#[test]
fn colours_say_the_same_once_more() {
    let (state, now) = with_rates(recorded(include_str!("../recorded/busy.json")), 5);
    let (plain, coloured) = (draw(&state, now, 130, 16, false), draw(&state, now, 130, 16, true));
    assert_eq!(text(&plain), text(&coloured));
    let colours = |buffer: &Buffer| buffer.content.iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
    assert!(!colours(&plain) && colours(&coloured));
}
