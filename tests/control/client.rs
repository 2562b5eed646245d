//! The client's calls and their errors, against the real front and against peers that are none.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use ratoon::api::{Change, ReloadAnswer, Reply, Request};
use ratoon::control::client::{Client, Error};
use ratoon::control::messages::{ChangeMessage, Event};
use ratoon::pool::{Outcome, Phase};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use crate::fake::{Fake, within, worker};

fn answer(asked: crate::fake::Asked, reply: Reply) {
    asked.reply.expect("somebody waits").send(reply).expect("somebody still waits");
}

async fn call(client: &Client, ask: &Request) -> Result<ChangeMessage, Error> {
    match ask {
        Request::Abort => client.abort().await,
        Request::Promote => client.promote().await,
        Request::Scale(count) => client.scale(*count).await,
        Request::ScaleAuto => client.scale_auto().await,
        Request::Recycle(worker) => client.recycle(*worker).await,
        Request::Pause(length) => client.pause(*length).await,
        Request::Resume => client.resume().await,
        Request::Upgrade => client.upgrade().await,
        Request::Reload | Request::Undo(_) | Request::Probe => panic!("a reload is answered otherwise"),
    }
}

#[tokio::test]
async fn calls_give_what_the_front_says() {
    let mut fake = Fake::start();
    let client = Client::new(&fake.control);
    assert_eq!(within(client.status()).await.unwrap().instance, "web");
    assert_eq!(within(client.summary()).await.unwrap().generation, 7);
    fake.summary.send_modify(|summary| summary.workers_ready = 0);
    assert_eq!(within(client.summary()).await.unwrap().workers_ready, 0, "not ready is an answer, no error");

    for ask in [
        Request::Abort,
        Request::Promote,
        Request::Scale(6),
        Request::ScaleAuto,
        Request::Recycle(Some(12)),
        Request::Recycle(None),
        Request::Pause(None),
        Request::Pause(Some(Duration::from_millis(1500))),
        Request::Resume,
        Request::Upgrade,
    ] {
        for (reply, result, reason) in [(Reply::Done, "done", ""), (Reply::Failed("no".into()), "failed", "no")] {
            let answered = async {
                let asked = fake.next_ask().await;
                assert_eq!(asked.ask, ask);
                answer(asked, reply);
            };
            let (outcome, ()) = within(async { tokio::join!(call(&client, &ask), answered) }).await;
            let outcome = outcome.unwrap();
            assert_eq!((outcome.result.as_str(), outcome.reason.as_str()), (result, reason));
        }
    }
}

#[tokio::test]
async fn a_reload_tells_its_progress_and_loses_no_event() {
    let mut fake = Fake::start();
    let client = Client::new(&fake.control);
    let mut seen = Vec::new();
    let reload = client.reload(|event| {
        seen.push(match event {
            Event::Worker(worker) => format!("worker {} {}", worker.id, worker.state),
            Event::WorkerExited(exit) => format!("exited {} {}", exit.id, exit.how),
            other => other.name().to_owned(),
        });
    });
    let changes = fake.changes.clone();
    let play = async {
        let asked = fake.next_ask().await;
        for change in [
            Change::ReloadStarted { generation: 8 },
            Change::Worker(worker(12, 0, 8, Phase::Starting)),
            Change::Worker(worker(12, 0, 8, Phase::Ready)),
            Change::WorkerExited { id: 12, slot: 0, generation: 8, how: "exit 1".into(), failed: true },
        ] {
            changes.send(change).unwrap();
        }
        // The answer overtakes the last event.
        let outcome = ReloadAnswer::new(8, Outcome::RolledBack, "worker 12 (slot 0): exit 1");
        answer(asked, Reply::Reload(outcome));
        tokio::task::yield_now().await;
        changes
            .send(Change::ReloadFinished {
                generation: 8,
                outcome: Outcome::RolledBack,
                reason: "worker 12 (slot 0): exit 1".into(),
            })
            .unwrap();
    };
    let (outcome, ()) = within(async { tokio::join!(reload, play) }).await;
    let outcome = outcome.unwrap();
    assert!(!outcome.committed());
    assert_eq!((outcome.generation, outcome.reason.as_str()), (8, "worker 12 (slot 0): exit 1"));
    let expected = ["reload-started", "worker 12 starting", "worker 12 ready", "exited 12 exit 1", "reload-finished"];
    assert_eq!(seen, [&["summary", "worker 1 ready"], &expected[..]].concat());
    assert!(fake.gone.try_recv().is_err());
}

#[tokio::test]
async fn dropping_a_reload_withdraws_it() {
    let mut fake = Fake::start();
    let client = Client::new(&fake.control);
    let asked = {
        let reload = client.reload(|_| {});
        tokio::pin!(reload);
        tokio::select! {
            _ = &mut reload => panic!("nobody answered"),
            asked = fake.next_ask() => asked,
        }
    };
    assert_eq!(fake.next_gone().await, asked.requester);
}

#[tokio::test]
async fn what_cannot_be_asked_is_told_with_its_cause() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let error = async |path: std::path::PathBuf| within(Client::new(path).status()).await.unwrap_err();

    let missing = error(at("none/control")).await;
    assert!(matches!(missing, Error::Missing(_)), "{missing}");

    drop(UnixListener::bind(at("dead")).unwrap());
    let dead = error(at("dead")).await;
    assert!(matches!(dead, Error::Dead(_)), "{dead}");

    let long = error(at(&"x".repeat(200))).await;
    assert!(matches!(long, Error::TooLong(_)), "{long}");

    // A file that is no socket is as good as a dead one: connecting to it is refused.
    std::fs::write(at("file"), "").unwrap();
    let file = error(at("file")).await;
    assert!(matches!(file, Error::Dead(_)), "{file}");

    for words in [&missing, &dead, &long].map(ToString::to_string) {
        assert!(words.contains(&*directory.path().to_string_lossy()), "{words}");
    }
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: a socket without permission, since root may open every socket");
    } else {
        let _listener = UnixListener::bind(at("closed")).unwrap();
        std::fs::set_permissions(at("closed"), std::fs::Permissions::from_mode(0o000)).unwrap();
        let denied = error(at("closed")).await;
        assert!(matches!(denied, Error::Denied(_)), "{denied}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_master_that_is_stopped_is_told_after_a_while() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    // The kernel takes the connections; nobody accepts them.
    let _listener = UnixListener::bind(&path).unwrap();
    let client = Client::new(&path);
    let begun = tokio::time::Instant::now();
    for error in [
        within(client.status()).await.unwrap_err(),
        within(client.reload(|_| {})).await.unwrap_err(),
        within(client.scale(3)).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Silent(..)), "{error}");
        assert!(error.to_string().contains("did not answer within 10 s"), "{error}");
    }
    assert_eq!(begun.elapsed().as_secs(), 30);
}

/// A peer that answers every connection with the same bytes.
fn peer(answer: &'static str) -> (tempfile::TempDir, Client) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let client = Client::new(path).with_patience(Duration::from_secs(5));
    (directory, client)
}

#[tokio::test]
async fn a_peer_that_is_no_master_is_told_as_such() {
    for answer in [
        "",
        "garbage\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nnot json!",
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{}",
        "HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\n\r\nno\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let (_directory, client) = peer(answer);
        let error = within(client.status()).await.unwrap_err();
        assert!(matches!(error, Error::Broken(..) | Error::Answer(..)), "{answer:?}: {error}");
    }
}

#[tokio::test]
async fn an_older_or_newer_master_is_understood() {
    let (_directory, client) = peer(concat!(
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n",
        r#"{"instance":"web","workers_ready":2,"new":{"x":[1]},"workers":[{"id":7,"hue":"red"}]}"#
    ));
    let document = within(client.status()).await.unwrap();
    assert_eq!((document.instance.as_str(), document.workers_ready, document.workers[0].id), ("web", 2, 7));
    let text = within(client.status_text()).await.unwrap();
    assert!(String::from_utf8_lossy(&text).contains("hue"), "what this version does not know is kept");
}

#[tokio::test]
async fn a_master_without_events_can_still_be_reloaded() {
    let (_directory, client) = peer(
        "HTTP/1.1 409 Conflict\r\nconnection: close\r\n\r\n\
         {\"generation\":8,\"result\":\"refused\",\"reason\":\"no such file\"}",
    );
    let outcome = within(client.reload(|_| panic!("no event"))).await.unwrap();
    assert_eq!((outcome.result.as_str(), outcome.reason.as_str()), ("refused", "no such file"));
}
