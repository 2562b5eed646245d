use std::os::unix::fs::symlink;

use super::*;
use crate::sys::spawn::{ErrorPipe, Plan, SpawnRequest, spawn};
use crate::sys::testing::{Output, ended, executable, plan, request};

fn words(command: &[&str]) -> Vec<String> {
    command.iter().map(|word| (*word).to_owned()).collect()
}

fn pin_in(directory: &Path, command: &[&str]) -> Result<Pinned, String> {
    pin("worker.command", &words(command), directory, Some(OsStr::new("/usr/bin:/bin")))
}

fn error(directory: &Path, command: &[&str]) -> String {
    pin_in(directory, command).unwrap_err().to_string()
}

/// The output of a worker of this release.
fn printed(pinned: Pinned) -> String {
    let Pinned { program, argv, directory, .. } = pinned;
    let plan = Plan { program, argv, directory, env: vec![c"PATH=/usr/bin:/bin".to_owned()], ..plan(Path::new("/bin/sh"), &[]) };
    let mut output = Output::new();
    let child = spawn(&plan, &SpawnRequest { stdout: Some(output.end()), ..request() }, &ErrorPipe::new().unwrap()).unwrap();
    output.started();
    let text = output.rest();
    ended(&child.pidfd);
    text
}

/// Makes `releases/1` and `releases/2`, each with `bin/app`, and a symlink `current` to the first.
fn releases() -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let root = std::fs::canonicalize(place.path()).unwrap();
    for number in ["1", "2"] {
        let bin = root.join("releases").join(number).join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        executable(&bin.join("app"), &format!("#!/bin/sh\necho {number} $0 $(pwd -P)\n"));
    }
    symlink("releases/1", root.join("current")).unwrap();
    (place, root)
}

fn deploy(root: &Path, number: &str) {
    symlink(format!("releases/{number}"), root.join("next")).unwrap();
    std::fs::rename(root.join("next"), root.join("current")).unwrap();
}

#[test]
fn a_symlink_to_the_release_is_pinned() {
    let (_place, root) = releases();
    let current = root.join("current");
    let absolute = format!("{}/bin/app", current.display());
    let [relative, absolute] = [["bin/app"], [absolute.as_str()]].map(|command| pin_in(&current, &command).unwrap());
    let first = root.join("releases/1");
    assert_eq!(relative.directory_path, first);
    assert_eq!(relative.program.path(), first.join("bin/app"));
    // The argument stays as configured, because it is right from the pinned directory; an absolute path is resolved first.
    assert_eq!(relative.argv[0].to_str().unwrap(), "bin/app");
    assert_eq!(absolute.argv[0].to_str().unwrap(), first.join("bin/app").to_str().unwrap());
    deploy(&root, "2");
    let expected = format!("1 {} {}\n", first.join("bin/app").display(), first.display());
    assert_eq!(printed(relative), expected);
    assert_eq!(printed(absolute), expected);
    assert!(printed(pin_in(&current, &["bin/app"]).unwrap()).starts_with("2 "));
}

#[test]
fn a_program_keeps_its_own_name() {
    let (_place, root) = releases();
    symlink("app", root.join("releases/1/bin/python")).unwrap();
    let pinned = pin_in(&root.join("current"), &["./bin/python", "x"]).unwrap();
    assert_eq!(pinned.program.path(), root.join("releases/1/bin/python"));
    assert_eq!(pinned.argv[0].to_str().unwrap(), "./bin/python");
    assert!(printed(pinned).contains("/bin/python "));
}

#[test]
fn name_is_looked_up_in_path_alone() {
    let (_place, root) = releases();
    let bin = root.join("releases/1/bin");
    // The working directory is not searched, and neither are `PATH` entries that mean it.
    executable(&bin.join("sh"), "#!/bin/sh\n");
    for path in ["/usr/bin:/bin", ".:/usr/bin:/bin", ":/usr/bin:/bin", "../bin:/usr/bin:/bin", "/usr/bin:/bin:"] {
        let pinned = pin("worker.command", &words(&["sh"]), &bin, Some(OsStr::new(path))).unwrap();
        assert!(["/usr/bin/sh", "/bin/sh"].map(Path::new).contains(&pinned.asked.as_path()), "{pinned:?}");
        assert_ne!(pinned.program.path().parent(), Some(bin.as_path()));
    }
    let why = error(&bin, &["app"]);
    let hint = format!("in the master's PATH=/usr/bin:/bin; the one in {} is started when you write \"./app\"", bin.display());
    assert!(why.contains(&hint), "{why}");
    // A directory of that name, and a file that cannot be executed, are skipped.
    std::fs::create_dir(root.join("sh")).unwrap();
    std::fs::write(root.join("cat"), "").unwrap();
    let path = std::env::join_paths([root.as_path(), Path::new("/usr/bin"), Path::new("/bin")]).unwrap();
    for name in ["sh", "cat"] {
        let pinned = pin("worker.command", &words(&[name]), &bin, Some(&path)).unwrap();
        assert_eq!(pinned.program.path().file_name(), Some(OsStr::new(name)));
        assert_ne!(pinned.program.path().parent(), Some(root.as_path()));
        assert_eq!(pinned.argv[0].to_str(), Ok(name));
    }
    assert!(pin("worker.command", &words(&["sh"]), &root, None).is_ok());
}

#[test]
fn asked_is_the_path_with_its_symlinks() {
    let (_place, root) = releases();
    let pinned = pin_in(&root.join("current"), &["bin/app"]).unwrap();
    assert_eq!(pinned.asked, root.join("current/bin/app"));
}

#[test]
fn what_cannot_be_started_is_said_with_path_and_cause() {
    let (_place, root) = releases();
    let shown = root.display();
    std::fs::write(root.join("text"), "").unwrap();
    assert!(error(&root, &[]).contains("worker.command is empty"));
    assert!(error(&root, &[""]).contains("worker.command is empty"));
    assert!(error(&root, &["sh", "a\0b"]).contains("NUL"));
    let missing = format!("worker.command \"bin/none\": {shown}/bin/none: No such file or directory; ");
    assert!(error(&root, &["bin/none"]).starts_with(&missing));
    assert!(error(&root, &["/nonexistent/app"]).contains("/nonexistent/app: No such file or directory; correct the path"));
    assert!(error(&root, &["./text"]).contains(&format!("{shown}/./text: Permission denied")));
    let by_path = pin("reload.check", &words(&["text"]), &root, Some(root.as_os_str())).unwrap_err().to_string();
    assert!(by_path.starts_with(&format!("reload.check \"text\": {shown}/text: Permission denied")), "{by_path}");
    assert!(error(&root, &["./releases"]).contains("is a directory"));
    assert!(error(&root, &["releases/.."]).contains("is a directory"));
    assert!(error(&root, &["text/app"]).contains("Not a directory"));
    assert!(error(&root, &["no-such-program"]).contains("No such file or directory in the master's PATH=/usr/bin:/bin; write"));
    assert!(error(&root.join("none"), &["sh"]).contains("none\": No such file or directory"));
    assert!(error(&root.join("text"), &["sh"]).contains("text\": Not a directory"));
}

#[test]
fn the_environment_of_a_generation() {
    let own =
        [("PATH", "/bin"), ("HOME", "/root"), ("NOTIFY_SOCKET", "/run/x"), ("LISTEN_PIDFDID", "7"), ("LISTEN_ADDR", "[::]:1")];
    let own = own.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let configured = [("HOME", "/srv"), ("EMPTY", ""), ("EQUALS", "a=b"), ("RATOON_WORKER", "9"), ("WATCHDOG_USEC", "1")];
    let all = environment(own.clone(), configured).unwrap();
    let all: Vec<&str> = all.iter().map(|entry| entry.to_str().unwrap()).collect();
    assert_eq!(all, ["EMPTY=", "EQUALS=a=b", "HOME=/srv", "LISTEN_ADDR=[::]:1", "PATH=/bin"]);
    for name in ["", "A=B", "A\0"] {
        assert!(environment(own.clone(), [(name, "x")]).unwrap_err().to_string().contains("is not a variable's name"));
    }
    assert!(environment(own, [("A", "x\0")]).unwrap_err().to_string().contains("NUL"));
    // A variable that is not UTF-8 is passed on unchanged.
    let odd = [(OsString::from_vec(vec![b'A', 0xff]), OsString::from_vec(vec![0xfe]))];
    assert_eq!(environment(odd, [("B", "b")]).unwrap()[0].as_bytes(), [b'A', 0xff, b'=', 0xfe]);
}
