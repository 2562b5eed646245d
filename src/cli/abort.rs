//! `ratoon abort [NAME]`: rolls back the reload that is under way.

use std::process::ExitCode;

use super::changed;
use super::target::Target;

#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(options: Options) -> Result<ExitCode, String> {
    let outcome = options.target.client().await?.abort().await.map_err(|error| error.to_string())?;
    Ok(changed(outcome, "the reload is rolled back"))
}
