//! `ratoon pause [NAME] [--for TIME]` and `ratoon resume [NAME]`: drains all workers and keeps the sockets; serves again.

use std::process::ExitCode;
use std::time::Duration;

use super::changed;
use super::target::Target;
use crate::config::pause_length;

#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    target: Target,
    /// Resume by itself after this time, such as 30s or 5min
    #[arg(long = "for", value_name = "TIME", value_hint = clap::ValueHint::Other, value_parser = pause_length)]
    length: Option<Duration>,
}

#[derive(clap::Args)]
pub(super) struct ResumeOptions {
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(options: Options) -> Result<ExitCode, String> {
    let outcome = options.target.client().await?.pause(options.length).await.map_err(|error| error.to_string())?;
    let end = if options.length.is_some() { "the time is over, or `ratoon resume`" } else { "`ratoon resume`" };
    Ok(changed(outcome, &format!("paused: all workers are gone, and connections wait until {end}")))
}

pub(super) async fn resume(options: ResumeOptions) -> Result<ExitCode, String> {
    let outcome = options.target.client().await?.resume().await.map_err(|error| error.to_string())?;
    Ok(changed(outcome, "resumed: the workers start"))
}
