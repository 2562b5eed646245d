//! The alert rules for Prometheus (`packaging/prometheus`), by Prometheus's own tool, and against the metrics of a running master.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file of the sources.
fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs promtool on copies of the rules, where the paths in them are right.
fn promtool(arguments: &[&str]) {
    let place = tempfile::tempdir().expect("a directory");
    for entry in fs::read_dir(tree("packaging/prometheus")).expect("the rules").flatten() {
        fs::copy(entry.path(), place.path().join(entry.file_name())).expect("a copy");
    }
    let ours = tree("target/promtool/usr/bin/promtool");
    let mut promtool = Command::new(if ours.exists() { ours } else { "promtool".into() });
    let said = promtool.args(arguments).current_dir(&place).output().expect("promtool: run tests/setup");
    let text = [said.stdout, said.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(said.status.success(), "{arguments:?}: {text}");
}

#[test]
#[ignore = "needs promtool; tests/run has it"]
fn rules_are_raised_by_faults_and_by_nothing_else() {
    promtool(&["check", "config", "scrape.yml"]);
    promtool(&["test", "rules", "ratoon.rules.test.yml"]);
}

/// The metrics that the source names, with the endings that the formats add.
fn exported() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut files = vec![tree("src/control/http/metrics.rs")];
    files.extend(fs::read_dir(tree("src/control/http/metrics")).expect("its parts").flatten().map(|entry| entry.path()));
    for file in files {
        let source = fs::read_to_string(&file).expect("a source");
        for name in source.split('"').filter(|word| word.starts_with("ratoon_")) {
            for ending in ["", "_total", "_count"] {
                names.insert(format!("{name}{ending}"));
            }
        }
    }
    names
}

#[test]
fn rules_name_metrics_that_there_are() {
    let exported = exported();
    let rules = fs::read_to_string(tree("packaging/prometheus/ratoon.rules.yml")).expect("the rules");
    let named: BTreeSet<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: "))
        .flat_map(|expression| expression.split(|it: char| !it.is_ascii_alphanumeric() && it != '_'))
        .filter(|word| word.starts_with("ratoon_"))
        .collect();
    assert!(named.len() > 10, "{named:?}");
    for name in named {
        assert!(exported.contains(name), "a rule names {name}, which no master exports");
    }
}
