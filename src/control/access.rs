//! The check whether a user may change the pool, for the front ends that other users reach: root and the master's own user may, and
//! with a master that runs as root also users whom polkit allows to manage units.
//!
//! polkit answers a check of another user, or a check with details, only for processes that run as root or own the action
//! (polkit(8), "only trusted callers can use CheckAuthorization()"). A master that is not root does not ask polkit.

use std::collections::HashMap;

use zbus::Connection;
use zbus::proxy::CacheProperties;
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

use crate::api::Request;

/// The action that `systemctl` checks too, so that one rule covers both.
const ACTION: &str = "org.freedesktop.systemd1.manage-units";

/// The reason why polkit could not be asked.
pub(super) type Problem = Box<dyn std::error::Error + Send + Sync>;

/// The answer of polkit.
pub(super) enum Verdict {
    /// The subject may manage units.
    Yes,
    /// The subject may not.
    No,
    /// An authentication is needed, but the caller does not allow polkit to ask for it, or there is no agent that asks.
    Unasked,
}

/// The refusal of a change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The user may not change the pool; the sentence for the caller.
    Denied(String),
    /// An authentication is needed, and nobody could be asked for it; the sentence for the caller.
    Unasked(String),
}

/// Whether the user `uid` may do `verb` in a master that runs as `own`. `unit`: the master's unit. `polkit` is asked for other users
/// of a master that runs as root; `None` where it cannot be asked.
///
/// # Errors
/// [`Refusal`]
pub(super) async fn check(
    own: u32,
    uid: u32,
    verb: &str,
    unit: Option<&str>,
    polkit: Option<impl Future<Output = Result<Verdict, Problem>>>,
) -> Result<(), Refusal> {
    if uid == 0 || uid == own {
        return Ok(());
    }
    if own != 0 {
        let way = unit
            .filter(|_| verb == "reload")
            .map_or_else(String::new, |unit| format!("use `systemctl reload {unit}`, for which systemd asks polkit, or "));
        return Err(Refusal::Denied(format!(
            "{verb} is for root and user {own}, not for user {uid}: a master that is not root cannot ask polkit; {way}ask with sudo"
        )));
    }
    let denied = |why: &str| {
        Err(Refusal::Denied(format!(
            "{verb} is for root and whom polkit allows {ACTION}, not for user {uid}{why}; ask with sudo, or allow it by a rule in \
             /etc/polkit-1/rules.d"
        )))
    };
    let Some(polkit) = polkit else { return denied("") };
    match polkit.await {
        Ok(Verdict::Yes) => Ok(()),
        Ok(Verdict::No) => denied(""),
        Ok(Verdict::Unasked) => {
            Err(Refusal::Unasked(format!("{verb} needs an authentication ({ACTION}), and nobody could be asked for it")))
        }
        Err(problem) => denied(&format!(" (polkit could not be asked: {problem})")),
    }
}

/// Asks polkit on this connection whether the subject may manage units. polkit's rules see `verb` and `unit`.
///
/// # Errors
/// polkit is not there, or gave no verdict.
pub(super) async fn ask_polkit(
    connection: &Connection,
    subject: &Subject,
    verb: &str,
    unit: Option<&str>,
    flags: CheckAuthorizationFlags,
) -> Result<Verdict, Problem> {
    let authority = AuthorityProxy::builder(connection).cache_properties(CacheProperties::No).build().await?;
    let mut details = HashMap::from([("verb", verb)]);
    if let Some(unit) = unit {
        details.insert("unit", unit);
    }
    let result = authority.check_authorization(subject, ACTION, &details, flags, "").await?;
    Ok(match (result.is_authorized, result.is_challenge) {
        (true, _) => Verdict::Yes,
        (false, true) => Verdict::Unasked,
        (false, false) => Verdict::No,
    })
}

/// The value of `verb` for polkit's rules.
pub(super) fn verb(request: &Request) -> &'static str {
    match request {
        Request::Reload => "reload",
        Request::Undo(_) => "undo",
        Request::Probe => "probe",
        Request::Abort => "abort",
        Request::Promote => "promote",
        Request::Scale(_) | Request::ScaleAuto => "scale",
        Request::Recycle(_) => "recycle",
        Request::Pause(_) => "pause",
        Request::Resume => "resume",
        Request::Upgrade => "upgrade",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refusal(own: u32, uid: u32, polkit: Option<Result<Verdict, Problem>>) -> Option<Refusal> {
        check(own, uid, "reload", Some("ratoon@web.service"), polkit.map(std::future::ready)).await.err()
    }

    #[tokio::test]
    async fn root_and_the_masters_user_may_change() {
        for (own, uid) in [(0, 0), (1000, 1000), (1000, 0)] {
            assert_eq!(refusal(own, uid, Some(Ok(Verdict::No))).await, None);
        }
        assert_eq!(refusal(0, 1000, Some(Ok(Verdict::Yes))).await, None);
    }

    #[tokio::test]
    async fn others_are_refused_with_what_to_do() {
        let Some(Refusal::Denied(text)) = refusal(1000, 1001, Some(Ok(Verdict::Yes))).await else { panic!("allowed") };
        assert!(text.contains("systemctl reload ratoon@web.service"), "{text}");
        for polkit in [None, Some(Ok(Verdict::No)), Some(Err("no bus".into()))] {
            let Some(Refusal::Denied(text)) = refusal(0, 1001, polkit).await else { panic!("allowed") };
            assert!(text.contains("not for user 1001") && text.contains("rules.d"), "{text}");
        }
        assert!(matches!(refusal(0, 1001, Some(Ok(Verdict::Unasked))).await, Some(Refusal::Unasked(_))));
    }
}
