//! Carries out calls.

use std::io;

use serde_json::{Value, json};
use zbus_polkit::policykit1::{CheckAuthorizationFlags, Subject};

use super::Connection;
use super::call::{Call, Fault, Parameters, Reply};
use super::interfaces::{Action, Change, INTERACTIVE, INTERFACES, METHODS, Output};
use crate::api::{self, Closed, ProbeAnswer, ReloadAnswer, Request};
use crate::config::{self, COUNT_MAX};
use crate::control::access::{self, Problem, Refusal, Verdict};
use crate::control::dbus;
use crate::pool::Outcome;

/// The names of the log levels by their numbers in syslog(3).
const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];

/// The end of a call without a reply.
enum End {
    /// The peer has left.
    Gone,
    Fault(Fault),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> End {
        End::Fault(fault)
    }
}

impl From<Closed> for End {
    fn from(closed: Closed) -> End {
        End::Fault(Fault::reason("Failed", closed.to_string()))
    }
}

impl Connection {
    /// Carries out a call and writes its reply.
    ///
    /// # Errors
    /// The connection is at its end.
    pub(super) async fn answer(&self, call: Call) -> io::Result<()> {
        let oneway = call.oneway;
        let (error, parameters) = match self.carry_out(call).await {
            Ok(parameters) => (None, parameters),
            Err(End::Fault(fault)) => (Some(fault.name), fault.parameters),
            Err(End::Gone) => return Err(io::ErrorKind::BrokenPipe.into()),
        };
        if oneway { Ok(()) } else { self.write(error.as_deref(), &parameters, false).await }
    }

    /// Writes a reply.
    pub(super) async fn write(&self, error: Option<&str>, parameters: &Value, continues: bool) -> io::Result<()> {
        let reply = Reply { error, parameters, continues };
        self.wire.write(&serde_json::to_vec(&reply).map_err(io::Error::other)?).await
    }

    async fn carry_out(&self, call: Call) -> Result<Value, End> {
        let Some((_, known, action)) = METHODS.iter().find(|(name, ..)| *name == call.method) else {
            return Err(unknown(&call.method).into());
        };
        if call.upgrade {
            return Err(Fault::service("MethodNotImplemented", json!({ "method": call.method })).into());
        }
        let parameters = Parameters::check(call.parameters, known)?;
        match action {
            Action::GetInfo => Ok(json!({
                "vendor": "Ratoon",
                "product": "ratoon",
                "version": env!("CARGO_PKG_VERSION"),
                "url": "",
                "interfaces": INTERFACES.map(|(name, _)| name),
            })),
            Action::GetInterfaceDescription => {
                let name = parameters.text("interface");
                let known = INTERFACES.iter().find(|(known, _)| *known == name);
                let (_, text) = known.ok_or_else(|| Fault::service("InterfaceNotFound", json!({ "interface": name })))?;
                Ok(json!({ "description": text }))
            }
            Action::Ping => Ok(json!({})),
            Action::SetLogLevel => {
                let level = parameters.number("level").and_then(|level| LEVELS.get(usize::try_from(level).ok()?));
                let level = level.ok_or_else(|| Fault::invalid("level"))?;
                self.check("set-log-level", &parameters).await?;
                self.shared.options.log_control.set_level(level).map_err(|text| Fault::reason("Failed", text))?;
                Ok(json!({}))
            }
            Action::GetEnvironment => {
                self.check("get-environment", &parameters).await?;
                let entry = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
                    Some(format!("{}={}", name.into_string().ok()?, value.into_string().ok()?))
                };
                let environment: Option<Vec<String>> = std::env::vars_os().map(entry).collect();
                let inconsistent =
                    || Fault { name: "io.systemd.service.InconsistentEnvironment".to_owned(), parameters: json!({}) };
                Ok(json!({ "environment": environment.ok_or_else(inconsistent)? }))
            }
            Action::GetStatus => self.status().await,
            Action::GetHistory => Ok(json!({ "releases": self.shared.handle.history().await? })),
            Action::Monitor if !call.more => Err(Fault::service("ExpectedMore", json!({})).into()),
            Action::Monitor => self.monitor().await.map(|()| json!({})).map_err(|_| End::Gone),
            Action::Change(change, output) => {
                let request = request(change, &parameters)?;
                self.check(access::verb(&request), &parameters).await?;
                let reply = self.change(request).await?;
                Ok(if *output == Output::Outcome { reply } else { json!({}) })
            }
        }
    }

    /// The status document, with details for peers that may see them.
    async fn status(&self) -> Result<Value, End> {
        let _permit = self.shared.documents.acquire().await;
        let document = self.shared.handle.document().await?;
        let details = self.shared.handle.readers().sees_details(Some(&self.reader)).await;
        // Reading and writing a large document takes time that belongs to the loop.
        let read = tokio::task::spawn_blocking(move || {
            let line = if details { document.line() } else { document.redacted_line() };
            let line = line.map_err(|problem| problem.to_string())?;
            serde_json::from_str::<Value>(line.trim_end()).map_err(|problem| problem.to_string())
        });
        match read.await {
            Ok(Ok(status)) => Ok(json!({ "status": status })),
            Ok(Err(problem)) => Err(Fault::reason("Failed", problem).into()),
            Err(problem) => Err(Fault::reason("Failed", problem.to_string()).into()),
        }
    }

    /// Sends the request to the loop and waits for the outcome. If the peer goes away before that, the request is withdrawn.
    async fn change(&self, request: Request) -> Result<Value, End> {
        let handle = self.shared.handle.by(format!("user {} by varlink", self.peer.uid));
        let reply = tokio::select! {
            biased;
            reply = handle.ask(request) => reply?,
            () = self.wire.gone() => return Err(End::Gone),
        };
        match reply {
            api::Reply::Reload(answer) if answer.outcome == Outcome::Committed => {
                Ok(json!({ "generation": answer.generation, "warnings": answer.warnings }))
            }
            api::Reply::Reload(answer) => Err(not_committed(answer).into()),
            api::Reply::Probe(answer) if answer.passed => Ok(json!({ "generation": answer.generation })),
            api::Reply::Probe(ProbeAnswer { generation, reason, detail, output, .. }) => {
                let parameters = json!({ "generation": generation, "reason": reason, "detail": detail, "output": output });
                Err(Fault::ours("ProbeFailed", parameters).into())
            }
            api::Reply::Done => Ok(json!({})),
            api::Reply::Failed(reason) => Err(Fault::reason("Failed", reason).into()),
        }
    }

    /// Checks whether the peer may change the pool.
    async fn check(&self, verb: &str, parameters: &Parameters) -> Result<(), Fault> {
        let options = &self.shared.options;
        // polkit is on the system bus.
        let polkit = options.bus.system.then(|| self.ask_polkit(verb, parameters.flag(INTERACTIVE)));
        match access::check(options.own_uid, self.peer.uid, verb, options.unit.as_deref(), polkit).await {
            Ok(()) => Ok(()),
            Err(Refusal::Denied(text)) => Err(Fault::reason("AccessDenied", text)),
            Err(Refusal::Unasked(text)) => Err(Fault::reason("AuthenticationRequired", text)),
        }
    }

    /// Asks polkit about the peer's process, with the user that connected: a process that has its pid by now counts as that user, too.
    async fn ask_polkit(&self, verb: &str, interactive: bool) -> Result<Verdict, Problem> {
        let options = &self.shared.options;
        let _permit = self.shared.questions.acquire().await;
        let pid = self.peer.pid.ok_or("the process of the caller is not visible here")?;
        let uid = self.peer.uid;
        // Off the loop, because this reads the start time of the process in /proc.
        let subject = tokio::task::spawn_blocking(move || Subject::new_for_pid(pid, None, Some(uid))).await??;
        let connection = dbus::connect(&options.bus).await?;
        let interaction = CheckAuthorizationFlags::ALLOW_USER_INTERACTION;
        let flags = if interactive { interaction } else { CheckAuthorizationFlags::empty() };
        access::ask_polkit(&connection, &subject, verb, options.unit.as_deref(), flags).await
    }
}

/// The error for a method that is not in the table.
fn unknown(method: &str) -> Fault {
    let interface = method.rsplit_once('.').map_or("", |(interface, _)| interface);
    if INTERFACES.iter().any(|(known, _)| *known == interface) {
        return Fault::service("MethodNotFound", json!({ "method": method }));
    }
    Fault::service("InterfaceNotFound", json!({ "interface": interface }))
}

/// The request with the parameters of its call.
fn request(change: &Change, parameters: &Parameters) -> Result<Request, Fault> {
    Ok(match change {
        Change::Plain(request) => request.clone(),
        Change::Undo => Request::Undo(parameters.number("generation")),
        Change::Scale => {
            let count = parameters.number("workers").and_then(|count| u32::try_from(count).ok());
            Request::Scale(count.filter(|count| (1..=COUNT_MAX).contains(count)).ok_or_else(|| Fault::invalid("workers"))?)
        }
        Change::Recycle => Request::Recycle(parameters.number("worker")),
        Change::Pause => {
            let length = parameters.number("timeout_usec").map(|length| config::pause_length(&format!("{length}us")));
            let length = length.transpose().map_err(|_| Fault::invalid("timeout_usec"))?;
            Request::Pause(length)
        }
    })
}

fn not_committed(answer: ReloadAnswer) -> Fault {
    let ReloadAnswer { generation, outcome, reason, detail, output, .. } = answer;
    let parameters = json!({
        "generation": generation, "result": outcome.as_str(), "reason": reason, "detail": detail, "output": output,
    });
    Fault::ours("NotCommitted", parameters)
}
