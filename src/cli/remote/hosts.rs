//! Several hosts at once, for the verbs that only look: a table with a line for each instance, by host.

use std::ffi::OsString;
use std::io::{IsTerminal, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use ratatui::crossterm::event::{Event, KeyCode, KeyModifiers};
use ratatui::widgets::Paragraph;
use serde::Deserialize;

use super::super::screen::{Screen, Style, clean, say};
use super::super::status_view::{state_style, state_word};
use super::super::table::{Cell, Table};
use super::super::top::terminal::{self, Ends};
use super::super::{list, status};
use super::ask::{Answer, Connections, ask_all};
use crate::control::messages::SummaryMessage;
use crate::status::tree::Document;

/// The pause of `top` between two questions to a host.
const PAUSE: Duration = Duration::from_secs(2);

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
    let first = ask_all(hosts, &words, Some(&connections));
    tokio::pin!(first);
    let mut answers = loop {
        tokio::select! {
            came = &mut first => break came,
            end = ends.next() => if let Some(number) = end {
                return Ok(ExitCode::from(128 + number));
            },
        }
    };
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

/// The worst exit status of the hosts.
fn worst(answers: &[Answer]) -> ExitCode {
    ExitCode::from(answers.iter().map(Answer::status).max().unwrap_or(0))
}

/// An array of hosts: the host, the answer below `name` or `null`, and the error or `null`; safe for a terminal.
fn json(answers: &[Answer], name: &str) -> String {
    let hosts = answers.iter().map(|answer| {
        let text = |text: &str| serde_json::Value::from(text).to_string();
        let (value, error) = match &answer.said {
            Ok((_, value)) => (value.clone(), "null".to_owned()),
            Err(reason) => ("null".to_owned(), text(reason)),
        };
        format!("{{\"host\":{},\"{name}\":{value},\"error\":{error}}}", text(&answer.host))
    });
    status::indent(&format!("[{}]", hosts.collect::<Vec<_>>().join(",")))
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
                Cell::styled(state_word(&it.state, it.paused), state_style(state_word(&it.state, it.paused), it.degraded)),
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json as value};

    use super::*;

    fn answers() -> Vec<Answer> {
        let status = value!({"instance": "web", "state": "running", "generation": 3, "workers_ready": 4, "workers_configured": 4,
                            "status_text": "generation 3: 4/4 ready"});
        let reason = "ssh: connect to host b port 22: Connection refused\u{1b}[2J".to_owned();
        vec![Answer { host: "a".into(), said: Ok((0, status.to_string())) }, Answer { host: "b".into(), said: Err(reason) }]
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
        let listed = value!([{"instance": "web", "control": "/run/ratoon/web/control", "summary": null, "error": "x"},
                            {"instance": "api", "control": "/run/ratoon/api/control", "summary": null, "error": "x"}]);
        let text = list_table(&[Answer { host: "a".into(), said: Ok((0, listed.to_string())) }]).render(&Screen {
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
        let hostile = Answer { host: "a".into(), said: Ok((0, "{\"x\":\"\u{9b}31m\u{202e}\u{7f}\"}".into())) };
        let text = json(&[hostile], "status");
        assert!(text.contains("\\u009b31m\\u202e\\u007f"), "{text}");
    }
}
