//! The worker's identity, from the environment variables that the master sets (docs/contract.md §4).
//!
//! Law: a variable that is absent or cannot be parsed is `None`; nothing here fails.

use std::path::PathBuf;
use std::sync::LazyLock;

static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity::read(|name| std::env::var(name).ok()));

/// This worker's identity and the resources that the master gave it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The instance's name (`RATOON_INSTANCE`); `None` when the program runs alone.
    pub instance: Option<String>,
    /// Number of the worker's generation (`RATOON_GENERATION`).
    pub generation: Option<u64>,
    /// The worker's id (`RATOON_WORKER`), never used twice in the instance's life.
    pub worker: Option<u64>,
    /// The worker's slot, from 0 (`RATOON_SLOT`).
    pub slot: Option<u32>,
    /// Path of the control socket (`RATOON_CONTROL`).
    pub control: Option<PathBuf>,
    /// Number of the inherited descriptor of the status page (`RATOON_SCOREBOARD`).
    pub scoreboard: Option<i32>,
}

/// This worker's identity, read from the environment once, at the first call.
pub fn identity() -> &'static Identity {
    &IDENTITY
}

impl Identity {
    fn read(var: impl Fn(&str) -> Option<String>) -> Self {
        fn number<T: std::str::FromStr>(text: Option<String>) -> Option<T> {
            text?.trim().parse().ok()
        }
        Identity {
            instance: var("RATOON_INSTANCE").filter(|name| !name.is_empty()),
            generation: number(var("RATOON_GENERATION")),
            worker: number(var("RATOON_WORKER")),
            slot: number(var("RATOON_SLOT")),
            control: var("RATOON_CONTROL").filter(|path| !path.is_empty()).map(PathBuf::from),
            scoreboard: number(var("RATOON_SCOREBOARD")).filter(|fd| *fd > 2),
        }
    }

    /// Whether the program runs alone: no Ratoon started this process.
    pub fn alone(&self) -> bool {
        self.instance.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_there_and_nothing_else() {
        let full = Identity::read(|name| {
            Some(
                match name {
                    "RATOON_INSTANCE" => "web",
                    "RATOON_GENERATION" => "7",
                    "RATOON_WORKER" => "42",
                    "RATOON_SLOT" => "3",
                    "RATOON_CONTROL" => "/run/ratoon/web/control",
                    "RATOON_SCOREBOARD" => "5",
                    other => panic!("asked for {other}"),
                }
                .to_owned(),
            )
        });
        assert_eq!(
            full,
            Identity {
                instance: Some("web".into()),
                generation: Some(7),
                worker: Some(42),
                slot: Some(3),
                control: Some("/run/ratoon/web/control".into()),
                scoreboard: Some(5),
            }
        );
        assert!(!full.alone());
        assert_eq!(Identity::read(|_| None), Identity::default());
        assert_eq!(Identity::read(|_| Some(String::new())), Identity::default());
        let nonsense = Identity::read(|_| Some("-1".into()));
        assert_eq!((nonsense.generation, nonsense.slot, nonsense.scoreboard), (None, None, None));
    }
}
