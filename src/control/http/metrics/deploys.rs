//! Figures of deployments: the release that runs, the kept ones, the last reload, the canary, the watch.
//!
//! Law: the figures of the two sides of a comparison are gauges: they begin anew with each step of a canary and with each watch.

use std::fmt::Display;

use super::text::{Micros, Text, seconds};
use crate::pool::{Outcome, WatchState};
use crate::status::tree::{Document, GenerationFigures};

/// All families of deployments.
pub(super) fn deploys(text: &mut Text<'_>, document: &Document) {
    last_reload(text, document);
    releases(text, document);
    canary(text, document);
    watch(text, document);
}

fn last_reload(text: &mut Text<'_>, document: &Document) {
    let committed = document.committed_at.as_deref().and_then(seconds);
    text.one("ratoon_last_commit_time_seconds", "gauge", "seconds", "When the present generation was committed.", committed);
    let Some(last) = &document.last_reload else { return };
    text.family("ratoon_last_reload_result", "stateset", "", "How the last reload ended.");
    for result in Outcome::ALL.map(Outcome::as_str) {
        let labels: &[(&str, &dyn Display)] = &[("ratoon_last_reload_result", &result)];
        text.sample("ratoon_last_reload_result", labels, Some(u8::from(last.result == result)));
    }
    let generation = "The generation that the last reload wanted to bring.";
    text.one("ratoon_last_reload_generation", "gauge", "", generation, Some(last.generation));
    let start = seconds(&last.start_time);
    text.one("ratoon_last_reload_start_time_seconds", "gauge", "seconds", "When the last reload began.", start);
    let duration = Micros(last.duration_ms.saturating_mul(1000));
    text.one("ratoon_last_reload_duration_seconds", "gauge", "seconds", "How long the last reload took.", Some(duration));
}

fn releases(text: &mut Text<'_>, document: &Document) {
    let undone = document.reloads.get(Outcome::Undone.as_str()).map(|reloads| reloads.count);
    text.one("ratoon_undone", "counter", "", "Committed generations that reload.watch has undone.", undone);
    if !document.releases.is_empty() {
        let kept = "Committed releases that are kept, the one that runs included.";
        text.one("ratoon_releases_kept", "gauge", "", kept, Some(document.releases.len()));
    }
    let Some(release) = &document.release else { return };
    text.family("ratoon_release", "info", "", "The release that runs, by the generation for which it was read.");
    let labels: &[(&str, &dyn Display)] =
        &[("release", &release.generation), ("program", &release.program), ("directory", &release.directory)];
    text.sample("ratoon_release_info", labels, Some(1));
    let elsewhere = "1 while the configured paths lead to another release than the one that runs.";
    let leads = release.path_leads_elsewhere.map(u8::from);
    text.one("ratoon_release_path_leads_elsewhere", "gauge", "", elsewhere, leads);
}

fn canary(text: &mut Text<'_>, document: &Document) {
    let under_way = u8::from(document.canary.is_some());
    text.one("ratoon_canary", "gauge", "", "1 while a canary is under way.", Some(under_way));
    let Some(canary) = &document.canary else { return };
    for (name, help, value) in [
        ("ratoon_canary_generation", "The new generation of the canary.", canary.generation),
        ("ratoon_canary_step", "The step of the canary, from 1.", canary.step),
        ("ratoon_canary_workers", "Workers of the step of the canary.", canary.workers.into()),
        ("ratoon_canary_workers_ready", "Workers of the canary that are ready.", canary.workers_ready.into()),
        ("ratoon_canary_waits", "1 while the step waits for its time or a promotion.", canary.waits.into()),
    ] {
        text.one(name, "gauge", "", help, Some(value));
    }
    let left = canary.left_ms.map(|left| Micros(left.saturating_mul(1000)));
    text.one("ratoon_canary_left_seconds", "gauge", "seconds", "Time until the step ends.", left);
    if let (Some(old), Some(new)) = (&canary.old, &canary.new) {
        let all = old.requests.saturating_add(new.requests);
        let share = (all > 0).then(|| format!("{:.6}", new.requests as f64 / all as f64));
        let help = "Counted share of the canary in the requests of its step.";
        text.one("ratoon_canary_request_ratio", "gauge", "ratio", help, share);
    }
    sides(text, "ratoon_canary", "since the step began to wait", canary.old.as_ref(), canary.new.as_ref());
}

fn watch(text: &mut Text<'_>, document: &Document) {
    text.family("ratoon_watch_state", "stateset", "", "Whether the last commit is watched, or was worse and is being undone.");
    let shown = document.watch.as_ref().map_or("none", |watch| &*watch.state);
    for state in ["none"].into_iter().chain(WatchState::ALL.map(WatchState::as_str)) {
        text.sample("ratoon_watch_state", &[("ratoon_watch_state", &state)], Some(u8::from(shown == state)));
    }
    let Some(watch) = &document.watch else { return };
    text.one("ratoon_watch_generation", "gauge", "", "The generation that is watched.", Some(watch.generation));
    let left = watch.left_ms.map(|left| Micros(left.saturating_mul(1000)));
    text.one("ratoon_watch_left_seconds", "gauge", "seconds", "Time until the watch ends.", left);
    sides(text, "ratoon_watch", "that are compared", watch.old.as_ref(), watch.new.as_ref());
}

/// The figures of both generations, as far as they are known.
fn sides(text: &mut Text<'_>, of: &str, when: &str, old: Option<&GenerationFigures>, new: Option<&GenerationFigures>) {
    type Figure = fn(&GenerationFigures) -> u64;
    let families: [(&str, &str, Figure); 2] =
        [("requests", "Requests", |of| of.requests), ("failed_requests", "Failed requests", |of| of.failed)];
    for (name, what, figure) in families.into_iter().filter(|_| old.is_some() || new.is_some()) {
        let name = format!("{of}_{name}");
        text.family(&name, "gauge", "", &format!("{what} of the old and the new generation {when}."));
        for (side, figures) in [("old", old), ("new", new)] {
            text.sample(&name, &[("side", &side)], figures.map(figure));
        }
    }
    let time = |of: Option<&GenerationFigures>| of.and_then(|of| of.answer_usec).map(Micros);
    if time(old).is_some() || time(new).is_some() {
        let name = format!("{of}_answer_seconds");
        text.family(&name, "gauge", "seconds", "Geometric mean of the times to answer of the old and the new generation.");
        for (side, figures) in [("old", old), ("new", new)] {
            text.sample(&name, &[("side", &side)], time(figures));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::render;
    use super::super::text::Format;
    use crate::status::tree::{Canary, CurrentRelease, Document, GenerationFigures, Release, Reloads, Watch};

    fn figures(requests: u64, failed: u64) -> Option<GenerationFigures> {
        Some(GenerationFigures { requests, failed, answer_usec: Some(2_500) })
    }

    #[track_caller]
    fn has(document: &Document, lines: &[&str]) {
        let text = render(document, Format::OpenMetrics);
        for line in lines {
            assert!(text.lines().any(|shown| shown.replace("instance=\"web\",", "") == *line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn canary_tells_its_step_share_and_both_sides() {
        let canary = Canary {
            generation: 8,
            step: 2,
            workers_ready: 2,
            workers: 2,
            waits: true,
            left_ms: Some(20_500),
            old: figures(700, 1),
            new: figures(100, 10),
            ..Canary::default()
        };
        let document = Document { instance: "web".into(), canary: Some(canary), ..Document::default() };
        has(
            &document,
            &[
                "ratoon_canary{instance=\"web\"} 1",
                "ratoon_canary_step{instance=\"web\"} 2",
                "ratoon_canary_waits{instance=\"web\"} 1",
                "ratoon_canary_left_seconds{instance=\"web\"} 20.500000",
                "ratoon_canary_request_ratio{instance=\"web\"} 0.125000",
                "ratoon_canary_requests{side=\"old\"} 700",
                "ratoon_canary_failed_requests{side=\"new\"} 10",
                "ratoon_canary_answer_seconds{side=\"new\"} 0.002500",
                "ratoon_watch_state{ratoon_watch_state=\"none\"} 1",
            ],
        );
    }

    #[test]
    fn watch_tells_its_state_and_undone_reloads_are_counted() {
        let watch = Watch { generation: 8, state: "undo-failed".into(), old: figures(9, 0), ..Watch::default() };
        let release = CurrentRelease { generation: 7, path_leads_elsewhere: Some(true), ..CurrentRelease::default() };
        let mut undone = Reloads::default();
        undone.add(20);
        let document = Document {
            instance: "web".into(),
            watch: Some(watch),
            release: Some(release),
            releases: vec![Release::default(), Release::default()],
            reloads: [("undone".to_owned(), undone)].into(),
            ..Document::default()
        };
        has(
            &document,
            &[
                "ratoon_watch_state{ratoon_watch_state=\"undo-failed\"} 1",
                "ratoon_watch_state{ratoon_watch_state=\"none\"} 0",
                "ratoon_watch_requests{side=\"old\"} 9",
                "ratoon_undone_total{instance=\"web\"} 1",
                "ratoon_releases_kept{instance=\"web\"} 2",
                "ratoon_release_info{release=\"7\",program=\"\",directory=\"\"} 1",
                "ratoon_release_path_leads_elsewhere{instance=\"web\"} 1",
                "ratoon_canary{instance=\"web\"} 0",
            ],
        );
        // Without a canary there are no figures of one, and an unknown side is left out.
        let text = render(&document, Format::OpenMetrics);
        assert!(!text.contains("ratoon_canary_") && !text.contains("side=\"new\""), "{text}");
    }
}
