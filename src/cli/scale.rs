//! `ratoon scale [NAME] N`: changes the number of workers.

use std::process::ExitCode;

use super::changed;
use super::target::{Control, client};

#[derive(clap::Args)]
#[command(allow_missing_positional = true)]
pub(super) struct Options {
    /// The instance
    name: Option<String>,
    /// How many workers there should be from now on
    #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(crate::config::COUNT_MAX)))]
    workers: u32,
    #[command(flatten)]
    control: Control,
}

pub(super) async fn run(options: Options) -> Result<ExitCode, String> {
    let client = client(options.name.as_deref(), &options.control).await?;
    let outcome = client.scale(options.workers).await.map_err(|error| error.to_string())?;
    Ok(changed(outcome, &format!("{} workers from now on", options.workers)))
}
