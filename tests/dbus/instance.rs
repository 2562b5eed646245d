//! A master without workers: the front end in a runtime of one thread, and behind it a loop that does what the test
//! orders.

use std::process::Stdio;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use ratoon::api::{Backend, Change, Command, Reply, Request, Summary, WorkerView};
use ratoon::control::dbus::{self, Level, LogControl, Options};
use ratoon::pool::{Phase, PoolState};
use ratoon::status::tree;
use tokio::sync::{mpsc, oneshot};

use super::bus::{Bus, Ran, Running, TIMEOUT, own_uid};

/// What the loop was told.
#[derive(Debug)]
pub enum Told {
    Request(u64, Request, Option<oneshot::Sender<Reply>>),
    Gone(u64),
}

type Order = Box<dyn FnOnce(&mut World) + Send>;

/// What the loop knows and publishes.
pub struct World {
    pub ends: Backend,
    pub workers: Vec<WorkerView>,
    pub document: tree::Document,
}

impl World {
    /// Tells a change, and knows it.
    pub fn change(&mut self, change: Change) {
        match &change {
            Change::Worker(view) => {
                self.workers.retain(|known| known.id != view.id);
                self.workers.push(view.clone());
            }
            Change::WorkerExited { id, .. } => self.workers.retain(|known| known.id != *id),
            Change::ReloadStarted { .. } | Change::ReloadFinished { .. } | Change::Undone { .. } | Change::Scaled(_) => {}
        }
        // Nobody listens while the bus is away.
        let _ = self.ends.changes.send(change);
    }
}

pub struct Instance {
    name: String,
    address: String,
    orders: Option<mpsc::UnboundedSender<Order>>,
    pub told: Receiver<Told>,
    log: Receiver<(Level, String)>,
    thread: Option<JoinHandle<()>>,
}

/// A worker in its place.
pub fn worker(id: u64, state: Phase) -> WorkerView {
    let slot = u32::try_from(id - 1).unwrap();
    let pid = 1000 + slot;
    WorkerView { id, slot, generation: 1, pid, state, status_text: "".into(), started_at: UNIX_EPOCH + Duration::from_secs(7) }
}

impl Instance {
    /// An instance on this bus, for which the test's own user is the master's.
    pub fn new(bus: &Bus, name: &str) -> Self {
        let instance = Self::start(bus, name, own_uid());
        instance.until_log("on the message bus as");
        instance
    }

    pub fn start(bus: &Bus, name: &str, own_uid: u32) -> Self {
        let (orders, mut ordered) = mpsc::unbounded_channel::<Order>();
        let (telling, told) = channel();
        let (logging, log) = channel();
        let options = Options {
            instance: name.into(),
            unit: Some(format!("ratoon@{name}.service")),
            own_uid,
            bus: dbus::Bus { address: bus.address(), system: true },
            log: Arc::new(move |level, text| {
                let _ = logging.send((level, text));
            }),
            bus_is_expected: true,
            log_control: Arc::new(FakeLog { level: Mutex::new("info".into()) }),
        };
        let first = summary(name);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let (handle, ends) = ratoon::api::channel(first);
                let service = dbus::spawn(handle, options);
                let document = tree::Document { instance: "web".into(), ..tree::Document::default() };
                let mut world = World { ends, workers: vec![worker(1, Phase::Ready), worker(2, Phase::Ready)], document };
                loop {
                    tokio::select! {
                        command = world.ends.commands.recv() => act(&world, command.unwrap(), &telling),
                        order = ordered.recv() => match order {
                            Some(order) => order(&mut world),
                            None => break,
                        },
                    }
                }
                service.stop().await;
            });
        });
        Self {
            name: format!("org.ratoon1.{}", dbus::encode(name)),
            address: bus.address(),
            orders: Some(orders),
            told,
            log,
            thread: Some(thread),
        }
    }

    /// The loop does this, soon.
    pub fn order(&self, order: impl FnOnce(&mut World) + Send + 'static) {
        self.orders.as_ref().unwrap().send(Box::new(order)).unwrap();
    }

    pub fn change(&self, change: Change) {
        self.order(|world| world.change(change));
    }

    pub fn publish(&self, change: impl FnOnce(&mut Summary) + Send + 'static) {
        self.order(|world| world.ends.summary.send_modify(change));
    }

    /// The next question to the loop.
    #[track_caller]
    pub fn asked(&self) -> (u64, Request, Option<oneshot::Sender<Reply>>) {
        match self.told.recv_timeout(TIMEOUT).expect("something is asked") {
            Told::Request(requester, ask, reply) => (requester, ask, reply),
            Told::Gone(requester) => panic!("{requester} went away"),
        }
    }

    /// The next requester who went away.
    #[track_caller]
    pub fn gone(&self) -> u64 {
        match self.told.recv_timeout(TIMEOUT).expect("somebody goes away") {
            Told::Gone(requester) => requester,
            told => panic!("{told:?}"),
        }
    }

    /// Nothing was asked of the loop until now: a question that is asked afterwards is the next that it hears.
    #[track_caller]
    pub fn assert_unasked(&self) {
        let told = self.told.try_recv();
        assert!(told.is_err(), "{told:?}");
    }

    /// The next line of the log that has `text` in it, and all before it.
    #[track_caller]
    pub fn until_log(&self, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            match self.log.recv_timeout(TIMEOUT) {
                Ok((_, line)) => lines.push(line),
                Err(_) => panic!("{text} is not in {lines:#?}"),
            }
            if lines.last().unwrap().contains(text) {
                return lines;
            }
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A connection of the test's own to the same bus.
    pub async fn client(&self) -> zbus::Connection {
        zbus::connection::Builder::address(self.address.as_str()).build().await.unwrap()
    }

    /// `busctl call` of a method of the Manager.
    pub fn call(&self, bus: &Bus, arguments: &[&str]) -> Ran {
        let to = ["call", &self.name, "/org/ratoon1", "org.ratoon1.Manager"];
        bus.busctl(&[&to, arguments].concat())
    }

    /// The same, with a tool that does not wait for the reply.
    pub fn call_unanswered(&self, bus: &Bus, method: &str) {
        bus.busctl(&["--expect-reply=no", "call", &self.name, "/org/ratoon1", "org.ratoon1.Manager", method]).good();
    }

    /// The same, without waiting for its end.
    pub fn calling(&self, bus: &Bus, arguments: &[&str]) -> Running {
        let to = ["call", &self.name, "/org/ratoon1", "org.ratoon1.Manager"];
        let mut command = bus.command();
        Running(command.args(to).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// `busctl get-property` of the Manager.
    pub fn property(&self, bus: &Bus, property: &str) -> serde_json::Value {
        bus.busctl(&["get-property", &self.name, "/org/ratoon1", "org.ratoon1.Manager", property]).json()
    }

    /// The loop ends; returns when the front end is gone.
    pub fn end(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the instance panicked");
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.finish();
    }
}

fn act(world: &World, command: Command, telling: &Sender<Told>) {
    match command {
        Command::Request { requester, request: ask, reply, .. } => {
            telling.send(Told::Request(requester, ask, reply)).unwrap_or_default()
        }
        Command::Gone(requester) => telling.send(Told::Gone(requester)).unwrap_or_default(),
        Command::Document(reply) => reply.send(Arc::new(world.document.clone().into())).unwrap_or_default(),
        Command::Workers(reply) => reply.send(world.workers.clone()).unwrap_or_default(),
        Command::History(reply) => reply.send(Vec::new()).unwrap_or_default(),
    }
}

pub fn summary(name: &str) -> Summary {
    Summary {
        instance: name.into(),
        state: PoolState::Running,
        degraded: false,
        paused: false,
        idle: false,
        last_wake: None,
        status_text: "generation 1: 2/2 ready".into(),
        generation: 1,
        workers_configured: 2,
        workers_ready: 2,
        workers_min: 2,
        workers_max: 2,
        at_max: false,
        crashes: 0,
        started_at: UNIX_EPOCH + Duration::from_micros(1_234_567),
        last_reload: None,
        canary: None,
    }
}

/// A log whose level is a word.
pub struct FakeLog {
    level: Mutex<String>,
}

impl LogControl for FakeLog {
    fn level(&self) -> String {
        self.level.lock().unwrap().clone()
    }

    fn set_level(&self, level: &str) -> Result<(), String> {
        if level != "info" && level != "debug" {
            return Err(format!("{level} is no level; info and debug are"));
        }
        *self.level.lock().unwrap() = level.into();
        Ok(())
    }

    fn target(&self) -> String {
        "journal".into()
    }

    fn identifier(&self) -> String {
        "web".into()
    }
}
