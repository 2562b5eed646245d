//! `$RATOON_SLOT`, `$RATOON_WORKER` and `$RATOON_GENERATION` in the arguments and variables of a worker.
//!
//! Law: only these three names are replaced, as `$NAME` or `${NAME}`; a doubled dollar keeps one. All other text stays unchanged,
//! so that text for a shell (`$$`, `$HOME`) keeps its meaning.

use std::borrow::Cow;
use std::ffi::CString;

use crate::config::Worker;
use crate::master::releases::adapter::VARIABLES;
use crate::pool::{GenerationId, Slot, WorkerId};
use crate::sys::spawn::Plan;

/// The values for one worker.
#[derive(Clone, Copy, Debug)]
pub struct Values {
    /// Replaces `$RATOON_SLOT`.
    pub slot: Slot,
    /// Replaces `$RATOON_WORKER`.
    pub worker: WorkerId,
    /// Replaces `$RATOON_GENERATION`.
    pub generation: GenerationId,
}

/// A worker's own arguments and variables; `None`: those of its plan apply.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// Replaces [`Plan::argv`].
    pub argv: Option<Vec<CString>>,
    /// Replaces [`Plan::env`].
    pub env: Option<Vec<CString>>,
}

impl Values {
    /// Expands the arguments of `worker.command` after the program, and the values of `worker.environment`.
    pub fn expand(&self, config: &Worker, plan: &Plan) -> Expanded {
        let mut expanded = Expanded::default();
        for (at, word) in plan.argv.iter().enumerate().skip(1) {
            if let Cow::Owned(text) = self.text(word.as_bytes())
                && let Ok(text) = CString::new(text)
            {
                expanded.argv.get_or_insert_with(|| plan.argv.clone())[at] = text;
            }
        }
        for (name, value) in config.environment.iter().chain(&config.environment_override) {
            let Cow::Owned(value_of_worker) = self.text(value.as_bytes()) else { continue };
            let (pinned, prefix) = (format!("{name}={value}"), format!("{name}="));
            // An environment file that also sets the variable wins, so the entry differs and is left alone.
            // An adapter appends to the value.
            let appended = VARIABLES.contains(&name.as_str());
            let is_it = |entry: &[u8]| entry == pinned.as_bytes() || appended && entry.starts_with(pinned.as_bytes());
            if let Some(at) = plan.env.iter().position(|entry| is_it(entry.as_bytes()))
                && let Ok(entry) =
                    CString::new([prefix.as_bytes(), &value_of_worker, &plan.env[at].as_bytes()[pinned.len()..]].concat())
            {
                expanded.env.get_or_insert_with(|| plan.env.clone())[at] = entry;
            }
        }
        expanded
    }

    /// Expands one text.
    fn text<'t>(&self, text: &'t [u8]) -> Cow<'t, [u8]> {
        let mut expanded = Vec::new();
        let (mut copied, mut at) = (0, 0);
        while let Some(found) = text[at..].iter().position(|byte| *byte == b'$') {
            let first = at + found;
            let dollars = text[first..].iter().take_while(|byte| **byte == b'$').count();
            at = first + dollars;
            let Some((value, length)) = self.value(&text[at..]) else { continue };
            // Two dollars stand for one.
            expanded.extend_from_slice(&text[copied..first + dollars / 2]);
            copied = at;
            at += length;
            if dollars % 2 == 1 {
                expanded.extend_from_slice(value.to_string().as_bytes());
                copied = at;
            }
        }
        if copied == 0 {
            return Cow::Borrowed(text);
        }
        expanded.extend_from_slice(&text[copied..]);
        Cow::Owned(expanded)
    }

    /// The value of a name at the beginning of a text, and the length of the name with its braces.
    fn value(&self, text: &[u8]) -> Option<(u64, usize)> {
        let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let braced = text.first() == Some(&b'{');
        let name = &text[usize::from(braced)..];
        let name = &name[..name.iter().position(|byte| !is_of_name(byte)).unwrap_or(name.len())];
        if braced && text.get(name.len() + 1) != Some(&b'}') {
            return None;
        }
        let value = match name {
            b"RATOON_SLOT" => self.slot.into(),
            b"RATOON_WORKER" => self.worker,
            b"RATOON_GENERATION" => self.generation,
            _ => return None,
        };
        Some((value, name.len() + 2 * usize::from(braced)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::sys::testing::shell;

    const VALUES: Values = Values { slot: 3, worker: 17, generation: 5 };

    fn text(text: &str) -> String {
        String::from_utf8(VALUES.text(text.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn text_has_the_values_of_the_worker() {
        for (written, wanted) in [
            ("$RATOON_SLOT", "3"),
            ("--port=80${RATOON_SLOT}", "--port=803"),
            ("$RATOON_GENERATION/${RATOON_WORKER}.sock", "5/17.sock"),
            ("a$RATOON_SLOT$RATOON_SLOT-b", "a33-b"),
            ("ü$RATOON_SLOT/ü", "ü3/ü"),
        ] {
            assert_eq!(text(written), wanted, "{written}");
        }
    }

    #[test]
    fn text_without_a_known_name_is_left_as_it_is() {
        for written in [
            "",
            "$",
            "$$",
            "echo $$ $HOME ${HOME} $1",
            "RATOON_SLOT",
            "$RATOON_SLOTS",
            "$RATOON_SLOT_1",
            "${RATOON_SLOT",
            "${RATOON_SLOT:-0}",
            "$ RATOON_SLOT",
            "$ratoon_slot",
            "$RATOON_INSTANCE",
            "%i",
        ] {
            assert!(matches!(VALUES.text(written.as_bytes()), Cow::Borrowed(_)), "{written}");
        }
    }

    #[test]
    fn two_dollars_before_a_known_name_are_one() {
        for (written, wanted) in [
            ("$$RATOON_SLOT", "$RATOON_SLOT"),
            ("$${RATOON_SLOT}", "${RATOON_SLOT}"),
            ("$$$RATOON_SLOT", "$3"),
            ("$$$$RATOON_SLOT", "$$RATOON_SLOT"),
            ("$$.$RATOON_SLOT", "$$.3"),
            ("x $$RATOON_SLOT $RATOON_SLOT", "x $RATOON_SLOT 3"),
        ] {
            assert_eq!(text(written), wanted, "{written}");
        }
    }

    #[test]
    fn arguments_and_variables_of_the_configuration_are_expanded() {
        let mut config = Config::for_command(Vec::new()).worker;
        let variables = [("PORT", "80$RATOON_SLOT"), ("OVER", "$RATOON_SLOT"), ("RUBYOPT", "-w$RATOON_SLOT")];
        config.environment = variables.map(|(name, value)| (name.into(), value.into())).into();
        config.environment_override = vec![("ID".into(), "$RATOON_WORKER".into())];
        let mut plan = shell("echo $RATOON_GENERATION $$");
        plan.argv[0] = c"$RATOON_SLOT".to_owned();
        // The configuration sets the first two and `OVER`, which a file overrides; the others are the master's.
        let env = [
            "PORT=80$RATOON_SLOT",
            "ID=$RATOON_WORKER",
            "HOME=/",
            "OVER=by $RATOON_SLOT",
            "OWN=$RATOON_SLOT",
            "RUBYOPT=-w$RATOON_SLOT -r$x",
        ];
        plan.env = env.iter().map(|entry| CString::new(*entry).unwrap()).collect();
        let texts = |entries: Option<Vec<CString>>| -> Vec<String> {
            entries.unwrap().into_iter().map(|entry| entry.into_string().unwrap()).collect()
        };
        let expanded = VALUES.expand(&config, &plan);
        assert_eq!(texts(expanded.argv), ["$RATOON_SLOT", "-c", "echo 5 $$"], "the program is pinned for all workers");
        let wanted = ["PORT=803", "ID=17", "HOME=/", "OVER=by $RATOON_SLOT", "OWN=$RATOON_SLOT", "RUBYOPT=-w3 -r$x"];
        assert_eq!(texts(expanded.env), wanted, "the last one has the addition of an adapter");
        config.environment.clear();
        config.environment_override.clear();
        assert_eq!(VALUES.expand(&config, &shell("exec sleep 1")), Expanded::default());
    }
}
