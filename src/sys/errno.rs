//! What users read of errno(3): the C library's words.
//!
//! Law: no number that `std` puts behind them; nobody learns from "os error 13" what "Permission denied" has not said.

/// The text without each ` (os error N)` in it.
///
/// ```
/// let text = format!("no bus ({})", std::io::Error::from_raw_os_error(2));
/// assert_eq!(ratoon::sys::errno::plain(&text), "no bus (No such file or directory)");
/// ```
pub fn plain(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(')') {
            Some((number, rest)) if number.bytes().all(|it| it.is_ascii_digit()) => plain += rest,
            _ => plain.extend([" (os error ", part]),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn only_the_number_goes() {
        assert_eq!(plain("web: Denied (os error 13); (os error 2), and on"), "web: Denied;, and on");
        for same in ["", "plain", "a (os error x) b", "an end (os error 1", "Größe (os error 1é)"] {
            assert_eq!(plain(same), same);
        }
    }
}
