//! One connection, from its first message to its loss: one task answers calls and signals changes.
//!
//! Law: the task that reads messages never waits for an answer of the bus. The answer would come through the queue of messages,
//! which is bounded.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use zbus::export::serde::Serialize;
use zbus::message::Type;
use zbus::{Connection, DynamicType, Message, MessageStream};

use super::answer::{Answer, Work, answer};
use super::call::{self, Call, Fault, error};
use super::worker::{self, BusSignal, Workers};
use super::{MANAGER, MANAGER_PATH, OBJECT_MANAGER, PROPERTIES, Properties, Shared, WORKER, clean, manager, names};
use crate::api::{Change, Closed, Summary};

/// The most unanswered calls of one caller, as many as a system bus allows.
const OF_ONE_CALLER: usize = 128;
/// The most unanswered calls of all callers together.
const OF_ALL: usize = 1024;
/// Timeout at the end for calls that are still unanswered.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The reason why serving ended.
pub(super) enum Ended {
    /// The master ends, or has stopped the front end.
    Stopped,
    /// The connection to the bus is lost, with the reason.
    Lost(String),
}

/// Serves one connection.
pub(super) async fn serve(connection: Connection, mut messages: MessageStream, shared: Arc<Shared>) -> Ended {
    let (connection, shared) = (&connection, &shared);
    let mut summary = shared.handle.summary();
    // Subscribed before the workers are read, so that no change between the two is missed.
    let mut changes = shared.handle.changes().subscribe();
    let told = summary.borrow_and_update().clone();
    let Ok(workers) = shared.handle.workers().await else { return Ended::Stopped };
    let mut server = Server {
        connection,
        shared,
        told,
        workers: Workers::new(workers),
        calls: Calls { running: JoinSet::new(), callers: HashMap::new() },
    };
    // The names are requested last, so that a client that finds them finds all objects.
    let mut names = pin!(names::hold(connection, shared));
    let mut ending = pin!(shared.ending());
    loop {
        let due = server.workers.due();
        tokio::select! {
            // Changes are signalled before a call is answered, so that an answer is never ahead of the signals before it.
            biased;
            () = &mut ending => break,
            changed = summary.changed() => {
                if changed.is_err() {
                    break;
                }
                let new = summary.borrow_and_update().clone();
                server.summary(new).await;
            }
            change = changes.recv() => match change {
                Ok(numbered) => server.change(numbered.change).await,
                Err(RecvError::Lagged(_)) => {
                    if server.resync().await.is_err() {
                        break;
                    }
                }
                Err(RecvError::Closed) => break,
            },
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let tell = server.workers.flush(Instant::now());
                server.tell_all(tell).await;
            }
            Some(done) = server.calls.running.join_next_with_id() => {
                server.calls.done(done.map_or_else(|error| error.id(), |(id, ())| id));
            }
            never = &mut names => match never {},
            message = call::next(&mut messages) => match message {
                Some(Ok(message)) if message.message_type() == Type::MethodCall => {
                    server.called(&message).await;
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Ended::Lost(error.to_string()),
                None => return Ended::Lost("the connection was closed".into()),
            },
        }
    }
    let _ = tokio::time::timeout(FLUSH_TIMEOUT, async { while server.calls.running.join_next().await.is_some() {} }).await;
    Ended::Stopped
}

struct Server<'a> {
    connection: &'a Connection,
    shared: &'a Arc<Shared>,
    /// The last published summary.
    told: Summary,
    workers: Workers,
    calls: Calls,
}

/// The calls that are answered by tasks of their own. The tasks end with the connection, and the loop is told that their requesters
/// went away.
struct Calls {
    running: JoinSet<()>,
    callers: HashMap<Id, String>,
}

impl Calls {
    fn done(&mut self, id: Id) {
        self.callers.remove(&id);
    }

    /// # Errors
    /// When the caller, or all callers together, have too many unanswered calls.
    fn admit(&self, caller: &str) -> Result<(), Fault> {
        if self.callers.len() >= OF_ALL || self.callers.values().filter(|known| *known == caller).count() >= OF_ONE_CALLER {
            return Err(Fault::new(error::LIMITS, "too many calls wait for their answers; try again when some have come"));
        }
        Ok(())
    }
}

impl Server<'_> {
    /// Handles a method call.
    async fn called(&mut self, message: &Message) {
        let call = Call::read(message, |id| self.workers.get(id).is_some());
        let answer = call.and_then(|call| answer(self.shared, self.connection, &self.told, &self.workers, &call));
        let result = match answer {
            Ok(Answer::Unwanted) => Ok(None),
            Ok(Answer::Now(reply)) => Ok(Some(reply)),
            Ok(Answer::Later(work)) => {
                let caller = call::caller(message);
                match self.calls.admit(&caller) {
                    Ok(()) => {
                        return self.answer_later(caller, message.clone(), work);
                    }
                    Err(fault) => Err(fault),
                }
            }
            Err(fault) => Err(fault),
        };
        respond(self.connection, message, result).await;
    }

    fn answer_later(&mut self, caller: String, message: Message, work: Work) {
        let connection = self.connection.clone();
        let answer = async move { respond(&connection, &message, work.await).await };
        let task = self.calls.running.spawn(answer);
        self.calls.callers.insert(task.id(), caller);
    }

    /// Signals a change from the loop.
    async fn change(&mut self, change: Change) {
        match change {
            Change::Worker(view) => {
                let tell = self.workers.update(view, Instant::now());
                self.tell_all(tell).await;
            }
            Change::WorkerExited { id, generation, how, .. } => {
                self.emit(MANAGER_PATH, MANAGER, "WorkerExited", &(id, generation, clean(&how))).await;
                let tell = self.workers.remove(id);
                self.tell_all(tell).await;
            }
            Change::ReloadStarted { generation } => {
                self.emit(MANAGER_PATH, MANAGER, "ReloadStarted", &generation).await;
            }
            Change::ReloadFinished { generation, outcome, reason } => {
                self.emit(MANAGER_PATH, MANAGER, "ReloadFinished", &(generation, outcome.as_str(), clean(&reason))).await;
            }
            // The property WorkersConfigured tells it.
            Change::Scaled(_) => {}
            Change::Undone { generation, release, reason } => {
                self.emit(MANAGER_PATH, MANAGER, "Undone", &(generation, release, clean(&reason))).await;
            }
        }
    }

    /// Reads all workers again after missed changes.
    async fn resync(&mut self) -> Result<(), Closed> {
        let workers = self.shared.handle.workers().await?;
        let tell = self.workers.resync(workers, Instant::now());
        self.tell_all(tell).await;
        Ok(())
    }

    /// Signals the properties that differ in the new summary.
    async fn summary(&mut self, new: Summary) {
        let changed = manager::changes(&self.told, &new);
        if !changed.is_empty() {
            self.changed(MANAGER_PATH, MANAGER, &changed).await;
        }
        self.told = new;
    }

    async fn tell_all(&self, tell: impl IntoIterator<Item = BusSignal>) {
        for tell in tell {
            match tell {
                BusSignal::Added(view) => {
                    let interfaces = HashMap::from([(WORKER, worker::properties(&view, None))]);
                    let Ok(path) = zbus::ObjectPath::try_from(worker::path(view.id)) else { continue };
                    self.emit(MANAGER_PATH, OBJECT_MANAGER, "InterfacesAdded", &(path, interfaces)).await;
                }
                BusSignal::Changed(id, properties) => self.changed(&worker::path(id), WORKER, &properties).await,
                BusSignal::Removed(id) => {
                    let Ok(path) = zbus::ObjectPath::try_from(worker::path(id)) else { continue };
                    self.emit(MANAGER_PATH, OBJECT_MANAGER, "InterfacesRemoved", &(path, [WORKER].as_slice())).await;
                }
            }
        }
    }

    async fn changed(&self, path: &str, interface: &str, properties: &Properties<'_>) {
        let invalidated: &[&str] = &[];
        self.emit(path, PROPERTIES, "PropertiesChanged", &(interface, properties, invalidated)).await;
    }

    /// Sends a signal. If that fails the connection is lost, which the next read of a message reports.
    async fn emit<B: Serialize + DynamicType>(&self, path: &str, interface: &str, signal: &str, body: &B) {
        let _ = self.connection.emit_signal(None::<&str>, path, interface, signal, body).await;
    }
}

/// Sends the answer to a call, if the caller wants one. If that fails the connection is lost.
async fn respond(connection: &Connection, call: &Message, result: Result<Option<Message>, Fault>) {
    if !call::wants_reply(call) {
        return;
    }
    let reply = match result {
        Ok(Some(reply)) => Ok(reply),
        // The caller has left the bus.
        Ok(None) => return,
        Err(fault) => call::refuse(call, &fault),
    };
    if let Ok(reply) = reply {
        let _ = connection.send(&reply).await;
    }
}
