//! `ratoon recycle [NAME] [WORKER-ID]`: replaces one worker, or all, within the generation.

use std::process::ExitCode;

use super::changed;
use super::target::{Control, client};
use crate::control::paths::{Env, candidates};

#[derive(clap::Args)]
pub(super) struct Options {
    /// The instance; a single number is a WORKER-ID
    name: Option<String>,
    /// The worker to replace, as `ratoon status` shows it; all when left out
    #[arg(value_name = "WORKER-ID", value_hint = clap::ValueHint::Other)]
    worker: Option<u64>,
    #[command(flatten)]
    control: Control,
}

pub(super) async fn run(options: Options) -> Result<ExitCode, String> {
    let (name, worker) = tell_apart(options.name, options.worker, |name| {
        !options.control.is_named() && !candidates(name, &Env::of_process()).is_empty()
    })?;
    let client = client(name.as_deref(), &options.control).await?;
    let outcome = client.recycle(worker).await.map_err(|error| error.to_string())?;
    let done = match worker {
        Some(id) => format!("worker {id} is being replaced"),
        None => "all workers are being replaced".to_owned(),
    };
    Ok(changed(outcome, &done))
}

/// Tells an instance from a worker: a single number is a worker id. If an instance has that name, too, that is an error.
fn tell_apart(
    name: Option<String>,
    worker: Option<u64>,
    is_instance: impl Fn(&str) -> bool,
) -> Result<(Option<String>, Option<u64>), String> {
    match (&name, worker) {
        (Some(number), None) => match number.parse() {
            Ok(_) if is_instance(number) => Err(format!(
                "{number} may be a worker or the instance of that name; say `ratoon recycle NAME {number}` for the worker, or \
                 `ratoon recycle --control PATH` for the instance"
            )),
            Ok(id) => Ok((None, Some(id))),
            Err(_) => Ok((name, None)),
        },
        _ => Ok((name, worker)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_number_is_a_worker() {
        let none = |_: &str| false;
        assert_eq!(tell_apart(Some("12".into()), None, none), Ok((None, Some(12))));
        assert_eq!(tell_apart(Some("web".into()), None, none), Ok((Some("web".into()), None)));
        assert_eq!(tell_apart(Some("12".into()), Some(3), none), Ok((Some("12".into()), Some(3))));
        assert_eq!(tell_apart(None, None, none), Ok((None, None)));
        assert!(tell_apart(Some("8080".into()), None, |name| name == "8080").unwrap_err().contains("--control"));
    }
}
