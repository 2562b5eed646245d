//! `ratoon promote [NAME]`: ends the step of the canary that waits, so that the reload goes on.

use std::process::ExitCode;

use super::changed;
use super::target::Target;

#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(options: Options) -> Result<ExitCode, String> {
    let outcome = options.target.client().await?.promote().await.map_err(|error| error.to_string())?;
    Ok(changed(outcome, "the canary is promoted: the reload goes on with its next step"))
}
