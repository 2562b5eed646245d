//! `ratoon history [NAME] [--json]`: the committed releases that can be gone back to.

use std::process::ExitCode;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::screen::{Screen, Style, say};
use super::status_view::Clock;
use super::table::{Cell, Table};
use super::target::Target;
use crate::status::tree::Release;

#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    target: Target,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(options: Options) -> Result<ExitCode, String> {
    let releases = options.target.client().await?.history().await.map_err(|error| error.to_string())?;
    if options.json {
        say(&serde_json::to_string(&releases).map_err(|error| error.to_string())?);
    } else if releases.is_empty() {
        say("no generation is committed yet");
    } else {
        say(&view(&releases, &Clock { now: Timestamp::now(), zone: TimeZone::system() }, &Screen::of_stdout()));
    }
    Ok(ExitCode::SUCCESS)
}

fn view(releases: &[Release], clock: &Clock, screen: &Screen) -> String {
    let mut table = Table::new(&[">GENERATION", "STATE", "COMMITTED", "PROGRAM", "DIRECTORY", "ASKED BY"]);
    for release in releases {
        let (state, style) = match release.ended.as_deref() {
            None => ("serves", Style::Good),
            Some("undone") => ("undone", Style::Bad),
            Some(ended) => (ended, Style::Plain),
        };
        let number = match release.release == release.generation {
            true => release.generation.to_string(),
            false => format!("{} (release of {})", release.generation, release.release),
        };
        table.row(vec![
            Cell::from(number),
            Cell::styled(state, style),
            Cell::from(release.committed_at.as_deref().map_or_else(|| "-".to_owned(), |at| clock.local(at))),
            Cell::from(&release.program),
            Cell::from(&release.directory),
            Cell::from(release.asked_by.as_deref().unwrap_or("-")),
        ]);
    }
    table.render(screen).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_shows_what_serves_and_what_was_undone() {
        let release = |generation, release, ended: Option<&str>| Release {
            generation,
            release,
            program: "/srv/web/app".to_owned(),
            directory: format!("/srv/web/{release}"),
            committed_at: Some("2026-07-14T12:00:00Z".to_owned()),
            asked_by: Some("user 0 on the control socket".to_owned()),
            ended: ended.map(str::to_owned),
        };
        let clock = Clock { now: Timestamp::now(), zone: TimeZone::fixed(jiff::tz::offset(2)) };
        let screen = Screen { width: None, height: None, colour: false };
        let shown = view(&[release(9, 7, None), release(8, 8, Some("undone"))], &clock, &screen);
        let lines: Vec<Vec<&str>> =
            shown.lines().map(|line| line.split("  ").map(str::trim).filter(|it| !it.is_empty()).collect()).collect();
        let line =
            ["9 (release of 7)", "serves", "2026-07-14 14:00:00", "/srv/web/app", "/srv/web/7", "user 0 on the control socket"];
        assert_eq!(lines[1], line);
        assert_eq!(lines[2][..2], ["8", "undone"]);
    }
}
