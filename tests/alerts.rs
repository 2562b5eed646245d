//! The alert rules for Prometheus (`packaging/prometheus`) and the dashboard for Grafana (`packaging/grafana`): by Prometheus's own tool,
//! and against the metrics that the source names.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A file of the sources.
fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A directory with copies of the rules, where the paths in them are right.
fn rules() -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("a directory");
    for entry in fs::read_dir(tree("packaging/prometheus")).expect("the rules").flatten() {
        fs::copy(entry.path(), place.path().join(entry.file_name())).expect("a copy");
    }
    place
}

/// Runs promtool in this directory.
fn promtool(place: &Path, arguments: &[&str]) {
    let ours = tree("target/promtool/usr/bin/promtool");
    let mut promtool = Command::new(if ours.exists() { ours } else { "promtool".into() });
    let said = promtool.args(arguments).current_dir(place).output().expect("promtool: run tests/setup");
    let text = [said.stdout, said.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(said.status.success(), "{arguments:?}: {text}");
}

#[test]
#[ignore = "needs promtool; tests/run has it"]
fn rules_are_raised_by_faults_and_by_nothing_else() {
    let place = rules();
    promtool(place.path(), &["check", "config", "scrape.yml"]);
    promtool(place.path(), &["test", "rules", "ratoon.rules.test.yml"]);
}

/// The metrics that the source names, with the endings that the formats add.
fn exported() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut files = vec![tree("src/control/http/metrics.rs")];
    files.extend(fs::read_dir(tree("src/control/http/metrics")).expect("its parts").flatten().map(|entry| entry.path()));
    for file in files {
        let source = fs::read_to_string(&file).expect("a source");
        for name in source.split('"').filter(|word| word.starts_with("ratoon_")) {
            for ending in ["", "_total", "_count", "_bucket", "_sum", "_info"] {
                names.insert(format!("{name}{ending}"));
            }
        }
        // Both sides of a comparison have names that are put together.
        for figure in ["requests", "failed_requests"]
            .into_iter()
            .filter(|figure| source.contains(&format!("[(\"{figure}\", ")) || source.contains(&format!(", (\"{figure}\", ")))
        {
            names.extend(["ratoon_canary", "ratoon_watch"].map(|of| format!("{of}_{figure}")));
        }
    }
    names
}

/// The names of metrics in an expression.
fn metrics(expression: &str) -> impl Iterator<Item = &str> {
    expression.split(|it: char| !it.is_ascii_alphanumeric() && it != '_').filter(|word| word.starts_with("ratoon_"))
}

/// Fails with the names that no master exports.
fn all_are_exported(place: &str, named: &BTreeSet<&str>) {
    let exported = exported();
    // A counter has its ending in every sample, which the source does not show.
    let recorded = fs::read_to_string(tree(
        "src/control/http/snapshots/ratoon__control__http__metrics__tests__the_whole_of_a_busy_pool.snap",
    ))
    .expect("the recorded metrics");
    for name in named {
        let sample = |ending: &str| recorded.contains(&format!("\n{name}{ending}{{"));
        assert!(exported.contains(*name), "{place} names {name}, which no master exports");
        assert!(sample("") || !(sample("_total") || sample("_info")), "{place} names {name} without its ending");
    }
}

#[test]
fn rules_name_metrics_that_there_are() {
    let rules = fs::read_to_string(tree("packaging/prometheus/ratoon.rules.yml")).expect("the rules");
    let named: BTreeSet<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).flat_map(metrics).collect();
    assert!(named.len() > 10, "{named:?}");
    all_are_exported("a rule", &named);
}

/// The dashboard, and the value of every key of this name in it, however deep.
fn dashboard(key: &str) -> Vec<String> {
    fn find(value: &Value, key: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(all) => {
                found.extend(all.get(key).and_then(Value::as_str).map(str::to_owned));
                all.values().for_each(|value| find(value, key, found));
            }
            Value::Array(all) => all.iter().for_each(|value| find(value, key, found)),
            _ => {}
        }
    }
    let text = fs::read_to_string(tree("packaging/grafana/ratoon.json")).expect("the dashboard");
    let mut found = Vec::new();
    find(&serde_json::from_str(&text).expect("JSON"), key, &mut found);
    found
}

#[test]
fn dashboard_names_metrics_that_there_are() {
    let (expressions, variables) = (dashboard("expr"), dashboard("definition"));
    assert!(expressions.len() > 30 && variables.len() == 2, "{expressions:?}\n{variables:?}");
    let named: BTreeSet<&str> = expressions.iter().chain(&variables).flat_map(|expression| metrics(expression)).collect();
    assert!(named.len() > 25, "{named:?}");
    all_are_exported("the dashboard", &named);
}

#[test]
fn dashboard_has_distinct_panels_that_do_not_overlap() {
    let text = fs::read_to_string(tree("packaging/grafana/ratoon.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let numbers: BTreeSet<Option<u64>> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert!(numbers.len() == panels.len() && !numbers.contains(&None), "{numbers:?}");
    let mut taken = BTreeSet::new();
    for panel in panels {
        let [x, y, width, height] =
            ["x", "y", "w", "h"].map(|name| panel["gridPos"][name].as_u64().unwrap_or_else(|| panic!("no {name}: {panel}")));
        assert!(width > 0 && height > 0 && x + width <= 24, "{panel}");
        for place in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
            assert!(taken.insert(place), "{} lies over another panel", panel["title"]);
        }
    }
}

#[test]
fn dashboard_shows_size_and_queue_of_elastic_pools() {
    let text = fs::read_to_string(tree("packaging/grafana/ratoon.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panel = |title: &str| {
        let mut panels = dashboard["panels"].as_array().expect("panels").iter();
        panels
            .find(|it| it["title"].as_str().is_some_and(|it| it.starts_with(title)))
            .unwrap_or_else(|| panic!("no panel {title}"))
    };
    for (title, wanted) in [
        ("Workers between", ["workers_configured", "workers_ready", "workers_min", "workers_max"].as_slice()),
        ("Waiting connections", &["socket_queue", "at_max"]),
    ] {
        let shown = panel(title)["targets"].to_string();
        for name in wanted {
            assert!(shown.contains(&format!("ratoon_{name}{{")), "{title}: no {name} in {shown}");
        }
    }
}

#[test]
#[ignore = "needs promtool; tests/run has it"]
fn expressions_of_the_dashboard_parse() {
    let place = tempfile::tempdir().expect("a directory");
    let rules: Vec<Value> = dashboard("expr")
        .into_iter()
        .enumerate()
        .map(|(number, expression)| {
            // Variables that Grafana replaces.
            let expression = ["$__rate_interval", "$__range"].iter().fold(expression, |text, name| text.replace(name, "5m"));
            let expression = ["$host", "$instance"].iter().fold(expression, |text, name| text.replace(name, ".*"));
            assert!(!expression.contains('$'), "{expression}");
            serde_json::json!({"record": format!("panel:{number}"), "expr": expression})
        })
        .collect();
    // YAML has JSON in it.
    let rules = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]});
    fs::write(place.path().join("dashboard.yml"), rules.to_string()).expect("the rules");
    promtool(place.path(), &["check", "rules", "dashboard.yml"]);
}
