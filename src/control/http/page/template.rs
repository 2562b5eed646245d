//! Fills in the frame of the page: each `{name}` in it is replaced once, by a text or by markup.
//!
//! Law: a text is escaped here and nowhere else, and what was filled in is not looked at again: no text of a worker becomes markup,
//! nor a name in the frame.

use std::collections::HashMap;
use std::fmt;

/// The value that replaces a name in the frame.
pub(super) enum Value {
    /// A text of whatever origin.
    Text(String),
    /// Markup of our own, in which all texts are escaped.
    Markup(String),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

/// The values by name.
pub(super) type Values = HashMap<&'static str, Value>;

/// A text as it may stand in an element or in a quoted attribute.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(['&', '<', '>', '"', '\'', '\0']) {
            let (plain, special) = rest.split_at(at);
            out.write_str(plain)?;
            let mut characters = special.chars();
            out.write_str(match characters.next() {
                Some('&') => "&amp;",
                Some('<') => "&lt;",
                Some('>') => "&gt;",
                Some('"') => "&quot;",
                Some('\'') => "&#39;",
                // HTML has no reference for it.
                _ => "\u{fffd}",
            })?;
            rest = characters.as_str();
        }
        out.write_str(rest)
    }
}

/// The frame with each `{name}` replaced; a name without a value is replaced by nothing.
pub(super) fn fill(frame: &str, values: &Values) -> String {
    let mut page = String::with_capacity(frame.len());
    let mut rest = frame;
    while let Some((before, after)) = rest.split_once('{') {
        page += before;
        let Some((name, after)) = after.split_once('}').filter(|(name, _)| is_name(name)) else {
            page.push('{');
            rest = after;
            continue;
        };
        match values.get(name) {
            Some(Value::Text(text)) => page += &Escaped(text).to_string(),
            Some(Value::Markup(markup)) => page += markup,
            None => {}
        }
        rest = after;
    }
    page + rest
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fill_escapes_texts_and_fills_once() {
        let mut values = Values::new();
        values.insert("text", "<img src=x onerror='a'>&\"{markup}\0".into());
        values.insert("markup", Value::Markup("<b>{text}</b>".to_owned()));
        let page = fill("{ {} {text} {markup} {absent}{A}.", &values);
        let text = "&lt;img src=x onerror=&#39;a&#39;&gt;&amp;&quot;{markup}\u{fffd}";
        assert_eq!(page, format!("{{ {{}} {text} <b>{{text}}</b> {{A}}."));
    }

    #[test]
    fn fill_takes_any_text() {
        for text in ["", "}", "{", "{{", "{a", "é{x}", "{é}"] {
            let filled = fill(text, &Values::new());
            assert!(filled.len() <= text.len(), "{text}: {filled}");
        }
    }
}
