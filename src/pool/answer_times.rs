//! The times to answer of a generation, and the verdict on them. Pure arithmetic on counted requests.
//!
//! Times to answer are spread over orders of magnitude, and a few long ones would rule a mean. Their logarithms are compared: the difference
//! of the means of the logarithms is the ratio of the geometric means, and the one-sided lower bound of that difference counts.
//!
//! Law: a new release is slower while its caches are cold, so there is no early verdict by time, only the one at the end of a step or a watch.

use serde::{Deserialize, Serialize};

/// Units of a logarithm in an octave, which is a factor of two.
pub const UNITS: f64 = 16.0;
/// The difference of the typical times below which no release is slower, microseconds: the noise of a machine doubles the times of handlers
/// that take some microseconds.
const NOISE: u64 = 1000;
/// The variance that rounding to whole units may hide.
const ROUNDING: f64 = 1.0;

/// Sums over the answers that a generation has given in some time. The logarithm of a time is that to base two of its microseconds, in
/// `UNITS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AnswerTimes {
    /// Answers whose time was taken.
    pub count: u64,
    /// The sum of the logarithms of their times.
    pub logs: u64,
    /// The sum of the squares of these logarithms.
    pub squares: u64,
}

impl AnswerTimes {
    /// The sums of both.
    #[must_use]
    pub fn plus(self, other: AnswerTimes) -> AnswerTimes {
        AnswerTimes {
            count: self.count.saturating_add(other.count),
            logs: self.logs.saturating_add(other.logs),
            squares: self.squares.saturating_add(other.squares),
        }
    }

    /// The sums since `begin`, an earlier reading of the same worker.
    #[must_use]
    pub fn since(self, begin: AnswerTimes) -> AnswerTimes {
        AnswerTimes {
            count: self.count.saturating_sub(begin.count),
            logs: self.logs.saturating_sub(begin.logs),
            squares: self.squares.saturating_sub(begin.squares),
        }
    }

    fn mean(self) -> f64 {
        self.logs as f64 / self.count.max(1) as f64
    }

    /// The square of the standard error of the mean.
    fn error(self) -> f64 {
        let (count, logs, squares) = (u128::from(self.count), u128::from(self.logs), u128::from(self.squares));
        // Figures of a page that a worker writes meanwhile, or wrongly, may not fit together.
        let spread = (count * squares).saturating_sub(logs.saturating_mul(logs));
        let pairs = (count * count.saturating_sub(1)).max(1);
        (spread as f64 / pairs as f64 + ROUNDING) / self.count.max(1) as f64
    }

    /// The geometric mean of the times in microseconds; `None` without answers.
    pub fn typical_usec(self) -> Option<u64> {
        (self.count > 0).then(|| (self.mean() / UNITS).exp2().round() as u64)
    }
}

/// The verdict by time. `limit`: the ratio of the new geometric mean to the old one that is allowed, in thousandths. `fewest`: the answers that
/// both sides need. Returns a text if the new one is slower than that.
///
/// # Errors
/// The reason why there is no verdict.
pub(super) fn slower(
    old: AnswerTimes,
    new: AnswerTimes,
    limit: u32,
    fewest: u64,
    quantile: f64,
) -> Result<Option<String>, String> {
    if old.count == 0 || new.count == 0 {
        return Err("the workers tell no times to answer, so there is no verdict by time".to_owned());
    }
    // A variance takes two answers.
    let fewest = fewest.max(2);
    if old.count < fewest || new.count < fewest {
        let told = format!("{} and {} of {fewest} answers were timed, so there is no verdict by time", new.count, old.count);
        return Err(told);
    }
    let difference = new.mean() - old.mean();
    let bound = difference - quantile * (new.error() + old.error()).sqrt();
    let typical = |of: AnswerTimes| of.typical_usec().unwrap_or_default();
    let is_noise = typical(new).saturating_sub(typical(old)) < NOISE;
    if is_noise || bound <= (f64::from(limit) / 1000.0).log2() * UNITS {
        return Ok(None);
    }
    let ratio = (difference / UNITS).exp2();
    let time = |of: AnswerTimes| milliseconds(typical(of));
    Ok(Some(format!("its answers take {ratio:.1} times as long: {}, {} of the generation before", time(new), time(old))))
}

/// A time as text, in milliseconds with two or three digits.
fn milliseconds(usec: u64) -> String {
    match usec as f64 / 1000.0 {
        short if short < 10.0 => format!("{short:.2} ms"),
        time => format!("{time:.0} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::random::Random;
    use super::super::verdict::FINAL;
    use super::*;

    /// Simulated canaries for each figure.
    const TRIALS: u32 = 2_000;

    impl Random {
        /// A time to answer in microseconds: one in five is a miss of a cache and takes 30 times as long; both spread log-normally by a
        /// factor of two.
        fn time(&mut self, typical: f64) -> f64 {
            let normal = (0..12).map(|_| self.next()).sum::<f64>() - 6.0;
            let miss = if self.next() < 0.2 { 30.0 } else { 1.0 };
            typical * miss * normal.exp2()
        }

        fn times(&mut self, count: u64, typical: f64) -> AnswerTimes {
            (0..count).fold(AnswerTimes::default(), |sum, _| sum.plus(timed(self.time(typical))))
        }
    }

    /// One answer, as a worker counts it.
    fn timed(usec: f64) -> AnswerTimes {
        let log = (usec.max(1.0).log2() * UNITS).round() as u64;
        AnswerTimes { count: 1, logs: log, squares: log * log }
    }

    /// How many of [`TRIALS`] canaries are slower than the limit of 2.0, when the new release is slower by this ratio in truth.
    fn slow(seed: u64, requests: u64, ratio: f64) -> u32 {
        let mut random = Random(seed);
        let slow = (0..TRIALS).filter(|_| {
            let (old, new) = (random.times(requests * 7, 4_000.0), random.times(requests, 4_000.0 * ratio));
            slower(old, new, 2_000, 50, FINAL).expect("enough answers").is_some()
        });
        slow.count() as u32
    }

    #[test]
    fn release_as_fast_as_the_old_one_passes() {
        // None of 2,000 with equal releases; at the limit itself 10 with 50 answers and 17 with 500, of the 1 % (20) that the bound allows.
        assert_eq!([slow(1, 50, 1.0), slow(2, 200, 1.0), slow(3, 50, 1.3)], [0, 0, 0]);
        let at_the_limit = [slow(4, 50, 2.0), slow(5, 500, 2.0)];
        println!("alarms of {TRIALS} at the limit: {at_the_limit:?}");
        assert!(at_the_limit.iter().all(|count| *count <= TRIALS / 50), "{at_the_limit:?}");
    }

    #[test]
    fn release_that_is_much_slower_is_found() {
        // With a factor of 4 and 50 answers 425 of 2,000 canaries are missed, with 200 none; with a factor of 8 and 50 none; with 3 and 500 none.
        let missed = [(50, 4.0), (50, 8.0), (200, 4.0), (500, 3.0)].map(|(requests, ratio)| TRIALS - slow(7, requests, ratio));
        println!("misses of {TRIALS}: {missed:?}");
        assert_eq!([missed[1], missed[2]], [0, 0]);
        assert!(missed[3] <= TRIALS / 20, "{missed:?}");
    }

    #[test]
    fn few_or_no_times_give_no_verdict_and_it_is_said() {
        let some = |count| AnswerTimes { count, logs: 200 * count, squares: 40_000 * count };
        let told = |old, new| slower(some(old), some(new), 2_000, 50, FINAL).expect_err("no verdict");
        assert_eq!(told(0, 0), "the workers tell no times to answer, so there is no verdict by time");
        assert_eq!(told(900, 0), told(0, 900));
        assert_eq!(told(900, 49), "49 and 900 of 50 answers were timed, so there is no verdict by time");
        assert_eq!(slower(some(50), some(50), 2_000, 50, FINAL), Ok(None));
    }

    #[test]
    fn text_tells_both_typical_times() {
        let times = |usec: f64| (0..100).fold(AnswerTimes::default(), |sum, _| sum.plus(timed(usec)));
        let told = slower(times(1024.0), times(32_768.0), 2_000, 50, FINAL);
        assert_eq!(told, Ok(Some("its answers take 32.0 times as long: 33 ms, 1.02 ms of the generation before".to_owned())));
        // From 10 µs to 80 µs is the noise of a machine.
        assert_eq!(slower(times(10.0), times(80.0), 2_000, 50, FINAL), Ok(None));
        // Figures that cannot be are harmless.
        let absurd = AnswerTimes { count: u64::MAX, logs: u64::MAX, squares: u64::MAX };
        assert!(slower(absurd, absurd, 2_000, 0, FINAL).is_ok());
        assert!(slower(AnswerTimes { count: 60, logs: u64::MAX, squares: 0 }, absurd, 2_000, 0, FINAL).is_ok());
    }
}
