//! The exposition of `/metrics` as a table of samples.

use std::collections::BTreeMap;

/// A sample's labels but for the instance.
pub type Labels = BTreeMap<String, String>;

/// All samples, by name.
#[derive(Debug)]
pub struct Metrics(BTreeMap<String, Vec<(Labels, f64)>>);

impl Metrics {
    /// Reads OpenMetrics text; label values of this test have no quote in them.
    pub fn parse(text: &str) -> Metrics {
        let mut samples: BTreeMap<String, Vec<(Labels, f64)>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, rest) = line.split_once('{').unwrap_or_else(|| panic!("no labels: {line}"));
            let (labels, value) = rest.rsplit_once("} ").unwrap_or_else(|| panic!("no value: {line}"));
            let labels = labels.split("\",").filter_map(|label| label.split_once("=\""));
            let labels = labels.map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned()));
            let labels = labels.filter(|(name, _)| name != "instance").collect();
            let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            samples.entry(name.to_owned()).or_default().push((labels, value));
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
        Metrics(samples)
    }

    /// The samples of this name.
    pub fn all(&self, name: &str) -> &[(Labels, f64)] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// The value of a sample without labels.
    #[track_caller]
    pub fn one(&self, name: &str) -> f64 {
        match self.all(name) {
            [(labels, value)] if labels.is_empty() => *value,
            other => panic!("{name}: {other:?}"),
        }
    }
}
