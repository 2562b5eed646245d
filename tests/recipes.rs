//! The recipes of `docs/recipes.md`, run as they stand there: files written, commands typed, reloads under load, the end.
//!
//! What differs from a reader's five minutes: the port is any free one, pip takes the versions of `tests/workers/requirements.txt`, and
//! cargo those of `Cargo.lock`.
#![forbid(unsafe_code)]

#[allow(dead_code)]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use support::load::Load;
use support::{example, signal};

/// Longer than a build of a small program takes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(120);

/// What a recipe has: files by name, and what is typed.
#[derive(Default)]
struct Recipe {
    files: BTreeMap<String, String>,
    typed: Vec<String>,
    /// What is typed in a second terminal: a deployment that fails, and a look at the symlink.
    then: Vec<String>,
}

fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The page's recipes by title. A block "```LANGUAGE NAME" is a file, "```sh run" what is typed, and "```sh then" what is typed in a second
/// terminal.
fn recipes() -> BTreeMap<String, Recipe> {
    let page = fs::read_to_string(tree("docs/recipes.md")).expect("the page");
    let mut all = BTreeMap::<String, Recipe>::new();
    for section in page.split("\n## ").skip(1) {
        let (title, text) = section.split_once('\n').expect("a title");
        let recipe = all.entry(title.to_owned()).or_default();
        for block in text.split("\n```").skip(1).step_by(2) {
            let (info, body) = block.split_once('\n').expect("a block");
            match info.split_once(' ').expect("each block of a recipe is a file, or what is run") {
                ("sh", "run") => recipe.typed = body.lines().map(str::to_owned).collect(),
                ("sh", "then") => recipe.then = body.lines().map(str::to_owned).collect(),
                (_, name) => drop(recipe.files.insert(name.to_owned(), format!("{body}\n"))),
            }
        }
    }
    all
}

/// A pool that a recipe started; ended when dropped.
struct Pool {
    child: Child,
    /// Where the recipe is cooked: its own directory, beside a checkout of this repository.
    place: PathBuf,
    _top: tempfile::TempDir,
}

impl Pool {
    fn start(recipe: &Recipe) -> Pool {
        let top = tempfile::tempdir().expect("a directory");
        symlink(tree("."), top.path().join("ratoon")).expect("a symlink");
        let place = top.path().join("server");
        fs::create_dir(&place).expect("a directory");
        if recipe.files.contains_key("Cargo.toml") {
            fs::copy(tree("Cargo.lock"), place.join("Cargo.lock")).expect("Cargo.lock");
            // What was built is found again by the next run.
            fs::create_dir_all(tree("target/recipe")).expect("a directory");
            symlink(tree("target/recipe"), place.join("target")).expect("a symlink");
        }
        for (name, text) in &recipe.files {
            let path = place.join(name);
            fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
            fs::write(path, text).expect(name);
        }
        let (last, before) = recipe.typed.split_last().expect("something is typed");
        for line in before {
            let said = shell(&place, line).output().expect("sh");
            assert!(said.status.success(), "{line}: {}{}", said.status, support::stderr(&said));
        }
        assert!(last.starts_with("ratoon run ") && last.contains(" --listen 127.0.0.1:8080 "), "{last}");
        let line = last.replace("127.0.0.1:8080", "127.0.0.1:0");
        let log = fs::File::create(place.join("log")).expect("log");
        let mut command = shell(&place, &format!("exec {line}"));
        let child = command.stdout(log.try_clone().expect("log")).stderr(log).spawn().expect("sh");
        Pool { child, place, _top: top }
    }

    fn control(&self) -> String {
        self.place.join("run/control").display().to_string()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place.join("log")).unwrap_or_default()
    }

    fn ratoon(&self, verb: &[&str]) -> std::process::Output {
        Command::new(env!("CARGO_BIN_EXE_ratoon")).args(verb).args(["--control", &self.control()]).output().expect("ratoon")
    }

    /// Waits until only ready workers of this generation are left; gives the address.
    #[track_caller]
    fn settled(&mut self, generation: u64) -> String {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let status: Option<Value> = serde_json::from_slice(&self.ratoon(&["status", "--json"]).stdout).ok();
            let settled = status.as_ref().is_some_and(|status| {
                let mut workers = status["workers"].as_array().into_iter().flatten();
                status["workers_ready"] == 2
                    && workers.all(|worker| worker["generation"] == generation && worker["state"] == "ready")
            });
            if let (true, Some(status)) = (settled, status) {
                return status["sockets"][0]["address"].as_str().expect("an address").to_owned();
            }
            let ended = self.child.try_wait().expect("wait");
            assert!(ended.is_none() && Instant::now() < deadline, "generation {generation}: {ended:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            signal(self.child.id(), Signal::TERM);
            signal(self.child.id(), Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

/// A line that is typed in this directory, where `ratoon` is installed.
fn shell(directory: &Path, line: &str) -> Command {
    let mut command = Command::new("sh");
    let programs = Path::new(env!("CARGO_BIN_EXE_ratoon")).parent().expect("a directory");
    command.args(["-c", line]).current_dir(directory).stdin(Stdio::null());
    let cargo = Path::new(env!("CARGO")).parent().expect("a directory");
    command.env("PATH", format!("{}:{}:/usr/local/bin:/usr/bin:/bin", programs.display(), cargo.display()));
    command.env("RUNTIME_DIRECTORY", directory.join("run")).env_remove("NOTIFY_SOCKET").env_remove("INVOCATION_ID");
    command.env("PIP_CONSTRAINT", tree("tests/workers/requirements.txt")).env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
    command.env("GOCACHE", tree("target/go")).env("GOFLAGS", "-mod=mod");
    command
}

fn run(title: &str) {
    let mut all = recipes();
    let mut recipe = all.remove(title).unwrap_or_else(|| panic!("docs/recipes.md has no {title:?}, but {:?}", all.keys()));
    if !recipe.then.is_empty() {
        recipe.files.extend(all.remove("A shell script").expect("the recipe before").files);
    }
    let mut pool = Pool::start(&recipe);
    let address = pool.settled(1);
    let mut load = Command::new(example("load"));
    load.args([&address, "--new", "4", "--keep-alive", "4"]);
    let load = Load::start(load);
    load.wait_for(20);
    for generation in [2, 3] {
        let said = pool.ratoon(&["reload"]);
        assert!(said.status.success(), "{}\n{}", support::stderr(&said), pool.log());
        pool.settled(generation);
        load.wait_for(load.requests() + 20);
    }
    let report = load.stop();
    println!("{title}: {} answered, {} failed", report["answered"], report["failed"]);
    assert_eq!(report["failed"], 0, "{report:#}\n{}", pool.log());
    // The answer that it is all about.
    let answer = Command::new("curl").args(["-fsS", "--max-time", "30", &format!("http://{address}/")]).output().expect("curl");
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "hello\n", "{}", support::stderr(&answer));
    fail_and_go_back(&pool, &recipe.then);
    signal(pool.child.id(), Signal::TERM);
    let deadline = Instant::now() + TIMEOUT;
    let ended = loop {
        if let Some(ended) = pool.child.try_wait().expect("wait") {
            break ended;
        }
        assert!(Instant::now() < deadline, "it does not end\n{}", pool.log());
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(ended.success(), "{ended}\n{}", pool.log());
}

/// A deployment, a reload that is rolled back, and a look at where the symlink leads.
fn fail_and_go_back(pool: &Pool, then: &[String]) {
    let [deploy, reload, look] = then else { return assert!(then.is_empty(), "{then:?}") };
    assert!(shell(&pool.place, deploy).status().expect("sh").success(), "{deploy}");
    let said = shell(&pool.place, reload).output().expect("sh");
    assert_eq!(said.status.code(), Some(1), "{reload}: {}\n{}", support::stderr(&said), pool.log());
    assert!(support::stderr(&said).contains("rolled back"), "{}", support::stderr(&said));
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let said = shell(&pool.place, look).output().expect("sh");
        if String::from_utf8_lossy(&said.stdout).ends_with("/releases/1\n") {
            break;
        }
        assert!(Instant::now() < deadline, "{look}: {said:?}\n{}", pool.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let said = pool.ratoon(&["reload"]);
    assert!(said.status.success(), "{}\n{}", support::stderr(&said), pool.log());
}

/// The first command that the README gives to everyone.
#[test]
#[ignore = "builds the program and the examples; tests/run runs it"]
fn the_first_command() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = fs::File::create(directory.path().join("log")).expect("log");
    let mut command = Command::new(tree("examples/run"));
    command.arg("127.0.0.1:0").env("RUNTIME_DIRECTORY", directory.path().join("run")).env_remove("NOTIFY_SOCKET");
    let child = command.stdin(Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log).spawn().expect("examples/run");
    let mut pool = Pool { child, place: directory.path().to_owned(), _top: directory };
    let address = pool.settled(1);
    let answer = Command::new("curl").args(["-fsS", "--max-time", "30", &format!("http://{address}/")]).output().expect("curl");
    assert!(String::from_utf8_lossy(&answer.stdout).starts_with("hello from pid "), "{answer:?}");
    assert!(pool.log().contains("in a second terminal:"), "{}", pool.log());
}

/// The repository's own example is what the page shows.
#[test]
fn the_rust_recipe_is_the_example() {
    let text = fs::read_to_string(tree("examples/axum.rs")).expect("examples/axum.rs");
    let text: String = text.lines().filter(|line| !line.starts_with("//!")).map(|line| format!("{line}\n")).collect();
    assert_eq!(recipes()["Rust, with axum"].files["src/main.rs"], text);
}

/// A test for each recipe, and none that has no test.
macro_rules! recipes {
    ($($name:ident = $title:literal),* $(,)?) => {
        $(
            #[test]
            #[ignore = "needs what tests/setup installs; tests/run runs it"]
            fn $name() {
                run($title);
            }
        )*

        #[test]
        fn every_recipe_is_run() {
            let titles = recipes().into_keys().collect::<Vec<_>>();
            let mut tested = vec![$($title.to_owned()),*];
            tested.sort();
            assert_eq!(titles, tested);
        }
    };
}

recipes! {
    rust = "Rust, with axum",
    node = "Node.js",
    gunicorn = "Python, WSGI: gunicorn",
    uvicorn = "Python, ASGI: uvicorn",
    puma = "Ruby: Puma",
    go = "Go",
    shell_script = "A shell script",
    symlink_back = "A symlink that goes back",
}
