//! The documentation against the program: what the program has, the page that should name it names; what the documentation
//! shows, works.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The pages for people, but for the manual.
fn documents() -> Vec<String> {
    let docs = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")).expect("docs");
    let docs = docs.map(|entry| format!("docs/{}", entry.expect("an entry").file_name().to_string_lossy()));
    let all = ["README.md", "AGENTS.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
        .map(str::to_owned)
        .into_iter();
    all.chain(docs.filter(|name| name.ends_with(".md"))).collect()
}

/// A file of the tree.
fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A manual page as it reads: without fonts, with plain hyphens, comments left out.
fn page(name: &str) -> String {
    let text = read(&format!("packaging/man/{name}"));
    let text: Vec<_> = text.lines().filter(|line| !line.starts_with(".\\\"")).collect();
    text.join("\n").replace("\\-", "-").replace("\\fB", "").replace("\\fI", "").replace("\\fR", "")
}

/// Whether a word stands in the text, not as a part of a longer one.
fn names(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    text.match_indices(word)
        .any(|(at, _)| !text[..at].chars().next_back().is_some_and(part) && !text[at + word.len()..].starts_with(part))
}

/// Fails with all that the page does not name.
fn page_names<'a>(page_name: &str, words: impl IntoIterator<Item = &'a String>) {
    let page = page(page_name);
    let words: Vec<_> = words.into_iter().collect();
    assert!(words.len() > 3, "nothing was found that {page_name} should name: {words:?}");
    let missing: Vec<_> = words.into_iter().filter(|word| !names(&page, word)).collect();
    assert!(missing.is_empty(), "packaging/man/{page_name} does not name {missing:?}");
}

/// What stands between two marks, as often as it does.
fn between<'a>(text: &'a str, from: &'a str, to: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(from).skip(1).filter_map(move |rest| rest.split(to).next())
}

fn ratoon(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_ratoon")).args(args).output().expect("ratoon");
    assert!(output.status.success(), "ratoon {args:?}: {}{}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn verbs() -> Vec<String> {
    let help = ratoon(&["--help"]);
    let commands = between(&help, "Commands:\n", "\n\n").next().expect("a list of commands").to_owned();
    commands.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next().map(str::to_owned)).collect()
}

#[test]
fn every_verb_and_flag_is_in_its_page() {
    let mut words = BTreeSet::new();
    for verb in verbs() {
        let help = ratoon(&[&verb, "--help"]);
        assert!(help.contains("Exit status: 0"), "ratoon {verb} --help does not tell how it exits: {help}");
        let flags =
            help.split(|c: char| !c.is_alphanumeric() && c != '-').filter(|word| word.len() > 2 && word.starts_with("--"));
        words.extend(flags.map(str::to_owned));
        words.insert(verb);
    }
    page_names("ratoon.1", &words);
}

/// The names of all tables and keys.
fn keys() -> BTreeSet<String> {
    fn add(schema: &serde_json::Value, names: &mut BTreeSet<String>) {
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            names.insert(name.clone());
            add(schema, names);
        }
    }
    let schema = serde_json::from_str(&ratoon(&["schema"])).expect("JSON");
    let mut names = BTreeSet::new();
    add(&schema, &mut names);
    names
}

#[test]
fn every_key_is_in_its_page() {
    page_names("ratoon.toml.5", &keys());
}

#[test]
fn every_path_of_the_control_socket_is_in_its_page() {
    let words: Vec<_> = between(&read("src/control/http/routes.rs"), "    (\"/", "\"").map(|path| format!("/{path}")).collect();
    page_names("ratoon.1", &words);
}

#[test]
fn every_event_and_its_fields_are_in_its_page() {
    let source = read("src/control/messages.rs");
    let named = between(&source, "pub fn name(&self)", "\n    }\n").next().expect("the names");
    let mut words: Vec<_> = between(named, "=> \"", "\"").map(str::to_owned).collect();
    assert!(words.len() >= 6, "{words:?}");
    for name in ["SummaryMessage", "WorkerMessage", "ExitMessage", "ReloadMessage", "Started", "Lagged"] {
        let fields = between(&source, &format!("struct {name} {{\n"), "\n}\n").next().expect("its fields").to_owned();
        let fields =
            fields.lines().filter_map(|line| Some(line.trim().trim_start_matches("pub ").split_once(": ")?.0.to_owned()));
        words.extend(fields.filter(|field| !field.starts_with('/')));
    }
    assert!(words.len() > 25, "{words:?}");
    page_names("ratoon.1", &words);
}

#[test]
fn every_member_on_the_bus_is_in_its_page() {
    let source = read("systemd/dbus/org.ratoon1.xml");
    let members = ["<method name=\"", "<signal name=\"", "<property name=\"", "<interface name=\""];
    let words: Vec<_> = members.iter().flat_map(|member| between(&source, member, "\"")).map(str::to_owned).collect();
    page_names("org.ratoon1.5", &words);
}

#[test]
fn every_word_of_a_worker_is_in_its_page() {
    let source = read("src/master/workers/sd_notify.rs");
    let parser = between(&source, "fn word(", "\n}\n").next().expect("the parser");
    let words: Vec<_> = between(parser, "        b\"", "\"")
        .filter(|word| word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'))
        .map(str::to_owned)
        .collect();
    page_names("ratoon-worker.7", &words);
}

#[test]
fn the_pages_are_of_this_version() {
    let version = concat!("ratoon ", env!("CARGO_PKG_VERSION"));
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/man")).expect("the pages") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a page");
        assert!(text.contains(version), "{} is not of {version}", path.display());
    }
}

#[test]
fn configurations_in_the_documentation_are_fine() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut checked = 0;
    for document in documents() {
        for text in between(&read(&document), "```toml\n", "```") {
            let file = directory.path().join("pool.toml");
            fs::write(&file, text).expect("pool.toml");
            ratoon(&["check", "--file-only", file.to_str().expect("UTF-8")]);
            checked += 1;
        }
    }
    let page = read("packaging/man/ratoon.toml.5");
    let example = between(&page, ".SH EXAMPLE\n.nf\n", ".fi").next().expect("an example");
    let file = directory.path().join("page.toml");
    fs::write(&file, example).expect("page.toml");
    ratoon(&["check", "--file-only", file.to_str().expect("UTF-8")]);
    assert!(checked > 0, "only {checked} configurations were found in the documentation");
}

#[test]
fn files_that_the_documentation_names_are_there() {
    const TOP: [&str; 7] = ["src/", "tests/", "systemd/", "examples/", "packaging/", "benches/", ".ci/"];
    for document in documents() {
        let text = read(&document);
        // Links are relative to the page, paths in the text to the tree.
        let above = if document.starts_with("docs/") { "docs/" } else { "" };
        let links = between(&text, "](", ")").filter(|link| !link.contains("://") && !link.starts_with('#'));
        let links = links.map(|link| format!("{above}{}", link.split('#').next().unwrap_or(link)));
        let words = text.split(|c: char| c.is_whitespace() || matches!(c, '`' | '(' | ')' | ',' | ';' | ':' | '[' | ']'));
        let named = words.filter(|word| TOP.iter().any(|top| word.starts_with(top))).map(|word| word.trim_end_matches('.'));
        let paths: BTreeSet<_> = links.chain(named.map(str::to_owned)).collect();
        let missing: Vec<_> = paths.iter().filter(|path| !Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists()).collect();
        assert!(missing.is_empty(), "{document} names what is not there: {missing:?}");
    }
}

#[test]
fn a_link_leads_to_every_page() {
    let all = documents();
    let texts: Vec<_> = all.iter().map(|name| (name, read(name))).collect();
    for page in all.iter().filter_map(|name| name.strip_prefix("docs/")) {
        let leads = texts.iter().any(|(name, text)| {
            let link = if name.starts_with("docs/") { page.to_owned() } else { format!("docs/{page}") };
            text.contains(&format!("]({link})"))
        });
        assert!(leads, "nothing leads to docs/{page}");
    }
}

#[test]
fn worker_libraries_are_of_this_version() {
    for (file, line) in [
        ("clients/bind/Cargo.toml", "\nversion = \"#\"\n"),
        ("clients/rust/Cargo.toml", "\nversion = \"#\"\n"),
        ("Cargo.toml", "path = \"clients/rust\", version = \"#\""),
        ("clients/node/package.json", "\"version\": \"#\","),
        ("clients/python/pyproject.toml", "\nversion = \"#\"\n"),
        ("clients/ruby/lib/ratoon/version.rb", " = '#'\n"),
        ("clients/go/ratoon.go", "\nconst Version = \"#\"\n"),
        ("clients/go/README.md", "ratoon@v# "),
        ("docs/recipes.md", "\nrequire ratoon v#\n"),
    ] {
        let expected = line.replace('#', env!("CARGO_PKG_VERSION"));
        assert!(read(file).contains(&expected), "{file} has no {expected:?}");
    }
}

#[test]
fn the_architecture_page_shows_the_whole_house() {
    let page = read("docs/architecture.md");
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).expect("src") {
        let entry = entry.expect("an entry");
        if entry.path().is_dir() {
            let name = entry.file_name().to_string_lossy().into_owned();
            assert!(page.contains(&format!("[src/{name}](../src/{name}/mod.rs)")), "src/{name} is not in the house");
        }
    }
    // What is named as code is in the code.
    let code = ["src/pool/mod.rs", "src/pool/vocabulary.rs", "src/pool/exit_cause.rs"].map(read).concat();
    for name in between(&page, "`", "`").filter(|name| name.contains("::") && !name.contains('\n')) {
        for part in name.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|part| part.starts_with(char::is_uppercase)) {
            assert!(names(&code, part), "{name}: the pool has no {part}");
        }
    }
}

/// The words of a table's first column, all of the tables of a page under this title.
fn first_column(page: &str, title: &str) -> Vec<String> {
    let section = between(page, &format!("\n## {title}\n"), "\n## ").next().unwrap_or_default().to_owned();
    section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next().map(str::to_owned)).skip(2).collect()
}

/// What "coming from" says that is here, is here: every key of the configuration, and every verb.
#[test]
fn what_others_are_told_that_is_here_is_here() {
    let page = read("docs/coming-from.md");
    let keys = keys();
    let verbs = verbs();
    let mut seen = 0;
    for word in between(&page, "`", "`").filter(|word| !word.contains('\n')) {
        let key = word
            .split_once('.')
            .filter(|(table, _)| ["worker", "restart", "reload", "hooks", "recycle", "status"].contains(table));
        if let Some((_, key)) = key {
            let key = key.split([' ', '=']).next().unwrap_or(key);
            let last = key.rsplit('.').next().unwrap_or(key);
            assert!(last == "*" || keys.contains(last), "docs/coming-from.md speaks of {word}: no such key");
            seen += 1;
        }
        if let Some(verb) = word.strip_prefix("ratoon ").and_then(|rest| rest.split(' ').next()) {
            assert!(verbs.iter().any(|known| known == verb), "docs/coming-from.md speaks of `{word}`: no such verb");
            seen += 1;
        }
    }
    assert!(seen > 40, "only {seen} keys and verbs are named");
    for title in ["PM2", "gunicorn", "Puma", "uWSGI", "PHP-FPM", "einhorn"] {
        assert!(first_column(&page, title).len() > 8, "{title} has no table");
    }
}

#[test]
fn the_readme_s_recipes_are_those_of_the_page() {
    let recipes = read("docs/recipes.md");
    // A recipe of a deployment goes on in a second terminal; the README has those of servers.
    let servers: String = recipes.split("\n## ").filter(|recipe| !recipe.contains("```sh then\n")).collect();
    let lines: Vec<_> = between(&servers, "```sh run\n", "```").filter_map(|block| block.lines().last()).collect();
    assert!(lines.len() > 6, "{lines:?}");
    let readme = read("README.md");
    for line in lines {
        assert!(readme.contains(&format!("| `{line}` |")), "README.md has no {line}");
    }
}

#[test]
fn every_field_that_flora_cluster_s_became_is_in_the_document() {
    use ratoon::status::tree::{Connection, Document, Failure, LastReload, Request, Socket, Worker};
    let connection = Connection { request: Some(Request::default()), ..Connection::default() };
    let worker = Worker { active_connections: vec![connection], ..Worker::default() };
    let document = Document {
        workers: vec![worker],
        sockets: vec![Socket::default()],
        failures: vec![Failure::default()],
        last_reload: Some(LastReload::default()),
        ..Document::default()
    };
    let document = serde_json::to_value(&document).expect("a document");
    let text = read("docs/flora-cluster.md");
    let (_, text) = text.split_once("| flora-cluster | the document | |\n|---|---|---|\n").expect("the table of the status");
    let (table, beyond) = text.split_once("\n\n").expect("its end");
    let beyond = between(beyond, "Without a counterpart there: ", ".\n\n").next().expect("what is new");
    let fields = table.lines().filter_map(|row| row.split(" | ").nth(1)).chain(beyond.split("), ").flat_map(|it| it.split(", ")));
    let fields: Vec<_> = fields.filter_map(|cell| between(cell, "`", "`").next()).collect();
    assert!(fields.len() > 45, "{fields:?}");
    for field in &fields {
        let pointer = format!("/{}", field.trim_end_matches("[]").replace("[]", "/0").replace('.', "/"));
        assert!(document.pointer(&pointer).is_some(), "docs/flora-cluster.md names {field}, which the document has not");
    }
    // And the other way round: each of ours is told of.
    for (name, value) in document.as_object().expect("an object") {
        assert!(fields.iter().any(|field| field.split(['.', '[']).next() == Some(name)), "{name} ({value}) is not told of");
    }
}

#[test]
fn contract_names_the_verbs_and_fields_that_exist() {
    use ratoon::status::tree::{Document, Failure, Worker};
    let contract = read("docs/contract.md");
    let section = |number: &str| between(&contract, &format!("## {number}. "), "\n## ").next().expect("a section").to_owned();
    let known = verbs();
    // `-H` stands before any verb.
    for verb in between(&section("2"), "`ratoon ", "`").filter_map(|usage| usage.split(' ').next().filter(|word| *word != "-H")) {
        assert!(known.iter().any(|other| other == verb), "docs/contract.md names ratoon {verb}, which does not exist");
    }
    let object = |value: serde_json::Value| value.as_object().expect("an object").clone();
    let document = object(serde_json::to_value(Document::default()).expect("a document"));
    let worker = object(serde_json::to_value(Worker::default()).expect("a worker"));
    let failure = object(serde_json::to_value(Failure::default()).expect("a failure"));
    let fields = section("6");
    let lists = [
        ("- Of the instance:", &document),
        ("- Of each of `workers`:", &worker),
        ("- Of each of the last 20 `failures`:", &failure),
    ];
    for (list, known) in lists {
        let text = between(&fields, list, ".\n").next().expect("a list of fields");
        // Words in parentheses are values.
        let text = text.split('(').map(|part| part.split_once(')').map_or(part, |(_, rest)| rest)).collect::<String>();
        let named: Vec<_> = between(&text, "`", "`").step_by(2).collect();
        assert!(named.len() > 6, "{named:?}");
        for field in named {
            assert!(known.contains_key(field), "docs/contract.md names the field {field}, which does not exist");
        }
    }
}

#[test]
fn threat_model_names_tests_that_exist() {
    let model = read("docs/threat-model.md");
    let named: Vec<_> = between(&model, "`", "`").filter_map(|word| word.split_once(".rs::")).collect();
    assert!(named.len() > 20, "{named:?}");
    let missing: Vec<_> =
        named.iter().filter(|(file, test)| !read(&format!("{file}.rs")).contains(&format!("fn {test}("))).collect();
    assert!(missing.is_empty(), "docs/threat-model.md names tests that are not there: {missing:?}");
}

#[test]
fn code_in_the_manual_has_plain_quotes() {
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/man")).expect("the pages") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a page");
        for line in between(&text, "\n.nf\n", "\n.fi").flat_map(str::lines) {
            // groff shows these two as quotation marks of prose; \(aq and \(ga are the plain ones.
            assert!(!line.contains(['\'', '`']), "{}: {line}", path.display());
        }
        assert!(!text.contains(|c: char| matches!(c, '\u{2018}'..='\u{201f}')), "{}", path.display());
    }
}
