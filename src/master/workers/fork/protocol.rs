//! The protocol between the master and a preload process, version 1 (docs/contract.md §4, PRELOAD in `ratoon-worker(7)`).
//!
//! A message is one datagram of `name=value` fields, each ended by a NUL byte. Its first field is the version. A request asks for one
//! worker; its descriptors come with it (SCM_RIGHTS), in the order of its `fd` fields. A reply names the process that
//! was forked for a worker, confirms one, or says that it failed. The kernel tells who sent a reply; nothing in it is believed but the worker's id.
//!
//! Law: a reply is read without a panic whatever its bytes are, and is at most [`REPLY_MAX`] bytes.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::pool::WorkerId;

/// The first field of each message.
const HEAD: &str = "ratoon-fork=1";
/// The longest request, bytes: the socket's buffer has room for more than one.
pub const REQUEST_MAX: usize = 96 * 1024;
/// The longest reply, bytes.
pub const REPLY_MAX: usize = 256;
/// The most descriptors of one request (`SCM_MAX_FD` of the kernel).
pub const DESCRIPTORS_MAX: usize = 253;

/// The purpose of a descriptor of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Becomes descriptor 0.
    Stdin,
    /// Becomes descriptor 1.
    Stdout,
    /// Becomes descriptor 2.
    Stderr,
    /// Becomes the next descriptor from 3 on.
    Listener,
    /// The status page; becomes the descriptor after the listeners.
    Scoreboard,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Role::Stdin => "stdin",
            Role::Stdout => "stdout",
            Role::Stderr => "stderr",
            Role::Listener => "listener",
            Role::Scoreboard => "scoreboard",
        }
    }
}

/// A request for one worker.
#[derive(Debug)]
pub struct Request<'a> {
    /// The worker's id.
    pub worker: WorkerId,
    /// The master's pid: the worker waits until this is its parent.
    pub master: u32,
    /// The path of the program of `worker.command`.
    pub program: &'a Path,
    /// `worker.command`.
    pub argv: &'a [CString],
    /// Variables that are removed before the others are set.
    pub unset: &'a [&'a str],
    /// `NAME=value`: the variables of the worker.
    pub environment: &'a [CString],
    /// The descriptors, in the order in which they are attached.
    pub descriptors: &'a [Role],
}

impl Request<'_> {
    /// The request as a datagram.
    ///
    /// # Errors
    /// It is longer than [`REQUEST_MAX`], or has more than [`DESCRIPTORS_MAX`] descriptors.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let mut text = Vec::new();
        let mut field = |name: &str, value: &[u8]| {
            text.extend_from_slice(name.as_bytes());
            text.push(b'=');
            text.extend_from_slice(value);
            text.push(0);
        };
        field("ratoon-fork", b"1");
        field("id", self.worker.to_string().as_bytes());
        field("master", self.master.to_string().as_bytes());
        field("program", self.program.as_os_str().as_bytes());
        self.argv.iter().for_each(|word| field("arg", word.as_bytes()));
        self.unset.iter().for_each(|name| field("unset", name.as_bytes()));
        self.environment.iter().for_each(|entry| field("env", entry.as_bytes()));
        self.descriptors.iter().for_each(|role| field("fd", role.as_str().as_bytes()));
        if text.len() > REQUEST_MAX {
            return Err(format!(
                "worker.command and the environment are {} bytes, and a request to a preload process has at most {REQUEST_MAX}",
                text.len()
            ));
        }
        if self.descriptors.len() > DESCRIPTORS_MAX {
            return Err(format!(
                "a worker has {} descriptors, and a request to a preload process at most {DESCRIPTORS_MAX}",
                self.descriptors.len()
            ));
        }
        Ok(text)
    }
}

/// A reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A process was forked that is to confirm this worker; its pid, by the word of the preload process.
    Forked(WorkerId, u32),
    /// The sender is this worker.
    Confirmed(WorkerId),
    /// This worker could not be made; an errno.
    Failed(WorkerId, i32),
}

impl Reply {
    /// Reads a reply. Fields with other names are ignored.
    ///
    /// # Errors
    /// The fault of the reply, without a byte of it.
    pub fn parse(bytes: &[u8]) -> Result<Reply, &'static str> {
        if bytes.len() > REPLY_MAX {
            return Err("a reply that is too long");
        }
        let text = std::str::from_utf8(bytes).map_err(|_| "a reply that is not UTF-8")?;
        let text = text.strip_suffix('\0').ok_or("a reply whose last field does not end")?;
        let mut fields = text.split('\0');
        if fields.next() != Some(HEAD) {
            return Err("a reply of another version");
        }
        let (mut forked, mut confirmed, mut failed, mut pid, mut errno) = (None, None, None, None, None);
        for field in fields {
            let (name, value) = field.split_once('=').ok_or("a field without a value")?;
            match name {
                "forked" => forked = Some(value.parse().map_err(|_| "a worker's id that is no number")?),
                "confirmed" => confirmed = Some(value.parse().map_err(|_| "a worker's id that is no number")?),
                "failed" => failed = Some(value.parse().map_err(|_| "a worker's id that is no number")?),
                "pid" => pid = Some(value.parse().map_err(|_| "a pid that is no number")?),
                "errno" => errno = Some(value.parse().map_err(|_| "an errno that is no number")?),
                _ => {}
            }
        }
        match (forked, confirmed, failed) {
            (Some(worker), None, None) => Ok(Reply::Forked(worker, pid.ok_or("a forked process without a pid")?)),
            (None, Some(worker), None) => Ok(Reply::Confirmed(worker)),
            (None, None, Some(worker)) => Ok(Reply::Failed(worker, errno.unwrap_or(libc::EIO))),
            (None, None, None) => Err("a reply about no worker"),
            _ => Err("a reply with more than one outcome"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(words: &[&str]) -> Vec<CString> {
        words.iter().map(|word| CString::new(*word).expect("no NUL")).collect()
    }

    fn request<'a>(argv: &'a [CString], environment: &'a [CString], descriptors: &'a [Role]) -> Request<'a> {
        let program = Path::new("/srv/web/venv/bin/gunicorn");
        Request { worker: 7, master: 41, program, argv, unset: &["RATOON_FORK"], environment, descriptors }
    }

    #[test]
    fn request_has_a_field_for_each_part() {
        let (argv, environment) = (words(&["venv/bin/gunicorn", "app:app"]), words(&["RATOON_WORKER=7", "LISTEN_FDS=1"]));
        let roles = [Role::Stdin, Role::Stdout, Role::Stderr, Role::Listener, Role::Scoreboard];
        let asked = request(&argv, &environment, &roles);
        let text = String::from_utf8(asked.encode().expect("short")).expect("UTF-8");
        let fields: Vec<&str> = text.strip_suffix('\0').expect("an end").split('\0').collect();
        assert_eq!(
            fields,
            [
                "ratoon-fork=1",
                "id=7",
                "master=41",
                "program=/srv/web/venv/bin/gunicorn",
                "arg=venv/bin/gunicorn",
                "arg=app:app",
                "unset=RATOON_FORK",
                "env=RATOON_WORKER=7",
                "env=LISTEN_FDS=1",
                "fd=stdin",
                "fd=stdout",
                "fd=stderr",
                "fd=listener",
                "fd=scoreboard",
            ]
        );
    }

    #[test]
    fn request_that_is_too_long_is_refused() {
        let long = words(&[&"x".repeat(REQUEST_MAX)]);
        assert!(request(&long, &[], &[]).encode().expect_err("too long").contains("at most 98304"));
        let many = vec![Role::Listener; DESCRIPTORS_MAX + 1];
        assert!(request(&[], &[], &many).encode().expect_err("too many").contains("254 descriptors"));
        assert!(request(&[], &[], &many[1..]).encode().is_ok());
    }

    #[test]
    fn reply_is_a_worker_and_its_outcome() {
        assert_eq!(Reply::parse(b"ratoon-fork=1\0confirmed=7\0"), Ok(Reply::Confirmed(7)));
        assert_eq!(Reply::parse(b"ratoon-fork=1\0forked=7\0pid=99\0"), Ok(Reply::Forked(7, 99)));
        assert_eq!(Reply::parse(b"ratoon-fork=1\0failed=7\0errno=11\0"), Ok(Reply::Failed(7, 11)));
        assert_eq!(Reply::parse(b"ratoon-fork=1\0failed=7\0"), Ok(Reply::Failed(7, libc::EIO)));
        assert_eq!(Reply::parse(b"ratoon-fork=1\0later=x\0confirmed=7\0"), Ok(Reply::Confirmed(7)), "an unknown field");
    }

    #[test]
    fn hostile_replies_are_refused() {
        for (bytes, why) in [
            (&b""[..], "a reply whose last field does not end"),
            (b"\0", "a reply of another version"),
            (b"ratoon-fork=2\0confirmed=7\0", "a reply of another version"),
            (b"confirmed=7\0ratoon-fork=1\0", "a reply of another version"),
            (b"ratoon-fork=1\0", "a reply about no worker"),
            (b"ratoon-fork=1\0confirmed=7", "a reply whose last field does not end"),
            (b"ratoon-fork=1\0confirmed\0", "a field without a value"),
            (b"ratoon-fork=1\0confirmed=\0", "a worker's id that is no number"),
            (b"ratoon-fork=1\0confirmed=-1\0", "a worker's id that is no number"),
            (b"ratoon-fork=1\0confirmed=18446744073709551616\0", "a worker's id that is no number"),
            (b"ratoon-fork=1\0failed=7\0errno=x\0", "an errno that is no number"),
            (b"ratoon-fork=1\0confirmed=7\0failed=7\0", "a reply with more than one outcome"),
            (b"ratoon-fork=1\0forked=7\0pid=9\0failed=7\0", "a reply with more than one outcome"),
            (b"ratoon-fork=1\0forked=7\0", "a forked process without a pid"),
            (b"ratoon-fork=1\0forked=7\0pid=-9\0", "a pid that is no number"),
            (b"ratoon-fork=1\0\0confirmed=7\0", "a field without a value"),
            (b"ratoon-fork=1\0confirmed=\xff\0", "a reply that is not UTF-8"),
            (&[b'x'; REPLY_MAX + 1], "a reply that is too long"),
        ] {
            assert_eq!(Reply::parse(bytes), Err(why), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), head in any::<bool>()) {
            if head {
                bytes.splice(0..0, *b"ratoon-fork=1\0");
            }
            let _ = Reply::parse(&bytes);
        }
    }
}
