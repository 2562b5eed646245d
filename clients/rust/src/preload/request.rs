//! Requests of the master, and the replies; the protocol, version 1, is that of PRELOAD in `ratoon-worker(7)`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

const HEAD: &[u8] = b"ratoon-fork=1";
/// The longest request, bytes.
pub const REQUEST_MAX: usize = 96 * 1024;
/// The most descriptors of one request.
pub const DESCRIPTORS_MAX: usize = 253;
/// Uses of a descriptor, in the order of their numbers in the worker.
const ROLES: [&[u8]; 5] = [b"stdin", b"stdout", b"stderr", b"listener", b"scoreboard"];

/// A request for one worker.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub worker: u64,
    /// The pid of the master, whose child the worker becomes.
    pub master: u32,
    pub program: OsString,
    pub argv: Vec<OsString>,
    pub unset: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
    /// The role of each attached descriptor, as an index of `ROLES`.
    pub roles: Vec<usize>,
}

impl Request {
    /// Reads a request. Fields with other names are ignored.
    ///
    /// # Errors
    /// The fault of the request.
    pub fn parse(message: &[u8]) -> Result<Request, &'static str> {
        let message = message.strip_suffix(b"\0").ok_or("a request that is cut off")?;
        let mut fields = message.split(|byte| *byte == 0);
        if fields.next() != Some(HEAD) {
            return Err("a request of another version");
        }
        let (mut request, mut worker, mut master) = (Request::default(), None, None);
        for field in fields {
            let (name, value) = pair(field).ok_or("a field without a value")?;
            let text = || OsStr::from_bytes(value).to_owned();
            match name {
                b"id" => worker = Some(number(value)?),
                b"master" => master = Some(number(value)?),
                b"program" => request.program = text(),
                b"arg" => request.argv.push(text()),
                b"unset" if is_name(value) => request.unset.push(text()),
                b"env" => {
                    let (name, value) = pair(value).filter(|(name, _)| is_name(name)).ok_or("a variable without a name")?;
                    request.environment.push((OsStr::from_bytes(name).to_owned(), OsStr::from_bytes(value).to_owned()));
                }
                b"fd" => {
                    request.roles.push(ROLES.iter().position(|role| *role == value).ok_or("a descriptor of no known use")?);
                }
                _ => {}
            }
        }
        (request.worker, request.master) =
            (worker.ok_or("a request without an id")?, master.ok_or("a request without a master")?);
        if request.argv.is_empty() || request.program.is_empty() {
            return Err("a request without a program");
        }
        Ok(request)
    }

    /// The second child has this pid.
    pub fn forked(&self, pid: u32) -> String {
        format!("ratoon-fork=1\0forked={}\0pid={pid}\0", self.worker)
    }

    /// The sender is the worker.
    pub fn confirmed(&self) -> String {
        format!("ratoon-fork=1\0confirmed={}\0", self.worker)
    }

    /// The worker could not be made.
    pub fn failed(&self, errno: i32) -> String {
        format!("ratoon-fork=1\0failed={}\0errno={errno}\0", self.worker)
    }
}

fn pair(field: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = field.iter().position(|byte| *byte == b'=')?;
    Some((&field[..at], &field[at + 1..]))
}

/// Whether a variable may have this name: the standard library panics at others.
fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && !name.contains(&b'=')
}

fn number<T: FromStr>(value: &[u8]) -> Result<T, &'static str> {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or("a number that is none")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "ratoon-fork=1\0id=7\0master=41\0program=/p\0arg=p\0";

    #[test]
    fn request_is_read() {
        let text = format!("{HEAD}arg=q\0unset=A\0env=B=c=d\0env=E=\0fd=stdin\0fd=listener\0new=x\0");
        let request = Request::parse(text.as_bytes()).unwrap();
        assert_eq!((request.worker, request.master, request.program.to_str()), (7, 41, Some("/p")));
        assert_eq!((request.argv, request.unset), (vec!["p".into(), "q".into()], vec!["A".into()]));
        assert_eq!(request.environment, [("B".into(), "c=d".into()), ("E".into(), "".into())]);
        assert_eq!(request.roles, [0, 3]);
    }

    #[test]
    fn hostile_requests_are_errors() {
        let without = |field: &str| HEAD.replace(field, "");
        for text in [
            String::new(),
            "\0".to_owned(),
            "id=7\0".to_owned(),
            HEAD.trim_end_matches('\0').to_owned(),
            HEAD.replace("fork=1", "fork=2"),
            HEAD.replace("id=7", "id=x"),
            HEAD.replace("id=7", "id=-1"),
            without("master=41\0"),
            without("arg=p\0"),
            without("program=/p\0"),
            format!("{HEAD}env==x\0"),
            format!("{HEAD}env=x\0"),
            format!("{HEAD}fd=nonsense\0"),
            format!("{HEAD}word\0"),
            format!("{HEAD}\0"),
        ] {
            assert!(Request::parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
