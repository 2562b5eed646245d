//! `ratoon upgrade [NAME]`: replaces the master's own program in place.

use std::process::ExitCode;

use super::changed;
use super::target::Target;

#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(options: Options) -> Result<ExitCode, String> {
    let client = options.target.client().await?;
    let outcome = client.upgrade().await.map_err(|error| error.to_string())?;
    let version = client.summary().await.map(|summary| summary.version).unwrap_or_default();
    Ok(changed(outcome, &format!("the master runs version {}", super::screen::clean(&version))))
}
