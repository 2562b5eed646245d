//! The waits of `ratoon reload` after the commit: for the end of the old workers, and for the end of the watch.
//!
//! A master that replaces its program, or that systemd starts again, is asked again: the outcome is read by the generation's number.

use std::time::{Duration, Instant};

use super::comparison::comparison;
use crate::control::client::Client;
use crate::status::tree::Document;

/// The pause between two looks whether the old generation is gone.
const DRAIN_PAUSE: Duration = Duration::from_millis(200);
/// The pause between two looks at the watch.
const WATCH_PAUSE: Duration = Duration::from_secs(1);
/// For so long a master may not answer.
const SILENCE: Duration = Duration::from_secs(30);

/// How the watch of a generation ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Watched {
    /// It serves on, or another reload was committed.
    Passed,
    /// It was undone, and why.
    Undone(String),
    /// It was to be undone, and the release before it did not come up; the status text of the pool.
    UndoFailed(String),
}

/// Waits until no worker of an earlier generation is left.
pub(super) async fn drained(client: &Client, generation: u64) -> Result<(), String> {
    let gone = |document: &Document| document.workers.iter().all(|worker| worker.generation >= generation).then_some(());
    until(client, DRAIN_PAUSE, gone).await
}

/// Waits until the watch of this generation is over. `say`: what is waited for, once.
pub(super) async fn watched(client: &Client, generation: u64, say: impl Fn(&str)) -> Result<Watched, String> {
    let mut is_said = false;
    let look = |document: &Document| {
        let ended = ended(document, generation);
        if ended.is_none() && !std::mem::replace(&mut is_said, true) {
            let what = comparison(document)
                .map_or_else(|| "watching until no slot has failed".to_owned(), |(_, what)| format!("watching {what}"));
            say(&what);
        }
        ended
    };
    until(client, WATCH_PAUSE, look).await
}

/// How the watch ended; `None` while it goes on.
fn ended(document: &Document, generation: u64) -> Option<Watched> {
    if let Some(last) = document.last_reload.as_ref().filter(|last| last.generation == generation && last.result == "undone") {
        return Some(Watched::Undone(last.reason.clone()));
    }
    if let Some(watch) = document.watch.as_ref().filter(|watch| watch.generation == generation) {
        return (watch.state == "undo-failed").then(|| Watched::UndoFailed(document.status_text.clone()));
    }
    let release = document.releases.iter().find(|release| release.generation == generation);
    if release.and_then(|release| release.ended.as_deref()) == Some("undone") {
        // Another reload followed the undo, or it was done by hand.
        return Some(Watched::Undone("it was undone".to_owned()));
    }
    Some(Watched::Passed)
}

/// Looks at the status document until `done` returns something.
async fn until<T>(client: &Client, pause: Duration, mut done: impl FnMut(&Document) -> Option<T>) -> Result<T, String> {
    let mut silent_since = None;
    loop {
        match client.status().await {
            Ok(document) => {
                silent_since = None;
                if let Some(done) = done(&document) {
                    return Ok(done);
                }
            }
            Err(error) => {
                if silent_since.get_or_insert_with(Instant::now).elapsed() > SILENCE {
                    return Err(error.to_string());
                }
            }
        }
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tree::{LastReload, Release, Watch};

    #[test]
    fn watch_has_ended_as_the_document_says() {
        let watch = |state: &str| Document {
            watch: Some(Watch { generation: 2, state: state.to_owned(), ..Watch::default() }),
            ..Document::default()
        };
        assert_eq!((ended(&watch("watching"), 2), ended(&watch("undoing"), 2)), (None, None));
        let failed = Document { status_text: "generation 2 was to be undone".to_owned(), ..watch("undo-failed") };
        assert_eq!(ended(&failed, 2), Some(Watched::UndoFailed("generation 2 was to be undone".to_owned())));
        // The watch of another generation is not this one's.
        assert_eq!(ended(&watch("watching"), 1), Some(Watched::Passed));
        let last =
            LastReload { generation: 2, result: "undone".to_owned(), reason: "5 of 9".to_owned(), ..LastReload::default() };
        assert_eq!(
            ended(&Document { last_reload: Some(last), ..Document::default() }, 2),
            Some(Watched::Undone("5 of 9".to_owned()))
        );
        let release = Release { generation: 2, ended: Some("undone".to_owned()), ..Release::default() };
        let document = Document { releases: vec![release], ..Document::default() };
        assert_eq!(ended(&document, 2), Some(Watched::Undone("it was undone".to_owned())));
        assert_eq!(ended(&Document::default(), 2), Some(Watched::Passed));
    }
}
