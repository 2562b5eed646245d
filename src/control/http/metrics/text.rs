//! Writes the text of an exposition, families and samples, in both formats.

use std::fmt::{Display, Write};

use hyper::header::HeaderValue;

/// The format of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus's text format 0.0.4: a family has the name of its samples, and there are neither units nor the types `info` and
    /// `stateset`. `promtool check metrics` reads this format.
    Classic,
}

impl Format {
    pub fn kind(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Classic => "text/plain; version=0.0.4; charset=utf-8",
        })
    }
}

/// The text written so far. Every sample has the instance's name as a label.
pub(super) struct Text<'a> {
    pub text: String,
    pub instance: &'a str,
    pub format: Format,
}

impl Text<'_> {
    /// Writes the head of a family. The samples of a counter end in `_total`, those of an info in `_info`. `help` must have no quotes,
    /// backslashes and line breaks, because each format escapes them in its own way.
    pub fn family(&mut self, name: &str, kind: &str, unit: &str, help: &str) {
        let sample = sample_name(name, kind);
        let (name, kind, unit) = match (self.format, kind) {
            (Format::OpenMetrics, _) => (name, kind, unit),
            (Format::Classic, "info" | "stateset") => (&*sample, "gauge", ""),
            (Format::Classic, _) => (&*sample, kind, ""),
        };
        let _ = writeln!(self.text, "# TYPE {name} {kind}");
        if !unit.is_empty() {
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
        let _ = writeln!(self.text, "# HELP {name} {help}");
    }

    /// Writes one sample, if its value is known.
    pub fn sample<T: Display>(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: Option<T>) {
        let Some(value) = value else { return };
        let _ = write!(self.text, "{name}{{instance=\"{}\"", Escaped(&self.instance));
        for (label, content) in labels {
            let _ = write!(self.text, ",{label}=\"{}\"", Escaped(content));
        }
        let _ = writeln!(self.text, "}} {value}");
    }

    /// Writes a family of one sample; left out when the value is not known.
    pub fn one<T: Display>(&mut self, name: &str, kind: &str, unit: &str, help: &str, value: Option<T>) {
        if value.is_some() {
            self.family(name, kind, unit, help);
            self.sample(&sample_name(name, kind), &[], value);
        }
    }
}

pub(super) fn sample_name(family: &str, kind: &str) -> String {
    match kind {
        "counter" => format!("{family}_total"),
        "info" => format!("{family}_info"),
        _ => family.to_owned(),
    }
}

/// The value of a label. Backslash, quote and newline are escaped, as the format demands.
struct Escaped<T>(T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for character in self.0.to_string().chars() {
            match character {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// Microseconds, shown as seconds.
pub(super) struct Micros(pub u64);

impl Display for Micros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// An RFC 3339 time as seconds since 1970.
pub(super) fn seconds(time: &str) -> Option<String> {
    let at: jiff::Timestamp = time.parse().ok()?;
    let micros = u64::try_from(at.as_microsecond()).ok()?;
    Some(Micros(micros).to_string())
}
