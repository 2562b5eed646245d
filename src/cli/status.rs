//! `ratoon status [NAME] [--json]`: prints the state of the pool on one screen, or the whole document.

use std::process::ExitCode;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::de::IgnoredAny;

use super::screen::{Screen, clean, complain, is_harmless, say};
use super::status_view::{Clock, view};
use super::target::Target;
use crate::status::tree::Document;

#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    target: Target,
    /// Print the whole status document
    #[arg(long)]
    pub(super) json: bool,
    /// Print one line, and exit 0 only when the pool is healthy
    #[arg(long)]
    check: bool,
}

/// Exit status 0 while at least one worker is ready, 1 when none is; with `--check` 0 only when the pool is healthy.
pub(super) async fn run(options: Options) -> Result<ExitCode, String> {
    let client = options.target.client().await?;
    let ready = if options.json {
        let text = client.status_text().await.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&text);
        if serde_json::from_str::<IgnoredAny>(&text).is_err() {
            return Err(format!("{} did not answer with a status document", client.path().display()));
        }
        say(&indent(&text));
        let well = |document: Document| if options.check { trouble(&document).is_none() } else { document.workers_ready > 0 };
        serde_json::from_str::<Document>(&text).is_ok_and(well)
    } else if options.check {
        let document = client.status().await.map_err(|error| error.to_string())?;
        let trouble = trouble(&document);
        say(&format!("{} {}: {}\n", clean(&document.instance), trouble.unwrap_or("healthy"), clean(&document.status_text)));
        trouble.is_none()
    } else {
        let document = client.status().await.map_err(|error| error.to_string())?;
        let own = env!("CARGO_PKG_VERSION");
        if !document.version.is_empty() && document.version != own {
            complain(&format!(
                "ratoon: the master runs version {}, this program is {own}: `ratoon upgrade` lets it run what is installed now",
                clean(&document.version)
            ));
        }
        say(&view(&document, &Clock { now: Timestamp::now(), zone: TimeZone::system() }, &Screen::of_stdout()));
        document.workers_ready > 0 || document.idle && !document.paused
    };
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The reason why a pool is not healthy, in a word or two; `None` for a healthy pool.
fn trouble(document: &Document) -> Option<&'static str> {
    if document.paused {
        Some("paused")
    } else if document.generation == 0 || document.workers_ready == 0 && !document.idle {
        Some("not ready")
    } else if document.degraded {
        Some("degraded")
    } else if document.watch.as_ref().is_some_and(|watch| watch.state == "undo-failed") {
        Some("undo failed")
    } else if document.last_reload.as_ref().is_some_and(|last| last.result == "undone") {
        Some("undone")
    } else {
        None
    }
}

/// Indents JSON for reading. The content and order of the master stay, with fields that this version does not know; only characters
/// that a terminal would interpret are escaped. `text` must be valid JSON.
pub(super) fn indent(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let mut characters = text.trim().chars().peekable();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    while let Some(character) = characters.next() {
        if in_string {
            match u32::from(character) {
                // JSON does not escape control characters beyond ASCII, but a terminal would interpret them.
                code if !is_harmless(character) && code <= 0xffff => out += &format!("\\u{code:04x}"),
                _ => out.push(character),
            }
            match character {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match character {
            '"' => {
                in_string = true;
                out.push(character);
            }
            '{' | '[' => {
                out.push(character);
                while characters.next_if(|next| next.is_ascii_whitespace()).is_some() {}
                match characters.next_if(|next| matches!(next, '}' | ']')) {
                    Some(close) => out.push(close),
                    None => {
                        depth += 1;
                        line(&mut out, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(character);
            }
            ',' => {
                out.push(character);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            blank if blank.is_ascii_whitespace() => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_tells_what_is_wrong() {
        let ready = Document { generation: 3, workers_ready: 1, workers_configured: 2, ..Document::default() };
        assert_eq!(trouble(&ready), None, "one of two is being replaced");
        assert_eq!(trouble(&Document::default()), Some("not ready"));
        assert_eq!(trouble(&Document { idle: true, workers_ready: 0, ..ready.clone() }), None);
        assert_eq!(trouble(&Document { idle: true, degraded: true, workers_ready: 0, ..ready.clone() }), Some("degraded"));
        assert_eq!(trouble(&Document { paused: true, workers_ready: 0, ..ready.clone() }), Some("paused"));
        assert_eq!(trouble(&Document { workers_ready: 0, ..ready.clone() }), Some("not ready"));
        assert_eq!(trouble(&Document { generation: 0, ..ready.clone() }), Some("not ready"));
        assert_eq!(trouble(&Document { degraded: true, ..ready.clone() }), Some("degraded"));
        let last = |result: &str| Some(crate::status::tree::LastReload { result: result.into(), ..Default::default() });
        assert_eq!(trouble(&Document { last_reload: last("undone"), ..ready.clone() }), Some("undone"));
        assert_eq!(trouble(&Document { last_reload: last("rolled-back"), ..ready }), None, "the old generation serves");
    }

    #[test]
    fn indenting_changes_nothing_but_blanks() {
        let text = r#"{"z":1,"a":[],"b":{ },"s":"x, \"y\": {[\\","list":[1,2.50,null,{"k":-1e3}]}"#;
        let shown = indent(text);
        insta::assert_snapshot!(shown, @r#"
        {
          "z": 1,
          "a": [],
          "b": {},
          "s": "x, \"y\": {[\\",
          "list": [
            1,
            2.50,
            null,
            {
              "k": -1e3
            }
          ]
        }
        "#);
        assert_eq!(indent("[\"\u{9b}31m\u{202e}\"]"), "[\n  \"\\u009b31m\\u202e\"\n]");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&shown), value(text));
        assert_eq!(value(&shown), value(&indent(&shown)));
    }
}
