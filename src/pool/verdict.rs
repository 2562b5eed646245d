//! The verdict on a new generation: whether its requests fail more often than those of the old one, or take longer. Pure arithmetic on counted requests.
//!
//! Law: a difference that chance explains is no failure. The new generation fails only if the one-sided lower bound of (new − old) is
//! above the limit; with too few requests there is no verdict, and the text says so. [`FINAL`] is used once, at the end of a step;
//! [`EARLY`] every second before that, so it is stricter: many looks would otherwise add up to many false alarms.

use serde::{Deserialize, Serialize};

use super::answer_times::{self, AnswerTimes};

/// The quantile of the normal distribution for a confidence of 99 %, one-sided.
pub(super) const FINAL: f64 = 2.326;
/// The quantile for a confidence of 99.997 %, one-sided.
pub(super) const EARLY: f64 = 4.0;

/// Figures that the workers of a generation have counted in some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Requests begun.
    pub requests: u64,
    /// Failed requests: answers with a status of 500 or above, and answers that were cut off.
    pub failed: u64,
    /// The times to answer, as far as they were taken.
    #[serde(default)]
    pub times: AnswerTimes,
}

impl Figures {
    /// Figures without times to answer.
    pub fn counted(requests: u64, failed: u64) -> Figures {
        Figures { requests, failed, times: AnswerTimes::default() }
    }

    /// The ratio of failed requests; 0 without requests. A worker that counts wrongly may tell more failures than requests.
    fn ratio(self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.failed.min(self.requests) as f64 / self.requests as f64 }
    }

    /// Lower and upper end of Wilson's interval for the ratio.
    fn interval(self, quantile: f64) -> (f64, f64) {
        if self.requests == 0 {
            return (0.0, 1.0);
        }
        let (n, p, z2) = (self.requests as f64, self.ratio(), quantile * quantile);
        let middle = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
        let half = quantile / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
        (middle - half, middle + half)
    }
}

/// The figures of the old and the new generation over the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// The old generation.
    pub old: Figures,
    /// The new generation.
    pub new: Figures,
}

impl Comparison {
    /// The share of the new generation in all requests, in percent, rounded; `None` without requests.
    pub fn share(self) -> Option<u64> {
        let all = u128::from(self.old.requests) + u128::from(self.new.requests);
        (all > 0).then(|| ((200 * u128::from(self.new.requests) + all) / (2 * all)) as u64)
    }
}

/// The limits of the new generation against the old one (`reload.judge`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// By how much the ratio of failed requests may be larger, in millionths.
    pub error_ratio: u32,
    /// The requests that the new generation must have had for a verdict.
    pub min_requests: u64,
    /// By which factor the times to answer may be longer, in thousandths; `None`: they are not compared.
    #[serde(default)]
    pub latency_ratio: Option<u32>,
}

/// A verdict on the new generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The new generation is worse than the limits allow; the figures as text.
    Fails(String),
    /// No worse than the limits allow, as far as the figures show.
    Passes,
    /// There is no verdict by one of the limits, or by both, and why.
    Unknown(String),
}

impl Judgement {
    /// The verdict as text, after the name of its step.
    pub fn text(&self) -> String {
        match self {
            Judgement::Fails(why) => format!("it would fail now: {why}"),
            Judgement::Passes => "no worse than reload.judge allows".to_owned(),
            Judgement::Unknown(why) => why.clone(),
        }
    }
}

/// Judges the new generation against the old one. `quantile`: [`FINAL`] or [`EARLY`]; times to answer are judged with [`FINAL`] only.
pub(super) fn judge(figures: Comparison, limits: Limits, quantile: f64) -> Judgement {
    let by_ratio = judge_ratio(figures, limits, quantile);
    let Some(latency_ratio) = limits.latency_ratio.filter(|_| quantile <= FINAL) else { return by_ratio };
    let (old, new) = (figures.old.times, figures.new.times);
    let by_time = answer_times::slower(old, new, latency_ratio, limits.min_requests, quantile);
    match (by_ratio, by_time) {
        (Judgement::Fails(why), _) | (_, Ok(Some(why))) => Judgement::Fails(why),
        (by_ratio, Ok(None)) => by_ratio,
        (Judgement::Passes, Err(why)) => Judgement::Unknown(why),
        (Judgement::Unknown(ratio), Err(time)) => Judgement::Unknown(format!("{ratio}; {time}")),
    }
}

fn judge_ratio(figures: Comparison, limits: Limits, quantile: f64) -> Judgement {
    let Comparison { old, new } = figures;
    if new.requests < limits.min_requests.max(1) {
        let told = format!("{} of {} requests, so there is no verdict by their ratio", new.requests, limits.min_requests);
        return Judgement::Unknown(told);
    }
    // Newcombe's bound of the difference of two ratios. An old generation without requests gives no comparison: its ratio counts as 0.
    let (lower, _) = new.interval(quantile);
    let (_, upper) = if old.requests == 0 { (0.0, 0.0) } else { old.interval(quantile) };
    let difference = new.ratio() - old.ratio();
    let bound = difference - ((new.ratio() - lower).powi(2) + (upper - old.ratio()).powi(2)).sqrt();
    if bound > f64::from(limits.error_ratio) / 1e6 {
        let of = |figures: Figures| format!("{} of {} requests", figures.failed, figures.requests);
        return Judgement::Fails(format!("{} failed, {} of the generation before", of(new), of(old)));
    }
    Judgement::Passes
}

#[cfg(test)]
mod tests {
    use super::super::tests::random::Random;
    use super::*;

    const LIMITS: Limits = Limits { error_ratio: 10_000, min_requests: 50, latency_ratio: None };
    /// Simulated canaries for each figure.
    const TRIALS: u32 = 10_000;

    impl Random {
        /// The figures of a generation whose requests fail with this probability.
        fn figures(&mut self, requests: u64, failing: f64) -> Figures {
            Figures::counted(requests, (0..requests).filter(|_| self.next() < failing).count() as u64)
        }
    }

    /// How many of [`TRIALS`] canaries fail: one request in eight goes to the new generation.
    fn failures(seed: u64, requests: u64, old: f64, new: f64, quantile: f64) -> u32 {
        let mut random = Random(seed);
        let mut fails = 0;
        for _ in 0..TRIALS {
            let figures = Comparison { old: random.figures(requests * 7, old), new: random.figures(requests, new) };
            fails += u32::from(matches!(judge(figures, LIMITS, quantile), Judgement::Fails(_)));
        }
        fails
    }

    /// How many of 1,000 canaries fail at the end of their step: one request in eight goes to the new generation.
    fn of_thousand(requests: u64, old: f64, new: f64) -> u32 {
        let mut random = Random(requests);
        let mut figures =
            |requests, failing| if failing == 0.0 { Figures::counted(requests, 0) } else { random.figures(requests, failing) };
        let canaries = (0..1_000).map(|_| Comparison { old: figures(requests * 7, old), new: figures(requests, new) });
        canaries.filter(|canary| matches!(judge(*canary, LIMITS, FINAL), Judgement::Fails(_))).count() as u32
    }

    #[test]
    fn wrong_verdicts_are_as_many_as_the_documentation_says() {
        let page = include_str!("../../docs/deploying.md");
        let sizes = [50, 100, 200, 500];
        let alarms = |ratio| sizes.map(|requests| of_thousand(requests, ratio, ratio));
        let misses = |new| sizes.map(|requests| 1_000 - of_thousand(requests, 0.0, new));
        let rows = [
            ("as good, none fails: rolled back", alarms(0.0)),
            ("as good, 1 % fail in both: rolled back", alarms(0.01)),
            ("as good, 5 % fail in both: rolled back", alarms(0.05)),
            ("as good, 20 % fail in both: rolled back", alarms(0.2)),
            ("5 % fail, none of the old one: passes", misses(0.05)),
            ("10 % fail, none of the old one: passes", misses(0.1)),
            ("20 % fail, none of the old one: passes", misses(0.2)),
        ];
        let rows = rows.map(|(title, [a, b, c, d])| format!("| {title} | {a} | {b} | {c} | {d} |\n"));
        let missing: String = rows.into_iter().filter(|row| !page.contains(row)).collect();
        assert!(missing.is_empty(), "docs/deploying.md has no\n{missing}");
    }

    #[test]
    fn release_as_good_as_the_old_one_passes() {
        // Without failures never; with a ratio of failures of 1 %, 5 % and 20 % in both, these many of 10,000.
        assert_eq!(failures(1, 50, 0.0, 0.0, FINAL), 0);
        let alarms = [(50, 0.01), (50, 0.05), (50, 0.2), (500, 0.05), (500, 0.2)]
            .map(|(requests, ratio)| failures(7, requests, ratio, ratio, FINAL));
        assert!(alarms.iter().all(|count| *count <= TRIALS / 100), "more than 1 % of false alarms: {alarms:?}");
        // A look each second for half a minute, 20 requests a second.
        let mut random = Random(11);
        let mut alarmed = 0;
        for _ in 0..TRIALS / 10 {
            let mut sum = Comparison::default();
            let fails = (0..30).any(|_| {
                let (old, new) = (random.figures(140, 0.05), random.figures(20, 0.05));
                sum.old = Figures::counted(sum.old.requests + old.requests, sum.old.failed + old.failed);
                sum.new = Figures::counted(sum.new.requests + new.requests, sum.new.failed + new.failed);
                matches!(judge(sum, LIMITS, EARLY), Judgement::Fails(_))
            });
            alarmed += u32::from(fails);
        }
        assert!(alarmed <= TRIALS / 1000, "{alarmed} of {} canaries are rolled back early", TRIALS / 10);
    }

    #[test]
    fn release_that_fails_one_request_in_ten_is_found() {
        let missed = |requests, quantile| TRIALS - failures(3, requests, 0.0, 0.1, quantile);
        // With 50 requests 1,091 of 10,000 canaries are missed, with 100 79, with 200 1, with 500 none.
        let misses = [missed(50, FINAL), missed(100, FINAL), missed(200, FINAL), missed(500, FINAL)];
        println!("misses of {TRIALS}: {misses:?}; early: {}", missed(500, EARLY));
        assert!(misses.is_sorted_by(|a, b| a > b || *b == 0), "{misses:?}");
        assert!(misses[2] <= TRIALS / 100 && misses[3] == 0, "{misses:?}");
        assert!(missed(500, EARLY) <= TRIALS / 100);
    }

    #[test]
    fn difference_below_the_limit_passes() {
        // 0.9 % more failures, and 1 % is allowed.
        let fails = failures(5, 5_000, 0.0, 0.009, FINAL);
        assert!(fails <= TRIALS / 100, "{fails}");
    }

    #[test]
    fn few_requests_give_no_verdict_and_it_is_said() {
        let figures = |requests, failed| Comparison { old: Figures::default(), new: Figures::counted(requests, failed) };
        let told = "49 of 50 requests, so there is no verdict by their ratio".to_owned();
        assert_eq!(judge(figures(49, 49), LIMITS, FINAL), Judgement::Unknown(told));
        assert!(matches!(judge(figures(50, 50), LIMITS, FINAL), Judgement::Fails(_)));
        // Figures that cannot be are harmless.
        let told = "50 of 50 requests failed".len();
        assert!(matches!(judge(figures(50, u64::MAX), LIMITS, FINAL), Judgement::Fails(text) if text.len() > told));
        assert!(matches!(judge(figures(0, 9), Limits { min_requests: 0, ..LIMITS }, FINAL), Judgement::Unknown(_)));
    }

    #[test]
    fn share_is_that_of_the_counted_requests() {
        let share = |old, new| Comparison { old: Figures::counted(old, 0), new: Figures::counted(new, 0) }.share();
        assert_eq!([share(0, 0), share(7, 1), share(0, 3), share(u64::MAX, u64::MAX)], [None, Some(13), Some(100), Some(50)]);
    }

    #[test]
    fn slower_release_fails_at_the_end_only_and_missing_times_are_said() {
        let limits = Limits { latency_ratio: Some(2_000), ..LIMITS };
        let times = |log: u64| AnswerTimes { count: 100, logs: 100 * log, squares: 100 * log * log };
        let of = |log| Figures { times: times(log), ..Figures::counted(100, 0) };
        let slow = Comparison { old: of(160), new: of(200) };
        assert!(matches!(judge(slow, limits, FINAL), Judgement::Fails(text) if text.starts_with("its answers take 5.7 times")));
        assert_eq!(judge(slow, limits, EARLY), Judgement::Passes);
        assert_eq!(judge(slow, LIMITS, FINAL), Judgement::Passes);
        assert_eq!(judge(Comparison { old: of(160), new: of(170) }, limits, FINAL), Judgement::Passes);
        let untimed = Comparison { old: Figures::counted(100, 0), new: Figures::counted(100, 0) };
        let told = "the workers tell no times to answer, so there is no verdict by time";
        assert_eq!(judge(untimed, limits, FINAL), Judgement::Unknown(told.to_owned()));
        // More failures count more than missing times.
        let failing = Comparison { new: Figures::counted(100, 30), ..untimed };
        assert!(matches!(judge(failing, limits, FINAL), Judgement::Fails(_)));
        let few = Comparison { new: Figures::counted(3, 0), ..untimed };
        let told = format!("3 of 50 requests, so there is no verdict by their ratio; {told}");
        assert_eq!(judge(few, limits, FINAL), Judgement::Unknown(told));
    }
}
