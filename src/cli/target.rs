//! Which instance is meant, and the client for it.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinSet;

use super::screen::clean;
use crate::control::client::{Client, Error};
use crate::control::messages::SummaryMessage;
use crate::control::paths::{self, Env, Found};

/// How long an instance may take to answer when all are asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// `--control PATH`
#[derive(clap::Args)]
pub(super) struct Control {
    /// The control socket, instead of a NAME
    #[arg(long = "control", value_name = "PATH", conflicts_with = "name")]
    path: Option<PathBuf>,
}

/// `[NAME] [--control PATH]`
#[derive(clap::Args)]
pub(super) struct Target {
    /// The instance
    name: Option<String>,
    #[command(flatten)]
    control: Control,
}

impl Target {
    /// The client for the instance that is meant; else what to say.
    pub(super) async fn client(&self) -> Result<Client, String> {
        client(self.name.as_deref(), &self.control).await
    }
}

/// See [`Target::client`].
pub(super) async fn client(name: Option<&str>, control: &Control) -> Result<Client, String> {
    let env = Env::of_process();
    match (&control.path, name) {
        (Some(path), _) => Ok(Client::new(path)),
        (None, Some(name)) => named(name, &env).await,
        (None, None) => match paths::own_control(&env) {
            Some(path) => Ok(Client::new(path)),
            None => only(&env).await,
        },
    }
}

async fn named(name: &str, env: &Env) -> Result<Client, String> {
    paths::check_name(name)?;
    let found = paths::candidates(name, env);
    match found.as_slice() {
        [] => Err(format!("no instance {name:?} runs here; {}", others(&probe(paths::instances(env)).await))),
        [one] => Ok(Client::new(one)),
        // A dead socket of the system's must not hide a living one of the user's.
        [first, ..] => {
            for path in &found {
                let client = Client::new(path);
                if client.clone().with_patience(PATIENCE).summary().await.is_ok() {
                    return Ok(client);
                }
            }
            Ok(Client::new(first))
        }
    }
}

async fn only(env: &Env) -> Result<Client, String> {
    let probed = probe(paths::instances(env)).await;
    let mut living = probed.iter().filter(|it| it.summary.is_ok());
    match (living.next(), living.next()) {
        (Some(one), None) => Ok(Client::new(&one.found.control)),
        (Some(_), Some(_)) => Err(format!("which instance? {}", others(&probed))),
        (None, _) => Err(format!("no instance answers here; {}", others(&probed))),
    }
}

/// The instances there are, in words.
fn others(probed: &[Probed]) -> String {
    let names = |alive: bool| {
        let chosen = probed.iter().filter(|it| it.summary.is_ok() == alive);
        chosen.map(|it| clean(&it.found.name)).collect::<Vec<_>>().join(", ")
    };
    match (names(true).as_str(), names(false).as_str()) {
        ("", "") => "there is none: start one (`systemctl start ratoon@NAME`, `ratoon run`), or name its socket with \
                     --control PATH"
            .to_owned(),
        ("", dead) => format!("these have a control socket, but do not answer: {dead} (see `ratoon list`)"),
        (alive, _) => format!("these run: {alive}"),
    }
}

/// An instance, and what it says of itself.
pub(super) struct Probed {
    pub(super) found: Found,
    pub(super) summary: Result<SummaryMessage, Error>,
}

/// Asks all of them at the same time; the order stays.
pub(super) async fn probe(found: Vec<Found>) -> Vec<Probed> {
    let mut asking = JoinSet::new();
    for (number, found) in found.into_iter().enumerate() {
        asking.spawn(async move {
            let summary = Client::new(&found.control).with_patience(PATIENCE).summary().await;
            (number, Probed { found, summary })
        });
    }
    let mut probed = asking.join_all().await;
    probed.sort_by_key(|(number, _)| *number);
    probed.into_iter().map(|(_, it)| it).collect()
}
