//! What is asked of the pool, and how the outcome comes back.

use ratoon::api::{ReloadAnswer, Reply, Request};
use ratoon::pool::Outcome;
use serde_json::json;
use zbus::message::{Flags, Message};

use super::bus::{Bus, error_name};
use super::instance::Instance;

fn reloaded(outcome: Outcome, reason: &str) -> Reply {
    Reply::Reload(ReloadAnswer::new(2, outcome, reason))
}

/// A call of the Manager that wants no reply.
pub fn unanswered(method: &'static str) -> zbus::message::Builder<'static> {
    Message::method_call("/org/ratoon1", method)
        .destination("org.ratoon1.web")
        .interface("org.ratoon1.Manager")
        .with_flags(Flags::NO_REPLY_EXPECTED)
}

#[test]
fn a_reload_answers_at_the_commit() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    let mut caller = instance.calling(&bus, &["Reload"]);
    let (_, ask, reply) = instance.asked();
    assert_eq!(ask, Request::Reload);
    // While it runs others are answered, and it is not.
    assert_eq!(instance.property(&bus, "State")["data"], "running");
    assert!(caller.0.try_wait().unwrap().is_none());
    reply.unwrap().send(reloaded(Outcome::Committed, "")).unwrap();
    assert_eq!(caller.ran().json(), json!({"type": "t", "data": [2]}));
}

#[test]
fn a_failed_reload_is_an_error_with_the_reason() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    let monitor = bus.monitor(&["--match=type=error"]);
    for (outcome, reason, error) in [
        (Outcome::RolledBack, "worker 5 exits at once (exit 1)", "org.ratoon1.Error.RolledBack"),
        (Outcome::Refused, "web.toml:3:1: unknown key", "org.ratoon1.Error.Refused"),
        (Outcome::Aborted, "by ratoon abort", "org.ratoon1.Error.Aborted"),
    ] {
        let call = instance.calling(&bus, &["Reload"]);
        instance.asked().2.unwrap().send(reloaded(outcome, reason)).unwrap();
        let said = call.ran().bad();
        assert!(said.contains(reason), "{said}");
        let message = monitor.until(|message| error_name(message) == error);
        assert_eq!(message["payload"]["data"][0], reason);
    }
}

#[test]
fn undo_asks_for_a_generation_and_answers_as_a_reload() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    for (argument, expected) in [("0", Request::Undo(None)), ("7", Request::Undo(Some(7)))] {
        let caller = instance.calling(&bus, &["Undo", "t", argument]);
        let (_, ask, reply) = instance.asked();
        assert_eq!(ask, expected);
        reply.unwrap().send(reloaded(Outcome::Committed, "")).unwrap();
        assert_eq!(caller.ran().json(), json!({"type": "t", "data": [2]}));
    }
    let monitor = bus.monitor(&["--match=type=error"]);
    let caller = instance.calling(&bus, &["Undo", "t", "3"]);
    let reason = "the release of generation 3: its directory was emptied";
    instance.asked().2.unwrap().send(reloaded(Outcome::Refused, reason)).unwrap();
    assert!(caller.ran().bad().contains(reason));
    let message = monitor.until(|message| error_name(message) == "org.ratoon1.Error.Refused");
    assert_eq!(message["payload"]["data"][0], reason);
}

#[test]
fn the_other_methods_ask_what_they_say() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    for (call, expected) in [
        (["Abort"].as_slice(), Request::Abort),
        (&["Promote"], Request::Promote),
        (&["Scale", "u", "5"], Request::Scale(5)),
        (&["ScaleAuto"], Request::ScaleAuto),
        (&["Recycle", "t", "0"], Request::Recycle(None)),
        (&["Recycle", "t", "7"], Request::Recycle(Some(7))),
        (&["Pause"], Request::Pause(None)),
        (&["Resume"], Request::Resume),
        (&["Upgrade"], Request::Upgrade),
    ] {
        for failure in [None, Some("there is no reload under way")] {
            let call = instance.calling(&bus, call);
            let (_, ask, reply) = instance.asked();
            assert_eq!(ask, expected);
            let answer = failure.map_or(Reply::Done, |sentence| Reply::Failed(sentence.into()));
            reply.unwrap().send(answer).unwrap();
            match failure {
                None => drop(call.ran().good()),
                Some(sentence) => assert!(call.ran().bad().contains(sentence)),
            }
        }
    }
}

#[tokio::test]
async fn a_caller_who_wants_no_reply_does_not_wait() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    let client = instance.client().await;
    client.send(&unanswered("Reload").build(&()).unwrap()).await.unwrap();
    let (_, ask, reply) = instance.asked();
    assert_eq!(ask, Request::Reload);
    assert!(reply.is_none());
    // His leaving says nothing.
    client.close().await.unwrap();
    let client = instance.client().await;
    client.send(&unanswered("Scale").build(&3u32).unwrap()).await.unwrap();
    assert_eq!(instance.asked().1, Request::Scale(3));
}

#[test]
fn who_can_not_be_looked_up_any_more_changes_nothing_and_that_is_said() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    // busctl sends and leaves, before the front end can ask the bus who it was.
    let (hold, held) = std::sync::mpsc::channel::<()>();
    instance.order(move |_| held.recv().unwrap_or_default());
    instance.call_unanswered(&bus, "Reload");
    bus.busctl(&["list"]).good();
    drop(hold);
    let lines = instance.until_log("no reload by :");
    assert!(lines[0].contains("had left the bus"), "{lines:#?}");
    instance.assert_unasked();
}

#[test]
fn a_caller_who_leaves_the_bus_stops_waiting() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    let mut caller = instance.calling(&bus, &["Reload"]);
    let (requester, _, reply) = instance.asked();
    caller.0.kill().unwrap();
    caller.0.wait().unwrap();
    assert_eq!(instance.gone(), requester);
    assert!(reply.unwrap().is_closed());
}

#[test]
fn two_callers_are_two_requesters() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    let calls = [(); 2].map(|()| instance.calling(&bus, &["Reload"]));
    let requesters = [(); 2].map(|()| instance.asked());
    assert_ne!(requesters[0].0, requesters[1].0);
    for (_, _, reply) in requesters {
        reply.unwrap().send(reloaded(Outcome::Committed, "")).unwrap();
    }
    for call in calls {
        assert_eq!(call.ran().json()["data"][0], 2);
    }
}

#[test]
fn a_master_that_ends_says_so() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    let call = instance.calling(&bus, &["Reload"]);
    let (_, _, reply) = instance.asked();
    drop(reply);
    assert!(call.ran().bad().contains("the master is ending"));
}
