//! Names of the descriptors that a master keeps in systemd's store: `ratoon-KIND-NUMBER`.
//!
//! Law: the name alone distinguishes a stored descriptor from a socket of a socket unit. systemd passes both in one list, and a
//! socket's name may begin with `ratoon-`, too: `FileDescriptorName=` is the instance's name, and an instance may be called `ratoon-web`.

/// The prefix of each name.
pub const PREFIX: &str = "ratoon-";

/// Kinds that are followed by one or more numbers, each behind a hyphen.
const NUMBERED: [&str; 11] =
    ["state", "bundle", "listener", "process", "notify", "page", "output", "program", "script", "directory", "slot"];

/// The only kind without a number.
const WORDS: &str = "words";

/// Whether this is a valid name of a stored descriptor.
pub fn is_stored(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    match rest.split_once('-') {
        Some((kind, numbers)) => NUMBERED.contains(&kind) && numbers.split('-').all(is_number),
        None => rest == WORDS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_stored_tells_stored_names_from_those_of_sockets() {
        for name in ["ratoon-state-0", "ratoon-words", "ratoon-slot-0-3", "ratoon-process-18446744073709551615-4194304"] {
            assert!(is_stored(name), "{name}");
        }
        for name in [
            "ratoon-",
            "ratoon-web",
            "ratoon-state",
            "ratoon-state-",
            "ratoon-state-x",
            "ratoon-slot-0-",
            "ratoon-web-1",
            "words",
        ] {
            assert!(!is_stored(name), "{name}");
        }
    }
}
