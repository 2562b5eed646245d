//! The verdict of a command (`reload.judge_command`): at the end of each step of a canary it is asked with the figures of both generations.
//!
//! Law: the command can only stop a canary, not save one that `reload.judge` has found to fail. Without a clear answer it is asked again
//! [`ATTEMPTS`] times in all, and then the reload is rolled back.

use std::time::Duration;

use super::Pool;
use super::ids::GenerationId;
use super::reason::Reason;
use super::reload_state::Stage;
use super::timers::Key;
use super::vocabulary::CommandVerdict;
use super::vocabulary::{Action, Kind, Outcome};

/// How often a command without a clear answer is asked in one step.
const ATTEMPTS: u32 = 3;
/// The pause before it is asked again.
const PAUSE: Duration = Duration::from_secs(10);
/// The time in which an answer must come; longer than a command may run.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);

/// The longest time from the end of a step to the verdict.
pub const JUDGE_COMMAND_LIMIT: Duration = Duration::from_secs(ATTEMPTS as u64 * (ANSWER_WITHIN.as_secs() + PAUSE.as_secs()));

impl Pool {
    /// Asks the command of the canary's generation, if it has one. `false`: it has none.
    pub(super) fn ask_judge_command(&mut self) -> bool {
        let Some(reload) = self.reload.as_mut() else { return false };
        let (number, canary) = (reload.number, reload.canary.as_mut());
        let has_one = self.generations.get(&number).is_some_and(|candidate| candidate.settings.steps.judge_command);
        let Some(canary) = canary.filter(|_| has_one) else { return false };
        canary.asked += 1;
        canary.is_asked = true;
        let step = canary.step;
        self.timers.set(Key::Step, self.after(ANSWER_WITHIN));
        self.act(Action::Judge(number, step));
        true
    }

    /// The command has not answered in time. `false`: it is not asked.
    pub(super) fn judge_command_is_late(&mut self) -> bool {
        let asked = self.reload.as_ref().and_then(|reload| Some((reload.number, reload.canary?)));
        let Some((number, canary)) = asked.filter(|(_, canary)| canary.is_asked) else { return false };
        self.judged_by_command(number, canary.step, CommandVerdict::Unclear("reload.judge_command does not answer".into()));
        true
    }

    /// The command has answered for this step.
    pub(super) fn judged_by_command(&mut self, number: GenerationId, step: usize, verdict: CommandVerdict) {
        let reload = self.reload.as_mut().filter(|reload| reload.number == number && reload.stage == Stage::Canary);
        let canary = reload.and_then(|reload| reload.canary.as_mut()).filter(|canary| canary.step == step && canary.is_asked);
        let Some(canary) = canary else {
            // The canary has ended, or was promoted, meanwhile.
            return;
        };
        canary.is_asked = false;
        match (verdict, canary.asked) {
            (CommandVerdict::GoOn, _) => self.next_step(),
            (CommandVerdict::RollBack(reason), _) => self.stop_canary(reason),
            (CommandVerdict::Unclear(mut reason), ATTEMPTS..) => {
                reason.cause = format!("no verdict in {ATTEMPTS} attempts: {}", reason.cause);
                self.stop_canary(reason);
            }
            (CommandVerdict::Unclear(reason), _) => {
                self.timers.set(Key::Step, self.after(PAUSE));
                let message = format!("canary of generation {number}: no verdict, asking again: {}", reason.in_full());
                self.log(Kind::Warning, message, Some(number), None);
            }
        }
    }

    fn stop_canary(&mut self, mut reason: Reason) {
        reason.cause = format!("the canary failed: {}", reason.cause);
        self.rollback(Outcome::RolledBack, reason);
    }
}
