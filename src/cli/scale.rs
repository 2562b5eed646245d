//! `ratoon scale [NAME] N|auto`: changes the number of workers, or gives it back to the configuration.

use std::process::ExitCode;

use super::changed;
use super::target::{Control, client};
use crate::config::COUNT_MAX;

#[derive(clap::Args)]
#[command(allow_missing_positional = true)]
pub(super) struct Options {
    /// The instance
    name: Option<String>,
    /// How many workers there should be from now on; auto: as many as the configuration says, or the load between its bounds
    #[arg(value_name = "N|auto", value_hint = clap::ValueHint::Other, value_parser = number)]
    workers: Number,
    #[command(flatten)]
    control: Control,
}

/// The number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Fixed(u32),
    Auto,
}

fn number(text: &str) -> Result<Number, String> {
    match text.parse() {
        Ok(count @ 1..=COUNT_MAX) => Ok(Number::Fixed(count)),
        _ if text == "auto" => Ok(Number::Auto),
        _ => Err(format!("expected a number from 1 to {COUNT_MAX}, or auto")),
    }
}

pub(super) async fn run(options: Options) -> Result<ExitCode, String> {
    let client = client(options.name.as_deref(), &options.control).await?;
    let outcome = match options.workers {
        Number::Fixed(count) => client.scale(count).await,
        Number::Auto => client.scale_auto().await,
    };
    Ok(changed(outcome.map_err(|error| error.to_string())?, &done(options.workers)))
}

fn done(number: Number) -> String {
    match number {
        Number::Fixed(1) => "1 worker from now on".to_owned(),
        Number::Fixed(count) => format!("{count} workers from now on"),
        Number::Auto => "as many workers as the configuration says from now on".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Number, done, number};

    #[test]
    fn scale_says_one_worker_in_the_singular() {
        assert_eq!([done(Number::Fixed(1)), done(Number::Fixed(2))], ["1 worker from now on", "2 workers from now on"]);
    }

    #[test]
    fn scale_takes_a_number_or_auto() {
        assert_eq!([number("4"), number("auto")], [Ok(Number::Fixed(4)), Ok(Number::Auto)]);
        for text in ["0", "-1", "10001", "web", "", "Auto"] {
            assert_eq!(number(text), Err("expected a number from 1 to 10000, or auto".to_owned()), "{text}");
        }
    }
}
