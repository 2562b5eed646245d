//! Files that never answer, as on a mount whose server is gone: each reload is refused in time, and costs nobody a thread.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::harness::{Master, Place, Plan, Signal};

/// A FUSE mount whose server reads no request: every look at a file below it waits, until this is dropped.
struct HungMount {
    at: PathBuf,
    _server: OwnedFd,
}

impl HungMount {
    fn new(at: PathBuf) -> HungMount {
        fs::create_dir(&at).expect("a directory");
        let server: OwnedFd = fs::File::options().read(true).write(true).open("/dev/fuse").expect("/dev/fuse").into();
        let text = |text: &str| std::ffi::CString::new(text).expect("no NUL");
        let path = text(at.to_str().expect("text"));
        let options = text(&format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd()));
        // SAFETY: all four are strings that end with a NUL and live until the call returns.
        let done =
            unsafe { libc::mount(c"hung".as_ptr(), path.as_ptr(), c"fuse".as_ptr(), libc::MS_NOSUID, options.as_ptr().cast()) };
        assert_eq!(done, 0, "mount: {}", std::io::Error::last_os_error());
        HungMount { at, _server: server }
    }

    fn file(&self) -> PathBuf {
        self.at.join("file")
    }
}

impl Drop for HungMount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}

/// Lets a path lead to another, by rename.
fn lead(path: &Path, to: &Path) {
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    symlink(to, &new).expect("a symlink");
    fs::rename(&new, path).expect("rename");
}

#[track_caller]
fn refused(master: &Master, what: &str, path: &str) {
    let said = master.verb(&["reload"]);
    assert_eq!(said.code, Some(1), "{what}: {said:?}");
    assert!(said.err.contains("still reading") && said.err.contains(path), "{what}: {said:?}");
    let status = master.status();
    assert_eq!((&status["generation"], &status["last_reload"]["result"]), (&1.into(), &"refused".into()), "{what}");
}

#[test]
#[ignore = "needs root"]
fn reload_is_refused_in_time_when_a_file_hangs() {
    let place = Place::new();
    place.write("variables", "");
    place.release("v2", "");
    let file = place.path("variables");
    let master = place.pool(&format!("count = 1\nstart_timeout = '500ms'\nenvironment_file = [{file:?}]"), "").start();
    let hung = HungMount::new(master.place.path("hung"));
    let config = master.place.path("pool.toml");
    let good = master.place.read("pool.toml");
    let (worker, current) = (master.place.path("v2/worker"), master.place.path("current"));
    let chaos = super::harness::example("chaos");
    // More than the master has threads for other work.
    for _ in 0..3 {
        lead(&config, &hung.file());
        refused(&master, "configuration", "pool.toml");
        fs::remove_file(&config).expect("the configuration");
        master.place.write("pool.toml", &good);

        lead(&file, &hung.file());
        refused(&master, "environment file", "variables");
        fs::remove_file(&file).expect("the variables");
        master.place.write("variables", "");

        lead(&current, &hung.file());
        refused(&master, "directory", "current");

        lead(&current, Path::new("v2"));
        lead(&worker, &hung.file());
        refused(&master, "program", "worker");
        lead(&worker, &chaos);
    }
    assert!(master.get("/").contains("generation 1"));
    master.ok(&["reload"]);
    master.wait_until_calm();
    assert!(master.get("/").contains("version v2"));
}

#[test]
#[ignore = "needs root"]
fn stop_goes_on_when_the_file_of_its_hook_hangs() {
    let place = Place::new();
    let hook = place.path("hook");
    let tables = format!("[hooks]\nbefore_shutdown = [{hook:?}]");
    place.configure("count = 1\nstart_timeout = '500ms'", &tables);
    let master = Plan::new(place).start();
    let hung = HungMount::new(master.place.path("hung"));
    lead(&hook, &hung.file());
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
    assert!(master.log().contains("hooks.before_shutdown") && master.log().contains("still"), "{}", master.log());
}
