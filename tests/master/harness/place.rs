//! A test's directory: releases behind a `current` symlink, scripts, the configuration.
//!
//! Programs are written by another process: a descriptor open for writing that a fork of another test's thread inherits
//! would make their exec fail with `text file busy`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Plan, example, processes};

/// A directory that goes, with every process that was started from it, when this is dropped.
pub struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    /// With a release `v1` that `current` leads to.
    pub fn new() -> Place {
        let directory = tempfile::Builder::new().prefix("rt").tempdir().expect("a directory");
        let place = Place { directory };
        fs::create_dir(place.path("run")).expect("run");
        place.release("v1", "");
        place.current("v1");
        place
    }

    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// An executable file with this text.
    pub fn program(&self, name: &str, text: &str) {
        self.write("program.text", text);
        self.install("0755", &self.path("program.text"), name);
    }

    /// A copy of an executable, with this mode; replaces what was there by a new file.
    pub fn install(&self, mode: &str, from: &Path, name: &str) {
        let new = self.path(format!("{name}.new"));
        let done = Command::new("install").arg("-m").arg(mode).arg(from).arg(&new).status().expect("install");
        assert!(done.success(), "install {name}: {done}");
        fs::rename(&new, self.path(name)).expect("rename");
    }

    /// A directory with a `worker` (the example `chaos`), that calls itself by the directory's name and does what
    /// `chaos` says.
    pub fn release(&self, name: &str, chaos: &str) {
        fs::create_dir(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        symlink(example("chaos"), self.path(name).join("worker")).expect("worker");
        self.write(&format!("{name}/version"), name);
        self.behave(name, chaos);
    }

    /// Lets a release's `worker` be a shell script that ends in `exec chaos`; `PLACE` in it is this directory.
    pub fn wrap(&self, release: &str, script: &str) {
        let script = script.replace("PLACE", &self.root().display().to_string());
        self.program(&format!("{release}/worker"), &format!("#!/bin/sh\n{script}\nexec {}\n", example("chaos").display()));
    }

    /// Workers of a release are ready when the test makes `gate.GENERATION.SLOT`.
    pub fn gate(&self, release: &str) {
        self.wrap(release, "export CHAOS_GATE=PLACE/gate.$RATOON_GENERATION.$RATOON_SLOT");
    }

    /// Opens a gate.
    pub fn open(&self, generation: u64, slot: u32) {
        self.write(&format!("gate.{generation}.{slot}"), "");
    }

    /// What workers of a release do that start from now on: lines `setting=value` of `examples/chaos.rs`.
    pub fn behave(&self, name: &str, chaos: &str) {
        self.write(&format!("{name}/chaos.new"), chaos);
        fs::rename(self.path(name).join("chaos.new"), self.path(name).join("chaos")).expect("chaos");
    }

    /// Lets `current` lead to a release, as deployment tools do: at once.
    pub fn current(&self, name: &str) {
        symlink(name, self.path("current.new")).expect("current");
        fs::rename(self.path("current.new"), self.path("current")).expect("current");
    }

    /// The configuration of a pool of `current/worker`: further lines of `[worker]`, then further tables.
    pub fn configure(&self, worker: &str, tables: &str) {
        let directory = self.path("current");
        let text = format!("[worker]\ncommand = ['./worker']\ndirectory = {directory:?}\n{worker}\n{tables}\n");
        // As an editor does it: a reload that is on its way reads the old or the new, never half.
        self.write("pool.toml.new", &text);
        fs::rename(self.path("pool.toml.new"), self.path("pool.toml")).expect("the configuration");
    }

    /// [`Place::configure`], and a master for it.
    pub fn pool(self, worker: &str, tables: &str) -> Plan {
        self.configure(worker, tables);
        Plan::new(self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        processes::end_all_of(self.root());
    }
}
