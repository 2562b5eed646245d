//! What packages install and what their scripts do, as far as it can be seen without building one (`tests/package` does that).
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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

/// The tree as it is now, committed in a repository of its own: a release of it changes nothing here.
fn repository() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let script = r#"
        cd "$1"
        git -c safe.directory="$1" ls-files -z --cached --others --exclude-standard -- . ':!docs/*.png' |
            xargs -0 sh -c 'for file; do [ ! -e "$file" ] || echo "$file"; done' sh | tar -c -T - | tar -x -C "$2"
        cd "$2"
        git init -q -b main
        git config user.name tester
        git config user.email tester@example.com
        git config commit.gpgSign false
        git config tag.gpgSign false
        git add --all
        git commit -q -m tree"#;
    let status = Command::new("sh").args(["-euc", script, "sh"]).arg(tree("")).arg(directory.path()).status().expect("sh");
    assert!(status.success(), "no repository could be made of the tree");
    directory
}

/// Runs a program in a repository.
fn run(repository: &Path, program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    // 2026-11-30 12:00 UTC.
    command.args(arguments).current_dir(repository).env("SOURCE_DATE_EPOCH", "1796040000").output().expect("a program that runs")
}

/// The output of a program that must succeed.
fn printed(repository: &Path, program: &str, arguments: &[&str]) -> String {
    let output = run(repository, program, arguments);
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The reason for which `packaging/release` refuses; nothing has changed then.
fn refused(repository: &Path, arguments: &[&str]) -> String {
    let before = printed(repository, "git", &["status", "--porcelain"]) + &printed(repository, "git", &["log", "--decorate"]);
    let output = run(repository, "packaging/release", arguments);
    assert!(!output.status.success(), "{arguments:?} was not refused");
    let after = printed(repository, "git", &["status", "--porcelain"]) + &printed(repository, "git", &["log", "--decorate"]);
    assert_eq!(before, after, "a release that is refused has changed something");
    String::from_utf8(output.stderr).expect("UTF-8")
}

#[test]
fn release_sets_every_version_and_dates_the_changelog() {
    let repository = repository();
    let repository = repository.path();
    let old = env!("CARGO_PKG_VERSION");
    assert_eq!(printed(repository, "packaging/versions", &[]).trim(), old);
    let changes = fs::read_to_string(repository.join("CHANGELOG.md")).expect("CHANGELOG.md");
    fs::write(repository.join("CHANGELOG.md"), changes.replacen("\n### ", "\n- A change for this test.\n\n### ", 1))
        .expect("CHANGELOG.md");
    printed(repository, "git", &["commit", "--quiet", "--all", "--message", "a change"]);

    // The rehearsal shows the release and leaves the tree alone.
    let shown = printed(repository, "packaging/release", &["--check", "77.0.1"]);
    assert!(shown.contains("\n+## [77.0.1] - 2026-11-30\n"), "{shown}");
    assert_eq!(printed(repository, "packaging/versions", &[]).trim(), old);
    assert_eq!(printed(repository, "git", &["tag", "--list", "v77*"]), "");

    printed(repository, "packaging/release", &["--no-artefacts", "77.0.1"]);
    assert_eq!(printed(repository, "packaging/versions", &[]).trim(), "77.0.1");
    assert_eq!(printed(repository, "git", &["status", "--porcelain"]), "");
    assert_eq!(printed(repository, "git", &["describe", "--exact-match"]).trim(), "v77.0.1");
    let changes = fs::read_to_string(repository.join("CHANGELOG.md")).expect("CHANGELOG.md");
    let (_, released) = changes
        .split_once("\n## [Unreleased]\n\n## [77.0.1] - 2026-11-30\n")
        .expect("a section of this version, and an empty one above it");
    assert!(released.contains("\n- A change for this test.\n"));
    assert!(
        printed(repository, "git", &["tag", "--list", "--format=%(contents)", "v77.0.1"])
            .contains("\n- A change for this test.\n")
    );
    // cargo agrees with the lock file.
    printed(repository, "cargo", &["tree", "--quiet", "--locked", "--offline", "--workspace"]);

    // Any other file that still names the old version is history, or packaging/versions does not know of it.
    let history = [
        "CHANGELOG.md",
        "Cargo.lock",
        "benches/results/",
        "docs/measured.md",
        "packaging/ansible/plugins/",
        "src/cli/recorded/",
        "src/cli/status_view_tests.rs",
        "src/control/client.rs",
        "src/control/http/snapshots/",
        "tests/packaging.rs",
    ];
    let word = format!("(^|[^0-9.]){}([^0-9.]|[.][^0-9]|$)", old.replace('.', "[.]"));
    let left = run(repository, "git", &["grep", "--files-with-matches", "--extended-regexp", &word]).stdout;
    let left = String::from_utf8(left).expect("UTF-8");
    let forgotten: Vec<_> = left.lines().filter(|file| !history.iter().any(|past| file.starts_with(past))).collect();
    assert!(forgotten.is_empty(), "these still say {old}; packaging/versions should know them: {forgotten:?}");

    // A second time there is nothing to release, and no version twice.
    assert!(refused(repository, &["77.0.1"]).contains("there is a tag v77.0.1 already"));
    assert!(refused(repository, &["77.0.2"]).contains("CHANGELOG.md has nothing under Unreleased"));
}

#[test]
fn release_refuses_a_wrong_version_and_an_unclean_tree() {
    let repository = repository();
    let repository = repository.path();
    assert!(refused(repository, &[]).contains("name the version"));
    for wrong in ["1.2", "v1.2.3", "1.2.3-rc.1", "01.2.3", "next"] {
        assert!(refused(repository, &[wrong]).contains(&format!("'{wrong}' is no version: write three numbers")), "{wrong}");
    }
    assert!(
        refused(repository, &["0.0.1"])
            .contains(&format!("0.0.1 is older than {}, which Cargo.toml has", env!("CARGO_PKG_VERSION")))
    );
    printed(repository, "git", &["tag", "v80.1.0"]);
    assert!(refused(repository, &["79.9.9"]).contains("79.9.9 is older than the tag v80.1.0"));

    fs::write(repository.join("forgotten"), "").expect("a file");
    assert!(refused(repository, &["81.0.0"]).contains("the tree is not clean; commit or remove first:\n?? forgotten"));
    fs::remove_file(repository.join("forgotten")).expect("the file");

    let manifest = repository.join("packaging/ansible/galaxy.yml");
    let text = fs::read_to_string(&manifest).expect("galaxy.yml");
    fs::write(&manifest, text.replace(env!("CARGO_PKG_VERSION"), "9.9.9")).expect("galaxy.yml");
    printed(repository, "git", &["commit", "--quiet", "--all", "--message", "a version of its own"]);
    let reason = refused(repository, &["81.0.0"]);
    assert!(reason.contains("and these do not:\npackaging/ansible/galaxy.yml\t9.9.9\n"), "{reason}");
}
