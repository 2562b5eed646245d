//! The committed releases that can be gone back to, and the way back: `ratoon undo`.
//!
//! Law: an undo is a reload with all its checks, whose release is that of an earlier committed generation, from its pin. The pins of the
//! last `reload.keep` committed releases are kept, whether or not workers of them live.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Pool;
use super::ids::{GenerationId, RequesterId};
use super::reason::Reason;
use super::requesters::Requesters;
use super::vocabulary::{Action, Answer, Kind, Outcome, Purpose};

/// A committed generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The generation.
    pub generation: GenerationId,
    /// The generation for which its release was read: another one after an undo.
    pub release: GenerationId,
    /// How it ended; `None` while it is the current one.
    pub ended: Option<Succession>,
}

/// How a committed generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Succession {
    /// A newer release was committed.
    Replaced,
    /// An earlier release was committed again.
    Undone,
}

impl Succession {
    /// The word in the status document.
    pub fn as_str(self) -> &'static str {
        match self {
            Succession::Replaced => "replaced",
            Succession::Undone => "undone",
        }
    }
}

impl Pool {
    /// The committed generations whose releases are kept, oldest first. The last one is the current generation.
    pub fn history(&self) -> &VecDeque<Committed> {
        &self.history
    }

    /// The generation whose release this generation runs; another one after an undo.
    pub fn release_of(&self, number: GenerationId) -> GenerationId {
        self.generations.get(&number).map_or(number, |home| home.release)
    }

    /// `generation 9`, or `generation 9 (release of generation 7)` after an undo.
    pub fn named(&self, number: GenerationId) -> String {
        match self.release_of(number) {
            release if release == number => format!("generation {number}"),
            release => format!("generation {number} (release of generation {release})"),
        }
    }

    /// Whether a generation, or the history of releases, still refers to this generation's release.
    pub fn refers_to(&self, number: GenerationId) -> bool {
        let generations = self.generations.iter().map(|(number, home)| (*number, home.release));
        let kept = self.history.iter().map(|committed| (committed.generation, committed.release));
        generations.chain(kept).any(|(generation, release)| generation == number || release == number)
    }

    /// Whether the release of this generation is kept although the generation has no worker.
    pub(super) fn keeps(&self, number: GenerationId) -> bool {
        self.history.iter().any(|committed| committed.generation == number)
    }

    /// Adds the current generation, which is committed, and gives up the releases that are too old.
    pub(super) fn note_commit(&mut self, is_undo: bool) {
        let Some(home) = self.generations.get(&self.current) else { return };
        let (generation, release, keep) = (self.current, home.release, home.settings.keep.max(1) as usize);
        if let Some(before) = self.history.back_mut() {
            before.ended = Some(if is_undo { Succession::Undone } else { Succession::Replaced });
        }
        let mut given_up: Vec<GenerationId> = Vec::new();
        // The same release under its former number.
        given_up.extend(self.history.iter().filter(|committed| committed.release == release).map(|it| it.generation));
        self.history.retain(|committed| committed.release != release);
        self.history.push_back(Committed { generation, release, ended: None });
        while self.history.len() > keep {
            given_up.extend(self.history.pop_front().map(|committed| committed.generation));
        }
        for number in given_up.into_iter().filter(|number| !self.generations.contains_key(number)).collect::<Vec<_>>() {
            self.act(Action::Release(number));
        }
    }

    /// Goes back to the release of `wanted`, or of the last committed generation before the current one that was not undone.
    pub(super) fn ask_undo(&mut self, wanted: Option<GenerationId>, requester: Option<RequesterId>) {
        match self.undo_target(wanted) {
            Ok(target) => {
                let mut requesters = Requesters::default();
                requesters.join(requester);
                self.begin_undo(target, requesters);
            }
            Err(why) => {
                self.log(Kind::Warning, format!("no undo: {why}"), None, None);
                self.answer(requester, Answer::Reload(0, Outcome::Refused, Reason::from(why)));
            }
        }
    }

    pub(super) fn begin_undo(&mut self, target: GenerationId, requesters: Requesters) {
        self.last_number += 1;
        let number = self.last_number;
        let release = self.history.iter().find(|it| it.generation == target).map_or(target, |it| it.release);
        self.failure_text = None;
        let message = format!("going back to the release of generation {release}, as generation {number}");
        self.log(Kind::ReloadStarted, message, Some(number), None);
        self.act(Action::ReloadStarted(number, requesters.waiting.first().copied()));
        self.prepare(number, Purpose::Undo { target, release }, requesters);
    }

    pub(super) fn undo_target(&self, wanted: Option<GenerationId>) -> Result<GenerationId, String> {
        if self.stopping.is_some() {
            return Err("the instance is stopping".to_owned());
        }
        if self.pause.is_some() {
            return Err(super::pause::REFUSAL.to_owned());
        }
        if let Some(reload) = &self.reload {
            return Err(match reload.purpose {
                Purpose::Probe => "a release is probed; ask again at the end of that".to_owned(),
                Purpose::Reload | Purpose::Undo { .. } | Purpose::LastGood => {
                    format!("a reload to generation {} is under way; `ratoon abort` ends it", reload.number)
                }
            });
        }
        let earlier = || self.history.iter().filter(|committed| committed.generation != self.current);
        let Some(wanted) = wanted else {
            let target = earlier().rfind(|committed| committed.ended != Some(Succession::Undone));
            return target.map(|committed| committed.generation).ok_or_else(|| match earlier().next() {
                None => "there is no earlier release: nothing else was committed, or reload.keep has let it go".to_owned(),
                Some(_) => format!("every earlier release was undone; name one of them: {}", numbers(earlier())),
            });
        };
        if wanted == self.current {
            return Err(format!("generation {wanted} is the one that serves"));
        }
        match earlier().find(|committed| committed.generation == wanted) {
            Some(committed) => Ok(committed.generation),
            None if earlier().next().is_none() => Err(format!("the release of generation {wanted} is not kept, and no other")),
            None => Err(format!("the release of generation {wanted} is not kept; there are {}", numbers(earlier()))),
        }
    }
}

fn numbers<'a>(of: impl Iterator<Item = &'a Committed>) -> String {
    of.map(|committed| committed.generation.to_string()).collect::<Vec<_>>().join(", ")
}
