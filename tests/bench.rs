//! The harness of the benchmarks is not run by the tests, for it takes an hour; that it can be run is tested by its
//! smallest row. No figure is judged here: where one must be guarded, what makes it is counted beside the code.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, Output};

/// The harness, with the programs of this build.
fn harness(args: &[&str]) -> Output {
    let programs = Path::new(env!("CARGO_BIN_EXE_ratoon")).parent().expect("a directory");
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/run"))
        .args(args)
        .env("BENCH_PROGRAMS", programs)
        .output()
        .expect("benches/run, which needs python3")
}

#[test]
fn the_smallest_row_measures_something() {
    let directory = tempfile::tempdir().expect("a directory");
    let json = directory.path().join("result.json");
    let ran = harness(&["--quick", "--no-build", "--row", "memory", "--json", json.to_str().expect("UTF-8")]);
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{said}");
    let text = std::fs::read_to_string(&json).expect("the result");
    let result: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let figures = result["figures"].as_array().expect("figures");
    assert!(!figures.is_empty(), "{said}");
    for figure in figures {
        let what = figure["what"].as_str().expect("what it is");
        // What a further worker adds is a difference of two runs, whose pages of the program are not the same ones: any
        // number.
        assert!(figure["ratoon"].as_f64().is_some(), "{figure}");
        assert!(said.contains(&format!("| {what} |")), "{said}");
    }
    assert!(figures[0]["ratoon"].as_f64().is_some_and(|memory| memory > 0.0), "{}", figures[0]);
    // The table and the picture of a result that is there.
    let table = harness(&["--table", json.to_str().expect("UTF-8")]);
    assert!(said.starts_with(&*String::from_utf8_lossy(&table.stdout)), "{said}");
    let picture = harness(&["--picture", json.to_str().expect("UTF-8")]);
    assert!(picture.stdout.starts_with(b"<svg ") && picture.stdout.ends_with(b"</svg>\n"));
}

/// README.md, docs/measured.md and its picture show what was measured.
#[test]
fn the_pages_show_the_recorded_figures() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let recorded = root.join("benches/results/measured.json");
    let drawn = |what| {
        let ran = harness(&[what, recorded.to_str().expect("UTF-8")]);
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).expect("UTF-8")
    };
    for (page, what, rows) in [("README.md", "--few", 5), ("docs/measured.md", "--table", 40)] {
        let text = std::fs::read_to_string(root.join(page)).expect("a page");
        let table = drawn(what);
        assert!(table.lines().count() >= 2 + rows, "{table}");
        let shown = text.split("<!-- measured: begin -->\n").nth(1).and_then(|rest| rest.split("<!-- measured: end -->").next());
        assert_eq!(shown, Some(&*table), "{page}: `benches/run --record` writes it");
    }
    let picture = std::fs::read_to_string(root.join("docs/measured.svg")).expect("docs/measured.svg");
    assert_eq!(picture, drawn("--picture"));
}
