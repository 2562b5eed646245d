//! Tests of the state alone: how keys, events and documents change it.

use std::time::Duration;

use super::*;
use crate::control::messages::{ExitMessage, ReloadMessage, SummaryMessage, WorkerMessage};

fn serving() -> State {
    State::new(serde_json::from_str(include_str!("../recorded/serving.json")).unwrap(), Instant::now())
}

fn busy() -> State {
    State::new(serde_json::from_str(include_str!("../recorded/busy.json")).unwrap(), Instant::now())
}

fn press(state: &mut State, codes: &[KeyCode]) -> Turn {
    codes.iter().map(|code| state.key(KeyEvent::from(*code))).last().unwrap()
}

fn ids(state: &State) -> Vec<Vec<u64>> {
    state.panels().iter().map(|panel| panel.workers.iter().map(|worker| worker.id).collect()).collect()
}

#[test]
fn keys_sort_and_what_is_not_known_comes_last() {
    let mut state = serving();
    assert_eq!(ids(&state), [[5, 6, 7]]);
    for (key, order) in [('m', [6, 5, 7]), ('r', [5, 6, 7]), ('o', [5, 6, 7]), ('r', [6, 5, 7]), ('s', [5, 6, 7])] {
        press(&mut state, &[KeyCode::Char(key)]);
        assert_eq!(ids(&state), [order], "after {key}");
    }
    press(&mut state, &[KeyCode::Char('>')]);
    assert_eq!((state.sort, state.down), (Column::Id, false));
    press(&mut state, &[KeyCode::Char('<'); 5]);
    assert_eq!(state.sort, Column::Slot);
    press(&mut state, &[KeyCode::Char('>'); 50]);
    assert_eq!(state.sort, Column::Status);
}

#[test]
fn generations_stand_side_by_side_and_the_cursor_goes_between_them() {
    let mut state = busy();
    assert_eq!(ids(&state), [[5, 6], [11, 12]]);
    assert_eq!(state.chosen, Some(5));
    press(&mut state, &[KeyCode::Down, KeyCode::Down, KeyCode::Right]);
    assert_eq!(state.chosen, Some(12));
    press(&mut state, &[KeyCode::Up, KeyCode::Left]);
    assert_eq!(state.chosen, Some(5));
    press(&mut state, &[KeyCode::End]);
    assert_eq!(state.chosen, Some(6));
    press(&mut state, &[KeyCode::Home]);
    assert_eq!(state.chosen, Some(5));
    press(&mut state, &[KeyCode::Char('g')]);
    assert_eq!(ids(&state), [[5, 11, 6, 12]]);
}

#[test]
fn the_cursor_outlives_its_worker() {
    let mut state = busy();
    press(&mut state, &[KeyCode::Down]);
    assert_eq!(state.chosen, Some(6));
    let exit = ExitMessage { id: 6, slot: 1, generation: 6, how: "exit 0".into(), failed: false };
    state.learn(News::Event(Event::WorkerExited(exit)), Instant::now());
    assert_eq!(state.chosen, Some(5));
    state.learn(News::Document(Box::default(), Instant::now()), Instant::now());
    assert_eq!(state.chosen, None);
    // Keys in an empty pool.
    press(&mut state, &[KeyCode::Down, KeyCode::Right, KeyCode::PageUp, KeyCode::Enter]);
    assert_eq!(state.page, Page::Requests(None));
}

#[test]
fn pages_are_turned_and_turned_back() {
    let mut state = serving();
    for (keys, page) in [
        (vec![KeyCode::Enter], Page::Requests(Some(5))),
        (vec![KeyCode::Enter], Page::Workers),
        (vec![KeyCode::Down, KeyCode::Enter], Page::Requests(Some(6))),
        (vec![KeyCode::Esc], Page::Workers),
        (vec![KeyCode::Char('a')], Page::Requests(None)),
        (vec![KeyCode::Char('f')], Page::Failures),
        (vec![KeyCode::Char('?')], Page::Help),
        (vec![KeyCode::Char('?')], Page::Workers),
    ] {
        assert_eq!(press(&mut state, &keys), Turn::Stay);
        assert_eq!(state.page, page, "after {keys:?}");
    }
    assert_eq!(press(&mut state, &[KeyCode::Char('q')]), Turn::Leave);
    let control = |character| KeyEvent::new(KeyCode::Char(character), KeyModifiers::CONTROL);
    assert_eq!(state.key(control('c')), Turn::Leave);
    assert_eq!(state.key(control('z')), Turn::Suspend);
    assert_eq!(state.key(control('q')), Turn::Stay);
}

#[test]
fn events_move_the_picture_before_the_next_document() {
    let (mut state, now) = (serving(), Instant::now());
    let mut hear = |event| {
        state.learn(News::Event(event), now);
        state.said.clone().map(|(text, ..)| text).unwrap_or_default()
    };
    assert_eq!(hear(Event::ReloadStarted(8)), "reload to generation 8 begins");
    let worker = |state: &str| {
        Event::Worker(WorkerMessage {
            id: 8,
            slot: 0,
            generation: 8,
            pid: Some(9),
            state: state.into(),
            ..WorkerMessage::default()
        })
    };
    assert_eq!(hear(worker("starting")), "worker 8 (slot 0, generation 8): starting");
    assert_eq!(hear(worker("re\x1bady")), "worker 8 (slot 0, generation 8): re\\u{1b}ady");
    let summary = SummaryMessage { state: "reloading".into(), generation: 7, workers_configured: 3, ..SummaryMessage::default() };
    hear(Event::Summary(summary));
    let outcome =
        ReloadMessage { generation: 8, result: "rolled-back".into(), reason: "exit 1".into(), ..ReloadMessage::default() };
    assert_eq!(hear(Event::ReloadFinished(outcome)), "reload to generation 8 rolled back: exit 1");
    assert_eq!(hear(Event::Lagged(3)), "3 events were missed");
    assert_eq!(ids(&state), [vec![5, 6, 7], vec![8]]);
    assert!(state.reload.is_none() && state.said.is_some_and(|(_, bad, _)| !bad));
}

#[test]
fn a_reload_that_began_before_us_gets_its_number_when_a_worker_of_it_is_seen() {
    let now = Instant::now();
    let mut document: Document = serde_json::from_str(include_str!("../recorded/busy.json")).unwrap();
    let workers = std::mem::take(&mut document.workers);
    let mut state = State::new(document.clone(), now);
    assert_eq!(state.reload.as_ref().unwrap().generation, None);
    state.learn(News::Document(Box::new(Document { workers, ..document }), now), now + Duration::from_secs(1));
    let reload = state.reload.as_ref().unwrap();
    assert_eq!((reload.generation, reload.since), (Some(8), now));
}

#[test]
fn a_lost_master_is_lost_since_the_first_failed_try() {
    let (mut state, now) = (serving(), Instant::now());
    state.learn(News::Lost("gone".into()), now);
    state.learn(News::Lost("still\ngone".into()), now + Duration::from_secs(5));
    assert_eq!(state.lost, Some((now, "still gone".into())));
    state.learn(News::Document(Box::default(), now), now + Duration::from_secs(6));
    assert_eq!(state.lost, None);
}

#[test]
fn the_longest_running_request_comes_first() {
    let state = serving();
    let urls = |of| {
        state
            .serving(of)
            .iter()
            .map(|it| it.request.map_or("idle", |request| request.url.as_deref().unwrap_or_default()))
            .collect::<Vec<_>>()
    };
    assert_eq!(urls(None), ["/hangs", "/report/17?\u{1b}[2Jx=1", "/upload"]);
    assert_eq!(urls(Some(5)), ["/report/17?\u{1b}[2Jx=1", "/upload", "idle"]);
}
