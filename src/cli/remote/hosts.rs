//! Several hosts at once, for the verbs that only look: a table with a line for each instance, by host.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io::{IsTerminal, stdout};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use ratatui::crossterm::event::{Event, KeyCode, KeyModifiers};
use ratatui::widgets::Paragraph;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::screen::{Screen, Style, clean, say};
use super::super::status_view::state_style;
use super::super::table::{Cell, Table};
use super::super::top::terminal::{self, Ends};
use super::super::{COULD_NOT_ASK, list, status};
use super::{NOT_FOUND, SSH_FAILED, command_line, ssh, started};
use crate::control::messages::SummaryMessage;
use crate::status::tree::Document;

/// Time for the answer of a host.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The pause of `top` between two questions to a host.
const PAUSE: Duration = Duration::from_secs(2);
/// Most bytes of an answer.
const LONGEST: u64 = 64 << 20;

/// The answer of a host: the exit status of the verb there and its output, or the reason why there is none.
struct Answer {
    host: String,
    said: Result<(u8, Value), String>,
}

impl Answer {
    /// The exit status; 2 without an answer.
    fn status(&self) -> u8 {
        self.said.as_ref().map_or(COULD_NOT_ASK, |(status, _)| *status)
    }

    /// The answer as a type, or the reason why there is none.
    fn read<T: DeserializeOwned>(&self) -> Result<T, String> {
        let (_, value) = self.said.as_ref().map_err(Clone::clone)?;
        T::deserialize(value).map_err(|error| format!("its answer cannot be read: {error}"))
    }
}

/// `ratoon -H A -H B list`
pub(super) async fn list(hosts: &[String], words: &[OsString], options: &list::Options) -> Result<ExitCode, String> {
    let answers = ask_all(hosts, words, None).await;
    if options.json {
        say(&json(&answers, "instances"));
    } else {
        say(&list_table(&answers).render(&Screen::of_stdout()));
    }
    Ok(worst(&answers))
}

/// `ratoon -H A -H B status`
pub(super) async fn status(hosts: &[String], words: &[OsString], options: &status::Options) -> Result<ExitCode, String> {
    let answers = ask_all(hosts, words, None).await;
    if options.json {
        say(&json(&answers, "status"));
    } else {
        say(&status_table(&answers).render(&Screen::of_stdout()));
    }
    Ok(worst(&answers))
}

/// `ratoon -H A -H B top`: the table of `status`, asked for again and again over one connection to each host.
pub(super) async fn top(hosts: &[String], words: &[OsString]) -> Result<ExitCode, String> {
    if !stdout().is_terminal() {
        return Err("top draws on a terminal, but standard output is none; `status` prints the same once".to_owned());
    }
    let words: Vec<OsString> = [OsString::from("status")].into_iter().chain(words.iter().skip(1).cloned()).collect();
    let connections = Connections::new()?;
    let mut ends = Ends::watch()?;
    // The first answers come before the terminal is taken, so that ssh can ask for a password there.
    let mut answers = ask_all(hosts, &words, Some(&connections)).await;
    let mut view = terminal::Screen::enter()?;
    let mut keys = terminal::read_keys()?;
    let mut next = Box::pin(later(hosts, &words, &connections));
    loop {
        let text = status_table(&answers).render(&Screen { width: None, height: None, colour: false });
        view.draw(|frame| frame.render_widget(Paragraph::new(format!("{text}\nq quit")), frame.area()))?;
        tokio::select! {
            came = &mut next => {
                answers = came;
                next = Box::pin(later(hosts, &words, &connections));
            }
            end = ends.next() => match end {
                Some(number) => return Ok(ExitCode::from(128 + number)),
                None => view.enter_again()?,
            },
            input = keys.recv() => {
                let input = input.ok_or("what reads the keys has ended; that is a fault of this program")??;
                if leaves(&input) {
                    return Ok(ExitCode::SUCCESS);
                }
            }
        }
    }
}

/// Whether this key ends the view: q, or Ctrl-C.
fn leaves(input: &Event) -> bool {
    let Event::Key(key) = input else { return false };
    key.code == KeyCode::Char('q') || (key.code == KeyCode::Char('c') && key.modifiers == KeyModifiers::CONTROL)
}

/// The answers after a pause.
async fn later(hosts: &[String], words: &[OsString], connections: &Connections) -> Vec<Answer> {
    tokio::time::sleep(PAUSE).await;
    ask_all(hosts, words, Some(connections)).await
}

/// Asks all hosts at the same time; the order stays.
async fn ask_all(hosts: &[String], words: &[OsString], connections: Option<&Connections>) -> Vec<Answer> {
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
async fn answer(command: tokio::process::Command) -> Result<(u8, Value), String> {
    let mut child = started(command)?;
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    let (output, errors, ended) = tokio::join!(bounded(output), bounded(errors), child.wait());
    let ended = ended.map_err(|error| format!("cannot wait for ssh: {error}"))?;
    let errors = String::from_utf8_lossy(&errors).into_owned();
    let reason = errors.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it gave no reason");
    let reason = reason.strip_prefix("ratoon: ").unwrap_or(reason);
    match ended.code() {
        Some(SSH_FAILED) => Err(format!("ssh: {reason}")),
        Some(NOT_FOUND) => Err("no `ratoon` in the PATH of that user".to_owned()),
        Some(code @ 0..=1) => {
            let value = serde_json::from_slice(&output).map_err(|error| format!("its answer is not JSON: {error}"))?;
            Ok((u8::try_from(code).unwrap_or(COULD_NOT_ASK), value))
        }
        _ => Err(reason.to_owned()),
    }
}

/// What can be read, up to a limit.
async fn bounded(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        // An error ends the text: then it is no JSON, which is told.
        let _ = stream.take(LONGEST).read_to_end(&mut bytes).await;
    }
    bytes
}

/// The worst exit status of the hosts.
fn worst(answers: &[Answer]) -> ExitCode {
    ExitCode::from(answers.iter().map(Answer::status).max().unwrap_or(0))
}

/// An array of hosts: the host, the answer below `name` or `null`, and the error or `null`.
fn json(answers: &[Answer], name: &str) -> String {
    let hosts = answers.iter().map(|answer| {
        let value = answer.said.as_ref().ok().map(|(_, value)| value);
        json!({ "host": answer.host, name: value, "error": answer.said.as_ref().err() })
    });
    Value::Array(hosts.collect()).to_string()
}

/// An instance as `ratoon list --json` prints it.
#[derive(Deserialize)]
struct Listed {
    instance: String,
    control: PathBuf,
    summary: Option<SummaryMessage>,
}

fn list_table(answers: &[Answer]) -> Table {
    let mut table = Table::new(&["HOST", "NAME", "STATE", ">GENERATION", ">READY", ">PID", "CONTROL"]);
    for answer in answers {
        let host = || Cell::from(answer.host.as_str());
        match answer.read::<Vec<Listed>>() {
            Ok(instances) => {
                for it in instances {
                    let cells = list::cells(&it.instance, &it.control, it.summary.as_ref().ok_or("no answer"));
                    table.row([host()].into_iter().chain(cells).collect());
                }
            }
            Err(reason) => table.row(no_answer(host(), &reason, 3)),
        }
    }
    table
}

fn status_table(answers: &[Answer]) -> Table {
    let mut table = Table::new(&["HOST", "NAME", "STATE", ">GENERATION", ">READY", "STATUS"]);
    for answer in answers {
        let host = Cell::from(answer.host.as_str());
        table.row(match answer.read::<Document>() {
            Ok(it) => vec![
                host,
                Cell::from(it.instance.as_str()),
                Cell::styled(&it.state, state_style(&it.state, it.degraded)),
                Cell::from(it.generation.to_string()),
                Cell::from(format!("{}/{}", it.workers_ready, it.workers_configured)),
                Cell::from(it.status_text),
            ],
            Err(reason) => no_answer(host, &reason, 2),
        });
    }
    table
}

/// The row of a host without an answer: the reason stands in the last column, after so many empty ones.
fn no_answer(host: Cell, reason: &str, empty: usize) -> Vec<Cell> {
    let dashes = std::iter::repeat_with(|| Cell::from("-")).take(empty);
    let row = [host, Cell::from("-"), Cell::styled("no answer", Style::Bad)].into_iter().chain(dashes);
    row.chain([Cell::from(clean(reason))]).collect()
}

/// One connection of ssh to each host, which the questions of `top` share (ControlMaster of ssh_config(5)).
struct Connections {
    directory: PathBuf,
}

impl Connections {
    /// A directory for the sockets of ssh; it must be new, for this user alone, and its path short.
    fn new() -> Result<Self, String> {
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

    fn answers() -> Vec<Answer> {
        let status = json!({"instance": "web", "state": "running", "generation": 3, "workers_ready": 4, "workers_configured": 4,
                            "status_text": "generation 3: 4/4 ready"});
        let reason = "ssh: connect to host b port 22: Connection refused\u{1b}[2J".to_owned();
        vec![Answer { host: "a".into(), said: Ok((0, status)) }, Answer { host: "b".into(), said: Err(reason) }]
    }

    #[test]
    fn status_table_names_hosts_without_an_answer() {
        let text = status_table(&answers()).render(&Screen { width: None, height: None, colour: false });
        insta::assert_snapshot!(text, @r"
        HOST  NAME  STATE      GENERATION  READY  STATUS
        a     web   running             3    4/4  generation 3: 4/4 ready
        b     -     no answer           -      -  ssh: connect to host b port 22: Connection refused\u{1b}[2J
        ");
        assert_eq!(worst(&answers()), ExitCode::from(2));
        assert_eq!(worst(&answers()[..1]), ExitCode::SUCCESS);
    }

    #[test]
    fn list_table_has_a_line_for_each_instance() {
        let listed = json!([{"instance": "web", "control": "/run/ratoon/web/control", "summary": null, "error": "x"},
                            {"instance": "api", "control": "/run/ratoon/api/control", "summary": null, "error": "x"}]);
        let text = list_table(&[Answer { host: "a".into(), said: Ok((0, listed)) }]).render(&Screen {
            width: None,
            height: None,
            colour: false,
        });
        insta::assert_snapshot!(text, @r"
        HOST  NAME  STATE      GENERATION  READY  PID  CONTROL
        a     web   no answer           -      -    -  /run/ratoon/web/control
        a     api   no answer           -      -    -  /run/ratoon/api/control
        ");
    }

    #[test]
    fn json_has_null_for_what_is_not_known() {
        let value: Value = serde_json::from_str(&json(&answers(), "status")).unwrap();
        assert_eq!((&value[0]["error"], &value[1]["status"]), (&Value::Null, &Value::Null));
        assert_eq!(value[0]["status"]["generation"], 3);
    }
}
