//! What happened: counts by kind, latencies, who answered.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// Every way in which a request can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    ConnectRefused,
    ConnectReset,
    ConnectTimeout,
    /// No descriptor, no port, no such socket file …
    ConnectOther,
    /// Reset on a connection that was just opened, before the first byte of the answer.
    Reset,
    /// End of file there.
    EndBeforeAnswer,
    /// A kept connection was closed or reset under us, though no answer had announced it.
    StaleKeepAlive,
    /// End of file or reset within the answer.
    ShortAnswer,
    Timeout,
    WrongStatus,
    WrongAnswer,
}

impl Failure {
    pub fn name(self) -> &'static str {
        match self {
            Failure::ConnectRefused => "connect-refused",
            Failure::ConnectReset => "connect-reset",
            Failure::ConnectTimeout => "connect-timeout",
            Failure::ConnectOther => "connect-other",
            Failure::Reset => "reset",
            Failure::EndBeforeAnswer => "end-before-answer",
            Failure::StaleKeepAlive => "stale-keep-alive",
            Failure::ShortAnswer => "short-answer",
            Failure::Timeout => "timeout",
            Failure::WrongStatus => "wrong-status",
            Failure::WrongAnswer => "wrong-answer",
        }
    }
}

/// A failure as it is shown.
#[derive(Clone, Debug)]
pub struct Sample {
    pub at: Duration,
    pub kind: Failure,
    pub detail: String,
}

/// Who answered, as far as the answer says it (`pid 17 … generation 3`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Who {
    pub generation: Option<u64>,
    pub pid: Option<u64>,
}

/// How often somebody answered, first and last.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    pub count: u64,
    pub first: Duration,
    pub last: Duration,
}

/// How many failures are kept in full.
const SAMPLES: usize = 20;

#[derive(Clone, Debug)]
pub struct Counts {
    started: Instant,
    /// Answers that were right.
    pub answered: u64,
    pub connections: u64,
    /// Answers that announced the connection's end.
    pub announced: u64,
    pub failures: BTreeMap<Failure, u64>,
    pub samples: Vec<Sample>,
    pub latency: Histogram,
    pub by: BTreeMap<Who, Answered>,
}

impl Default for Counts {
    fn default() -> Self {
        Self::new(Instant::now())
    }
}

impl Counts {
    pub fn new(started: Instant) -> Self {
        Counts {
            started,
            answered: 0,
            connections: 0,
            announced: 0,
            failures: BTreeMap::new(),
            samples: Vec::new(),
            latency: Histogram::default(),
            by: BTreeMap::new(),
        }
    }

    pub fn answered(&mut self, due: Instant, who: Who) {
        let now = Instant::now();
        self.answered += 1;
        self.latency.add(now.saturating_duration_since(due));
        let at = now - self.started;
        let by = self.by.entry(who).or_insert(Answered { count: 0, first: at, last: at });
        by.count += 1;
        by.last = at;
    }

    pub fn failed(&mut self, kind: Failure, detail: String) {
        *self.failures.entry(kind).or_default() += 1;
        if self.samples.len() < SAMPLES {
            self.samples.push(Sample { at: self.started.elapsed(), kind, detail });
        }
    }

    /// Requests that are over, and failed ones among them.
    pub fn progress(&self) -> (u64, u64) {
        let failed = self.failures.values().sum();
        (self.answered + failed, failed)
    }
}

/// Latencies with 1.6 % of error at most: 64 steps in each power of two of nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    min: u64,
    max: u64,
}

const STEPS: u32 = 6;

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: vec![0; ((64 - STEPS as usize) + 1) << STEPS], count: 0, min: u64::MAX, max: 0 }
    }
}

impl Histogram {
    pub fn add(&mut self, latency: Duration) {
        let nanos = latency.as_nanos().min(u64::MAX.into()) as u64;
        self.buckets[Self::bucket(nanos)] += 1;
        self.count += 1;
        self.min = self.min.min(nanos);
        self.max = self.max.max(nanos);
    }

    fn bucket(nanos: u64) -> usize {
        let shift = (64 - nanos.leading_zeros()).saturating_sub(STEPS + 1);
        ((shift as usize) << STEPS) + (nanos >> shift) as usize
    }

    /// The largest value that falls into a bucket.
    fn upper(bucket: usize) -> u64 {
        let shift = (bucket >> STEPS).saturating_sub(1);
        let step = (bucket - (shift << STEPS)) as u64;
        (step << shift) | ((1 << shift) - 1)
    }

    /// The latency that a share `q` of all did not exceed; `None` without any.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        if q <= 0.0 {
            return Some(Duration::from_nanos(self.min));
        }
        let wanted = ((self.count as f64 * q).ceil() as u64).clamp(1, self.count);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        Some(Duration::from_nanos(bucket.map_or(self.max, |bucket| Self::upper(bucket).clamp(self.min, self.max))))
    }

    /// How many were longer than this, to a bucket of its own value.
    pub fn above(&self, limit: Duration) -> u64 {
        let first = Self::bucket(limit.as_nanos().min(u64::MAX.into()) as u64) + 1;
        self.buckets.iter().skip(first).sum()
    }

    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_narrow_and_in_order() {
        let mut last = 0;
        for nanos in
            (0..5000).chain((13..64).map(|bit| 1u64 << bit)).chain((13..64).map(|bit| (1u64 << bit) - 1)).chain([u64::MAX])
        {
            let bucket = Histogram::bucket(nanos);
            let upper = Histogram::upper(bucket);
            assert!(upper >= nanos && upper - nanos <= nanos / 64, "{nanos} {upper}");
            if nanos < 5000 {
                assert!(bucket >= last);
                last = bucket;
            }
        }
    }

    #[test]
    fn quantiles() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        (1..=1000).for_each(|ms| histogram.add(Duration::from_millis(ms)));
        assert_eq!(histogram.quantile(0.0), Some(Duration::from_millis(1)));
        assert_eq!(histogram.quantile(1.0), Some(Duration::from_millis(1000)));
        let p99 = histogram.quantile(0.99).unwrap().as_secs_f64();
        assert!((0.99..0.99 * 1.017).contains(&p99), "{p99}");
    }
}
