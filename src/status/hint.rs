//! Advice for frequent mistakes, chosen by how a worker ended and by its last lines of output.
//!
//! Law: a hint is given only where the cause is nearly certain. It is shown beside the failure itself.

/// Advice about a worker that ended like this; `None` when there is none. `how` and `log_tail` are those of the failure.
pub fn hint(how: &str, log_tail: &[String]) -> Option<&'static str> {
    let printed = |words: &[&str]| log_tail.iter().any(|line| words.iter().any(|word| line.contains(word)));
    Some(match how {
        _ if how.starts_with("start timeout") => {
            "it did not say READY=1 or did not accept in time: a program that does not speak sd_notify(3) needs worker.ready = \"running\", \
             one that binds its address itself worker.adapter = \"bind\" (not if it is statically linked), one that starts slowly a longer \
             worker.start_timeout"
        }
        "exec: No such file or directory" => {
            "the program is there, but what runs it is not: the interpreter in its first line (#!), or the loader that an \
             executable names (`file` shows it)"
        }
        "exec: Exec format error" => {
            "the program is neither an executable for this machine nor a script whose first line names its interpreter \
             (#!/bin/sh)"
        }
        "exec: Permission denied" => {
            "its user (worker.user) may not execute the program, or not enter a directory above it, or its file system is mounted \
             noexec: `namei -l` shows the way to it"
        }
        _ if how.starts_with("chdir to ") => {
            "its user (worker.user) may not enter the directory: give it to a group of that user's, as `ratoon check FILE`, run by root, \
             says"
        }
        _ if printed(&["Bad file descriptor", "EBADF", "non-socket", "not a socket", "ENOTSOCK"]) => {
            "it uses a descriptor that it was not given: the listening sockets are 3, 4, and so on, in the order in which \
             `ratoon status` shows them (LISTEN_FDS, LISTEN_FDNAMES)"
        }
        _ if printed(&["Address already in use", "EADDRINUSE", "address already in use"]) => {
            "it binds an address itself, which its neighbours or the old generation have: it should serve the socket that it is \
             given, descriptor 3 (LISTEN_FDS)"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::hint;

    #[test]
    fn the_usual_mistakes_have_a_cure_and_others_none() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        for (how, printed, part) in [
            ("start timeout after 10s", "", "worker.ready = \"running\""),
            ("exec: No such file or directory", "", "interpreter"),
            ("exec: Exec format error", "", "#!/bin/sh"),
            ("exec: Permission denied", "", "worker.user"),
            ("chdir to /srv/web as user web: Permission denied", "", "ratoon check"),
            ("exit 1", "Traceback\nOSError: [Errno 9] Bad file descriptor", "3, 4"),
            ("exit 1", "Error: listen EADDRINUSE: address already in use :::3000", "descriptor 3"),
        ] {
            let said = hint(how, &lines(printed)).unwrap_or_default();
            assert!(said.contains(part), "{how} {printed}: {said}");
        }
        for (how, printed) in [("exit 1", "KeyError"), ("signal SIGSEGV", ""), ("exec: Cannot allocate memory", "")] {
            assert_eq!(hint(how, &lines(printed)), None, "{how}");
        }
    }
}
