//! `ratoon upgrade [NAME]`: replaces the master's own program in place, and checks on a new connection whether that was done.

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::changed;
use super::target::Target;
use crate::control::client::{Client, Error};
use crate::control::messages::{ChangeMessage, SummaryMessage};

/// Timeout for the first answer of the new program.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause between two requests to the new program.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(options: Options) -> Result<ExitCode, String> {
    let client = options.target.client().await?;
    let before = client.summary().await.map_err(|error| error.to_string())?;
    match client.upgrade().await {
        Ok(answer) if answer.result != "done" => return Ok(changed(answer, "")),
        // A connection that ends without an answer may have ended with the old program. The new program tells.
        Ok(_) | Err(Error::Broken(..)) => {}
        Err(error) => return Err(error.to_string()),
    }
    let after = first_answer(&client, FIRST_ANSWER_TIMEOUT).await?;
    Ok(match outcome(&before, &after) {
        Ok(version) => changed(done(), &format!("the master runs version {}", super::screen::clean(&version))),
        Err(reason) => changed(ChangeMessage { result: "failed".to_owned(), reason }, ""),
    })
}

fn done() -> ChangeMessage {
    ChangeMessage { result: "done".to_owned(), reason: String::new() }
}

/// The summary of the master on a new connection; an error message after this time.
async fn first_answer(client: &Client, at_most: Duration) -> Result<SummaryMessage, String> {
    let deadline = Instant::now() + at_most;
    let mut last = String::new();
    let asked = timeout_at(deadline, async {
        loop {
            match client.summary().await {
                Ok(summary) => return summary,
                Err(error) => last = error.to_string(),
            }
            sleep(RETRY_INTERVAL).await;
        }
    });
    asked.await.map_err(|_| {
        format!(
            "the master's new program does not answer at {} within {} s ({last}); the workers serve on: look into its journal, and \
             restart the service if it stays so",
            client.path().display(),
            at_most.as_secs()
        )
    })
}

/// The version of the new program, or the error that the old one still runs.
fn outcome(before: &SummaryMessage, after: &SummaryMessage) -> Result<String, String> {
    if after.program_start_time == before.program_start_time {
        return Err("the master keeps its program: the installed one could not be executed; its journal says why".to_owned());
    }
    Ok(after.version.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcome_is_told_by_the_start_of_the_program() {
        let says = |start: &str| SummaryMessage {
            version: "1.2".to_owned(),
            program_start_time: start.to_owned(),
            ..SummaryMessage::default()
        };
        assert_eq!(outcome(&says("1"), &says("2")).as_deref(), Ok("1.2"));
        assert_eq!(outcome(&says(""), &says("2")).as_deref(), Ok("1.2"), "a master that does not say its start");
        assert!(outcome(&says("1"), &says("1")).unwrap_err().contains("keeps its program"));
    }

    #[tokio::test(start_paused = true)]
    async fn new_program_without_an_answer_is_told_after_the_deadline() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        // The socket listens, but no process accepts.
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let why = first_answer(&Client::new(&path), Duration::from_secs(20)).await.unwrap_err();
        assert!(why.contains("does not answer") && why.contains("within 20 s (the master of"), "{why}");
    }
}
