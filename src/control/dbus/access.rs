//! Who may change something: root, the master's own user, and whom polkit lets manage units. Everybody may read.

use std::collections::HashMap;

use zbus::Connection;
use zbus::proxy::CacheProperties;
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

use super::Shared;
use super::call::{self, Call, Fault, error};

/// Why polkit could not be asked.
type Problem = Box<dyn std::error::Error + Send + Sync>;

/// The action that `systemctl` asks for too, so that one rule governs both ways.
const ACTION: &str = "org.freedesktop.systemd1.manage-units";

/// Whether the caller may do `verb`.
///
/// # Errors
/// What the caller is to be told when he may not.
pub(super) async fn check(shared: &Shared, connection: &Connection, call: &Call, verb: &str) -> Result<(), Fault> {
    let caller = call.caller();
    let own = shared.options.own_uid;
    let uid: u32 = match call::bus(connection, "GetConnectionUnixUser", &caller.as_str()).await {
        Ok(reply) => reply.body().deserialize()?,
        // The bus does not know those any more who sent a call and left at once, as `busctl --expect-reply=no` does.
        Err(problem) => {
            let text = format!("the caller had left the bus before it could be asked who he is ({problem})");
            return Err(Fault::new(error::ACCESS_DENIED, text));
        }
    };
    if uid == 0 || uid == own {
        return Ok(());
    }
    let denied = |why: &str| {
        let users = if own == 0 { "root".to_owned() } else { format!("root, user {own}") };
        let text = format!(
            "{verb} is for {users} and whom polkit allows {ACTION}, not for user {uid}{why}; ask with sudo, or allow it by a rule in \
             /etc/polkit-1/rules.d"
        );
        Err(Fault::new(error::ACCESS_DENIED, text))
    };
    // polkit is on the system bus, and other users are nowhere else.
    if !shared.options.bus.system {
        return denied("");
    }
    match polkit(shared, connection, call, verb).await {
        Ok(Verdict::Yes) => Ok(()),
        Ok(Verdict::No) => denied(""),
        Ok(Verdict::Unasked) => {
            let text = format!("{verb} needs an authentication ({ACTION}), and nobody could be asked for it");
            Err(Fault::new(error::INTERACTION, text))
        }
        Err(problem) => denied(&format!(" (polkit could not be asked: {problem})")),
    }
}

enum Verdict {
    Yes,
    No,
    /// Yes, if a person had authenticated: the caller does not let polkit ask, or there is no agent that would.
    Unasked,
}

async fn polkit(shared: &Shared, connection: &Connection, call: &Call, verb: &str) -> Result<Verdict, Problem> {
    let authority = AuthorityProxy::builder(connection).cache_properties(CacheProperties::No).build().await?;
    let subject = Subject::new_for_message_header(&call.message.header())?;
    let mut details = HashMap::from([("verb", verb)]);
    if let Some(unit) = &shared.options.unit {
        details.insert("unit", unit);
    }
    let interaction = CheckAuthorizationFlags::ALLOW_USER_INTERACTION;
    let flags = if call.interactive() { interaction } else { CheckAuthorizationFlags::empty() };
    let result = authority.check_authorization(&subject, ACTION, &details, flags, "").await?;
    Ok(match (result.is_authorized, result.is_challenge) {
        (true, _) => Verdict::Yes,
        (false, true) => Verdict::Unasked,
        (false, false) => Verdict::No,
    })
}
