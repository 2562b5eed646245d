//! The steps of a canary, as `ratoon reload` and `ratoon undo` show them. Pure: the canary of each summary comes in, lines go out.

use std::time::{Duration, Instant};

use super::comparison::{step, until};
use super::screen::{clean, number, span};
use crate::status::tree::Canary;

/// The master tells the time that is left in whole seconds. A smaller difference from what is shown is no news.
const ROUNDING: Duration = Duration::from_millis(1_500);

/// The step that waits, if one does.
#[derive(Default)]
pub(super) struct CanaryProgress(Option<Step>);

struct Step {
    canary: Canary,
    /// The end of the step, or of the wait for a promotion.
    ends: Option<Instant>,
}

impl CanaryProgress {
    /// Takes the canary of a summary. Returns the lines for a log: one when a step begins to wait, and one with its figures when the
    /// canary goes on after it. A failure is left to the outcome of the reload. `serving`: the generation that it is compared with.
    pub(super) fn take(&mut self, canary: Option<&Canary>, serving: u64, goes_on: bool, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        let former = self.0.take();
        let is_same = |step: &Step| canary.is_some_and(|canary| canary.step == step.canary.step);
        if let Some(former) = former.as_ref().filter(|former| goes_on && !is_same(former)) {
            lines.push(former.end(serving));
        }
        let Some(canary) = canary.filter(|canary| canary.waits) else { return lines };
        let told = canary.left_ms.map(|left| now + Duration::from_millis(left));
        let former = former.filter(is_same);
        let kept = former
            .as_ref()
            .and_then(|former| former.ends)
            .filter(|ends| told.is_some_and(|told| told.max(*ends).saturating_duration_since(told.min(*ends)) < ROUNDING));
        let step = Step { canary: canary.clone(), ends: kept.or(told) };
        if former.is_none() {
            lines.push(step.begin());
        }
        self.0 = Some(step);
        lines
    }

    /// The lines for a terminal; none while no step waits.
    pub(super) fn lines(&self, serving: u64, now: Instant) -> Vec<String> {
        let Some(Step { canary, ends }) = &self.0 else { return Vec::new() };
        let left = ends.map(|ends| ends.saturating_duration_since(now).as_millis().div_ceil(1000) * 1000);
        let until = until(canary, left.and_then(|left| u64::try_from(left).ok()));
        let mut lines = vec![format!("  canary   {}: {}, {until}", step(canary), workers(canary))];
        lines.extend(requests(canary, serving).map(|requests| format!("  share    {requests}")));
        lines.extend(canary.verdict.as_ref().map(|verdict| format!("  verdict  {}", clean(verdict))));
        lines
    }
}

impl Step {
    /// `canary step 1 of 3: 1/8 workers, 30 s left`
    fn begin(&self) -> String {
        let canary = &self.canary;
        let limit = match (canary.manual, canary.left_ms) {
            (true, Some(left)) => format!(", at most {}", span(left)),
            _ => String::new(),
        };
        format!("canary {}: {}, {}{limit}", step(canary), workers(canary), until(canary, canary.left_ms))
    }

    /// `canary step 1 of 3 is over: 12% of the requests, 5 of 500 failed, 2 of 3500 of generation 7; no worse than reload.judge allows`
    fn end(&self, serving: u64) -> String {
        let told = requests(&self.canary, serving).unwrap_or_else(|| "no requests were counted".to_owned());
        let verdict = self.canary.verdict.as_ref().map_or(String::new(), |verdict| format!("; {}", clean(verdict)));
        format!("canary {} is over: {told}{verdict}", step(&self.canary))
    }
}

fn workers(canary: &Canary) -> String {
    format!("{}/{} workers", canary.workers_ready, canary.workers_configured)
}

/// The counted share of the canary, and the failed requests of both generations; `None` if no requests were counted.
fn requests(canary: &Canary, serving: u64) -> Option<String> {
    let (new, old) = (canary.new.as_ref()?, canary.old.as_ref()?);
    let all = u128::from(old.requests) + u128::from(new.requests);
    let share = (200 * u128::from(new.requests) + all).checked_div(2 * all)?;
    let of = |failed, requests| format!("{} of {}", number(failed), number(requests));
    Some(format!(
        "{share}% of the requests, {} failed, {} of generation {serving}",
        of(new.failed, new.requests),
        of(old.failed, old.requests)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tree::GenerationFigures;

    fn canary(step: u64, left: u64) -> Canary {
        let base =
            Canary { generation: 8, step, steps: 3, workers_ready: 1, workers: 1, workers_configured: 8, ..Canary::default() };
        Canary { waits: true, left_ms: Some(left), ..base }
    }

    fn judged(step: u64, left: u64) -> Canary {
        let figures = |requests, failed| Some(GenerationFigures { requests, failed, answer_usec: None });
        let verdict = Some("no worse than reload.judge allows".to_owned());
        Canary { old: figures(3500, 2), new: figures(500, 5), verdict, ..canary(step, left) }
    }

    #[test]
    fn log_gets_a_line_at_both_ends_of_a_step() {
        let now = Instant::now();
        let mut progress = CanaryProgress::default();
        let starting = Canary { waits: false, left_ms: None, ..canary(1, 0) };
        let manual = Canary { manual: true, ..canary(2, 3_600_000) };
        let told = [
            (Some(starting), true),
            (Some(canary(1, 30_000)), true),
            (Some(judged(1, 29_000)), true),
            (Some(judged(1, 1_000)), true),
            (Some(Canary { waits: false, left_ms: None, ..canary(2, 0) }), true),
            (Some(manual.clone()), true),
            (Some(manual), true),
            (None, true),
            (Some(judged(3, 30_000)), true),
            // Rolled back: the outcome says why.
            (None, false),
        ];
        let lines = told.iter().flat_map(|(canary, goes_on)| progress.take(canary.as_ref(), 7, *goes_on, now));
        insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"), @r"
        canary step 1 of 3: 1/8 workers, 30 s left
        canary step 1 of 3 is over: 13% of the requests, 5 of 500 failed, 2 of 3500 of generation 7; no worse than reload.judge allows
        canary step 2 of 3: 1/8 workers, waits for ratoon promote, at most 1h 0m
        canary step 2 of 3 is over: no requests were counted
        canary step 3 of 3: 1/8 workers, 30 s left
        ");
    }

    #[test]
    fn step_that_starts_more_workers_is_not_over() {
        let now = Instant::now();
        let mut progress = CanaryProgress::default();
        assert_eq!(progress.take(Some(&canary(1, 5_000)), 7, true, now).len(), 1);
        assert!(progress.take(Some(&Canary { waits: false, ..canary(1, 0) }), 7, true, now).is_empty());
        assert_eq!(progress.take(Some(&canary(1, 5_000)), 7, true, now).len(), 1, "it waits anew");
    }

    #[test]
    fn terminal_shows_share_time_left_and_verdict() {
        let now = Instant::now();
        let mut progress = CanaryProgress::default();
        progress.take(Some(&canary(1, 30_000)), 7, true, now);
        assert_eq!(progress.lines(7, now), ["  canary   step 1 of 3: 1/8 workers, 30 s left"]);
        // The time is rounded: it does not jump back.
        let later = now + Duration::from_millis(9_300);
        progress.take(Some(&judged(1, 21_000)), 7, true, later);
        insta::assert_snapshot!(progress.lines(7, later).join("\n"), @r"
          canary   step 1 of 3: 1/8 workers, 21 s left
          share    13% of the requests, 5 of 500 failed, 2 of 3500 of generation 7
          verdict  no worse than reload.judge allows
        ");
        assert!(progress.lines(7, now + Duration::from_secs(20))[0].ends_with(", 10 s left"));
        // Another limit counts at once.
        progress.take(Some(&judged(1, 90_000)), 7, true, later);
        assert!(progress.lines(7, later)[0].ends_with(", 1m 30s left"));
        let asks = Canary { asks_command: true, ..judged(1, 90_000) };
        progress.take(Some(&asks), 7, true, later);
        assert!(progress.lines(7, later)[0].ends_with(", reload.judge_command decides"));
        progress.take(None, 7, true, later);
        assert!(progress.lines(7, later).is_empty());
    }
}
