//! `ratoon -H [USER@]HOST …`: runs a verb on another machine by ssh(1); nothing of Ratoon listens on the network.
//!
//! Law: the other machine's `ratoon` reads the arguments as they are here, whatever they contain, and its exit status is the one of
//! this process. A failure of ssh is told apart and exits 2. When this process ends, the other one ends, too, so that a reload is
//! withdrawn as it is on one machine.

mod ask;
mod hosts;

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Read, stdin, stdout};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::{Pid, Signal, getpid, kill_process};
use tokio::process::{Child, Command};

use super::top::terminal::Ends;
use super::{COULD_NOT_ASK, Verb, ask, screen};
use crate::sys::thread::STACK;

/// Variable with the path of a program that is run in place of `ssh`, with the same arguments.
const SSH: &str = "RATOON_SSH";
/// Exit status of ssh when it failed itself.
const SSH_FAILED: i32 = 255;
/// Exit status of a shell that did not find the program.
const NOT_FOUND: i32 = 127;

/// Runs the verb of this process's command line on the hosts; several are asked at the same time, by the verbs that only look.
pub(super) fn run(hosts: &[String], verb: &Verb) -> ExitCode {
    let words = verb_words(std::env::args_os());
    ask(async {
        hosts.iter().try_for_each(|host| checked(host))?;
        match (hosts, verb) {
            ([host], _) => one(host, &words).await,
            (_, Verb::List(options)) => hosts::list(hosts, &words, options).await,
            (_, Verb::Status(options)) => hosts::status(hosts, &words, options).await,
            (_, Verb::Top(_)) => hosts::top(hosts, &words).await,
            _ => Err("several hosts are asked by status, list and top only; name one host".to_owned()),
        }
    })
}

/// The words of the command line from the verb on.
fn verb_words(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words = words.into_iter().skip(1).peekable();
    while let Some(word) = words.next_if(|word| word.as_bytes().starts_with(b"-")) {
        if word == "-H" || word == "--host" {
            words.next();
        }
    }
    words.collect()
}

/// Refuses what ssh would take for an option, and what is no host's name.
fn checked(host: &str) -> Result<(), String> {
    let is_sound = !host.is_empty() && !host.starts_with('-') && !host.contains(|it: char| it.is_whitespace() || it.is_control());
    is_sound
        .then_some(())
        .ok_or_else(|| format!("{:?} is no host; write -H HOST or -H USER@HOST, as for ssh", screen::clean(host)))
}

/// The command line for the shell of the other machine's user.
fn command_line(options: &[&str], words: &[OsString]) -> OsString {
    let mut line = b"ratoon".to_vec();
    for word in options.iter().map(OsStr::new).chain(words.iter().map(OsString::as_os_str)) {
        line.push(b' ');
        line.extend(quoted(word.as_bytes()));
    }
    OsString::from_vec(line)
}

/// A word in single quotes, as sh(1) reads them.
fn quoted(word: &[u8]) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for byte in word {
        match byte {
            b'\'' => quoted.extend(b"'\\''"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'\'');
    quoted
}

fn ssh() -> Command {
    let program = std::env::var_os(SSH).filter(|program| !program.is_empty()).unwrap_or_else(|| "ssh".into());
    let mut command = Command::new(program);
    // No graphical display is forwarded.
    command.arg("-x").kill_on_drop(true);
    command
}

fn started(mut command: Command) -> Result<Child, String> {
    let name = command.as_std().get_program().display().to_string();
    command.spawn().map_err(|error| format!("cannot run {name}: {error}; -H needs the ssh client (Debian: openssh-client)"))
}

/// Runs the verb on one host. On a terminal ssh makes one on the other machine, for colours, `top` and Ctrl-C.
async fn one(host: &str, words: &[OsString]) -> Result<ExitCode, String> {
    let mut command = ssh();
    if stdin().is_terminal() && stdout().is_terminal() {
        // Without the line "Connection to … closed" at the end.
        command.args(["-t", "-o", "LogLevel=ERROR", "--", host]).arg(command_line(&[], words));
    } else {
        // Its input ends with this process; see `end_with_input`.
        command.args(["-T", "--", host]).arg(command_line(&["--remote"], words)).stdin(Stdio::piped());
    }
    let mut ends = Ends::watch()?;
    let mut child = started(command)?;
    let input = child.stdin.take();
    loop {
        tokio::select! {
            ended = child.wait() => {
                drop(input);
                return status(host, ended.map_err(|error| format!("cannot wait for ssh: {error}"))?);
            }
            end = ends.next() => if let Some(number) = end {
                // ssh restores the terminal; the other machine ends what it runs for a connection that is gone.
                let _ = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).map(|ssh| kill_process(ssh, Signal::TERM));
                let _ = child.wait().await;
                return Ok(ExitCode::from(128 + number));
            },
        }
    }
}

/// The exit status of the verb on the other machine, or the reason why it did not run there.
fn status(host: &str, ended: ExitStatus) -> Result<ExitCode, String> {
    let host = screen::clean(host);
    match ended.code() {
        Some(SSH_FAILED) => Err(format!("ssh did not reach {host}, or lost it; its own message stands above")),
        Some(NOT_FOUND) => Err(format!("{host} has no `ratoon` in the PATH of that user")),
        Some(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(COULD_NOT_ASK))),
        None => Err(format!("ssh to {host} was ended: {ended}")),
    }
}

/// Whether this process ends with its standard input, see [`end_with_input`]. It must not become another program then.
pub(super) fn ends_with_input() -> bool {
    ENDS_WITH_INPUT.load(Ordering::Relaxed)
}

static ENDS_WITH_INPUT: AtomicBool = AtomicBool::new(false);

/// Ends this process by SIGTERM when its standard input ends: `ratoon -H` on the other machine has ended then.
pub(super) fn end_with_input() {
    ENDS_WITH_INPUT.store(true, Ordering::Relaxed);
    let wait = || {
        let mut ignored = [0; 256];
        while stdin().read(&mut ignored).is_ok_and(|count| count > 0) {}
        let _ = kill_process(getpid(), Signal::TERM);
    };
    // Without a thread the verb runs to its end.
    let _ = thread::Builder::new().name("input".to_owned()).stack_size(STACK).spawn(wait);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn verb_words_begin_with_the_verb() {
        for line in ["ratoon -H a status web", "ratoon -Ha --host b --host=c status web", "ratoon status web"] {
            assert_eq!(verb_words(words(line)), words("status web"), "{line}");
        }
        assert_eq!(verb_words(words("ratoon -H a run --name x -- server -H b")), words("run --name x -- server -H b"));
    }

    #[test]
    fn quoted_words_arrive_as_they_are() {
        let hostile = OsString::from_vec(b"a'b \"$(id)\" `id` \\ \xff\n;&*".to_vec());
        let line = command_line(&[], std::slice::from_ref(&hostile));
        let script = OsString::from_vec([b"ratoon() { printf %s \"$1\"; }; ", line.as_bytes()].concat());
        let said = std::process::Command::new("sh").arg("-c").arg(script).output().expect("sh");
        assert_eq!(OsString::from_vec(said.stdout), hostile);
    }

    #[test]
    fn checked_refuses_options_of_ssh() {
        for host in ["", "-oProxyCommand=id", "a b", "a\nb"] {
            assert!(checked(host).unwrap_err().contains("is no host"), "{host:?}");
        }
        assert_eq!(checked("deploy@web1.example").and(checked("ssh://web1:2222")).and(checked("::1")), Ok(()));
    }
}
