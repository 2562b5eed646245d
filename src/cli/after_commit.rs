//! The waits of `ratoon reload` after the commit: for the end of the old workers, and for the end of the watch.
//!
//! A master that replaces its program, or that systemd starts again, is asked again: the outcome is read by the generation's number.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use super::comparison::comparison;
use super::screen::span;
use crate::control::client::Client;
use crate::status::tree::Document;

/// The pause between two looks whether the old generation is gone.
const DRAIN_PAUSE: Duration = Duration::from_millis(200);
/// The pause between two looks at the watch.
const WATCH_PAUSE: Duration = Duration::from_secs(1);
/// The longest time without an answer of a master.
const SILENCE: Duration = Duration::from_secs(30);

/// How the watch of a generation ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Watched {
    /// The generation has passed its watch and serves.
    Passed,
    /// This newer generation was committed meanwhile, which ended the watch.
    Replaced(u64),
    /// The generation was undone, for this reason.
    Undone(String),
    /// The generation was worse, but the release before did not come up; the status text of the pool.
    UndoFailed(String),
    /// The instance was started anew and runs another generation: the end of the watch is not known.
    Unknown,
}

/// Waits until no worker of an earlier generation is left.
pub(super) async fn drained(client: &Client, generation: u64) -> Result<(), String> {
    until(client, DRAIN_PAUSE, |document| is_drained(document, generation).then_some(())).await
}

/// Whether no worker of an earlier generation is left. An instance that was started anew counts its generations from 1 again, and the
/// former workers have ended with the former master.
fn is_drained(document: &Document, generation: u64) -> bool {
    document.generation < generation || document.workers.iter().all(|worker| worker.generation >= generation)
}

/// Waits until the watch of this generation is over. `say`: what is waited for, once.
pub(super) async fn watched(client: &Client, generation: u64, say: impl Fn(&str)) -> Result<Watched, String> {
    let mut is_said = false;
    let look = |document: &Document| {
        let ended = ended(document, generation);
        if ended.is_none() && !std::mem::replace(&mut is_said, true) {
            say(&match (comparison(document), document.watch.as_ref().and_then(|watch| watch.left_ms)) {
                (Some((_, what)), _) => format!("watching {what}"),
                (None, Some(left)) => {
                    format!("watching generation {generation} for another {}: whether every slot fails", span(left))
                }
                (None, None) => format!("watching generation {generation}"),
            });
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
        // Another reload followed the undo, or somebody else has undone it.
        return Some(Watched::Undone("the release before was brought back".to_owned()));
    }
    Some(match document.generation.cmp(&generation) {
        Ordering::Equal => Watched::Passed,
        Ordering::Greater => Watched::Replaced(document.generation),
        Ordering::Less => Watched::Unknown,
    })
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
    use crate::status::tree::{LastReload, Release, Watch, Worker};

    #[test]
    fn drain_has_ended_when_the_instance_was_started_anew() {
        let serving = |generation: u64, workers: &[u64]| {
            let workers = workers.iter().map(|&generation| Worker { generation, ..Worker::default() }).collect();
            Document { generation, workers, ..Document::default() }
        };
        assert!(!is_drained(&serving(4, &[3, 4]), 4) && is_drained(&serving(4, &[4, 4]), 4) && is_drained(&serving(5, &[5]), 4));
        assert!(is_drained(&serving(1, &[1, 1]), 4), "a new master");
    }

    #[test]
    fn watch_has_ended_as_the_document_says() {
        let watch = |state: &str| Document {
            generation: 2,
            watch: Some(Watch { generation: 2, state: state.to_owned(), ..Watch::default() }),
            ..Document::default()
        };
        assert_eq!((ended(&watch("watching"), 2), ended(&watch("undoing"), 2)), (None, None));
        let failed = Document { status_text: "generation 2 was to be undone".to_owned(), ..watch("undo-failed") };
        assert_eq!(ended(&failed, 2), Some(Watched::UndoFailed("generation 2 was to be undone".to_owned())));
        // The watch of a later generation is another one.
        assert_eq!(ended(&watch("watching"), 1), Some(Watched::Replaced(2)));
        assert_eq!(ended(&watch("watching"), 7), Some(Watched::Unknown));
        let last =
            LastReload { generation: 2, result: "undone".to_owned(), reason: "5 of 9".to_owned(), ..LastReload::default() };
        assert_eq!(
            ended(&Document { last_reload: Some(last), ..Document::default() }, 2),
            Some(Watched::Undone("5 of 9".to_owned()))
        );
        let release = Release { generation: 2, ended: Some("undone".to_owned()), ..Release::default() };
        let document = Document { releases: vec![release], ..Document::default() };
        assert_eq!(ended(&document, 2), Some(Watched::Undone("the release before was brought back".to_owned())));
        assert_eq!(ended(&Document { generation: 2, ..Document::default() }, 2), Some(Watched::Passed));
    }
}
