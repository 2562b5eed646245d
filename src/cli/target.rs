//! Finds the instance that a command means, and makes the client for it.

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinSet;

use super::screen::clean;
use crate::control::client::{Client, Error};
use crate::control::messages::SummaryMessage;
use crate::control::paths::{self, Env, Found};

/// Timeout for the answer of an instance when several are asked.
const TIMEOUT: Duration = Duration::from_secs(2);

/// `--control PATH`
#[derive(clap::Args)]
pub(super) struct Control {
    /// The control socket, instead of a NAME
    #[arg(long = "control", value_name = "PATH")]
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
    /// The client for the meant instance, or the error message.
    pub(super) async fn client(&self) -> Result<Client, String> {
        client(self.name.as_deref(), &self.control).await
    }
}

impl Control {
    /// Whether `--control` is given.
    pub(super) fn is_named(&self) -> bool {
        self.path.is_some()
    }
}

/// See [`Target::client`].
pub(super) async fn client(name: Option<&str>, control: &Control) -> Result<Client, String> {
    let env = Env::of_process();
    match (&control.path, name) {
        (Some(path), None) => Ok(Client::new(path)),
        (Some(path), Some(name)) => {
            Err(format!("both the instance {name:?} and --control {} are named; one of them is enough", path.display()))
        }
        (None, Some(name)) => named(name, &env).await,
        (None, None) => match paths::own_control(&env) {
            Some(path) => Ok(Client::new(path)),
            None => only(&env).await,
        },
    }
}

async fn named(name: &str, env: &Env) -> Result<Client, String> {
    let name = paths::instance_of(name)?;
    let found = paths::candidates(name, env);
    match found.as_slice() {
        [] => {
            let all = probe(paths::all_instances(env)).await;
            match all.iter().find(|it| it.found.name == name) {
                Some(foreign) => Err(format!(
                    "the instance {name:?} is another user's; if you mean it, say --control {}",
                    foreign.found.control.display()
                )),
                None if paths::has_active_socket_unit(name, env) => Err(format!(
                    "no instance {name:?} runs here, but its socket listens: a connection starts it, and so does \
                     `systemctl start ratoon@{name}`; if it does not come up, `journalctl -u ratoon@{name}` says why"
                )),
                None => Err(format!("no instance {name:?} runs here; {}", others(&all))),
            }
        }
        [one] => Ok(Client::new(one)),
        // A dead socket of the system must not hide a living socket of the user.
        [first, ..] => {
            for path in &found {
                let client = Client::new(path);
                if client.clone().with_patience(TIMEOUT).summary().await.is_ok() {
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

/// The part of an error message that names the existing instances.
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

/// An instance, with its summary or the error.
pub(super) struct Probed {
    pub(super) found: Found,
    pub(super) summary: Result<SummaryMessage, Error>,
}

/// Requests the summaries of all these instances at the same time; the order stays.
pub(super) async fn probe(found: Vec<Found>) -> Vec<Probed> {
    let mut asking = JoinSet::new();
    for (number, found) in found.into_iter().enumerate() {
        asking.spawn(async move {
            let summary = Client::new(&found.control).with_patience(TIMEOUT).summary().await;
            (number, Probed { found, summary })
        });
    }
    let mut probed = asking.join_all().await;
    probed.sort_by_key(|(number, _)| *number);
    probed.into_iter().map(|(_, it)| it).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Backend, Summary, channel};
    use crate::control::http::serve_control;
    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::time::SystemTime;

    fn env(base: &Path) -> Env {
        Env {
            runtime_directory: None,
            xdg_runtime_dir: Some(base.join("session")),
            control: None,
            uid: rustix::process::geteuid().as_raw(),
            run: base.join("run"),
            tmp: base.join("tmp"),
        }
    }

    fn bind(directory: &Path) -> (UnixListener, PathBuf) {
        std::fs::create_dir_all(directory).unwrap();
        let path = directory.join(paths::SOCKET);
        (UnixListener::bind(&path).unwrap(), path)
    }

    /// An instance that answers as long as the returned values are held.
    fn instance(directory: &Path) -> (PathBuf, Backend, JoinSet<()>) {
        let (listener, path) = bind(directory);
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::UnixListener::from_std(listener).unwrap();
        let (handle, ends) = channel(Summary {
            instance: "any".into(),
            state: crate::pool::PoolState::Running,
            degraded: false,
            paused: false,
            idle: false,
            last_wake: None,
            status_text: "".into(),
            generation: 1,
            workers_configured: 1,
            workers_ready: 1,
            workers_min: 1,
            workers_max: 1,
            at_max: false,
            crashes: 0,
            started_at: SystemTime::UNIX_EPOCH,
            last_reload: None,
            canary: None,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_control(listener, handle, 0));
        (path, ends, tasks)
    }

    #[tokio::test]
    async fn without_a_name_the_only_one_that_answers_is_meant() {
        let base = tempfile::tempdir().unwrap();
        let env = env(base.path());
        assert!(only(&env).await.unwrap_err().contains("there is none"));

        drop(bind(&env.run.join("ratoon/dead")));
        let words = only(&env).await.unwrap_err();
        assert!(words.contains("do not answer: dead"), "{words}");

        let (path, _ends, _tasks) = instance(&base.path().join("session/ratoon/web"));
        assert_eq!(only(&env).await.unwrap().path(), path);

        let (_path, _ends, _tasks) = instance(&env.run.join("ratoon/api"));
        let words = only(&env).await.unwrap_err();
        assert_eq!(words, "which instance? these run: api, web");
    }

    #[tokio::test]
    async fn a_dead_socket_does_not_hide_a_living_one_of_the_same_name() {
        let base = tempfile::tempdir().unwrap();
        let env = env(base.path());
        drop(bind(&env.run.join("ratoon/web")));
        let (path, _ends, _tasks) = instance(&base.path().join("session/ratoon/web"));
        assert_eq!(named("web", &env).await.unwrap().path(), path);
        let words = named("api", &env).await.unwrap_err();
        assert_eq!(words, "no instance \"api\" runs here; these run: web");
    }

    #[tokio::test]
    async fn named_says_that_the_socket_of_a_stopped_instance_listens() {
        let base = tempfile::tempdir().unwrap();
        let env = env(base.path());
        let units = env.run.join("systemd/units");
        std::fs::create_dir_all(&units).unwrap();
        std::os::unix::fs::symlink("0123", units.join("invocation:ratoon@web.socket")).unwrap();
        let words = named("ratoon@web.service", &env).await.unwrap_err();
        assert!(words.starts_with("no instance \"web\" runs here, but its socket listens"), "{words}");
        let words = named("api", &env).await.unwrap_err();
        assert!(words.contains("there is none"), "{words}");
    }

    #[tokio::test]
    async fn root_does_not_mean_a_users_instance_without_saying_so() {
        let base = tempfile::tempdir().unwrap();
        let env = Env { uid: 0, xdg_runtime_dir: None, ..env(base.path()) };
        let (path, _ends, _tasks) = instance(&env.run.join("user/1000/ratoon/web"));
        assert!(only(&env).await.is_err());
        let words = named("web", &env).await.unwrap_err();
        assert!(words.contains(&format!("--control {}", path.display())), "{words}");
    }
}
