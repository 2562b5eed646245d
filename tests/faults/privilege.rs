//! What a root master runs and changes for others: hooks, checks, accounts, files by path.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use super::harness::master::{Notification, workers};
use super::harness::{Master, Place, Plan, Signal, eventually};

/// `nobody`, an account that every machine has.
const NOBODY: u32 = 65_534;

fn give_to_nobody(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// A place that other users may enter, and a directory in it that everyone may write to.
fn open_place() -> Place {
    let place = Place::new();
    set_mode(place.root(), 0o711);
    fs::create_dir(place.path("out")).expect("out");
    set_mode(&place.path("out"), 0o1777);
    place
}

/// A program that writes the user whom it runs as, with the account's variables, to a new file in `out`.
fn tell_user(place: &Place, program: &str) {
    let file = program.replace('/', "-");
    let script = "#!/bin/sh\necho \"$(id -u) $(id -g) $HOME $USER $LOGNAME $SHELL\" >OUT\n";
    place.program(program, &script.replace("OUT", &place.path(format!("out/{file}")).display().to_string()));
}

#[track_caller]
fn refused(master: &Master, parts: &[&str]) -> Notification {
    let said = master.verb(&["reload"]);
    assert_eq!(said.code, Some(1), "{said:?}\n{}", master.log());
    for part in parts {
        assert!(said.err.contains(part), "{part:?} was not printed: {said:?}");
    }
    said
}

#[test]
#[ignore = "needs root"]
fn hook_and_check_names_are_not_looked_up_in_the_release() {
    let place = open_place();
    for name in ["true", "chaos-hook"] {
        tell_user(&place, &format!("v1/{name}"));
    }
    give_to_nobody(&place.path("v1"));
    let tables = "[hooks]\nbefore_reload = ['true', 'x']\nbefore_shutdown = ['true']\n[reload]\ncheck = ['true']";
    let master = place.pool("count = 1\nuser = 'nobody'", tables).start();
    master.ok(&["reload"]);
    // A variable of the release has no say either.
    master
        .place
        .configure("count = 1\nuser = 'nobody'\nenvironment = { PATH = '.:/bin' }", "[hooks]\nbefore_reload = ['chaos-hook']");
    refused(&master, &["hooks.before_reload", "\"chaos-hook\"", "No such file or directory", "PATH="]);
    master.place.configure("count = 1\nuser = 'nobody'", tables);
    master.ok(&["reload"]);
    master.signal(Signal::TERM);
    assert!(master.end().success());
    let ran: Vec<_> = fs::read_dir(master.place.path("out")).expect("out").collect();
    assert!(ran.is_empty(), "{ran:?}");
}

#[test]
#[ignore = "needs root"]
fn check_runs_as_the_workers_user() {
    let place = open_place();
    tell_user(&place, "v1/check");
    let master = place.pool("count = 1\nuser = 'nobody'", "[reload]\ncheck = ['./check']").start();
    master.ok(&["reload"]);
    let told = master.place.read("out/v1-check");
    assert!(told.starts_with("65534 65534 /nonexistent nobody nobody /"), "{told}");
}

#[test]
#[ignore = "needs root"]
fn hook_runs_as_hooks_user() {
    let place = open_place();
    tell_user(&place, "v1/hook");
    give_to_nobody(&place.path("v1"));
    let tables = "[hooks]\nbefore_reload = ['./hook']\nbefore_shutdown = ['./hook']\nuser = 'nobody'";
    let master = place.pool("count = 1", tables).start();
    master.ok(&["reload"]);
    let told = master.place.read("out/v1-hook");
    assert!(told.starts_with("65534 65534 /nonexistent nobody nobody /"), "{told}");
    fs::remove_file(master.place.path("out/v1-hook")).expect("told");
    master.signal(Signal::TERM);
    assert!(master.end().success());
    assert_eq!(master.place.read("out/v1-hook"), told, "{}", master.log());
}

#[test]
#[ignore = "needs root"]
fn root_hook_that_another_user_may_write_is_refused() {
    let place = open_place();
    for directory in ["theirs", "theirs/below", "ours"] {
        fs::create_dir(place.path(directory)).expect("a directory");
    }
    for hook in ["theirs/hook", "theirs/below/hook", "ours/owned", "ours/group", "ours/others", "ours/safe", "out/sticky"] {
        place.program(hook, "#!/bin/sh\nexit 0\n");
    }
    let shown = |name: &str| place.path(name).display().to_string();
    // A script is as safe as its interpreter.
    place.program("theirs/sh", "#!/bin/sh\nexit 0\n");
    place.install("0755", Path::new("/bin/sh"), "theirs/shell");
    place.program("ours/script", &format!("#!{}\nexit 0\n", shown("theirs/shell")));
    std::os::unix::fs::symlink(place.path("theirs/hook"), place.path("ours/link")).expect("a link");
    give_to_nobody(&place.path("theirs"));
    give_to_nobody(&place.path("ours/owned"));
    chown(place.path("ours/group"), None, Some(NOBODY)).expect("chown");
    set_mode(&place.path("ours/group"), 0o775);
    set_mode(&place.path("ours/others"), 0o757);
    let theirs = format!("{} belongs to user 65534 (nobody)", shown("theirs"));
    let cases = [
        ("theirs/hook", theirs.clone()),
        ("theirs/below/hook", theirs.clone()),
        ("ours/link", theirs.clone()),
        ("ours/script", theirs),
        ("ours/owned", format!("{} belongs to user 65534 (nobody)", shown("ours/owned"))),
        ("ours/group", format!("{} may be written to by group 65534", shown("ours/group"))),
        ("ours/others", format!("{} may be written to by everyone", shown("ours/others"))),
    ];
    let safe = [shown("ours/safe"), shown("out/sticky")];
    let at_the_end = shown("theirs/hook");
    let master = place.pool("count = 1\nuser = 'nobody'", "").start();
    let configure = |hook: &str| {
        let hook = master.place.path(hook);
        master.place.configure("count = 1\nuser = 'nobody'", &format!("[hooks]\nbefore_reload = [{hook:?}]"));
    };
    for (hook, why) in cases {
        configure(hook);
        refused(&master, &["hooks.before_reload", &why, "hooks.user"]);
    }
    for hook in safe {
        configure(&hook);
        master.ok(&["reload"]);
    }
    master.place.configure("count = 1\nuser = 'nobody'", &format!("[hooks]\nbefore_shutdown = [{at_the_end:?}]"));
    master.ok(&["reload"]);
    master.wait_for_log("hooks.before_shutdown");
    master.signal(Signal::TERM);
    assert!(master.end().success());
    assert!(master.log().matches("hooks.user").count() >= 2, "{}", master.log());
}

#[test]
#[ignore = "needs root"]
fn root_hook_gets_no_variables_from_another_users_file() {
    let place = open_place();
    place.write("variables", "LD_PRELOAD=/srv/evil.so\n");
    give_to_nobody(&place.path("variables"));
    let file = format!("count = 1\nuser = 'nobody'\nenvironment_file = {:?}", place.path("variables"));
    let master = place.pool("count = 1\nuser = 'nobody'", "").start();
    master.place.configure(&file, "[hooks]\nbefore_reload = ['true']");
    let belongs = format!("{} belongs to user 65534 (nobody)", master.place.path("variables").display());
    refused(&master, &["hooks.before_reload", &belongs, "hooks.user"]);
    master.place.configure(&file, "[hooks]\nbefore_reload = ['true']\nuser = 'nobody'");
    master.ok(&["reload"]);
}

#[test]
#[ignore = "needs root"]
fn root_worker_that_another_user_may_write_is_warned_of() {
    let place = open_place();
    give_to_nobody(&place.path("v1"));
    let master = place.pool("count = 1", "").start();
    let warning = format!("{} belongs to user 65534 (nobody)", fs::canonicalize(master.place.path("v1")).expect("v1").display());
    eventually("the warning", || master.log().contains(&warning).then_some(()), || master.log());
    assert!(master.log().contains("worker.user"), "{}", master.log());
    master.ok(&["reload"]);
    eventually("a warning for each reload", || (master.log().matches(&warning).count() == 2).then_some(()), || master.log());
}

/// A worker that says in its status as whom it runs, with the account's variables.
fn portrait(worker: &str) -> Master {
    let place = open_place();
    let script = "systemd-notify --ready --status=\"$(id -u):$(id -g):$(id -G) <$HOME $USER $LOGNAME $SHELL>\"; exec sleep 1000";
    place.write(
        "pool.toml",
        &format!("[worker]\ncommand = ['/bin/sh', '-c', '{script}']\ndirectory = '/'\nready = 'notify'\ncount = 1\n{worker}\n"),
    );
    let root = [("HOME", "/root"), ("USER", "root"), ("LOGNAME", "root"), ("SHELL", "/bin/roots-shell")];
    root.into_iter().fold(Plan::new(place), |plan, (name, value)| plan.environment(name, value)).start()
}

#[track_caller]
fn wait_for_portrait(master: &Master, expected: &str) {
    master.wait(expected, |status| workers(status)[0]["status"] == *expected);
}

#[test]
#[ignore = "needs root"]
fn user_by_number_has_the_accounts_groups_and_variables() {
    // An account whose group has another number than the user: `sync` of Debian, for one.
    let table = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let mut accounts = table.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let differs = |it: &Vec<&str>| it.len() == 7 && it[2] != it[3] && it[2] != "0" && it[3] != "0";
    let account = accounts.find(differs).expect("an account");
    let [name, _, uid, gid, _, home, shell] = account[..] else { unreachable!() };
    let master = portrait(&format!("user = {uid:?}"));
    let groups = std::process::Command::new("id").args(["-G", name]).output().expect("id").stdout;
    let groups = String::from_utf8(groups).expect("numbers");
    wait_for_portrait(&master, &format!("{uid}:{gid}:{} <{home} {name} {name} {shell}>", groups.trim()));
}

#[test]
#[ignore = "needs root"]
fn variables_of_the_account_yield_to_configured_ones() {
    let master = portrait("user = 'nobody'\nenvironment = { HOME = '/srv', SHELL = '/bin/own' }");
    wait_for_portrait(&master, "65534:65534:65534 </srv nobody nobody /bin/own>");
}

#[test]
#[ignore = "needs root"]
fn user_number_that_means_no_change_is_refused() {
    let master = portrait("user = 'nobody'");
    let good = master.place.read("pool.toml");
    for (worker, part) in [
        ("user = '4294967295'", "worker.user: \"4294967295\" is no account's number"),
        ("user = 4294967295", "worker.user: 4294967295 is no account"),
        ("user = '99999999999'", "worker.user: \"99999999999\" is no account's number"),
        ("group = '4294967295'", "worker.group: \"4294967295\" is no account's number"),
        ("user = '4000000001'", "there is no user with the number 4000000001; name an account, or set worker.group too"),
    ] {
        master.place.write("pool.toml", &good.replace("user = 'nobody'", worker));
        refused(&master, &[part]);
    }
    master.place.write("pool.toml", &good.replace("user = 'nobody'", "user = 4000000001\ngroup = 4000000002"));
    master.ok(&["reload"]);
    wait_for_portrait(&master, "4000000001:4000000002:4000000002 <   >");
}

#[test]
#[ignore = "needs root"]
fn root_binds_no_socket_in_another_users_directory() {
    let place = open_place();
    for directory in ["theirs", "group", "ours"] {
        fs::create_dir(place.path(directory)).expect("a directory");
    }
    give_to_nobody(&place.path("theirs"));
    chown(place.path("group"), None, Some(NOBODY)).expect("chown");
    set_mode(&place.path("group"), 0o775);
    std::os::unix::fs::symlink(place.path("theirs"), place.path("ours/link")).expect("a link");
    place.configure("count = 1", "");
    let mut place = place;
    for (directory, why) in [
        ("theirs", "theirs belongs to user 65534 (nobody)"),
        ("ours/link", "theirs belongs to user 65534 (nobody)"),
        ("group", "group may be written to by group 65534"),
    ] {
        let socket = place.path(format!("{directory}/x.sock"));
        let master = Plan::new(place).listen(socket.to_str().expect("text")).launch();
        assert_eq!(master.end().code(), Some(1), "{}", master.log());
        assert!(master.log().contains(why) && master.log().contains("choose a directory of root's"), "{}", master.log());
        assert!(fs::symlink_metadata(&socket).is_err());
        place = master.into_place();
    }
    // Nobody can rename root's socket in a directory with the sticky bit. A narrow umask does not narrow it.
    for directory in ["ours", "out"] {
        let socket = place.path(format!("{directory}/x.sock"));
        let plan = Plan::new(place).listen(socket.to_str().expect("text"));
        let master = plan.shell("umask 0777; exec \"$0\" \"$@\"").start();
        let mode = |path: &Path| fs::symlink_metadata(path).expect("a socket").permissions().mode() & 0o7777;
        assert_eq!((mode(&socket), mode(&master.control())), (0o666, 0o666));
        place = master.into_place();
    }
}

#[test]
#[ignore = "needs root"]
fn root_takes_no_runtime_directory_of_another_user() {
    let place = open_place();
    place.configure("count = 1", "");
    chown(place.path("run"), None, Some(NOBODY)).expect("chown");
    set_mode(&place.path("run"), 0o775);
    let master = Plan::new(place).launch();
    assert_eq!(master.end().code(), Some(1), "{}", master.log());
    let why = format!("{} may be written to by group 65534", master.place.path("run").display());
    assert!(master.log().contains(&why) && master.log().contains("RUNTIME_DIRECTORY"), "{}", master.log());
    assert!(fs::read_dir(master.place.path("run")).expect("run").next().is_none());
}
