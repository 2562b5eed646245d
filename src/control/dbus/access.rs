//! The check whether a caller may change the pool: root and the master's own user may, and with a master that runs as root also users
//! whom polkit allows to manage units. Every caller may read; details of the status document are for these callers and for the
//! readers of [`crate::api::readers`].
//!
//! polkit answers a check of another user, or a check with details, only for processes that run as root or own the action
//! (polkit(8), "only trusted callers can use CheckAuthorization()"). A master that is not root does not ask polkit.

use std::collections::HashMap;
use std::time::Duration;

use zbus::Connection;
use zbus::fdo::ConnectionCredentials;
use zbus::proxy::CacheProperties;
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

use super::Shared;
use super::call::{self, Call, Fault, error};
use crate::api::readers::Reader;

/// The reason why polkit could not be asked.
type Problem = Box<dyn std::error::Error + Send + Sync>;

/// Timeout of polkit's answer on whether a reader sees details.
const POLKIT_TIMEOUT: Duration = Duration::from_secs(2);
/// The action that `systemctl` checks too, so that one rule covers both.
const ACTION: &str = "org.freedesktop.systemd1.manage-units";

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
    if uid == 0 || uid == own {
        return Ok(uid);
    }
    if own != 0 {
        let unit = shared.options.unit.as_deref().filter(|_| verb == "reload");
        let way =
            unit.map_or_else(String::new, |unit| format!("use `systemctl reload {unit}`, for which systemd asks polkit, or "));
        let text = format!(
            "{verb} is for root and user {own}, not for user {uid}: a master that is not root cannot ask polkit; {way}ask with sudo"
        );
        return Err(Fault::new(error::ACCESS_DENIED, text));
    }
    let denied = |why: &str| {
        let text = format!(
            "{verb} is for root and whom polkit allows {ACTION}, not for user {uid}{why}; ask with sudo, or allow it by a rule in \
             /etc/polkit-1/rules.d"
        );
        Err(Fault::new(error::ACCESS_DENIED, text))
    };
    // polkit is on the system bus, and only that bus has other users.
    if !shared.options.bus.system {
        return denied("");
    }
    let interaction = CheckAuthorizationFlags::ALLOW_USER_INTERACTION;
    let flags = if call.interactive() { interaction } else { CheckAuthorizationFlags::empty() };
    match polkit(shared, connection, call, verb, flags).await {
        Ok(Verdict::Yes) => Ok(uid),
        Ok(Verdict::No) => denied(""),
        Ok(Verdict::Unasked) => {
            let text = format!("{verb} needs an authentication ({ACTION}), and nobody could be asked for it");
            Err(Fault::new(error::INTERACTION, text))
        }
        Err(problem) => denied(&format!(" (polkit could not be asked: {problem})")),
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

enum Verdict {
    Yes,
    No,
    /// An authentication is needed, but the caller does not allow polkit to ask for it, or there is no agent that asks.
    Unasked,
}

async fn polkit(
    shared: &Shared,
    connection: &Connection,
    call: &Call,
    verb: &str,
    flags: CheckAuthorizationFlags,
) -> Result<Verdict, Problem> {
    let authority = AuthorityProxy::builder(connection).cache_properties(CacheProperties::No).build().await?;
    let subject = Subject::new_for_message_header(&call.message.header())?;
    let mut details = HashMap::from([("verb", verb)]);
    if let Some(unit) = &shared.options.unit {
        details.insert("unit", unit);
    }
    let result = authority.check_authorization(&subject, ACTION, &details, flags, "").await?;
    Ok(match (result.is_authorized, result.is_challenge) {
        (true, _) => Verdict::Yes,
        (false, true) => Verdict::Unasked,
        (false, false) => Verdict::No,
    })
}
