//! `ratoon undo [NAME] [GENERATION]`: goes back to the release of an earlier committed generation.

use std::process::ExitCode;

use super::reload::{Bring, Follow, bring};
use super::target::{Control, client};

#[derive(clap::Args)]
pub(super) struct Options {
    /// The instance; a single number is a GENERATION
    name: Option<String>,
    /// The generation whose release is to serve again; the one before the current one when left out
    #[arg(value_name = "GENERATION", value_hint = clap::ValueHint::Other)]
    generation: Option<u64>,
    #[command(flatten)]
    control: Control,
    #[command(flatten)]
    follow: Follow,
}

/// Exit status as of `ratoon reload`.
pub(super) async fn run(options: Options) -> Result<ExitCode, String> {
    let (name, generation) = tell_apart(options.name, options.generation);
    let client = client(name.as_deref(), &options.control).await?;
    bring(&client, Bring::Undo(generation), &options.follow, false).await
}

/// Tells an instance from a generation: a single word of digits is a generation.
fn tell_apart(name: Option<String>, generation: Option<u64>) -> (Option<String>, Option<u64>) {
    match (name.as_deref().map(str::parse), generation) {
        (Some(Ok(number)), None) => (None, Some(number)),
        _ => (name, generation),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_number_is_a_generation_and_never_a_name() {
        let told = |name: Option<&str>, generation| tell_apart(name.map(str::to_owned), generation);
        assert_eq!(told(None, None), (None, None));
        assert_eq!(told(Some("7"), None), (None, Some(7)));
        assert_eq!(told(Some("web"), None), (Some("web".to_owned()), None));
        assert_eq!(told(Some("web"), Some(7)), (Some("web".to_owned()), Some(7)));
    }
}
