//! `reload.on_rollback`: a command that is told of a reload that was not committed.

use serde_json::json;
use tokio::sync::oneshot;

use crate::api::{ReloadAnswer, Reply};
use crate::master::releases::hooks::Setting;
use crate::master::releases::kept::shown_directory;
use crate::master::releases::preparing::ReleaseStore;
use crate::pool::GenerationId;

impl ReleaseStore {
    /// Runs the command of the generation that serves, as a task. A failure is logged. Returns where the command waits for the answer to
    /// the reload, as a requester does; `None` when none is configured.
    pub fn run_on_rollback(&mut self, serving: GenerationId) -> Option<oneshot::Sender<Reply>> {
        let release = self.get(serving)?.clone();
        let argv = release.config.reload.on_rollback.clone()?;
        let (tell, told) = oneshot::channel();
        let (log, directory) = (self.log().clone(), self.source().directory.clone());
        let started = self.start_task(serving, move |_, job| {
            let Ok(Reply::Reload(answer)) = told.blocking_recv() else { return };
            let input = outcome_as_json(&answer, serving, &shown_directory(&release));
            let directory = release.config.worker.directory.clone().unwrap_or(directory);
            let path = std::env::var_os("PATH");
            let setting = Setting { config: &release.config, directory: &directory, variables: &[], path: path.as_deref() };
            if let Err(why) = setting.hook_with("reload.on_rollback", &argv, Some(&input), job) {
                log.warn(why.in_full());
            }
        });
        match started {
            Ok(_) => Some(tell),
            Err(why) => {
                self.log().warn(format!("reload.on_rollback is not run: {why}"));
                None
            }
        }
    }
}

fn outcome_as_json(answer: &ReloadAnswer, serving: GenerationId, directory: &str) -> String {
    let ReloadAnswer { generation, outcome, reason, detail, output, .. } = answer;
    let serving = json!({ "generation": serving, "directory": directory });
    let outcome = json!({
        "generation": generation, "result": outcome.as_str(), "reason": reason, "detail": detail, "output": output,
        "serving": serving,
    });
    format!("{outcome}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Outcome;

    #[test]
    fn outcome_tells_what_failed_and_what_serves() {
        let answer = ReloadAnswer {
            generation: 8,
            outcome: Outcome::RolledBack,
            reason: "worker 3 (slot 0): exit 1 before it was ready".to_owned(),
            detail: Some("KeyError".to_owned()),
            output: Vec::new(),
            worker: Some(3),
            warnings: Vec::new(),
            stopping: false,
        };
        let text = outcome_as_json(&answer, 7, "/srv/web/7");
        let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            (&read["generation"], &read["result"], &read["detail"]),
            (&8.into(), &"rolled-back".into(), &"KeyError".into())
        );
        assert_eq!(read["serving"], json!({ "generation": 7, "directory": "/srv/web/7" }));
    }
}
