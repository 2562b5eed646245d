//! One sample: what was read, and what must agree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::harness::master::workers;
use super::harness::{TIMEOUT, http, processes};
use super::metrics::Metrics;

const NAME: &str = "org.ratoon1.pool";
/// How often /proc may disagree in a row: a process that ends is gone a moment before its end is told.
const TRIES: usize = 5;

/// What the samples had in them.
#[derive(Debug, Default)]
pub struct Seen {
    /// Samples with two equal documents.
    pub compared: u64,
    /// Those of them during a reload.
    pub reloading: u64,
    /// Workers in all of them.
    pub workers: u64,
    /// Samples in a row in which /proc disagreed.
    disagreed: usize,
}

/// Reads all ways to ask of one master.
pub struct Sampler {
    control: PathBuf,
    master: u32,
    bus: String,
}

/// What both documents of a sample must say alike.
#[derive(Debug, PartialEq)]
struct Picture {
    pool: BTreeMap<&'static str, Value>,
    /// id, slot, generation, pid (0 for none), state, status.
    workers: BTreeSet<(u64, u64, u64, u64, String, String)>,
}

/// Fields of the document, and the properties and samples that must be equal.
const POOL: [(&str, &str, &str); 7] = [
    ("state", "State", ""),
    ("degraded", "Degraded", "ratoon_degraded"),
    ("status_text", "StatusText", ""),
    ("generation", "Generation", "ratoon_generation"),
    ("workers_configured", "WorkersConfigured", "ratoon_workers_configured"),
    ("workers_ready", "WorkersReady", "ratoon_workers_ready"),
    ("worker_crashes", "Crashes", "ratoon_worker_crashes_total"),
];

impl Picture {
    fn of(document: &Value) -> Picture {
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let worker = |it: &Value| {
            let [id, slot, generation, pid] = ["id", "slot", "generation", "pid"].map(|field| number(&it[field]));
            (id, slot, generation, pid, text(&it["state"]), text(&it["status"]))
        };
        Picture {
            pool: POOL.iter().map(|(field, ..)| (*field, document[*field].clone())).collect(),
            workers: workers(document).iter().map(worker).collect(),
        }
    }
}

impl Sampler {
    pub fn new(control: PathBuf, master: u32, bus: String) -> Sampler {
        Sampler { control, master, bus }
    }

    pub fn is_on_the_bus(&self) -> bool {
        self.busctl(&["get-property", NAME, "/org/ratoon1", "org.ratoon1.Manager", "State"]).is_some()
    }

    /// Takes one sample; fails the test where what was read does not agree.
    pub fn sample(&self, seen: &mut Seen) {
        let before = self.document();
        let properties = self.properties();
        let objects = self.objects();
        let metrics = Metrics::parse(&self.get("/metrics"));
        let readyz: Value = serde_json::from_str(&self.get("/readyz")).expect("JSON");
        let processes = self.processes();
        let after = self.document();
        self.sums(&before, &metrics, &after);
        let picture = Picture::of(&before);
        if picture != Picture::of(&after) {
            return;
        }
        seen.compared += 1;
        seen.reloading += u64::from(before["state"] == "reloading");
        seen.workers += picture.workers.len() as u64;
        self.pool(&picture, &properties, &metrics, &readyz);
        self.workers(&picture, &objects, &metrics);
        self.proc(&picture, &processes, seen);
    }

    fn pool(&self, picture: &Picture, properties: &BTreeMap<String, Value>, metrics: &Metrics, readyz: &Value) {
        for (field, property, sample) in POOL {
            let told = &picture.pool[field];
            assert_eq!(&properties[property], told, "D-Bus {property}\n{picture:#?}");
            assert_eq!(&readyz[field], told, "readyz {field}\n{picture:#?}");
            if !sample.is_empty() {
                let told = told.as_f64().unwrap_or_else(|| f64::from(told == &json!(true)));
                assert_eq!(metrics.one(sample), told, "{sample}\n{picture:#?}");
            }
        }
        let state =
            metrics.all("ratoon_state").iter().find(|(_, value)| *value == 1.0).map(|(labels, _)| &labels["ratoon_state"]);
        assert_eq!(state.map(String::as_str), picture.pool["state"].as_str(), "ratoon_state\n{picture:#?}");
    }

    fn workers(&self, picture: &Picture, objects: &BTreeMap<u64, BTreeMap<String, Value>>, metrics: &Metrics) {
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let on_the_bus = objects.iter().map(|(id, it)| {
            let [slot, generation, pid] = ["Slot", "Generation", "Pid"].map(|name| number(&it[name]));
            assert_eq!(number(&it["Id"]), *id);
            (*id, slot, generation, pid, text(&it["State"]), text(&it["StatusText"]))
        });
        assert_eq!(on_the_bus.collect::<BTreeSet<_>>(), picture.workers, "objects on the bus");
        let in_metrics = metrics.all("ratoon_worker_info").iter().map(|(labels, _)| {
            let number = |name: &str| labels[name].parse().unwrap_or_default();
            (number("worker"), number("slot"), number("generation"), number("pid"), labels["state"].clone())
        });
        let told: BTreeSet<_> = picture
            .workers
            .iter()
            .map(|(id, slot, generation, pid, state, _)| (*id, *slot, *generation, *pid, state.clone()))
            .collect();
        assert_eq!(in_metrics.collect::<BTreeSet<(u64, u64, u64, u64, String)>>(), told, "ratoon_worker_info");
        let slots: BTreeSet<_> = told.iter().map(|(_, slot, ..)| slot.to_string()).collect();
        let in_metrics: Vec<_> =
            metrics.all("ratoon_worker_start_time_seconds").iter().map(|(labels, _)| labels["slot"].clone()).collect();
        assert_eq!(in_metrics.len(), slots.len(), "one series a slot: {in_metrics:?}");
        assert_eq!(in_metrics.into_iter().collect::<BTreeSet<_>>(), slots, "slots in the metrics");
    }

    /// What only grows.
    fn sums(&self, before: &Value, metrics: &Metrics, after: &Value) {
        for (field, sample) in [("requests", "ratoon_requests_total"), ("connections", "ratoon_connections_total")] {
            let Some(least) = before[field].as_f64() else { continue };
            let most = after[field].as_f64().unwrap_or_else(|| panic!("{field} was known and is not: {after:#}"));
            let told = metrics.one(sample);
            assert!((least..=most).contains(&told), "{sample} is {told}, {field} was {least} before and {most} after");
        }
        for field in ["worker_crashes", "generation"] {
            assert!(before[field].as_u64() <= after[field].as_u64(), "{field} fell: {before:#}\n{after:#}");
        }
    }

    fn proc(&self, picture: &Picture, processes: &BTreeMap<u64, u64>, seen: &mut Seen) {
        // A worker whose pid is not told yet may be there or not.
        let told: BTreeMap<u64, u64> =
            picture.workers.iter().filter(|worker| worker.3 != 0).map(|worker| (worker.0, worker.3)).collect();
        let untold: BTreeSet<u64> = picture.workers.iter().filter(|worker| worker.3 == 0).map(|worker| worker.0).collect();
        let there: BTreeMap<u64, u64> =
            processes.iter().filter(|(id, _)| !untold.contains(id)).map(|(id, pid)| (*id, *pid)).collect();
        // A worker that has just been started is not executed yet.
        let missing = told.iter().any(|(id, pid)| there.get(id) != Some(pid));
        let surplus = there.keys().any(|id| !told.contains_key(id));
        seen.disagreed = if missing || surplus { seen.disagreed + 1 } else { 0 };
        assert!(seen.disagreed < TRIES, "workers by /proc: {there:?}\n{picture:#?}");
    }

    fn document(&self) -> Value {
        serde_json::from_str(&self.get("/status")).expect("JSON")
    }

    fn get(&self, path: &str) -> String {
        http::over_unix(&self.control, "GET", path, TIMEOUT).unwrap_or_else(|error| panic!("{path}: {error}")).body
    }

    /// The living children of the master that are workers: id and pid.
    fn processes(&self) -> BTreeMap<u64, u64> {
        let id = |pid: &u32| {
            let environment = std::fs::read_to_string(format!("/proc/{pid}/environ")).ok()?;
            environment.split('\0').find_map(|entry| entry.strip_prefix("RATOON_WORKER=")?.parse().ok())
        };
        let living = processes::children(self.master).into_iter().filter(|pid| processes::lives(*pid));
        living.filter_map(|pid| Some((id(&pid)?, u64::from(pid)))).collect()
    }

    fn properties(&self) -> BTreeMap<String, Value> {
        let call = ["call", NAME, "/org/ratoon1", "org.freedesktop.DBus.Properties", "GetAll", "s", "org.ratoon1.Manager"];
        plain(&self.busctl(&call).expect("properties")["data"][0])
    }

    fn objects(&self) -> BTreeMap<u64, BTreeMap<String, Value>> {
        let call = ["call", NAME, "/org/ratoon1", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"];
        let answer = self.busctl(&call).expect("objects");
        let objects = answer["data"][0].as_object().expect("a table").clone();
        let id = |path: &str| path.rsplit('/').next().and_then(|id| id.parse().ok()).expect("a worker's path");
        objects.iter().map(|(path, it)| (id(path), plain(&it["org.ratoon1.Worker"]))).collect()
    }

    fn busctl(&self, arguments: &[&str]) -> Option<Value> {
        let output = Command::new("busctl")
            .arg(format!("--address={}", self.bus))
            .args(["--no-pager", "--json=short"])
            .args(arguments)
            .output()
            .expect("busctl");
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }
}

/// Properties without their D-Bus types.
fn plain(properties: &Value) -> BTreeMap<String, Value> {
    let properties = properties.as_object().unwrap_or_else(|| panic!("no properties: {properties}"));
    properties.iter().map(|(name, value)| (name.clone(), value["data"].clone())).collect()
}
