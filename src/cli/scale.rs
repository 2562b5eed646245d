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
    #[arg(value_name = "N", value_hint = clap::ValueHint::Other, value_parser = clap::value_parser!(u32).range(1..=i64::from(crate::config::COUNT_MAX)))]
    workers: u32,
    #[command(flatten)]
    control: Control,
}

pub(super) async fn run(options: Options) -> Result<ExitCode, String> {
    let client = client(options.name.as_deref(), &options.control).await?;
    let outcome = client.scale(options.workers).await.map_err(|error| error.to_string())?;
    Ok(changed(outcome, &done(options.workers)))
}

fn done(workers: u32) -> String {
    format!("{workers} {} from now on", if workers == 1 { "worker" } else { "workers" })
}

#[cfg(test)]
mod tests {
    use super::done;

    #[test]
    fn scale_says_one_worker_in_the_singular() {
        assert_eq!([done(1), done(2)], ["1 worker from now on", "2 workers from now on"]);
    }
}
