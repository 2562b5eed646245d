//! `ratoon check` on a machine where something is missing or closed, and what a closed directory looks like at the start.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::harness::{Place, RATOON};

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// What `ratoon check` prints, and whether it found nothing.
fn check(place: &Place, flags: &[&str]) -> (bool, String) {
    check_with(Path::new(RATOON), place, flags)
}

fn check_with(program: &Path, place: &Place, flags: &[&str]) -> (bool, String) {
    let mut command = Command::new(program);
    command.env("TMPDIR", place.root()).arg("check").args(flags).arg(place.path("pool.toml"));
    let output = command.output().expect("ratoon");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stderr) + &text(&output.stdout))
}

#[track_caller]
fn finds(place: &Place, flags: &[&str], parts: &[&str]) {
    let (fine, said) = check(place, flags);
    assert!(!fine, "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} was not said:\n{said}");
    }
    assert!(!said.contains("a+r"), "{said}");
}

#[test]
fn check_names_all_that_is_missing() {
    let place = Place::new();
    let directory = place.path("v1");
    let configure = |lines: &str| place.write("pool.toml", lines);
    let good = format!("[worker]\ncommand = ['./worker']\ndirectory = {directory:?}\n");
    configure(&good);
    assert!(check(&place, &[]).0, "{:?}", check(&place, &[]));
    configure(&format!("{good}user = 'no-such-user'\nenvironment_file = 'no-such-file'\n[reload]\ncheck = ['no-such-check']\n"));
    finds(
        &place,
        &[],
        &["there is no user \"no-such-user\"", "no-such-file: there is no such file", "reload.check \"no-such-check\""],
    );
    // The file itself is fine.
    assert!(check(&place, &["--file-only"]).0);
    configure(&format!("{good}[hooks]\nbefore_shutdown = ['./no-such-hook']\nuser = 'no-such-user'\n"));
    finds(&place, &[], &["hooks.user: there is no user"]);
    configure(&format!("{good}[hooks]\nbefore_shutdown = ['./no-such-hook']\n"));
    finds(&place, &[], &["hooks.before_shutdown \"./no-such-hook\""]);
    configure(&good.replace("v1", "no-such-directory"));
    finds(&place, &[], &["no-such-directory\": No such file or directory"]);
    configure(&good.replace("./worker", "./no-such-program"));
    finds(&place, &[], &["no-such-program: No such file or directory"]);
    configure(&good.replace("./worker", "./version"));
    finds(&place, &[], &["version: Permission denied", "chmod +x"]);
    place.program("v1/script", "#!/no/such/interpreter\n");
    configure(&good.replace("./worker", "./script"));
    finds(&place, &[], &["its interpreter /no/such/interpreter: there is no such file"]);
}

#[test]
#[ignore = "needs root"]
fn check_looks_as_the_services_and_the_workers_user() {
    let place = Place::new();
    set_mode(place.root(), 0o711);
    place.write("secrets", "PASSWORD=x\n");
    set_mode(&place.path("secrets"), 0o600);
    let directory = place.path("v1");
    let secrets = place.path("secrets");
    let text = format!("[worker]\ncommand = ['./worker']\ndirectory = {directory:?}\nenvironment_file = {secrets:?}\n");
    place.write("pool.toml", &text);
    assert!(check(&place, &[]).0, "{:?}", check(&place, &[]));
    let shown = secrets.display();
    let hint = format!(
        "user nobody may not read it, which belongs to root:root with mode 0600; give it to that user's group: chgrp nogroup {shown} && \
         chmod 640 {shown}"
    );
    finds(&place, &["--user", "nobody"], &[&hint]);
    // A root master reads the file; its workers cannot enter the directory.
    set_mode(&directory, 0o700);
    place.write("pool.toml", &format!("{text}user = 'nobody'\n"));
    let closed =
        format!("worker.directory {}: user nobody may not enter it", fs::canonicalize(&directory).expect("v1").display());
    finds(&place, &[], &[&closed, "chgrp nogroup"]);
    finds(&place, &["--user", "no-such-user"], &["--user no-such-user: there is no such user"]);
}

/// Configures a worker that writes its user's number to `v1/uid`, and is ready by running.
fn configure_worker_that_tells_its_user(place: &Place) {
    let directory = place.path("v1");
    place.program("v1/tells", "#!/bin/sh\nid -u >uid\nexec sleep 600\n");
    let worker = format!("[worker]\ncommand = ['./tells']\ndirectory = {directory:?}\nready = 'running'\nsettle = '100ms'\n");
    place.write("pool.toml", &worker);
}

#[test]
fn check_of_a_file_can_probe_it_and_leaves_nothing() {
    let place = Place::new();
    configure_worker_that_tells_its_user(&place);
    let (fine, said) = check(&place, &["--probe"]);
    assert!(
        fine && said.contains("pool.toml: the probe has passed, here and as this user, not in the unit's environment"),
        "{said}"
    );
    assert!(place.path("v1/uid").exists(), "no worker was started");
    place.program("v1/tells", "#!/bin/sh\necho no database\nexit 3\n");
    let (fine, said) = check(&place, &["--probe"]);
    assert!(!fine && said.contains("the probe has failed") && said.contains("exit 3"), "{said}");
    assert!(said.contains("no database"), "{said}");
    let left = fs::read_dir(place.root()).expect("the place").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    assert!(!left.into_iter().any(|name| name.starts_with("ratoon-probe")), "the probe's directory is left");
}

#[test]
#[ignore = "needs root"]
fn check_probes_as_the_services_user() {
    let place = Place::new();
    set_mode(place.root(), 0o711);
    configure_worker_that_tells_its_user(&place);
    set_mode(&place.path("v1"), 0o777);
    // The user must be able to execute the program, and the build directory may be closed.
    let program = place.path("ratoon");
    fs::copy(RATOON, &program).expect("a copy");
    let (fine, said) = check_with(&program, &place, &["--probe", "--user", "nobody"]);
    assert!(fine && said.contains("the probe has passed, here and as nobody"), "{said}");
    let nobody = Command::new("id").args(["-u", "nobody"]).output().expect("id").stdout;
    assert_eq!(place.read("v1/uid").trim(), String::from_utf8_lossy(&nobody).trim());
}

#[test]
#[ignore = "needs root"]
fn closed_directory_is_named_with_the_user_at_the_start() {
    let place = Place::new();
    set_mode(place.root(), 0o711);
    set_mode(&place.path("v1"), 0o700);
    let master = place.pool("count = 1\nuser = 'nobody'", "").launch();
    let directory = fs::canonicalize(master.place.path("v1")).expect("v1");
    master.wait_for_log(&format!("chdir to {} as user nobody: Permission denied", directory.display()));
}
