//! Makes foreign text fit for one line of a log or a terminal.
//!
//! Law: the result is valid UTF-8, has no control character but the tab, and has at most `max` bytes.

/// One line of foreign bytes as text: invalid UTF-8 becomes U+FFFD, terminal colour sequences are removed, and other control
/// characters become spaces. At most `max` bytes remain; a cut is at a character's end, and is marked with `…`.
pub fn one_line(bytes: &[u8], max: usize) -> String {
    // `max` bytes plus room for colour sequences are enough: do not read the rest.
    let bytes = &bytes[..bytes.len().min(max.saturating_mul(4).saturating_add(64))];
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len().min(max));
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' && chars.peek() == Some(&'[') {
            chars.next();
            // A control sequence ends with its first character from '@' to '~'.
            while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            continue;
        }
        let c = if c.is_control() && c != '\t' { ' ' } else { c };
        if out.len() + c.len_utf8() > max {
            cut(&mut out, max);
            return out;
        }
        out.push(c);
    }
    let end = out.trim_end().len();
    out.truncate(end);
    out
}

fn cut(text: &mut String, max: usize) {
    let mut end = max.saturating_sub('…'.len_utf8()).min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    if max >= '…'.len_utf8() {
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn plain_text_stays() {
        assert_eq!(one_line(b"GET /\tok \xc3\xa9", 100), "GET /\tok é");
    }

    #[test]
    fn colours_go_and_control_characters_become_spaces() {
        assert_eq!(one_line(b"\x1b[31;1mred\x1b[0m\x07 a\r\nb\x1b]0;title", 100), "red  a  b ]0;title");
        assert_eq!(one_line(b"\x1b[31", 100), "");
        assert_eq!(one_line("c1 \u{9b}x".as_bytes(), 100), "c1  x");
    }

    #[test]
    fn invalid_utf8_is_shown_as_such() {
        assert_eq!(one_line(b"a\xff\xc3", 100), "a\u{fffd}\u{fffd}");
    }

    #[test]
    fn length_is_bounded_at_a_character() {
        let line = one_line("ééééé".as_bytes(), 8);
        assert_eq!(line, "éé…");
        assert_eq!(one_line(b"abc", 3), "abc");
        assert_eq!(one_line(b"abcd", 3), "…");
        assert_eq!(one_line(b"abcd", 0), "");
        assert!(one_line(&vec![b'x'; 1 << 20], 1024).len() <= 1024);
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_keeps_its_law(bytes: Vec<u8>, max in 0usize..64) {
            let line = one_line(&bytes, max);
            proptest::prop_assert!(line.len() <= max);
            proptest::prop_assert!(!line.chars().any(|c| c.is_control() && c != '\t'));
        }
    }
}
