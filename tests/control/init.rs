//! `ratoon init`: what it writes, what it says, and what it does not touch.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

struct Notification {
    code: Option<i32>,
    out: String,
    err: String,
}

/// In this directory, with nothing of this machine but a PATH.
fn init(directory: &Path, arguments: &[&str]) -> Notification {
    end(Command::new(env!("CARGO_BIN_EXE_ratoon")).arg("init").args(arguments).current_dir(directory))
}

fn end(command: &mut Command) -> Notification {
    let output = command.stdin(Stdio::null()).output().expect("ratoon");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Notification { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// Every file below, with its text.
fn tree(root: &Path) -> String {
    let mut files = Vec::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).expect("a directory").flatten() {
            match entry.path() {
                path if path.is_dir() => left.push(path),
                path => files.push(path),
            }
        }
    }
    files.sort();
    let one = |path: &std::path::PathBuf| {
        format!("== {}\n{}", path.strip_prefix(root).expect("below").display(), fs::read_to_string(path).expect("text"))
    };
    files.iter().map(one).collect::<Vec<_>>().join("\n")
}

#[test]
fn all_that_an_instance_needs() {
    let root = tempfile::tempdir().expect("a directory");
    let at = root.path().to_str().expect("text");
    let said = init(
        root.path(),
        &[
            "web",
            "--root",
            at,
            "--listen",
            "8080",
            "--listen=/run/web.sock",
            "--user=nobody",
            "--directory=/srv/web/current",
            "--",
            "./server",
            "--name",
            "a \"b\" %n",
        ],
    );
    assert_eq!(said.code, Some(0), "{}", said.err);
    let uid = ratoon::sys::accounts::user("nobody").expect("nobody").uid;
    let all = format!("{}\n{}", said.out.replace(at, ""), tree(root.path()));
    insta::with_settings!({ snapshot_path => "recorded", omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("init", all.replace(&format!("\"{uid}\""), "\"UID\""));
    });
    let file = root.path().join("etc/ratoon/web.toml");
    let checked = end(Command::new(env!("CARGO_BIN_EXE_ratoon")).args(["check", "--file-only"]).arg(&file));
    assert_eq!(checked.code, Some(0), "{}", checked.err);
    assert!(checked.out.contains(r#"./server --name "a \"b\" %n", in /srv/web/current"#), "{}", checked.out);

    // Nothing is overwritten, and nothing is half there.
    fs::remove_file(root.path().join("etc/systemd/system/ratoon@web.socket.d/listen.conf")).expect("listen.conf");
    let before = tree(root.path());
    let said = init(root.path(), &["web", "--root", at, "--", "./other"]);
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""));
    assert!(said.err.contains("etc/ratoon/web.toml and ") && said.err.contains("nothing is overwritten"), "{}", said.err);
    assert_eq!(tree(root.path()), before);
}

/// By default an IPv6 socket of systemd's has the IPv4 port, too, and the second of the two could not be bound.
#[test]
fn init_binds_ipv4_and_ipv6_of_one_port_apart() {
    let root = tempfile::tempdir().expect("a directory");
    let at = root.path().to_str().expect("text");
    let said = init(root.path(), &["web", "--root", at, "--listen", "8080", "--listen", "[::]:8080", "--", "x"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(tree(root.path()).contains("BindIPv6Only=ipv6-only"), "{}", tree(root.path()));
    let said = init(root.path(), &["other", "--root", at, "--listen", "8080", "--listen", "[::]:8081", "--", "x"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(tree(root.path()).matches("BindIPv6Only").count(), 1);
}

/// systemd warns of an option of TCP at a socket that is none.
#[test]
fn init_of_paths_alone_switches_tcp_nodelay_off() {
    for (addresses, is_off) in [(["/run/a.sock", "/run/b.sock"], true), (["/run/a.sock", "8080"], false)] {
        let root = tempfile::tempdir().expect("a directory");
        let at = root.path().to_str().expect("text");
        let said = init(root.path(), &["web", "--root", at, "--listen", addresses[0], "--listen", addresses[1], "--", "x"]);
        assert_eq!(said.code, Some(0), "{}", said.err);
        assert_eq!(tree(root.path()).contains("NoDelay=no"), is_off, "{}", tree(root.path()));
    }
}

#[test]
fn a_mistake_is_said_before_anything_is_written() {
    let root = tempfile::tempdir().expect("a directory");
    let at = root.path().to_str().expect("text");
    let table: [(&[&str], &str); 5] = [
        (&["a:b", "--", "x"], "no colon"),
        (&["a/b", "--", "x"], "no slash"),
        (&["grün", "--", "x"], "use letters"),
        (&["web", "--listen", "localhost:80", "--", "x"], "127.0.0.1:80"),
        (&["web", "--user", "no-such-user", "--", "x"], "there is no such user"),
    ];
    for (arguments, part) in table {
        let said = init(root.path(), &[&arguments[..1], &["--root", at], &arguments[1..]].concat());
        assert_eq!(said.code, Some(1), "{arguments:?}: {}", said.out);
        assert!(said.err.contains(part), "{arguments:?}: {}", said.err);
    }
    for (flag, value, part) in
        [("--ready", "soon", "expected \"auto\""), ("--workers", "0", "1 to 10000"), ("--workers", "100000", "1 to 10000")]
    {
        let said = init(root.path(), &["web", "--root", at, flag, value, "--", "x"]);
        assert_eq!(said.code, Some(2), "{flag} {value}: {}", said.out);
        assert!(said.err.contains(flag) && said.err.contains(part), "{flag} {value}: {}", said.err);
    }
    assert_eq!(tree(root.path()), "");
    let said = init(root.path(), &["web"]);
    assert_eq!(said.code, Some(2), "{}", said.err);
}

/// As a user it is for `systemctl --user`, and finds out what is wrong on this machine.
#[test]
fn a_users_instance() {
    let home = tempfile::tempdir().expect("a directory");
    let program = home.path().join("ratoon");
    fs::copy(env!("CARGO_BIN_EXE_ratoon"), &program).expect("a copy");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).expect("a mode");
    let bin = home.path().join("bin");
    fs::create_dir(&bin).expect("bin");
    fs::write(bin.join("my-server"), "#!/bin/sh\n").expect("my-server");
    fs::set_permissions(bin.join("my-server"), fs::Permissions::from_mode(0o755)).expect("a mode");
    let user = |arguments: &[&str]| {
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
            command
        } else {
            Command::new(&program)
        };
        command.arg("init").args(arguments).current_dir(home.path()).env("HOME", home.path()).env_remove("XDG_CONFIG_HOME");
        end(command.env("PATH", format!("{}:/usr/bin:/bin", bin.display())))
    };
    for (arguments, part) in [
        (vec!["web", "--user", "root", "--", "my-server"], "only root can"),
        (vec!["web", "--", "no-such-server"], "No such file or directory"),
        (vec!["web", "--directory", "missing", "--", "my-server"], "make it first"),
    ] {
        let said = user(&arguments);
        assert_eq!(said.code, Some(1), "{}", said.out);
        assert!(said.err.contains(part), "{arguments:?}: {}", said.err);
    }
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = held.local_addr().expect("an address").to_string();
    let said = user(&["web", "--listen", &address, "--", "my-server"]);
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert!(said.err.contains("another process has this port"), "{}", said.err);
    assert!(!home.path().join(".config").exists());
    drop(held);
    let said = user(&["web", "--listen", &address, "--", "my-server", "--flag"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.contains("systemctl --user enable --now ratoon@web.socket"), "{}", said.out);
    let text = fs::read_to_string(home.path().join(".config/ratoon/web.toml")).expect("web.toml");
    // A service has another PATH than this shell.
    assert!(text.contains(&format!("command = [\"{}\", \"--flag\"]", bin.join("my-server").display())), "{text}");
    assert!(home.path().join(".config/systemd/user/ratoon@web.socket.d/listen.conf").exists());
}
