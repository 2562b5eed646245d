//! The result, for people and as JSON.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::Class;
use super::count::{Counts, Histogram};

pub struct Report<'a> {
    pub took: Duration,
    /// Open loop: the rate that was asked for.
    pub rate: Option<f64>,
    /// Open loop: arrivals that no client was free for until the end.
    pub never_sent: usize,
    pub classes: &'a [(Class, usize, Counts)],
}

const QUANTILES: [(&str, f64); 6] = [("min", 0.0), ("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

impl Report<'_> {
    /// Something was answered, and nothing failed.
    pub fn all_well(&self) -> bool {
        self.never_sent == 0 && self.failed() == 0 && self.classes.iter().all(|(_, _, counts)| counts.answered > 0)
    }

    fn failed(&self) -> u64 {
        self.classes.iter().map(|(_, _, counts)| counts.progress().1).sum()
    }

    fn answered(&self) -> u64 {
        self.classes.iter().map(|(_, _, counts)| counts.answered).sum()
    }

    pub fn json(&self) -> Value {
        let mut all = Histogram::default();
        self.classes.iter().for_each(|(_, _, counts)| all.merge(&counts.latency));
        let classes: serde_json::Map<_, _> =
            self.classes.iter().map(|(class, n, c)| (class.name().into(), self.class(*n, c))).collect();
        json!({
            "seconds": self.took.as_secs_f64(),
            "rate": self.rate,
            "answered": self.answered(),
            "failed": self.failed(),
            "never_sent": self.never_sent,
            "per_second": self.answered() as f64 / self.took.as_secs_f64(),
            "latency_ms": latency(&all),
            "slower_than_a_second": all.above(Duration::from_secs(1)),
            "classes": classes,
        })
    }

    fn class(&self, clients: usize, counts: &Counts) -> Value {
        let by = counts.by.iter().map(|(who, by)| {
            json!({"generation": who.generation, "pid": who.pid, "answered": by.count,
                   "first_ms": by.first.as_secs_f64() * 1e3, "last_ms": by.last.as_secs_f64() * 1e3})
        });
        let samples = counts
            .samples
            .iter()
            .map(|sample| json!({"at_ms": sample.at.as_secs_f64() * 1e3, "kind": sample.kind.name(), "detail": sample.detail}));
        json!({
            "clients": clients,
            "answered": counts.answered,
            "failed": counts.progress().1,
            "per_second": counts.answered as f64 / self.took.as_secs_f64(),
            "connections": counts.connections,
            "announced_closes": counts.announced,
            "failures": counts.failures.iter().map(|(kind, count)| (kind.name().to_owned(), json!(count))).collect::<serde_json::Map<_, _>>(),
            "samples": samples.collect::<Vec<_>>(),
            "latency_ms": latency(&counts.latency),
            "by": by.collect::<Vec<_>>(),
        })
    }

    pub fn table(&self) -> String {
        let mut text = format!("{:<11} {:>7} {:>10} {:>8} {:>9} {:>8}", "clients", "", "answered", "failed", "per s", "conns");
        QUANTILES.iter().for_each(|(name, _)| _ = write!(text, " {name:>8}"));
        text.push_str("  (ms)\n");
        for (class, clients, counts) in self.classes {
            let per_second = counts.answered as f64 / self.took.as_secs_f64();
            let failed = counts.progress().1;
            _ = write!(
                text,
                "{:<11} {clients:>7} {:>10} {failed:>8} {per_second:>9.0} {:>8}",
                class.name(),
                counts.answered,
                counts.connections
            );
            for (_, q) in QUANTILES {
                let ms = counts.latency.quantile(q).map_or_else(|| "-".into(), |d| format!("{:.3}", d.as_secs_f64() * 1e3));
                _ = write!(text, " {ms:>8}");
            }
            text.push('\n');
        }
        _ = writeln!(
            text,
            "{:.1} s{}",
            self.took.as_secs_f64(),
            self.rate.map_or_else(String::new, |rate| format!(", {rate} arrivals a second"))
        );
        self.who(&mut text);
        for (class, _, counts) in self.classes {
            for (kind, count) in &counts.failures {
                _ = writeln!(text, "FAILED {} {}: {count}", class.name(), kind.name());
            }
            for sample in counts.samples.iter().take(5) {
                _ = writeln!(
                    text,
                    "  {:>9.3} s {} {}: {}",
                    sample.at.as_secs_f64(),
                    class.name(),
                    sample.kind.name(),
                    sample.detail
                );
            }
        }
        if self.never_sent > 0 {
            _ = writeln!(text, "FAILED: {} arrivals were never sent, no client was free for them", self.never_sent);
        }
        text
    }

    /// A line for each generation, if answers say theirs.
    fn who(&self, text: &mut String) {
        let mut generations = std::collections::BTreeMap::<u64, (u64, std::collections::BTreeSet<Option<u64>>)>::new();
        for (who, by) in self.classes.iter().flat_map(|(_, _, counts)| &counts.by) {
            if let Some(generation) = who.generation {
                let entry = generations.entry(generation).or_default();
                entry.0 += by.count;
                entry.1.insert(who.pid);
            }
        }
        for (generation, (answered, pids)) in generations {
            _ = writeln!(text, "generation {generation}: {answered} answers by {} processes", pids.len());
        }
    }
}

fn latency(histogram: &Histogram) -> Value {
    let ms = |q| histogram.quantile(q).map(|latency| latency.as_secs_f64() * 1e3);
    QUANTILES.iter().map(|(name, q)| ((*name).to_owned(), json!(ms(*q)))).collect::<serde_json::Map<_, _>>().into()
}
