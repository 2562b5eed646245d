//! `worker.preload`: a process that loads once, and from which the workers are forked.
//!
//! ```no_run
//! use std::ffi::OsString;
//!
//! use ratoon_worker::preload::Preload;
//!
//! fn main() -> std::io::Result<()> {
//!     let preload = Preload::begin()?; // first of all; `None` where this process is a worker itself
//!     let loaded = load();
//!     let argv = match preload {
//!         None => std::env::args_os().collect(),
//!         Some(preload) => match preload.serve()? { // says READY=1
//!             Some(worker) => worker.argv,          // in each worker
//!             None => return Ok(()),                // the generation is over
//!         },
//!     };
//!     run(argv, loaded) // starts threads, a runtime, says READY=1 …
//! }
//! # fn load() {}
//! # fn run(_: Vec<OsString>, _: ()) -> std::io::Result<()> { Ok(()) }
//! ```
//!
//! Law: a process that has more than one thread does not fork; a runtime is started in the worker.

mod request;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags};
use rustix::process::{Pid, WaitOptions, getppid, setsid, waitpid};

use self::request::{DESCRIPTORS_MAX, REQUEST_MAX, Request};
use crate::sys::fork::{Forked, change_variable, exit_now, fork, unblock_signals};

/// Numbers below are for the descriptors of a worker, so that no file which the program opens gets them.
const KEPT: i32 = 67;
/// How long a worker waits for its parent to end.
const PARENT_TIMEOUT: Duration = Duration::from_secs(30);

/// This process, as the preload process of its generation.
#[derive(Debug)]
pub struct Preload {
    socket: OwnedFd,
    kept: Vec<OwnedFd>,
}

/// The worker that a process has become: its descriptors, its environment and its session are its own.
#[derive(Debug, PartialEq, Eq)]
pub struct Worker {
    /// The path of the program of `worker.command`.
    pub program: OsString,
    /// `worker.command`.
    pub argv: Vec<OsString>,
}

impl Preload {
    /// Takes the socket that `RATOON_FORK` names, and keeps the numbers of a worker's descriptors; `None` without the variable. Call it
    /// before the program opens a file or starts a thread.
    ///
    /// # Errors
    /// The variable names no descriptor, the numbers cannot be kept (`worker.limits.nofile` must be 128 or more), or there is a thread.
    pub fn begin() -> io::Result<Option<Preload>> {
        let Some(given) = std::env::var_os("RATOON_FORK") else { return Ok(None) };
        let number = given.to_str().and_then(|text| text.parse().ok()).ok_or(Errno::BADF)?;
        let given = crate::sys::fd::inherited(number)?;
        let socket = fcntl_dupfd_cloexec(&given, KEPT)?;
        drop(given);
        change_variable(OsStr::new("RATOON_FORK"), None)?;
        let mut kept = Vec::new();
        loop {
            let null = OwnedFd::from(File::options().read(true).write(true).open("/dev/null")?);
            if null.as_raw_fd() >= KEPT {
                return Ok(Some(Preload { socket, kept }));
            }
            kept.push(null);
        }
    }

    /// Says READY=1, and forks a worker for each request. Returns in each worker, and in this process `None` at the end of the requests.
    ///
    /// # Errors
    /// READY=1 cannot be sent, or a request cannot be read (`EPROTO`: the master is of another version).
    pub fn serve(mut self) -> io::Result<Option<Worker>> {
        say_ready()?;
        while let Some((request, descriptors)) = self.receive()? {
            if self.fork(&request, &descriptors)? {
                drop(self.socket);
                return Ok(Some(Worker { program: request.program, argv: request.argv }));
            }
        }
        Ok(None)
    }

    fn receive(&self) -> io::Result<Option<(Request, Vec<OwnedFd>)>> {
        let mut text = vec![0; REQUEST_MAX + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            let mut part = [io::IoSliceMut::new(&mut text)];
            rustix::net::recvmsg(&self.socket, &mut part, &mut control, RecvFlags::CMSG_CLOEXEC)
        });
        let received = match received {
            Err(Errno::CONNRESET) => return Ok(None),
            received => received?,
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = message {
                descriptors.extend(some);
            }
        }
        let request = Request::parse(&text[..received.bytes]).map_err(|why| {
            eprintln!("ratoon preload: {why}");
            io::Error::from(Errno::PROTO)
        })?;
        let cut_off = received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
        if cut_off || descriptors.len() != request.roles.len() {
            return Err(Errno::PROTO.into());
        }
        Ok(Some((request, descriptors)))
    }

    /// Forks twice, so that the worker becomes a child of the master. Returns true in the worker.
    fn fork(&mut self, request: &Request, descriptors: &[OwnedFd]) -> io::Result<bool> {
        match fork() {
            Ok(Forked::Child) => {}
            Ok(Forked::Parent(child)) => {
                let child = Pid::from_raw(i32::try_from(child).unwrap_or(0));
                let ended = rustix::io::retry_on_intr(|| waitpid(child, WaitOptions::empty()));
                // A program that ignores SIGCHLD, or reaps all children, has no status.
                if ended.is_ok_and(|ended| ended.is_some_and(|(_, status)| status.exit_status() != Some(0))) {
                    self.say(&request.failed(Errno::AGAIN.raw_os_error()));
                }
                return Ok(false);
            }
            Err(error) => {
                self.say(&request.failed(error.raw_os_error().unwrap_or(libc::EIO)));
                return Ok(false);
            }
        }
        let became = match fork() {
            Ok(Forked::Parent(worker)) => exit_now(i32::from(!self.say(&request.forked(worker)))),
            Ok(Forked::Child) => self.become_worker(request, descriptors),
            Err(error) => Err(error),
        };
        match became {
            // The master does not wait for this worker any more.
            Ok(()) if !self.say(&request.confirmed()) => exit_now(1),
            Ok(()) => Ok(true),
            Err(error) => {
                self.say(&request.failed(error.raw_os_error().unwrap_or(libc::EIO)));
                exit_now(0)
            }
        }
    }

    fn become_worker(&mut self, request: &Request, descriptors: &[OwnedFd]) -> io::Result<()> {
        let limit = Instant::now() + PARENT_TIMEOUT;
        while getppid().is_none_or(|parent| parent.as_raw_nonzero().get().unsigned_abs() != request.master) {
            if Instant::now() > limit {
                return Err(Errno::SRCH.into());
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        setsid()?;
        unblock_signals()?;
        self.place(request, descriptors)?;
        request.unset.iter().try_for_each(|name| change_variable(name, None))?;
        request.environment.iter().try_for_each(|(name, value)| change_variable(name, Some(value)))?;
        let own = OsString::from(std::process::id().to_string());
        for (condition, name) in [("LISTEN_FDS", "LISTEN_PID"), ("WATCHDOG_USEC", "WATCHDOG_PID")] {
            if std::env::var_os(condition).is_some() {
                change_variable(OsStr::new(name), Some(&own))?;
            }
        }
        Ok(())
    }

    /// Puts the descriptors to their numbers: 0 to 2, the listening sockets from 3 on, then the status page.
    fn place(&mut self, request: &Request, descriptors: &[OwnedFd]) -> io::Result<()> {
        let mut wanted: Vec<_> = request.roles.iter().zip(descriptors).collect();
        wanted.sort_by_key(|(role, _)| **role);
        let mut kept = std::mem::take(&mut self.kept).into_iter();
        for (number, (_, from)) in (0..).zip(wanted) {
            match number {
                0 => rustix::stdio::dup2_stdin(from)?,
                1 => rustix::stdio::dup2_stdout(from)?,
                2 => rustix::stdio::dup2_stderr(from)?,
                _ => {
                    // A file of the program has the number where it is not kept.
                    let mut to = kept.next().filter(|to| to.as_raw_fd() == number).ok_or(Errno::BUSY)?;
                    rustix::io::dup2(from.as_fd(), &mut to)?;
                    // Inherited from now on, as after an exec.
                    let _ = to.into_raw_fd();
                }
            }
        }
        Ok(())
    }

    fn say(&self, reply: &str) -> bool {
        rustix::net::send(&self.socket, reply.as_bytes(), SendFlags::NOSIGNAL).is_ok()
    }
}

fn say_ready() -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address).map(drop)
}
