//! The names on the bus: `org.ratoon1.NAME` for this instance alone, and a place in the queue for `org.ratoon1`.
//!
//! A refused name is requested again when the reason may be gone, never by a timer.

use std::convert::Infallible;
use std::fmt::Write;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use zbus::fdo::{RequestNameFlags, RequestNameReply};
use zbus::names::WellKnownName;
use zbus::{Connection, MessageStream};

use super::{Level, Shared};
use crate::api::Change;
use crate::api::changes::Numbered;

/// The name for which all instances queue; `ListQueuedOwners` lists them.
pub const BASE_NAME: &str = "org.ratoon1";

/// An instance's name as the last part of a name on the bus: bytes that D-Bus does not allow there become `_xx`.
#[must_use]
pub fn encode(instance: &str) -> String {
    let mut name = String::with_capacity(instance.len());
    for (place, byte) in instance.bytes().enumerate() {
        let allowed = byte.is_ascii_alphabetic() || byte == b'_' || byte == b'-' || (byte.is_ascii_digit() && place > 0);
        if allowed {
            name.push(byte.into());
        } else {
            let _ = write!(name, "_{byte:02x}");
        }
    }
    // No part of a name may be empty.
    if name.is_empty() { "_".into() } else { name }
}

/// Requests both names. Never ends: the names are kept as long as the connection.
pub(super) async fn hold(connection: &Connection, shared: &Shared) -> Infallible {
    let own = format!("{BASE_NAME}.{}", encode(&shared.options.instance));
    if let Err(error) = WellKnownName::try_from(own.as_str()) {
        let text = format!("D-Bus allows no name like {own}: {error}; a shorter name of the instance would do");
        shared.say(Level::Warning, text);
        return std::future::pending().await;
    }
    let mut trouble = None;
    let mut refused = acquire(connection, shared, &mut trouble, &own, RequestNameFlags::DO_NOT_QUEUE).await;
    refused |= acquire(connection, shared, &mut trouble, BASE_NAME, RequestNameFlags::empty()).await;
    drop(trouble);
    let again = if refused { "now " } else { "" };
    shared.say(Level::Info, format!("{again}on the message bus as {own}"));
    std::future::pending().await
}

/// Requests one name until it is granted; returns whether it was refused at first.
async fn acquire(
    connection: &Connection,
    shared: &Shared,
    trouble: &mut Option<Trouble>,
    name: &str,
    flags: RequestNameFlags,
) -> bool {
    let mut said = String::new();
    loop {
        let cause = match request(connection, name, flags).await {
            Ok(RequestNameReply::PrimaryOwner | RequestNameReply::AlreadyOwner | RequestNameReply::InQueue) => {
                return !said.is_empty();
            }
            Ok(RequestNameReply::Exists) => format!(
                "the name {name} on the message bus belongs to another process: is another instance of this name running? \
                 (busctl status {name} tells which); taken over as soon as it is free"
            ),
            Err(error) => refusal(name, shared, &error),
        };
        if cause != said {
            shared.say(Level::Warning, cause.clone());
            said = cause;
        }
        // The first time only subscribe, and request once more: the reason may have gone before the subscription.
        match trouble {
            None => *trouble = Trouble::listen(connection, shared, name).await,
            Some(trouble) => trouble.changed().await,
        }
        if trouble.is_none() {
            // The connection is being lost; `serve` notices that too.
            std::future::pending::<()>().await;
        }
    }
}

async fn request(connection: &Connection, name: &str, flags: RequestNameFlags) -> zbus::Result<RequestNameReply> {
    // Not by `Connection::request_name`: that expects zbus's object server and watches names that are never taken over.
    super::call::bus(connection, "RequestName", &(name, flags)).await?.body().deserialize()
}

/// The message that the bus refuses a name, with a hint.
fn refusal(name: &str, shared: &Shared, error: &zbus::Error) -> String {
    let (uid, instance) = (shared.options.own_uid, encode(&shared.options.instance));
    let hint = match uid {
        0 => "the policy file org.ratoon1.conf seems to be missing from /usr/share/dbus-1/system.d, or another one forbids it; \
              put it there"
            .to_owned(),
        _ => format!(
            "the policy file org.ratoon1.conf lets only root own such names; allow it to this user in \
             /etc/dbus-1/system.d/ratoon-{instance}.conf: <busconfig><policy user=\"{uid}\"><allow own=\"{BASE_NAME}.{instance}\"/>\
             <allow own=\"{BASE_NAME}\"/></policy></busconfig>"
        ),
    };
    format!(
        "the message bus refuses the name {name} to user {uid} ({error}): {hint}, then: systemctl reload dbus. \
         Until then this instance can't be reached over D-Bus; everything else works"
    )
}

/// Events that may end a refusal: the bus reads its policy again, the name becomes free, or the administrator reloads the
/// instance.
struct Trouble {
    policy: MessageStream,
    owner: MessageStream,
    changes: broadcast::Receiver<Numbered>,
}

impl Trouble {
    async fn listen(connection: &Connection, shared: &Shared, name: &str) -> Option<Self> {
        let rule = |member: &str| format!("type='signal',sender='org.freedesktop.DBus',member='{member}'");
        // dbus-daemon sends this signal after it has read its configuration.
        let policy = rule("ActivatableServicesChanged");
        let owner = format!("{},arg0='{name}'", rule("NameOwnerChanged"));
        Some(Self {
            policy: MessageStream::for_match_rule(policy.as_str(), connection, None).await.ok()?,
            owner: MessageStream::for_match_rule(owner.as_str(), connection, None).await.ok()?,
            changes: shared.handle.changes().subscribe(),
        })
    }

    async fn changed(&mut self) {
        let reloaded = async {
            loop {
                match self.changes.recv().await {
                    Ok(Numbered { change: Change::ReloadFinished { .. }, .. }) => return,
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            () = signal(&mut self.policy) => {}
            () = signal(&mut self.owner) => {}
            () = reloaded => {}
        }
    }
}

/// Waits for the next signal of a stream; forever once the connection is lost.
async fn signal(stream: &mut MessageStream) {
    if super::call::next(stream).await.is_none() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_legal_whatever_the_instance_is_called() {
        for (instance, expected) in [
            ("web", "web"),
            ("web-1", "web-1"),
            ("a_b", "a_b"),
            ("1web", "_31web"),
            ("a.b", "a_2eb"),
            ("a@b c", "a_40b_20c"),
            ("", "_"),
            ("ä", "_c3_a4"),
            ("\n", "_0a"),
        ] {
            assert_eq!(encode(instance), expected);
            let name = format!("{BASE_NAME}.{}", encode(instance));
            WellKnownName::try_from(name.as_str()).unwrap();
        }
    }
}
