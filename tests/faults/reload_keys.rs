//! A reload applies a change of every key of the configuration, or says that it does not: in its answer and in STATUS.
//!
//! The keys come from `ratoon schema`, which is made from the table of keys: a key without a case here fails the test.

mod cases;

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::Mutex;

use self::cases::{Case, case};
use super::harness::{Place, Plan, RATOON, Value};

/// A server that answers 500 to requests for the host `other.example`.
const HOST: &str = "import socket
listening = socket.socket(fileno=3)
while True:
    connection, _ = listening.accept()
    status = '500 No' if b'other.example' in connection.recv(4096) else '200 OK'
    connection.sendall(f'HTTP/1.1 {status}\\r\\nContent-Length: 0\\r\\n\\r\\n'.encode())
    connection.close()
";
/// Cases that run at a time.
const THREADS: usize = 4;

/// The path of a library of this process.
fn library(name: &str) -> String {
    let maps = fs::read_to_string("/proc/self/maps").expect("maps");
    let path = maps.lines().find_map(|line| line.split_whitespace().nth(5).filter(|path| path.contains(name)));
    path.unwrap_or_else(|| panic!("no {name} in {maps}")).to_owned()
}

/// Every key of the table, by its full name.
fn keys() -> Vec<String> {
    let schema = Command::new(RATOON).arg("schema").output().expect("ratoon").stdout;
    let schema: Value = serde_json::from_slice(&schema).expect("JSON");
    let (mut keys, mut tables) = (Vec::new(), vec![(String::new(), schema)]);
    while let Some((name, table)) = tables.pop() {
        for (key, value) in table["properties"].as_object().expect("a table") {
            let full = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            if value["properties"].is_object() {
                tables.push((full, value.clone()));
            } else {
                keys.push(full);
            }
        }
    }
    keys.sort();
    keys
}

/// One key's case, in a place of its own.
struct Trial<'a> {
    key: &'a str,
    case: Case,
    address: String,
}

impl Trial<'_> {
    fn text(&self, place: &Place, text: &str) -> String {
        text.replace("PLACE", &place.root().display().to_string()).replace("STATUS", &self.address)
    }

    fn configure(&self, place: &Place, value: Option<&str>, also: &[(&str, &str)]) {
        let usual = [("worker.command", "['./worker']"), ("worker.directory", "'PLACE/current'"), ("worker.count", "1")];
        let mut keys: BTreeMap<&str, &str> = usual.into_iter().collect();
        keys.extend(self.case.with.iter().copied().chain(also.iter().copied()));
        keys.extend(value.map(|value| (self.key, value)));
        let lines: String = keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        place.write("pool.toml", &self.text(place, &lines));
    }

    fn run(&self) {
        let place = Place::new();
        Command::new("chmod").args(["711"]).arg(place.root()).status().expect("chmod");
        fs::create_dir(place.path("out")).expect("out");
        Command::new("chmod").args(["1777"]).arg(place.path("out")).status().expect("chmod");
        place.release("v2", "");
        place.write("host.py", HOST);
        place.write("variables", "FROM_FILE=x\n");
        // Any library that the worker has anyhow.
        for name in ["one.so", "two.so"] {
            fs::copy(library("libgcc_s.so"), place.path(name)).expect("a library");
        }
        place.write("address", &self.address);
        if !self.case.script.is_empty() {
            place.wrap("v1", self.case.script);
        }
        self.configure(&place, self.case.before, &[]);
        let master = Plan::new(place).start();
        let said = master.ok(&["reload"]);
        assert!(self.case.acts || !(self.case.seen)(&master, &said), "{}: the value is there before the change", self.key);
        self.configure(&master.place, Some(self.case.after), &self.case.also);
        let said = master.verb(&["reload"]);
        assert!((self.case.seen)(&master, &said), "{} = {}: {said:?}\n{}", self.key, self.case.after, master.log());
    }
}

#[test]
fn reload_applies_a_change_of_every_key_or_says_that_it_does_not() {
    let keys = keys();
    assert!(keys.len() > 30, "{keys:?}");
    let (queue, failed) = (Mutex::new(keys.iter().enumerate()), Mutex::new(Vec::new()));
    let work = || {
        while let Some((index, key)) = { queue.lock().expect("no panic under the lock").next() } {
            let Some(case) = case(key) else {
                failed.lock().expect("no panic under the lock").push(format!(
                    "{key} has no case: write in tests/faults/reload_keys/cases.rs how a change of it is seen after a reload; what a reload cannot apply it must say"
                ));
                continue;
            };
            // An address for each process and case, where no other test listens.
            let address =
                format!("127.77.{}.{}:{}", 1 + index, 1 + std::process::id() % 250, 20_000 + std::process::id() % 10_000);
            let trial = Trial { key, case, address };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| trial.run())) {
                let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                failed.lock().expect("no panic under the lock").push(format!("{key}: {text}"));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().expect("no panic under the lock");
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}
