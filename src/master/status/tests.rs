use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::document::LoopFacts;
use super::status_cache::Requester;
use super::*;
use crate::api;
use crate::api::{Change, ReloadAnswer, Reply};
use crate::master::log::journal;
use crate::master::output::Mode;
use crate::master::task_result::TaskResult;
use crate::pool::{Outcome, Pool, Time};

/// A publisher without a master, and what the front ends see of it.
struct Room {
    status: StatusPublisher,
    handle: Handle,
    results: mpsc::UnboundedReceiver<TaskResult>,
    pool: Pool,
}

fn room() -> Room {
    let (handle, api::Backend { summary, changes: feed, .. }) =
        api::channel(crate::master::assemble::first_summary("web", SystemTime::now()));
    let (listener, served) = StatusListener::begin(None, None, &handle, &Arc::default());
    served.expect("nothing to serve");
    let (sender, results) = mpsc::unbounded_channel();
    let status = StatusPublisher::new(Parts {
        instance: "web".into(),
        config_file: None,
        started_at: SystemTime::now(),
        handle: handle.clone(),
        summary,
        feed,
        listener,
        troubles: Troubles::default(),
        outputs: Outputs::new(Mode::Relay, "web", false),
        log: Log::new(journal::start("web")),
        results: sender,
    });
    Room { status, handle, results, pool: Pool::new(Time::since_boot(Duration::ZERO), 1) }
}

#[tokio::test]
async fn publisher_publishes_the_summary_before_the_change() {
    let Room { mut status, handle, pool, .. } = room();
    let (summary, mut changes) = (handle.summary(), handle.changes().subscribe());
    let first = status.publish(&pool, false);
    assert!(first.at_once && first.has_changed && !first.is_progress);
    status.sockets_missing("no socket for [::]:80".to_owned());
    status.tell(Change::ReloadStarted { generation: 2 });
    assert!(changes.try_recv().is_err(), "told before the summary");
    let second = status.publish(&pool, false);
    assert!(second.at_once && second.line.ends_with("no socket for [::]:80"), "{}", second.line);
    assert!(summary.borrow().degraded);
    assert!(matches!(changes.try_recv().expect("a change").change, Change::ReloadStarted { generation: 2 }));
    assert!(!status.publish(&pool, false).has_changed);
}

#[tokio::test]
async fn answer_of_a_rolled_back_reload_waits_for_the_output() {
    let Room { mut status, mut results, .. } = room();
    let mut answer = Reply::Reload(ReloadAnswer { worker: Some(9), ..ReloadAnswer::new(2, Outcome::RolledBack, "worker 9") });
    assert!(!status.holds_back(&answer));
    let (how, phase, text) = (crate::pool::ExitCause::Exit(1), crate::pool::Phase::Starting, String::new());
    let ended = crate::pool::Ended { worker: 9, slot: 0, generation: 2, pid: None, how, phase, failed: true, status: text };
    status.worker_ended(&ended, None);
    assert!(status.holds_back(&answer) && !status.has_all_tails());
    let Some(TaskResult::Tail(9, mut printed, serving)) = results.recv().await else { panic!("no tail") };
    printed.tail.push("KeyError: 'TOKEN'".to_owned());
    status.tail_known(9, printed, serving);
    assert!(!status.holds_back(&answer));
    status.add_output(&mut answer);
    assert!(matches!(answer, Reply::Reload(answer) if answer.output == ["KeyError: 'TOKEN'"]));
}

#[tokio::test]
async fn publisher_composes_one_document_for_all_requesters() {
    let Room { mut status, pool, .. } = room();
    let (first, one): (Requester, _) = oneshot::channel();
    let (second, other): (Requester, _) = oneshot::channel();
    let job = status.ask(first).expect("a document is due");
    assert!(status.ask(second).is_none());
    status.publish(&pool, false);
    status.compose(job, LoopFacts::default());
    assert_eq!(one.await.expect("a document").instance, "web");
    if let Some(job) = status.next_document() {
        status.compose(job, LoopFacts::default());
    }
    assert!(other.await.is_ok() && status.deadline().is_some());
}
