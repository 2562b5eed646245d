//! A master that cannot start, or that serves nobody.

use std::net::TcpListener;

use super::harness::Place;
use super::{failing, lines, plain, ratoon, recorded, shown};

#[test]
fn no_configuration() {
    let place = Place::new();
    recorded!("no_configuration", failing(&place, &["run", "--config", "web.toml"]));
    recorded!("nothing_to_run", failing(&place, &["run"]));
}

#[test]
fn a_misspelt_key() {
    let place = Place::new();
    place.write("web.toml", "[worker]\ncommand = [\"./worker\"]\nstart_timout = \"30s\"\n");
    recorded!("misspelt_key", failing(&place, &["check", "web.toml"]));
    place.write("web.toml", "[workers]\ncommand = [\"./worker\"]\n");
    recorded!("misspelt_table", failing(&place, &["run", "--config", "web.toml"]));
}

#[test]
fn no_permission() {
    let place = Place::new();
    place.write("web.toml", "[worker]\ncommand = ['./worker']\n");
    let mode = |name: &str, bits| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(bits);
        std::fs::set_permissions(place.path(name), mode).expect("a mode");
    };
    mode("web.toml", 0o000);
    let arguments = ["check", "web.toml"];
    let output = as_nobody(&place, &arguments);
    let said = shown(&place, &arguments, &output);
    // Whoever runs the test owns the file; who may not read it is nobody where that is root.
    let named = |uid: u32, gid: u32| {
        use ratoon::sys::accounts::{group_name, name};
        (name(uid).expect("an account"), group_name(gid).expect("a group"))
    };
    let (own, own_group) = named(rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let (user, group) =
        if rustix::process::geteuid().is_root() { named(65_534, 65_534) } else { (own.clone(), own_group.clone()) };
    let said = said.replace(&format!("{own}:{own_group}"), "OWNER").replace(&format!("user {user} "), "user USER ");
    let said = said.replace(&format!("chgrp {group} "), "chgrp GROUP ");
    recorded!("no_permission_to_read", said);
    // Nor to make the runtime directory.
    mode("web.toml", 0o644);
    mode("run", 0o555);
    let arguments = ["run", "--config", "web.toml"];
    let mut command = command_as_nobody(&place, &arguments);
    command.env("RUNTIME_DIRECTORY", place.path("run/web"));
    let output = command.output().expect("ratoon");
    mode("run", 0o755);
    recorded!("no_permission_to_run", shown(&place, &arguments, &output).replace("user 65534", "user UID"));
}

/// As a user who has no rights here: nobody, where the test runs as root.
pub fn command_as_nobody(place: &Place, arguments: &[&str]) -> std::process::Command {
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(place.root(), open).expect("a mode");
    let plain = ratoon(place, arguments);
    if !rustix::process::geteuid().is_root() {
        return plain;
    }
    // The build's own directory may not be nobody's to enter.
    place.install("0755", super::RATOON.as_ref(), "ratoon");
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(place.path("ratoon")).args(arguments);
    command.current_dir(place.root()).stdin(std::process::Stdio::null());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env_remove("NOTIFY_SOCKET");
    command
}

fn as_nobody(place: &Place, arguments: &[&str]) -> std::process::Output {
    command_as_nobody(place, arguments).output().expect("setpriv")
}

#[test]
fn a_port_that_is_in_use() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let port = address.rsplit(':').next().expect("a port").to_owned();
    let said = failing(&place, &["run", "--listen", &address, "--", "./worker"]);
    recorded!("port_in_use", said.replace(&port, "PORT"));
}

#[test]
fn an_address_that_is_none() {
    let place = Place::new();
    let said: Vec<String> = ["localhost:8080", ":8080", "8080", "::1:80"]
        .map(|it| failing(&place, &["run", "--listen", it, "--", "./v1/worker"]))
        .into();
    recorded!("not_an_address", said.join("\n"));
}

#[test]
fn the_socket_unit_is_missing() {
    let place = Place::new();
    place.program("v1/worker", "#!/bin/sh\nexec sleep 1000\n");
    let told = place.pool("count = 1\nready = 'running'", "").listens_nowhere().start();
    told.wait_for_log("no listening socket");
    let under_systemd = lines(&plain(&told.place, &told.log()), &["no listening socket"]);
    let place = Place::new();
    place.program("v1/worker", "#!/bin/sh\nexec sleep 1000\n");
    let alone = place.pool("count = 1\nready = 'running'", "").without_systemd().listens_nowhere().start();
    alone.wait_for_log("no listening socket");
    let by_hand = lines(&plain(&alone.place, &alone.log()), &["no listening socket"]);
    recorded!("no_socket", format!("{under_systemd}{by_hand}"));
}

#[test]
fn a_program_that_is_not_there() {
    let place = Place::new();
    let said: Vec<String> = ["no-such-program", "bin/worker", "/srv/web/worker", "./v1"]
        .map(|it| failing(&place, &["run", "--name", "web", "--", it]))
        .into();
    recorded!("program_not_found", said.join("\n"));
}

#[test]
fn a_program_that_cannot_be_executed() {
    let place = Place::new();
    place.write("app.py", "#!/usr/bin/python3\n");
    recorded!("not_executable", failing(&place, &["run", "--name", "web", "--", "./app.py"]));
}

#[test]
fn two_instances_of_a_name() {
    let master = Place::new().pool("count = 1", "").start();
    let said = failing(&master.place, &["run", "--name", "pool", "--config", "pool.toml"]);
    recorded!("two_of_a_name", said);
    assert_eq!(master.status()["workers_ready"], 1);
}

#[test]
fn a_path_that_is_too_long() {
    let place = Place::new();
    // The same length wherever the test's directory is.
    let long = format!("/tmp/{}.sock", "long".repeat(30));
    let listen = failing(&place, &["run", "--listen", &long, "--", "./v1/worker"]);
    let ask = failing(&place, &["status", "--control", &long]);
    let mut command = ratoon(&place, &["run", "--name", "web", "--", "./v1/worker"]);
    let output = command.env("RUNTIME_DIRECTORY", long.trim_end_matches(".sock")).output().expect("ratoon");
    let run = shown(&place, &["run", "--name", "web", "--", "./v1/worker"], &output);
    recorded!("long_path", format!("{listen}\n{ask}\n{run}"));
}

#[test]
fn no_worker_and_too_many() {
    let place = Place::new();
    let flags = ["0", "100000", "many"].map(|it| failing(&place, &["run", "--workers", it, "--", "./v1/worker"]));
    let file = ["0", "100000", "\"4\""].map(|it| {
        place.write("web.toml", &format!("[worker]\ncommand = [\"./worker\"]\ncount = {it}\n"));
        failing(&place, &["check", "web.toml"])
    });
    recorded!("count", flags.into_iter().chain(file).collect::<Vec<_>>().join("\n"));
}

#[test]
fn a_systemd_that_is_too_old() {
    let place = Place::new();
    std::fs::create_dir(place.path("bin")).expect("bin");
    place.program("bin/systemctl", "#!/bin/sh\necho 'systemd 247 (247.3-7+deb11u5)'\necho +PAM +AUDIT\n");
    let path = format!("{}:/usr/bin:/bin", place.path("bin").display());
    let plan = place.pool("count = 1", "").environment("INVOCATION_ID", "0123456789abcdef0123456789abcdef");
    let master = plan.environment("PATH", path).start();
    master.wait_for_log("older than");
    recorded!("old_systemd", lines(&plain(&master.place, &master.log()), &["older than"]));
}

#[test]
fn a_forgotten_command() {
    let place = Place::new();
    let said = failing(&place, &["run", "--listen", "127.0.0.1:0", "--name", "no-such-instance"]);
    recorded!("no_command", said);
    recorded!("no_dashes", failing(&place, &["run", "--listen", "127.0.0.1:0", "./server", "--port", "80"]));
}

#[test]
fn an_unknown_way_to_make_children() {
    let place = Place::new();
    let arguments = ["run", "--listen", "127.0.0.1:0", "--", "true"];
    let output = ratoon(&place, &arguments).env("RATOON_SPAWN", "vfork").output().expect("ratoon");
    recorded!("unknown_spawn", shown(&place, &arguments, &output));
}
