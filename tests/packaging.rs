//! What packages install and what their scripts do, as far as it can be seen without building one (`tests/package` does that).
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A path of the tree.
fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn links_of_the_packaged_pages_lead_to_packaged_files() {
    let root = tempfile::tempdir().expect("a directory");
    assert!(Command::new(tree("packaging/docs")).arg(root.path()).status().expect("packaging/docs").success());
    let home = root.path().join("usr/share/doc/ratoon");
    let mut seen = 0;
    for directory in [home.clone(), home.join("docs")] {
        for entry in fs::read_dir(&directory).expect("a directory") {
            let page = entry.expect("an entry").path();
            if page.extension().is_none_or(|kind| kind != "md") {
                continue;
            }
            let text = fs::read_to_string(&page).expect("a page");
            let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            for link in links.filter(|link| !link.contains("://") && !link.starts_with('#')) {
                let target = directory.join(link.split('#').next().unwrap_or(link));
                assert!(target.exists(), "{} links to {link}, which is in no package", page.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 5, "only {seen} links were found");
}

#[test]
fn removal_takes_runtime_directories_without_a_master() {
    let base = tempfile::tempdir().expect("a directory");
    let run = base.path().join("ratoon");
    for name in ["living", "dead", "empty"] {
        fs::create_dir_all(run.join(name)).expect("a directory");
    }
    let living = UnixListener::bind(run.join("living/control")).expect("a socket");
    drop(UnixListener::bind(run.join("dead/control")).expect("a socket"));
    let script = fs::read_to_string(tree("packaging/scripts/leftovers")).expect("the script");
    let remove = || {
        let script = script.replace("/run/ratoon", &run.display().to_string());
        assert!(Command::new("sh").args(["-euc", &script]).status().expect("sh").success());
    };
    remove();
    let left: Vec<_> = fs::read_dir(&run).expect("the directory").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(left, ["living"]);
    drop(living);
    remove();
    assert!(!run.exists());
}
