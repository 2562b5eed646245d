//! Answers calls: at once from the state that is known here, or by a task that asks the loop or polkit, or reads the disk.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use zbus::{Connection, Message, ObjectPath, Variant};

use super::call::{Call, Fault, Method, Object, error};
use super::worker::{self, Workers};
use super::{Properties, Shared, WORKER, WORKERS_PATH, access, introspect, log, manager};
use crate::api::{Request, Summary, WorkerView};
use crate::status::tree;

/// The answer to a call.
pub(super) enum Answer {
    /// No answer: the call only reads, and the caller wants no reply.
    Unwanted,
    Now(Message),
    /// A future with the answer; `None` when the caller does not wait for it any more.
    Later(Work),
}

/// See [`Answer::Later`].
pub(super) type Work = Pin<Box<dyn Future<Output = Result<Option<Message>, Fault>> + Send>>;

/// Answers a call.
///
/// # Errors
/// The error for the caller.
pub(super) fn answer(
    shared: &Arc<Shared>,
    connection: &Connection,
    summary: &Summary,
    workers: &Workers,
    call: &Call,
) -> Result<Answer, Fault> {
    let (shared, call) = (shared.clone(), call.clone());
    let change = |ask| Ok(Answer::Later(Box::pin(manager::change(shared.clone(), connection.clone(), call.clone(), ask))));
    match call.method {
        Method::Reload => change(Request::Reload),
        Method::Abort => change(Request::Abort),
        Method::Promote => change(Request::Promote),
        Method::Scale => change(Request::Scale(call.arguments()?)),
        Method::ScaleAuto => change(Request::ScaleAuto),
        Method::Recycle => change(Request::Recycle(Some(call.arguments()?).filter(|id| *id != 0))),
        Method::Pause => change(Request::Pause(None)),
        Method::Resume => change(Request::Resume),
        Method::Upgrade => change(Request::Upgrade),
        Method::Undo => change(Request::Undo(Some(call.arguments()?).filter(|generation| *generation != 0))),
        Method::Set => set(shared, connection, summary, workers, call),
        _ if !call.wants_reply() => Ok(Answer::Unwanted),
        Method::GetHistory => Ok(Answer::Later(Box::pin(manager::history(shared, call)))),
        Method::GetStatus => Ok(Answer::Later(Box::pin(manager::status(shared, connection.clone(), call)))),
        Method::GetManagedObjects => {
            let views = workers.all().cloned().collect();
            Ok(Answer::Later(Box::pin(managed_objects(shared, call, views))))
        }
        Method::Get => get(shared, summary, workers, call),
        Method::GetAll => get_all(shared, summary, workers, call),
        Method::Introspect => Ok(Answer::Now(call.reply(&introspect::introspect(call.object, children(&call, workers)))?)),
        Method::Ping => Ok(Answer::Now(call.reply(&())?)),
        Method::GetMachineId => Ok(Answer::Later(Box::pin(machine_id(call)))),
    }
}

/// The names of the objects below one.
fn children(call: &Call, workers: &Workers) -> Vec<String> {
    let header = call.message.header();
    match (call.object, header.path().map_or("", |path| path.as_str())) {
        (Object::Manager, _) if workers.all().len() > 0 => vec!["worker".into()],
        (Object::Branch, "/") => vec!["org".into()],
        (Object::Branch, "/org") => vec!["freedesktop".into(), "ratoon1".into()],
        (Object::Branch, "/org/freedesktop") => vec!["LogControl1".into()],
        (Object::Branch, WORKERS_PATH) => workers.all().map(|view| view.id.to_string()).collect(),
        _ => Vec::new(),
    }
}

/// The properties of an object without the figures that need the status document.
fn known<'a>(shared: &Shared, summary: &'a Summary, workers: &'a Workers, object: Object) -> Properties<'a> {
    match object {
        Object::Manager => manager::properties(summary),
        Object::Worker(id) => workers.get(id).map(|view| worker::properties(view, None)).unwrap_or_default(),
        Object::Log => log::properties(&*shared.options.log_control),
        Object::Branch => Properties::new(),
    }
}

/// Whether `interface` is the interface of the object that has properties (an empty name means any interface); `false` for another
/// interface of the object.
///
/// # Errors
/// When the object has no such interface.
fn has_properties(call: &Call, interface: &str) -> Result<bool, Fault> {
    if interface.is_empty() || call.object.own_interface() == Some(interface) {
        return Ok(true);
    }
    if call.object.interfaces().contains(&interface) {
        return Ok(false);
    }
    Err(Fault::new(error::UNKNOWN_INTERFACE, format!("this object has no interface {interface}")))
}

fn get(shared: Arc<Shared>, summary: &Summary, workers: &Workers, call: Call) -> Result<Answer, Fault> {
    let (interface, property): (String, String) = call.arguments()?;
    let mut properties = match has_properties(&call, &interface)? {
        true => known(&shared, summary, workers, call.object),
        false => Properties::new(),
    };
    let Some(value) = properties.remove(property.as_str()) else {
        return Err(Fault::new(error::UNKNOWN_PROPERTY, format!("there is no property {property}")));
    };
    if let Some(view) = figures_of(&call, workers)
        && worker::is_figure(&property)
    {
        return Ok(Answer::Later(Box::pin(async move {
            let document = manager::document(&shared).await?;
            let figures = document.workers.iter().find(|worker| worker.id == view.id);
            let value = worker::properties(&view, figures).remove(property.as_str());
            call.reply(&value.unwrap_or_else(|| u64::MAX.into())).map(Some)
        })));
    }
    Ok(Answer::Now(call.reply(&value)?))
}

fn get_all(shared: Arc<Shared>, summary: &Summary, workers: &Workers, call: Call) -> Result<Answer, Fault> {
    let interface: String = call.arguments()?;
    if !has_properties(&call, &interface)? {
        return Ok(Answer::Now(call.reply(&Properties::new())?));
    }
    if let Some(view) = figures_of(&call, workers) {
        return Ok(Answer::Later(Box::pin(async move {
            let document = manager::document(&shared).await?;
            let figures = document.workers.iter().find(|worker| worker.id == view.id);
            call.reply(&worker::properties(&view, figures)).map(Some)
        })));
    }
    Ok(Answer::Now(call.reply(&known(&shared, summary, workers, call.object))?))
}

/// The worker to whose object the call goes.
fn figures_of(call: &Call, workers: &Workers) -> Option<WorkerView> {
    match call.object {
        Object::Worker(id) => workers.get(id).cloned(),
        Object::Manager | Object::Log | Object::Branch => None,
    }
}

fn set(shared: Arc<Shared>, connection: &Connection, summary: &Summary, workers: &Workers, call: Call) -> Result<Answer, Fault> {
    let body = call.message.body();
    let arguments = body.deserialize().map_err(|error| Fault::new(error::INVALID_ARGS, error.to_string()));
    let (interface, property, value): (&str, &str, Variant<'_>) = arguments?;
    if !has_properties(&call, interface)? || !known(&shared, summary, workers, call.object).contains_key(property) {
        return Err(Fault::new(error::UNKNOWN_PROPERTY, format!("there is no property {property}")));
    }
    if call.object != Object::Log || !log::writable(property) {
        return Err(Fault::new(error::READ_ONLY, format!("the property {property} can only be read")));
    }
    let Variant::Str(value) = value else {
        return Err(Fault::new(error::INVALID_ARGS, format!("{property} is a string, not '{}'", value.value_signature())));
    };
    let (property, value) = (property.to_owned(), value.as_str().to_owned());
    let (connection, call) = (connection.clone(), call.clone());
    Ok(Answer::Later(Box::pin(async move {
        access::check(&shared, &connection, &call, "log-control").await?;
        log::set(&*shared.options.log_control, &property, &value)?;
        call.reply(&()).map(Some)
    })))
}

/// All workers with all properties, from one status document.
async fn managed_objects(shared: Arc<Shared>, call: Call, views: Vec<WorkerView>) -> Result<Option<Message>, Fault> {
    let document = manager::document(&shared).await?;
    let things = views.len();
    let make = move || {
        let mut figures: HashMap<u64, &tree::Worker> = document.workers.iter().map(|worker| (worker.id, worker)).collect();
        let mut objects = HashMap::with_capacity(views.len());
        for view in &views {
            let properties = worker::properties(view, figures.remove(&view.id));
            objects.insert(ObjectPath::try_from(worker::path(view.id))?, HashMap::from([(WORKER, properties)]));
        }
        call.reply(&objects)
    };
    manager::heavy(things, make).await.map(Some)
}

async fn machine_id(call: Call) -> Result<Option<Message>, Fault> {
    let read = || std::fs::read_to_string("/etc/machine-id").or_else(|_| std::fs::read_to_string("/var/lib/dbus/machine-id"));
    let text = tokio::task::spawn_blocking(read).await;
    match text {
        Ok(Ok(text)) => call.reply(&text.trim()).map(Some),
        Ok(Err(problem)) => Err(Fault::new(error::FAILED, format!("/etc/machine-id: {problem}"))),
        Err(problem) => Err(Fault::new(error::FAILED, problem.to_string())),
    }
}
