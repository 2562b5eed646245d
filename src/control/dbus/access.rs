//! The check whether a caller may change the pool ([`crate::control::access`]). Every caller may read; details of the status document
//! are for callers that may change it and for the readers of [`crate::api::readers`].

use std::time::Duration;

use zbus::Connection;
use zbus::fdo::ConnectionCredentials;
use zbus_polkit::policykit1::{CheckAuthorizationFlags, Subject};

use super::Shared;
use super::call::{self, Call, Fault, error};
use crate::api::readers::Reader;
use crate::control::access::{self, Problem, Refusal, Verdict};

/// Timeout of polkit's answer on whether a reader sees details.
const POLKIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether the caller may do `verb`. Returns the caller's user id.
///
/// # Errors
/// The error for a caller that may not.
pub(super) async fn check(shared: &Shared, connection: &Connection, call: &Call, verb: &str) -> Result<u32, Fault> {
    let caller = call.caller();
    let own = shared.options.own_uid;
    let uid: u32 = match call::bus(connection, "GetConnectionUnixUser", &caller.as_str()).await {
        Ok(reply) => reply.body().deserialize()?,
        // The bus no longer knows a caller that sent a call and left at once, as `busctl --expect-reply=no` does.
        Err(problem) => {
            let text = format!("the caller had left the bus before it could be asked who he is ({problem})");
            return Err(Fault::new(error::ACCESS_DENIED, text));
        }
    };
    let interaction = CheckAuthorizationFlags::ALLOW_USER_INTERACTION;
    let flags = if call.interactive() { interaction } else { CheckAuthorizationFlags::empty() };
    // polkit is on the system bus, and only that bus has other users.
    let polkit = shared.options.bus.system.then(|| polkit(shared, connection, call, verb, flags));
    match access::check(own, uid, verb, shared.options.unit.as_deref(), polkit).await {
        Ok(()) => Ok(uid),
        Err(Refusal::Denied(text)) => Err(Fault::new(error::ACCESS_DENIED, text)),
        Err(Refusal::Unasked(text)) => Err(Fault::new(error::INTERACTION, text)),
    }
}

/// Whether the caller sees the details of the status document: readers that see them on the control socket do, and callers
/// whom polkit allows to manage units without authentication.
pub(super) async fn sees_details(shared: &Shared, connection: &Connection, call: &Call) -> bool {
    let reader = reader(connection, call).await;
    if reader.as_ref().is_some_and(|reader| reader.uid == shared.options.own_uid)
        || shared.handle.readers().sees_details(reader.as_ref()).await
    {
        return true;
    }
    if !shared.options.bus.system || shared.options.own_uid != 0 {
        return false;
    }
    // A read never asks a person for a password.
    let asked = polkit(shared, connection, call, "get-status", CheckAuthorizationFlags::empty());
    matches!(tokio::time::timeout(POLKIT_TIMEOUT, asked).await, Ok(Ok(Verdict::Yes)))
}

/// The user and groups of the caller, from the bus; `None` when the caller has left, or the bus does not tell them.
async fn reader(connection: &Connection, call: &Call) -> Option<Reader> {
    let reply = call::bus(connection, "GetConnectionCredentials", &call.caller().as_str()).await.ok()?;
    let credentials: ConnectionCredentials = reply.body().deserialize().ok()?;
    let uid = credentials.unix_user_id()?;
    Some(Reader { uid, groups: credentials.into_unix_group_ids().unwrap_or_default() })
}

async fn polkit(
    shared: &Shared,
    connection: &Connection,
    call: &Call,
    verb: &str,
    flags: CheckAuthorizationFlags,
) -> Result<Verdict, Problem> {
    let subject = Subject::new_for_message_header(&call.message.header())?;
    access::ask_polkit(connection, &subject, verb, shared.options.unit.as_deref(), flags).await
}
