//! A worker that is a script starts again in its old release: after the `current` symlink moved, and after the files were
//! replaced in place.

use std::path::Path;
use std::process::Command;

use super::harness::master::{last_failure, pids, workers};
use super::harness::{Master, Place, Plan, Signal, Value, eventually, example, processes};

/// The scripts answer by what they export to `chaos`, which shows it as its version.
struct Language {
    name: &'static str,
    /// The script of the worker; `@V@` is its version, `@CHAOS@` the program that it becomes.
    main: &'static str,
    /// A file beside it, with `@V@` in it.
    library: (&'static str, &'static str),
}

const LANGUAGES: [Language; 4] = [
    Language {
        name: "sh",
        main: "#!/bin/sh\ncd \"$(dirname \"$0\")\" || exit 9\n. ./lib.sh\nexport CHAOS_VERSION=\"main-@V@ $LIB\"\nexec @CHAOS@\n",
        library: ("lib.sh", "LIB=lib-@V@\n"),
    },
    Language {
        name: "python",
        main: "#!/usr/bin/python3\nimport os, lib\nos.environ['CHAOS_VERSION'] = 'main-@V@ ' + lib.NAME\nos.execv('@CHAOS@', ['worker'])\n",
        library: ("lib.py", "NAME = 'lib-@V@'\n"),
    },
    Language {
        name: "ruby",
        main: "#!/usr/bin/ruby\nrequire_relative 'lib'\nENV['CHAOS_VERSION'] = \"main-@V@ #{NAME}\"\nexec '@CHAOS@', close_others: false\n",
        library: ("lib.rb", "NAME = 'lib-@V@'\n"),
    },
    Language {
        name: "node",
        main: "#!/usr/bin/node\nconst lib = require('./lib');\nconsole.log('main-@V@ ' + lib.name);\n\
               setInterval(() => {}, 1000);\n",
        library: ("lib.js", "exports.name = 'lib-@V@';\n"),
    },
];

impl Language {
    /// Writes its files into a release, each replaced by rename as `git checkout` does.
    fn deploy(&self, place: &Place, release: &str, version: &str) {
        let _ = std::fs::create_dir_all(place.path(release).join("bin"));
        let chaos = example("chaos").display().to_string();
        let main = self.main.replace("@V@", version).replace("@CHAOS@", &chaos);
        place.program(&format!("{release}/bin/app"), &main);
        let (name, text) = self.library;
        place.write("library.text", &text.replace("@V@", version));
        place.install("0644", &place.path("library.text"), &format!("{release}/bin/{name}"));
    }
}

/// A pool of `current/bin/app`, ready as soon as it runs.
fn pool(place: Place, command: &str, environment: &str) -> Master {
    let directory = place.path("current");
    let text = format!(
        "[worker]\ncommand = [{command:?}]\ndirectory = {directory:?}\n{environment}\ncount = 1\nready = 'running'\nsettle = '300ms'\n\
         [restart]\nlimit = 1000\ninitial = '50ms'\nmax = '100ms'\n"
    );
    place.write("pool.toml", &text);
    Plan::new(place).start()
}

/// Kills the worker, and gives the status when another is ready in its place.
#[track_caller]
fn kill_one(master: &Master) -> Value {
    let before = master.status();
    processes::signal(pids(&before)[0], Signal::KILL);
    master.wait("another in its place", |status| {
        status["workers_ready"] == 1 && pids(status) != pids(&before) && status["worker_crashes"] != before["worker_crashes"]
    })
}

/// Waits until the worker is this: `main-1 lib-1`.
#[track_caller]
fn is_version(master: &Master, language: &Language, version: &str) {
    let said = || {
        // Node only prints; the others say it in their answer.
        let said = if language.name == "node" { master.log() } else { master.get("/") };
        // A line for each start, so that an earlier one is not taken for the last.
        let starts = said.lines().filter(|line| line.contains("main-")).count() as u64;
        if language.name == "node" && Some(starts) <= master.status()["worker_crashes"].as_u64() {
            return String::new();
        }
        let last = said.lines().rev().find_map(|line| line.split_once("main-"));
        last.map(|(_, it)| format!("main-{}", it.trim())).unwrap_or_default()
    };
    let what = format!("{}: {version}", language.name);
    eventually(&what, || (said() == version).then_some(()), || format!("{}\n{}", said(), master.log()));
}

#[test]
fn script_of_a_release_whose_symlink_moved_starts_again() {
    for language in &LANGUAGES {
        let place = Place::new();
        language.deploy(&place, "v1", "1");
        language.deploy(&place, "v2", "2");
        let master = pool(place, "bin/app", "");
        is_version(&master, language, "main-1 lib-1");
        master.place.current("v2");
        let status = kill_one(&master);
        assert_eq!(workers(&status)[0]["generation"], 1, "{}", language.name);
        is_version(&master, language, "main-1 lib-1");
        // The directory itself gets another name, as when old releases are put aside.
        std::fs::rename(master.place.path("v1"), master.place.path("aside")).expect("rename");
        kill_one(&master);
        is_version(&master, language, "main-1 lib-1");
        assert_eq!(master.status()["worker_crashes"], 2, "{}: {}", language.name, last_failure(&master.status()));
    }
}

#[test]
fn script_that_was_replaced_in_place_starts_with_its_old_text() {
    for language in &LANGUAGES {
        let place = Place::new();
        language.deploy(&place, "v1", "1");
        let master = pool(place, "bin/app", "");
        is_version(&master, language, "main-1 lib-1");
        language.deploy(&master.place, "v1", "2");
        let status = kill_one(&master);
        assert_eq!(workers(&status)[0]["generation"], 1, "{}", language.name);
        // The old script; what it loads cannot be kept, and that is said.
        is_version(&master, language, "main-1 lib-2");
        master.wait_for_log("the release of generation 1 is not what it was");
        master.wait_for_log(language.library.0);
        let told =
            |status: &Value| last_failure(status)["release_changed"].as_str().is_some_and(|it| it.contains(language.library.0));
        master.wait("the failure names the changed file", told);
        let run = master.place.path("run");
        master.signal(Signal::TERM);
        assert_eq!(master.end().code(), Some(0), "{}", master.log());
        let left: Vec<_> = std::fs::read_dir(&run).into_iter().flatten().flatten().map(|it| it.file_name()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// A virtual environment with a module `lib` of this version.
fn venv(at: &Path, version: &str) {
    let made = Command::new("/usr/bin/python3").args(["-m", "venv", "--without-pip"]).arg(at).status().expect("python3");
    assert!(made.success(), "{made}");
    let packages = std::fs::read_dir(at.join("lib")).expect("lib").flatten().next().expect("python3.x").path();
    std::fs::write(packages.join("site-packages/lib.py"), format!("NAME = 'lib-{version}'\n")).expect("lib.py");
}

#[test]
fn program_of_a_venv_behind_a_symlink_stays_in_its_release() {
    let become_chaos = |version: &str| {
        format!(
            "import os, lib\nos.environ['CHAOS_VERSION'] = 'main-{version} ' + lib.NAME\nos.execv('{}', ['worker'])\n",
            example("chaos").display()
        )
    };
    let deploy = |place: &Place, release: &str, version: &str| {
        let _ = std::fs::create_dir(place.path(release));
        venv(&place.path(release).join("venv"), version);
        place.write(&format!("{release}/app.py"), &become_chaos(version));
        // As pip writes it, by the path that the environment was made under.
        let python = place.path("current/venv/bin/python");
        place.program(&format!("{release}/venv/bin/serve"), &format!("#!{}\n{}", python.display(), become_chaos(version)));
    };
    // By PATH, and as a script whose interpreter is named by way of the symlink.
    for command in ["['python', 'app.py']", "['serve']", "['venv/bin/serve']"] {
        let place = Place::new();
        deploy(&place, "v1", "1");
        deploy(&place, "v2", "2");
        let path = format!("{}:/usr/bin:/bin", place.path("current/venv/bin").display());
        let directory = place.path("current");
        place.write(
            "pool.toml",
            &format!(
                "[worker]\ncommand = {command}\ndirectory = {directory:?}\ncount = 1\n[restart]\n\
                 initial = '50ms'\n"
            ),
        );
        let master = Plan::new(place).environment("PATH", path).start();
        assert!(master.get("/").contains("version main-1 lib-1"), "{command}: {}", master.get("/"));
        master.place.current("v2");
        kill_one(&master);
        assert!(master.get("/").contains("version main-1 lib-1"), "{command}: {}", master.get("/"));
        master.ok(&["reload"]);
        master.wait_until_calm();
        assert!(master.get("/").contains("version main-2 lib-2"), "{command}: {}", master.get("/"));
    }
}
