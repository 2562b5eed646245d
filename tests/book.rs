//! The documentation as a book: its table of contents, its links, the chapters that the program writes, and the tutorial, typed.
//!
//! `RATOON_WRITE_PAGES=1 cargo test --all-features --test book` writes the chapters of the reference anew.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

/// Longer than the tutorial takes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(300);

fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All pages of the book, by their path below `docs`.
fn pages() -> BTreeSet<String> {
    let of = |directory: &str| {
        let entries =
            fs::read_dir(tree("docs").join(directory)).expect("pages").map(|entry| entry.expect("an entry").file_name());
        entries
            .map(|name| format!("{directory}{}", name.to_string_lossy()))
            .filter(|name| name.ends_with(".md"))
            .collect::<Vec<_>>()
    };
    [of(""), of("reference/")].concat().into_iter().filter(|name| name != "SUMMARY.md").collect()
}

/// The targets of all links of a page, outside of code.
fn links(page: &str) -> Vec<String> {
    let prose: String = page.split("```").step_by(2).collect();
    let prose: String = prose.split('`').step_by(2).collect();
    prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link.to_owned()).collect()
}

/// The anchors of a page: its titles, as mdBook and others make them.
fn anchors(page: &str) -> BTreeSet<String> {
    let titles = page.split("```").step_by(2).flat_map(str::lines).filter(|line| line.starts_with('#'));
    titles
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            title
                .chars()
                .filter(|it| it.is_alphanumeric() || matches!(it, ' ' | '-' | '_'))
                .map(|it| if it == ' ' { '-' } else { it })
                .collect()
        })
        .collect()
}

#[test]
fn summary_has_every_page_once() {
    let listed = links(&read(&tree("docs/SUMMARY.md")));
    let distinct: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(distinct.len(), listed.len(), "{listed:?}");
    assert_eq!(distinct, pages());
}

#[test]
fn links_of_the_book_lead_to_files_and_titles() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for name in pages()
        .iter()
        .map(|page| format!("docs/{page}"))
        .chain(["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(str::to_owned))
    {
        let file = tree(&name);
        for link in links(&read(&file)).into_iter().filter(|link| !link.contains("://")) {
            count += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { file.clone() } else { file.parent().expect("a directory").join(path) };
            let is_there = target.exists() && (anchor.is_empty() || anchors(&read(&target)).contains(anchor));
            if !is_there {
                wrong.push(format!("{name}: {link}"));
            }
        }
    }
    assert!(wrong.is_empty() && count > 100, "{count} links; these lead nowhere: {wrong:#?}");
}

fn ratoon(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_ratoon")).args(arguments).env_remove("COLUMNS").output().expect("ratoon");
    assert!(output.status.success(), "ratoon {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A text in a cell of a table. What looks like markup stays text.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
        .replace('<', "&lt;")
        .replace('*', "\\*")
        .replace('_', "\\_")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// The keys of the configuration, by the schema.
fn keys() -> String {
    fn rows(properties: &Value, above: &str, page: &mut String) {
        for (name, value) in properties.as_object().expect("properties") {
            let description = value["description"].as_str().unwrap_or_default();
            if value["properties"].is_object() {
                let _ = writeln!(page, "\n## `[{above}{name}]`\n\n{}\n", description.replace('<', "&lt;"));
                *page += "| key | meaning | default |\n|---|---|---|\n";
                let (tables, leaves): (Vec<_>, Vec<_>) =
                    value["properties"].as_object().expect("properties").iter().partition(|(_, it)| it["properties"].is_object());
                for (key, leaf) in leaves {
                    let default = match &leaf["default"] {
                        Value::Null => String::new(),
                        default => format!("`{default}`"),
                    };
                    let _ =
                        writeln!(page, "| `{key}` | {} | {default} |", cell(leaf["description"].as_str().unwrap_or_default()));
                }
                for (key, table) in tables {
                    rows(&serde_json::json!({ key: table }), &format!("{above}{name}."), page);
                }
            }
        }
    }
    let schema: Value = serde_json::from_str(&ratoon(&["schema"])).expect("JSON");
    let mut page =
        "# Keys of the configuration\n\nWritten by `ratoon schema`; how values are spelled is in ratoon.toml(5).\n".to_owned();
    rows(&schema["properties"], "", &mut page);
    page
}

/// The help of every verb.
fn commands() -> String {
    let help = ratoon(&["--help"]);
    let mut page =
        format!("# Commands\n\nWritten by `ratoon --help` and the help of each verb.\n\n```text\n{}```\n", help.trim_start());
    let verbs = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("a list of verbs");
    for verb in verbs.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()) {
        let _ = write!(page, "\n## ratoon {verb}\n\n```text\n{}```\n", ratoon(&[verb, "--help"]));
    }
    page
}

/// The interfaces on the bus, by the description that the master serves.
fn dbus() -> String {
    let text = read(&tree("systemd/dbus/org.ratoon1.xml"));
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..roxmltree::ParsingOptions::default() };
    let document = roxmltree::Document::parse_with_options(&text, options).expect("XML");
    let mut page = "# D-Bus\n\nWritten from the description of the interfaces that the master serves; who may call what is in org.ratoon1(5).\n".to_owned();
    for interface in document.descendants().filter(|it| it.has_tag_name("interface")) {
        let _ = writeln!(page, "\n## {}\n", interface.attribute("name").expect("a name"));
        page += "| member | meaning |\n|---|---|\n";
        let mut comment = String::new();
        for node in interface.children() {
            if node.is_comment() {
                comment = node.text().unwrap_or_default().to_owned();
            } else if node.is_element() {
                let named = |it: &roxmltree::Node<'_, '_>| {
                    format!("{} {}", it.attribute("type").unwrap_or_default(), it.attribute("name").unwrap_or_default())
                        .trim()
                        .to_owned()
                };
                let arguments = |out: bool| {
                    let all = node.children().filter(|it| it.has_tag_name("arg"));
                    all.filter(|it| (it.attribute("direction") == Some("out")) == out)
                        .map(|it| named(&it))
                        .collect::<Vec<_>>()
                        .join(", ")
                };
                let (name, kind) = (node.attribute("name").unwrap_or_default(), node.tag_name().name());
                let member = match kind {
                    "property" => format!("property `{}`", named(&node)),
                    _ if arguments(true).is_empty() => format!("{kind} `{name}({})`", arguments(false)),
                    _ => format!("{kind} `{name}({}) -> {}`", arguments(false), arguments(true)),
                };
                let _ = writeln!(page, "| {member} | {} |", cell(&std::mem::take(&mut comment)));
            }
        }
    }
    page
}

#[test]
fn reference_is_what_the_program_says() {
    for (name, text) in [("keys", keys()), ("commands", commands()), ("dbus", dbus())] {
        let file = tree(&format!("docs/reference/{name}.md"));
        if std::env::var_os("RATOON_WRITE_PAGES").is_some() {
            fs::create_dir_all(file.parent().expect("a directory")).expect("docs/reference");
            fs::write(&file, &text).expect("a page");
        }
        assert!(text.lines().count() > 20, "{text}");
        assert!(read(&file) == text, "{} is old: RATOON_WRITE_PAGES=1 cargo test --all-features --test book", file.display());
    }
}

/// A shell with all that it has started; ended when dropped.
struct Shell(Child);

impl Drop for Shell {
    fn drop(&mut self) {
        let group = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).expect("a pid");
        // The master ends its workers at the second TERM.
        for signal in [Signal::TERM, Signal::TERM, Signal::KILL] {
            let _ = kill_process_group(group, signal);
            let deadline = Instant::now() + Duration::from_secs(2);
            while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let _ = self.0.wait();
    }
}

#[test]
fn tutorial_does_what_it_says() {
    let page = read(&tree("docs/tutorial.md"));
    let typed: String = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let ports: [TcpListener; 2] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let [shop, status] = ports.map(|it| it.local_addr().expect("an address").port().to_string());
    assert!(typed.contains("8080") && typed.contains("9090"));
    let typed = typed.replace("8080", &shop).replace("9090", &status);
    let directory = tempfile::tempdir().expect("a directory");
    let place = |name: &str| directory.path().join(name);
    fs::create_dir(place("run")).expect("run");
    let log = File::create(place("log")).expect("a log");
    let binary = Path::new(env!("CARGO_BIN_EXE_ratoon")).parent().expect("a directory");
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap_or_default());
    let child = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &typed])
        .current_dir(directory.path())
        .envs([("PATH", path.as_str()), ("TZ", "Europe/Berlin")])
        .env("RUNTIME_DIRECTORY", place("run"))
        .env("RATOON_CONTROL", place("run/control"))
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .process_group(0)
        .spawn()
        .expect("bash");
    let mut shell = Shell(child);
    let deadline = Instant::now() + TIMEOUT;
    let status = loop {
        if let Some(status) = shell.0.try_wait().expect("wait") {
            break status;
        }
        assert!(Instant::now() < deadline, "it does not end\n{}", read(&place("log")));
        std::thread::sleep(Duration::from_millis(20));
    };
    let log = read(&place("log"));
    assert!(status.success(), "{status}\n{log}");
    let answers: Vec<&str> = log.lines().filter(|line| line.starts_with("release ") && line.len() == "release 1".len()).collect();
    assert_eq!(answers, ["release 1", "release 2", "release 2", "release 1"], "{log}");
    for said in ["refused, with status 1", "No module named 'missing_module'", "generation 2 is serving"] {
        assert!(log.contains(said), "no {said:?} in {log}");
    }
}
