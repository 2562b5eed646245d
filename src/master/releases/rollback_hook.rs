//! `reload.on_rollback`: a command that is told of a reload that was not committed.

use serde_json::json;

use crate::master::releases::hooks::Setting;
use crate::master::releases::kept::shown_directory;
use crate::master::releases::preparing::ReleaseStore;
use crate::pool::{GenerationId, Outcome, Reason};

impl ReleaseStore {
    /// Runs the command of the generation that serves, as a task. A failure is logged.
    pub fn run_on_rollback(&mut self, number: GenerationId, outcome: Outcome, reason: &Reason, serving: GenerationId) {
        let Some(release) = self.get(serving).cloned() else { return };
        let Some(argv) = release.config.reload.on_rollback.clone() else { return };
        let input = outcome_as_json(number, outcome, reason, serving, &shown_directory(&release));
        let (log, directory) = (self.log().clone(), self.source().directory.clone());
        let started = self.start_task(serving, move |_, job| {
            let directory = release.config.worker.directory.clone().unwrap_or(directory);
            let path = std::env::var_os("PATH");
            let setting = Setting { config: &release.config, directory: &directory, variables: &[], path: path.as_deref() };
            if let Err(why) = setting.hook_with("reload.on_rollback", &argv, Some(&input), job) {
                log.warn(why.in_full());
            }
        });
        if let Err(why) = started {
            self.log().warn(format!("reload.on_rollback is not run: {why}"));
        }
    }
}

fn outcome_as_json(number: GenerationId, outcome: Outcome, reason: &Reason, serving: GenerationId, directory: &str) -> String {
    let Reason { cause, detail, output, worker: _ } = reason;
    let serving = json!({ "generation": serving, "directory": directory });
    let outcome = json!({
        "generation": number, "result": outcome.as_str(), "reason": cause, "detail": detail, "output": output, "serving": serving,
    });
    format!("{outcome}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcome_tells_what_failed_and_what_serves() {
        let reason =
            Reason { detail: Some("KeyError".to_owned()), ..Reason::from("worker 3 (slot 0): exit 1 before it was ready") };
        let text = outcome_as_json(8, Outcome::RolledBack, &reason, 7, "/srv/web/7");
        let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            (&read["generation"], &read["result"], &read["detail"]),
            (&8.into(), &"rolled-back".into(), &"KeyError".into())
        );
        assert_eq!(read["serving"], json!({ "generation": 7, "directory": "/srv/web/7" }));
    }
}
