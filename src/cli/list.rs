//! `ratoon list`: the instances of this machine.

use std::path::Path;
use std::process::ExitCode;

use super::screen::{Screen, Style, complain, say};
use super::status_view::{state_style, state_word};
use super::table::{Cell, Table};
use super::target::{Probed, probe};
use crate::control::client::Error;
use crate::control::messages::SummaryMessage;
use crate::control::paths::{Env, all_instances};

#[derive(clap::Args)]
pub(super) struct Options {
    /// Print it as JSON
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) async fn run(options: Options) -> Result<ExitCode, String> {
    let probed = probe(all_instances(&Env::of_process())).await;
    if options.json {
        say(&json(&probed));
    } else if probed.is_empty() {
        complain("no instance runs here");
    } else {
        say(&view(&probed, &Screen::of_stdout()));
    }
    Ok(ExitCode::SUCCESS)
}

/// An array of instances: name, control socket, the summary or `null`, and the error or `null`.
fn json(probed: &[Probed]) -> String {
    let instances = probed.iter().map(|Probed { found, summary }| {
        serde_json::json!({
            "instance": found.name,
            "control": found.control,
            "summary": summary.as_ref().ok(),
            "error": summary.as_ref().err().map(ToString::to_string),
        })
    });
    serde_json::Value::Array(instances.collect()).to_string()
}

fn view(probed: &[Probed], screen: &Screen) -> String {
    let mut table = Table::new(&["NAME", "STATE", ">GENERATION", ">READY", ">PID", "CONTROL"]);
    for Probed { found, summary } in probed {
        let summary = summary.as_ref().map_err(|error| match error {
            Error::Dead(_) | Error::Missing(_) => "dead",
            Error::Denied(_) => "no permission",
            _ => "no answer",
        });
        table.row(cells(&found.name, &found.control, summary));
    }
    table.render(screen)
}

/// The row of an instance; without a summary a word says why there is none.
pub(super) fn cells(name: &str, control: &Path, summary: Result<&SummaryMessage, &str>) -> Vec<Cell> {
    let mut cells = vec![Cell::from(name)];
    cells.extend(match summary {
        Ok(it) => [
            Cell::styled(state_word(&it.state, it.paused), state_style(state_word(&it.state, it.paused), it.degraded)),
            Cell::from(it.generation.to_string()),
            Cell::from(format!("{}/{}", it.workers_ready, it.workers_configured)),
            Cell::from(it.pid.to_string()),
        ],
        Err(word) => [Cell::styled(word, Style::Bad), Cell::from("-"), Cell::from("-"), Cell::from("-")],
    });
    cells.push(Cell::from(control.display().to_string()));
    cells
}
