//! Files that are no regular files, cannot be read, or are too long.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::*;

/// The error message for the file `name` in `directory`, without the directory's own path.
fn said(directory: &Path, name: &str) -> String {
    let error = load(&directory.join(name)).unwrap_err().to_string();
    error.replace(&format!("{}/", directory.display()), "")
}

fn write(directory: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn what_is_no_regular_file() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    rustix::fs::mkfifoat(rustix::fs::CWD, here.join("fifo"), rustix::fs::Mode::RUSR).unwrap();
    let _socket = UnixListener::bind(here.join("socket")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", here.join("zero")).unwrap();
    std::os::unix::fs::symlink("loop", here.join("loop")).unwrap();
    std::fs::create_dir(here.join("directory")).unwrap();
    write(here, "file", b"");
    assert_eq!(said(here, "fifo"), "fifo: this is a named pipe; a configuration is a regular file");
    assert_eq!(said(here, "socket"), "socket: this is a socket; a configuration is a regular file");
    assert_eq!(said(here, "zero"), "zero: this is a device; a configuration is a regular file");
    assert_eq!(said(here, "directory"), "directory: this is a directory; a configuration is a regular file");
    assert_eq!(said(here, "loop"), "loop: it cannot be read: Too many levels of symbolic links (os error 40)");
    let missing = "there is no such file; create it, for instance by `ratoon init NAME -- COMMAND`, or with the two lines\n    [worker]\n    \
                   command = [\"/usr/bin/my-server\", \"--flag\"]";
    assert_eq!(said(here, "missing.toml"), format!("missing.toml: {missing}"));
    assert_eq!(said(here, "file/web.toml"), format!("file/web.toml: {missing}"));
}

#[test]
fn what_may_not_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), "web.toml", b"[worker]\ncommand = ['web']\n");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    // Root can read the file all the same, so the message is tested without reading it.
    let error = std::io::Error::from_raw_os_error(libc::EACCES);
    let said = super::super::file::unreadable(&path, &error);
    // The hint never makes the file readable for everyone: such files hold secrets.
    let hint = format!("with mode 0000; give it to that user's group: chgrp {{}} {0} && chmod 640 {0}", path.display());
    let (before, after) = hint.split_once("{}").unwrap();
    assert!(said.starts_with("user ") && said.contains(" may not read it, which belongs to "), "{said}");
    assert!(said.contains(before) && said.ends_with(after) && !said.contains("a+r"), "{said}");
    if !rustix::process::geteuid().is_root() {
        assert!(load(&path).unwrap_err().to_string().ends_with(after));
    }
}

#[test]
fn too_much() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let mut text = b"[worker]\ncommand = ['web']\n#".to_vec();
    text.resize(1 << 20, b'.');
    assert!(load(&write(here, "fits.toml", &text)).is_ok());
    text.push(b'.');
    write(here, "long.toml", &text);
    let expected = "this is longer than 1 MiB, more than a configuration may have; is it the right file?";
    assert_eq!(said(here, "long.toml"), format!("long.toml: {expected}"));
    let sparse = std::fs::File::create(here.join("sparse.toml")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    assert_eq!(said(here, "sparse.toml"), format!("sparse.toml: {expected}"));
}

#[test]
fn not_utf8() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    write(here, "latin1.toml", b"[worker]\ncommand = ['web']\n# caf\xe9\n");
    write(here, "cut.toml", "[worker]\n# ä".as_bytes().split_last().unwrap().1);
    write(here, "utf16.toml", b"\xff\xfe[\0w\0");
    assert_eq!(said(here, "latin1.toml"), "latin1.toml:3:6: the byte 0xe9 (offset 32) is not UTF-8; save the file as UTF-8");
    assert_eq!(said(here, "cut.toml"), "cut.toml:2:3: the byte 0xc3 (offset 11) is not UTF-8; save the file as UTF-8");
    assert_eq!(said(here, "utf16.toml"), "utf16.toml:1:1: the byte 0xff (offset 0) is not UTF-8; save the file as UTF-8");
}

#[test]
fn a_mark_and_foreign_line_ends_do_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), "web.toml", "\u{feff}[worker]\r\ncommand = ['web']\r\ncount = 3\r\n".as_bytes());
    assert_eq!(load(&path).unwrap().worker.count, Some(3));
    write(directory.path(), "bad.toml", b"[worker]\r\ncommand = ['web']\r\ncount = 0\r\n");
    let expected =
        "bad.toml:3:9: worker.count: 0 is out of range; expected a number from 1 to 10000\n  3 | count = 0\n    |         ^";
    assert_eq!(said(directory.path(), "bad.toml"), expected);
}

/// The environment of a configuration with these environment files and variables, or the error message.
fn environment(directory: &Path, files: &str, variables: &str) -> Result<Vec<(String, String)>, String> {
    let config = read(&format!("[worker]\ncommand = ['web']\nenvironment_file = {files}\nenvironment = {variables}")).unwrap();
    config.environment(directory).map_err(|error| error.to_string().replace(&format!("{}/", directory.display()), ""))
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn environment_files_win_over_the_table_and_later_ones_over_earlier() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    write(here, "one", b"A=one\nB=one\n");
    let two = write(here, "two", b"B=two\nD=two\n");
    let merged = environment(here, &format!("['one', '-missing', '-{}']", two.display()), "{ A = 'table', C = 'table' }");
    assert_eq!(merged, Ok(pairs(&[("A", "one"), ("C", "table"), ("B", "two"), ("D", "two")])));
    assert_eq!(environment(here, "'one'", "['A=1', 'A=2', 'C=3=4']"), Ok(pairs(&[("A", "one"), ("C", "3=4"), ("B", "one")])));
}

#[test]
fn environment_files_are_as_hostile_as_others() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    rustix::fs::mkfifoat(rustix::fs::CWD, here.join("fifo"), rustix::fs::Mode::RUSR).unwrap();
    std::fs::File::create(here.join("sparse")).unwrap().set_len(1 << 40).unwrap();
    write(here, "latin1", b"A=caf\xe9\n");
    let of = |file: &str| environment(here, &format!("'{file}'"), "[]").unwrap_err();
    assert_eq!(
        of("missing"),
        "missing: there is no such file; create it, or write - before its path in worker.environment_file if it may be missing"
    );
    assert_eq!(of("fifo"), "fifo: this is a named pipe; an environment file is a regular file");
    assert_eq!(of("-fifo"), "fifo: this is a named pipe; an environment file is a regular file");
    assert_eq!(of("sparse"), "sparse: this is longer than 1 MiB, more than an environment file may have; is it the right file?");
    assert_eq!(of("latin1"), "latin1:1:6: the byte 0xe9 (offset 5) is not UTF-8; save the file as UTF-8");
    write(here, "bad", b"A=1\nexport B=secret\n");
    assert_eq!(of("bad"), "bad:2: no shell reads this; leave out the word \"export\"");
}
