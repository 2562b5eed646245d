//! The comparison of two generations, by a canary or by the watch after a commit, in a line of text for `status` and `top`.

use super::screen::{clean, number, span};
use crate::status::tree::{Canary, Document, GenerationFigures, Watch};

/// A label and the line of what is compared; `None` while nothing is. A watch for failures of every slot alone is not shown.
pub(super) fn comparison(document: &Document) -> Option<(&'static str, String)> {
    if let Some(canary) = &document.canary {
        return Some(("canary", of_canary(canary, document.generation)));
    }
    let watch = document.watch.as_ref().filter(|watch| watch.compares || watch.state != "watching")?;
    Some(("watch", of_watch(watch)))
}

fn of_canary(canary: &Canary, current: u64) -> String {
    let until = until(canary, canary.left_ms);
    let Canary { generation, workers_ready, workers_configured, old, new, .. } = canary;
    let figures = both((*generation, new.as_ref()), (current, old.as_ref()));
    format!("{}: generation {generation} has {workers_ready}/{workers_configured} workers, {until}{figures}", step(canary))
}

/// `step 1 of 3`; an older master does not tell the number of steps.
pub(super) fn step(canary: &Canary) -> String {
    match canary.steps {
        0 => format!("step {}", canary.step),
        steps => format!("step {} of {steps}", canary.step),
    }
}

/// The event that ends the wait of a step, and the time that is left. `left`: milliseconds.
pub(super) fn until(canary: &Canary, left: Option<u64>) -> String {
    match (canary.waits, canary.manual, left) {
        (false, ..) => "starting".to_owned(),
        (true, true, _) => "waits for ratoon promote".to_owned(),
        (true, false, _) if canary.asks_command => "reload.judge_command decides".to_owned(),
        (true, false, Some(left)) => format!("{} left", span(left)),
        (true, false, None) => "waits".to_owned(),
    }
}

fn of_watch(watch: &Watch) -> String {
    let Watch { generation, before, state, left_ms, old, new, .. } = watch;
    let figures = both((*generation, new.as_ref()), (*before, old.as_ref()));
    match (state.as_str(), left_ms) {
        ("watching", Some(left)) => format!("generation {generation} for another {}{figures}", span(*left)),
        ("undoing", _) => format!("generation {generation} is worse than generation {before}, whose release comes back{figures}"),
        ("undo-failed", _) => {
            format!("generation {generation} is worse than generation {before}, whose release did not come up{figures}")
        }
        (state, _) => format!("generation {generation}: {}{figures}", clean(state)),
    }
}

/// `; failed requests: 61 of 500 (generation 8), 0 of 12,000 (generation 7); time to answer: 12.5 ms, 4.1 ms`
fn both(new: (u64, Option<&GenerationFigures>), old: (u64, Option<&GenerationFigures>)) -> String {
    let one = |(generation, figures): (u64, Option<&GenerationFigures>)| {
        let figures = figures?;
        Some(format!("{} of {} (generation {generation})", number(figures.failed), number(figures.requests)))
    };
    let failed = match (one(new), one(old)) {
        (Some(new), Some(old)) => format!("; failed requests: {new}, {old}"),
        _ => String::new(),
    };
    let time = |figures: Option<&GenerationFigures>| figures?.answer_usec.map(|usec| usec as f64 / 1000.0);
    match (time(new.1), time(old.1)) {
        (Some(new), Some(old)) => format!("{failed}; time to answer: {new:.1} ms, {old:.1} ms"),
        _ => failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(requests: u64, failed: u64) -> Option<GenerationFigures> {
        Some(GenerationFigures { requests, failed, answer_usec: None })
    }

    #[test]
    fn canary_and_watch_show_both_generations() {
        let canary = Canary {
            generation: 8,
            step: 1,
            steps: 2,
            workers_ready: 1,
            workers: 1,
            workers_configured: 8,
            waits: true,
            left_ms: Some(20_000),
            old: figures(3500, 2),
            new: figures(500, 61),
            ..Canary::default()
        };
        let document = Document { generation: 7, canary: Some(canary), ..Document::default() };
        let text = "step 1 of 2: generation 8 has 1/8 workers, 20 s left; failed requests: 61 of 500 (generation 8), 2 of 3500 (generation 7)";
        assert_eq!(comparison(&document), Some(("canary", text.to_owned())));
        let timed = |usec| Some(GenerationFigures { answer_usec: Some(usec), ..GenerationFigures::default() });
        let with_times = both((8, timed(12_540).as_ref()), (7, timed(4_100).as_ref()));
        assert!(with_times.ends_with("(generation 7); time to answer: 12.5 ms, 4.1 ms"), "{with_times}");
        let watch = Watch {
            generation: 8,
            before: 7,
            state: "watching".to_owned(),
            compares: true,
            left_ms: Some(250_000),
            ..Watch::default()
        };
        let shown = |watch: &Watch| comparison(&Document { generation: 8, watch: Some(watch.clone()), ..Document::default() });
        assert_eq!(shown(&watch), Some(("watch", "generation 8 for another 4m 10s".to_owned())));
        assert_eq!(shown(&Watch { compares: false, ..watch.clone() }), None);
        let failed = Watch { compares: false, state: "undo-failed".to_owned(), ..watch };
        assert!(shown(&failed).is_some_and(|(_, text)| text.ends_with("whose release did not come up")));
    }
}
