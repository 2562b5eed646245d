//! The completions of shells that packages install: which words they offer.
#![forbid(unsafe_code)]

#[allow(dead_code)]
#[path = "../examples/completions.rs"]
mod completions;

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

/// The three files, below a directory of their own.
fn written() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a directory");
    completions::write(root.path()).expect("completions");
    root
}

fn read(root: &Path, name: &str) -> String {
    fs::read_to_string(root.join("usr/share").join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

const BASH: &str = "bash-completion/completions/ratoon";
const ZSH: &str = "zsh/vendor-completions/_ratoon";
const FISH: &str = "fish/vendor_completions.d/ratoon.fish";

/// What bash offers for a command line whose last word is being typed.
fn offered(root: &Path, runtime: &Path, words: &[&str]) -> Vec<String> {
    let script = r#"source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ratoon ratoon "${!#}" "${@: -2:1}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let mut command = Command::new("bash");
    command.args(["--norc", "-c", script, "bash"]).arg(root.join("usr/share").join(BASH)).args(words);
    let output = command.env("XDG_RUNTIME_DIR", runtime).current_dir(runtime).output().expect("bash");
    String::from_utf8(output.stdout).expect("UTF-8").split_whitespace().map(str::to_owned).collect()
}

#[test]
fn bash_offers_instances_verbs_and_words_of_an_enum() {
    let (root, runtime) = (written(), tempfile::tempdir().expect("a directory"));
    let place = runtime.path().join("ratoon/completed");
    fs::create_dir_all(&place).expect("a directory");
    let _socket = UnixListener::bind(place.join("control")).expect("a socket");
    fs::create_dir_all(runtime.path().join("ratoon/empty")).expect("a directory");
    let offered = |words: &[&str]| offered(root.path(), runtime.path(), words);
    for verb in ["status", "reload", "abort", "top", "upgrade"] {
        let words = offered(&["ratoon", verb, "comp"]);
        assert_eq!(words, ["completed"], "{verb}");
        assert!(!offered(&["ratoon", verb, ""]).contains(&"empty".to_owned()), "{verb}");
    }
    assert_eq!(offered(&["ratoon", "run", "--ready", "n"]), ["notify"]);
    let verbs = offered(&["ratoon", ""]);
    assert!(verbs.contains(&"status".to_owned()) && verbs.contains(&"schema".to_owned()), "{verbs:?}");
    assert!(!verbs.iter().any(|verb| verb == "leftovers" || verb.contains("handover")), "{verbs:?}");
}

/// The words of a key in the JSON Schema of the configuration.
fn words(table: &str, key: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_ratoon")).arg("schema").output().expect("ratoon");
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let words = schema["properties"][table]["properties"][key]["enum"].as_array().expect("an enum");
    words.iter().map(|word| word.as_str().expect("text").to_owned()).collect()
}

#[test]
fn flag_of_an_enum_is_completed_by_its_words_and_no_files() {
    let (root, place) = (written(), tempfile::tempdir().expect("a directory"));
    fs::write(place.path().join("a-file"), "").expect("a file");
    let (zsh, fish) = (read(root.path(), ZSH), read(root.path(), FISH));
    for (flag, table, key) in [
        ("balance", "worker", "balance"),
        ("ready", "worker", "ready"),
        ("reload-memory", "reload", "memory"),
        ("status-details", "status", "details"),
    ] {
        let words = words(table, key);
        assert_eq!(offered(root.path(), place.path(), &["ratoon", "run", &format!("--{flag}"), ""]), words, "{flag}");
        let of_flag = |line: &&str| line.contains(&format!("--{flag}=")) && line.contains(&format!(":({})", words.join(" ")));
        assert!(zsh.lines().any(|line| of_flag(&line)), "zsh: {flag}");
        let line = fish.lines().position(|line| line.contains(&format!(" -l {flag} "))).expect(flag);
        let below: Vec<&str> = fish.lines().skip(line).take(words.len() + 1).collect();
        assert!(words.iter().all(|word| below.iter().any(|line| line.contains(word))), "fish: {flag}: {below:?}");
        assert!(below[0].contains(" -r -f -a "), "fish offers files: {below:?}");
    }
    assert_eq!(offered(root.path(), place.path(), &["ratoon", "init", "--ready", ""]), words("worker", "ready"));
}

#[test]
fn zsh_offers_files_where_a_path_may_stand() {
    let root = written();
    let zsh = read(root.path(), ZSH);
    let of_any_kind: Vec<&str> = zsh.lines().filter(|line| line.contains(":_default'")).collect();
    let may_be_path = |line: &&str| line.contains("--listen=") || line.contains("-l+") || line.contains("::command -- ");
    assert!(of_any_kind.iter().all(may_be_path), "{of_any_kind:#?}");
    assert!(zsh.lines().any(|line| line.contains("--user=") && line.contains(":USER:_users")));
}

#[test]
fn completions_prints_what_packages_install() {
    let root = written();
    for (shell, name) in [("bash", BASH), ("zsh", ZSH), ("fish", FISH)] {
        let output = Command::new(env!("CARGO_BIN_EXE_ratoon")).args(["completions", shell]).output().expect("ratoon");
        assert!(output.status.success(), "{shell}: {}", output.status);
        assert_eq!(String::from_utf8(output.stdout).expect("UTF-8"), read(root.path(), name), "{shell}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_ratoon")).args(["completions", "tcsh"]).output().expect("ratoon");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("bash, fish, zsh"), "{said}");
}

#[test]
fn no_shell_offers_a_hidden_verb_and_each_knows_instances() {
    let root = written();
    for name in [BASH, ZSH, FISH] {
        let text = read(root.path(), name);
        assert!(!text.contains("leftovers") && !text.contains("handover"), "{name} offers a hidden verb");
        assert!(text.contains("/run/ratoon/*/control"), "{name} lists no instances");
    }
    let zsh = read(root.path(), ZSH);
    assert!(!zsh.contains("The instance:_default"), "zsh offers files for an instance");
    assert!(zsh.contains(":_ratoon_instances'") && zsh.contains("(shared per-slot)"));
    assert!(read(root.path(), FISH).contains("shared"));
}
