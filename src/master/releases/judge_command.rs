//! `reload.judge_command`: a command that is asked for a verdict on a canary.

use serde_json::json;

use crate::master::releases::hooks::Setting;
use crate::master::releases::preparing::ReleaseStore;
use crate::master::task_result::TaskResult;
use crate::pool::{CanaryView, CommandVerdict, Figures, GenerationId, Reason};

impl ReleaseStore {
    /// Asks the command of the canary's generation, as a task, about this step, from 0. The answer comes as a task's result.
    ///
    /// # Errors
    /// The command cannot be asked, and why.
    pub fn ask_judge_command(&mut self, serving: GenerationId, canary: &CanaryView, step: usize) -> Result<(), String> {
        let number = canary.generation;
        let release = self.get(number).cloned().ok_or("the release of the canary is gone")?;
        let argv = release.config.reload.judge_command.clone().ok_or("there is no reload.judge_command")?;
        let (results, directory) = (self.results().clone(), self.source().directory.clone());
        let input = figures_as_json(serving, canary);
        let started = self.start_task(serving, move |_, job| {
            let directory = release.config.worker.directory.clone().unwrap_or(directory);
            let path = std::env::var_os("PATH");
            let variables = &release.variables;
            let setting = Setting { config: &release.config, directory: &directory, variables, path: path.as_deref() };
            let verdict = verdict(setting.ended_with("reload.judge_command", &argv, Some(&input), job));
            let _ = results.send(TaskResult::Judged(number, step, verdict));
        });
        self.keep_judging(Some(started?));
        Ok(())
    }
}

fn verdict(ended: Result<(), (Option<i32>, Reason)>) -> CommandVerdict {
    match ended {
        Ok(()) => CommandVerdict::GoOn,
        Err((Some(1), reason)) => CommandVerdict::RollBack(reason),
        Err((_, reason)) => CommandVerdict::Unclear(reason),
    }
}

/// Standard input of the command: both generations, with `null` in place of figures that are not known.
fn figures_as_json(serving: GenerationId, canary: &CanaryView) -> String {
    let side = |generation: GenerationId, figures: Option<Figures>| {
        json!({
            "generation": generation,
            "requests": figures.map(|figures| figures.requests),
            "failed": figures.map(|figures| figures.failed),
            "answer_usec": figures.and_then(|figures| figures.times.typical_usec()),
        })
    };
    let old = side(serving, canary.figures.map(|comparison| comparison.old));
    let new = side(canary.generation, canary.figures.map(|comparison| comparison.new));
    let document = json!({ "generation": canary.generation, "step": canary.step, "old": old, "new": new });
    format!("{document}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{AnswerTimes, Comparison};

    #[test]
    fn verdict_is_the_exit_status() {
        let failed = |status| verdict(Err((status, Reason::from("why"))));
        assert_eq!(verdict(Ok(())), CommandVerdict::GoOn);
        assert_eq!(failed(Some(1)), CommandVerdict::RollBack("why".into()));
        assert_eq!(
            (failed(Some(2)), failed(None)),
            (CommandVerdict::Unclear("why".into()), CommandVerdict::Unclear("why".into()))
        );
    }

    #[test]
    fn command_reads_both_generations() {
        let times = AnswerTimes { count: 3, logs: 3 * 160, squares: 3 * 160 * 160 };
        let old = Figures { times, ..Figures::counted(3500, 2) };
        let canary = CanaryView {
            generation: 8,
            step: 1,
            steps: 2,
            ready: 1,
            size: 1,
            target: 8,
            waits: true,
            manual: false,
            asks_command: true,
            left: None,
            figures: Some(Comparison { old, new: Figures::counted(500, 61) }),
            verdict: None,
        };
        let read = |canary: &CanaryView| serde_json::from_str::<serde_json::Value>(&figures_as_json(7, canary)).expect("JSON");
        let wanted = json!({
            "generation": 8,
            "step": 1,
            "old": { "generation": 7, "requests": 3500, "failed": 2, "answer_usec": 1024 },
            "new": { "generation": 8, "requests": 500, "failed": 61, "answer_usec": null },
        });
        assert_eq!(read(&canary), wanted);
        assert!(read(&CanaryView { figures: None, ..canary.clone() })["new"]["requests"].is_null());
    }
}
