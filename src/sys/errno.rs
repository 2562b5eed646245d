//! Texts of errno(3) for users: those of the C library.
//!
//! Law: a text never has the number that `std` appends; "os error 13" adds nothing to "Permission denied".

/// Removes each ` (os error N)` from a text.
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
