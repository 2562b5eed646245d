//! Asks several hosts at the same time, without a terminal, and reads their answers.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::super::COULD_NOT_ASK;
use super::{NOT_FOUND, SSH_FAILED, command_line, ssh, started};

/// Time for the answer of a host.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Time for what is still in the pipes when ssh has ended: another process may hold them open for ever.
const REST: Duration = Duration::from_secs(1);
/// Most bytes of an answer: some ten times the status of 1,000 workers with 10,000 connections.
const LONGEST: usize = 16 << 20;

/// The answer of a host: the exit status of the verb there and its output, which is JSON, or the reason why there is none.
pub(super) struct Answer {
    pub(super) host: String,
    pub(super) said: Result<(u8, String), String>,
}

impl Answer {
    /// The exit status; 2 without an answer.
    pub(super) fn status(&self) -> u8 {
        self.said.as_ref().map_or(COULD_NOT_ASK, |(status, _)| *status)
    }

    /// The answer as a type, or the reason why there is none.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, String> {
        let (_, text) = self.said.as_ref().map_err(Clone::clone)?;
        serde_json::from_str(text).map_err(|error| format!("its answer cannot be read: {error}"))
    }
}

/// Asks all hosts at the same time; the order stays.
pub(super) async fn ask_all(hosts: &[String], words: &[OsString], connections: Option<&Connections>) -> Vec<Answer> {
    let mut words = words.to_vec();
    if !words.iter().any(|word| word == "--json") {
        words.insert(1, "--json".into());
    }
    let line = command_line(&[], &words);
    let mut asking = JoinSet::new();
    for (number, host) in hosts.iter().cloned().enumerate() {
        let mut command = ssh();
        // Several hosts cannot ask for a password on one terminal.
        command.args(["-n", "-T", "-o", "BatchMode=yes"]).args(connections.map(Connections::options).unwrap_or_default());
        command.args(["--", &host]).arg(&line).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        asking.spawn(async move {
            let asked = timeout(TIMEOUT, answer(command)).await;
            let said = asked.unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())));
            (number, Answer { host, said })
        });
    }
    let mut answers = asking.join_all().await;
    answers.sort_by_key(|(number, _)| *number);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// The exit status of the verb and its output, or the reason why there is none.
async fn answer(command: Command) -> Result<(u8, String), String> {
    let mut child = started(command)?;
    let (output, errors) = (Reading::start(child.stdout.take()), Reading::start(child.stderr.take()));
    let ended = child.wait().await.map_err(|error| format!("cannot wait for ssh: {error}"))?;
    let (output, errors) = tokio::join!(output.end(), errors.end());
    let errors = String::from_utf8_lossy(&errors).into_owned();
    let reason = errors.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it gave no reason");
    let reason = reason.strip_prefix("ratoon: ").unwrap_or(reason);
    match ended.code() {
        Some(SSH_FAILED) => Err(format!("ssh: {reason}")),
        Some(NOT_FOUND) => Err("no `ratoon` in the PATH of that user".to_owned()),
        Some(code @ 0..=1) => {
            let text = String::from_utf8(output).map_err(|_| "its answer is not UTF-8".to_owned())?;
            serde_json::from_str::<IgnoredAny>(&text).map_err(|error| format!("its answer is not JSON: {error}"))?;
            Ok((u8::try_from(code).unwrap_or(COULD_NOT_ASK), text))
        }
        _ => Err(reason.to_owned()),
    }
}

/// A stream that is read to its end, up to a limit.
struct Reading {
    bytes: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Reading {
    fn start(stream: Option<impl AsyncRead + Unpin + Send + 'static>) -> Reading {
        let bytes = Arc::<Mutex<Vec<u8>>>::default();
        let into = bytes.clone();
        let read = async move {
            let Some(mut stream) = stream else { return };
            let mut part = vec![0; 64 << 10];
            // An error ends the text: then it is no JSON, which is told. Beyond the limit the pipe is closed.
            while let Ok(count @ 1..) = stream.read(&mut part).await {
                let mut bytes = into.lock().unwrap_or_else(PoisonError::into_inner);
                if bytes.len() + count > LONGEST {
                    return;
                }
                bytes.extend_from_slice(&part[..count]);
            }
        };
        Reading { bytes, task: tokio::spawn(read) }
    }

    /// Returns the bytes that were read; called when the process at the other end has exited.
    async fn end(mut self) -> Vec<u8> {
        let _ = timeout(REST, &mut self.task).await;
        self.task.abort();
        std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One connection of ssh to each host, which the questions of `top` share (ControlMaster of ssh_config(5)).
pub(super) struct Connections {
    directory: PathBuf,
}

impl Connections {
    /// A directory for the sockets of ssh; it must be new, for this user alone, and its path short.
    pub(super) fn new() -> Result<Self, String> {
        let directory = std::env::temp_dir().join(format!(".ratoon-ssh-{}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&directory);
        made.map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
        Ok(Connections { directory })
    }

    fn options(&self) -> Vec<String> {
        let path = format!("ControlPath={}/%C", self.directory.display());
        ["-o", "ControlMaster=auto", "-o", &path, "-o", "ControlPersist=10"].map(str::to_owned).to_vec()
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        // The connections end by themselves when nobody has used them for ten seconds.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer of a program that stands in for ssh.
    async fn said(script: &str) -> Result<(u8, String), String> {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        answer(command).await
    }

    #[tokio::test]
    async fn answer_is_the_status_and_the_json() {
        assert_eq!(said("echo '[1]'; exit 1").await, Ok((1, "[1]\n".into())));
        assert_eq!(said("echo 'ratoon: no such instance' >&2; exit 2").await, Err("no such instance".into()));
        assert_eq!(said("exit 127").await, Err("no `ratoon` in the PATH of that user".into()));
        assert_eq!(said("echo 'Connection refused' >&2; exit 255").await, Err("ssh: Connection refused".into()));
        assert!(said("echo no").await.is_err_and(|why| why.starts_with("its answer is not JSON")));
        assert!(said("yes '[[[[[[[[[[' | head -c 40000000").await.is_err(), "too much");
    }

    #[tokio::test]
    async fn answer_does_not_wait_for_others_that_hold_the_pipes() {
        let said = said("sleep 600 & echo $! >&2; echo '{}'").await;
        assert_eq!(said, Ok((0, "{}\n".into())));
    }
}
