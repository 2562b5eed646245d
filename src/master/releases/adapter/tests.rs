//! Tests of the choice of an adapter, and of what it appends. The adapters themselves are tested in `clients/`.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::config::Config;

/// A directory with programs, whose path has a space.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::Builder::new().prefix("a place").tempdir().unwrap())
    }

    fn program(&self, name: &str, text: &str) -> (String, Program) {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        (path.to_str().unwrap().to_owned(), Program::pin(&path).unwrap())
    }

    /// The variables that start with one of these, and the command, for a program of this text.
    fn adapted(&self, adapter: Adapter, name: &str, text: &str, arguments: &[&str]) -> Adapted {
        let (path, program) = self.program(name, text);
        let command = std::iter::once(path).chain(arguments.iter().map(|&word| word.to_owned())).collect();
        let mut config = Config::for_command(command).worker;
        config.adapter = adapter;
        adapt(&config, &program, self.0.path(), Some(self.0.path()), true).unwrap()
    }
}

fn env(adapted: &Adapted, present: &[&str]) -> Vec<String> {
    let mut env = present.iter().map(|entry| CString::new(*entry).unwrap()).collect();
    adapted.extend(&mut env);
    env.into_iter().map(|entry| entry.into_string().unwrap()).collect()
}

#[test]
fn auto_is_node_for_node_and_its_scripts_alone() {
    let place = Place::new();
    for (name, text, wanted) in [
        ("node", "#!/bin/sh\n", true),
        ("nodejs", "#!/bin/sh\n", true),
        ("npm", "#!/usr/bin/env node\n", true),
        ("yarn", "#!/usr/bin/node\n", true),
        ("server", "#!/bin/sh\nexec node app.js\n", false),
        ("node-exporter", "#!/bin/sh\n", false),
    ] {
        let adapted = place.adapted(Adapter::Auto, name, text, &["app.js"]);
        assert_eq!(env(&adapted, &[]).iter().any(|entry| entry.starts_with("NODE_OPTIONS=")), wanted, "{name}");
    }
    let (path, program) = place.program("node", "#!/bin/sh\n");
    let config = Config::for_command(vec![path]).worker;
    let without_sockets = adapt(&config, &program, place.0.path(), Some(place.0.path()), false).unwrap();
    assert_eq!(without_sockets, Adapted::default());
    assert_eq!(place.adapted(Adapter::None, "node", "#!/bin/sh\n", &[]), Adapted::default());
}

#[test]
fn auto_goes_on_without_an_adapter_that_cannot_be_had() {
    let place = Place::new();
    let (path, program) = place.program("node", "#!/bin/sh\n");
    let mut config = Config::for_command(vec![path]).worker;
    let adapted = adapt(&config, &program, place.0.path(), Some(Path::new("/nowhere")), true).unwrap();
    assert!(adapted.warning.as_ref().is_some_and(|warning| warning.contains("/nowhere/adapters")), "{adapted:?}");
    config.adapter = Adapter::Node;
    let error = adapt(&config, &program, place.0.path(), Some(Path::new("/nowhere")), true).unwrap_err();
    assert!(error.starts_with("worker.adapter = \"node\": /nowhere/adapters: No such file"), "{error}");
}

#[test]
fn additions_follow_what_the_configuration_sets() {
    let place = Place::new();
    let text = "#!/bin/sh\n";
    let node = env(&place.adapted(Adapter::Node, "node", text, &[]), &["A=b", "NODE_OPTIONS=--enable-source-maps"]);
    assert!(
        node[1].starts_with("NODE_OPTIONS=--enable-source-maps --require \"/") && node[1].ends_with("/node/adapter.js\""),
        "{node:?}"
    );
    let rack = env(&place.adapted(Adapter::Rack, "puma", text, &[]), &["RUBYOPT=-W0", "RUBYLIB="]);
    assert!(rack[0] == "RUBYOPT=-W0 -rratoon/adapter" && rack[1].ends_with("/ruby") && !rack[1].contains(':'), "{rack:?}");
    let asgi = env(&place.adapted(Adapter::Asgi, "app", text, &[]), &["PYTHONPATH=/srv/lib"]);
    assert!(asgi[0].starts_with("PYTHONPATH=/srv/lib:/") && asgi[0].ends_with("/python") && asgi.len() == 1, "{asgi:?}");
}

#[test]
fn asgi_starts_the_servers_by_their_own_python() {
    let place = Place::new();
    let command =
        |name: &str, text: &str, arguments: &[&str]| place.adapted(Adapter::Asgi, name, text, arguments).command.unwrap();
    let rest = ["-m", "ratoon.asgi", "--server"];
    let made = command("uvicorn", "#!/usr/bin/python3.11 -I\n", &["app:app", "--workers", "1"]);
    assert_eq!(made, [&["/usr/bin/python3.11", "-I"][..], &rest, &["uvicorn", "app:app", "--workers", "1"]].concat());
    assert_eq!(
        command("hypercorn", "#!/usr/bin/env python3\n", &["app"]),
        [&["python3"][..], &rest, &["hypercorn", "app"]].concat()
    );
    let made = command("python3", "#!/bin/sh\n", &["-m", "uvicorn", "app:app"]);
    assert_eq!(made[1..], [&rest[..], &["uvicorn", "app:app"]].concat());
    let unknown = place.adapted(Adapter::Asgi, "uvicorn", "#!/bin/sh\n", &["app:app"]);
    assert!(unknown.command.is_none() && unknown.warning.is_some());
    // As in a virtual environment whose path is too long for a `#!` line.
    place.program("python", "#!/bin/sh\n");
    assert!(command("uvicorn", "#!/bin/sh\n", &["app:app"])[0].ends_with("/python"));
}

#[test]
fn asgi_keeps_a_configuration_of_gunicorn() {
    let place = Place::new();
    let adapted = |arguments: &[&str]| place.adapted(Adapter::Asgi, "gunicorn", "#!/usr/bin/python3\n", arguments);
    let plain = adapted(&["--threads", "4", "app:app"]);
    assert!(
        env(&plain, &[]).contains(&"GUNICORN_CMD_ARGS=--config python:ratoon.gunicorn".to_owned()) && plain.warning.is_none()
    );
    let configured = adapted(&["--config=web.py", "app:app"]);
    assert!(configured.warning.is_some() && env(&configured, &[]).len() == 1);
    std::fs::write(place.0.path().join("gunicorn.conf.py"), "").unwrap();
    assert!(adapted(&["app:app"]).warning.is_some());
}

#[test]
fn bind_names_its_library_and_programs_that_ignore_it() {
    let place = Place::new();
    let (path, program) = place.program("server", "#!/bin/sh\n");
    let mut config = Config::for_command(vec![path]).worker;
    config.adapter = Adapter::Bind;
    config.adapter_library = Some(place.0.path().join("none.so"));
    let adapt = |config: &Worker, program: &Program| adapt(config, program, place.0.path(), None, true);
    assert!(adapt(&config, &program).unwrap_err().contains("none.so; name it by worker.adapter_library"));
    let library = place.0.path().join(LIBRARY);
    std::fs::write(&library, "").unwrap();
    config.adapter_library = Some(library.clone());
    assert!(adapt(&config, &program).unwrap_err().contains("for its space"));
    let elsewhere = tempfile::tempdir().unwrap();
    let library = elsewhere.path().join(LIBRARY);
    std::fs::write(&library, "").unwrap();
    config.adapter_library = Some(library.clone());
    let adapted = adapt(&config, &program).unwrap();
    assert_eq!(env(&adapted, &["LD_PRELOAD=/a.so"]), [format!("LD_PRELOAD=/a.so:{}", library.display())]);
    assert_eq!(adapted.warning, None);
    let other = elsewhere.path().join("setuid");
    std::fs::copy("/bin/sleep", &other).unwrap();
    std::fs::set_permissions(&other, PermissionsExt::from_mode(0o4755)).unwrap();
    let warning = adapt(&config, &Program::pin(&other).unwrap()).unwrap().warning.unwrap();
    assert!(warning.contains("setuid: it is set-user-ID") && warning.contains("ld.so(8)"), "{warning}");
}
