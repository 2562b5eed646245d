//! The sockets of all slots at one TCP address: a reuseport group of the kernel.
//!
//! Law: the order of the sockets is the kernel's; the index of a socket is its place. [`Group::live`] says what the kernel was told last
//! and accepted.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::io::Errno;
use rustix::net::{SocketFlags, SocketType, getsockname, ipproto, sockopt};

use super::Listener;
use super::steer::{self, Place, Targets};
use crate::sys::credentials::own_uid;
use crate::sys::fd::{RESERVED_FD_BASE, dup_high};
use crate::sys::reuseport;

/// The sockets of one address.
#[derive(Debug)]
pub struct Group {
    /// The index of the listener that has this address.
    pub listener: usize,
    /// The sockets by place. The first is the listener's own; systemd may have passed some of the next, too.
    pub sockets: Vec<Arc<OwnedFd>>,
    /// The number of sockets that the listeners already had: the rest was made for slots.
    pub came: usize,
    /// The places to which the kernel steers new connections; `None` while its hash spreads them.
    live: Option<Targets>,
}

impl Group {
    /// A group of the sockets that the listeners at one address already have. The kernel's hash spreads connections over them.
    pub fn new(listener: usize, sockets: Vec<Arc<OwnedFd>>) -> Group {
        Group { listener, came: sockets.len(), sockets, live: None }
    }

    /// Steers new connections to those of these places that have a socket.
    ///
    /// # Errors
    /// The kernel refuses the BPF program; new connections go to the same places as before.
    pub fn steer(&mut self, wanted: &Targets) -> std::io::Result<()> {
        // A single socket has no reuseport group, so there is nothing to steer.
        let [first, _, ..] = self.sockets.as_slice() else { return Ok(()) };
        let known = |places: &[Place]| places.iter().copied().filter(|place| (*place as usize) < self.sockets.len()).collect();
        let targets = Targets { places: known(&wanted.places), canary: known(&wanted.canary), ..*wanted };
        if self.live.as_ref() != Some(&targets) {
            reuseport::steer(first, &steer::program(&targets))?;
            self.live = Some(targets);
        }
        Ok(())
    }

    /// Makes one more socket at the address. It gets no connection until it is steered to. `needed`: the sockets that the address is to have.
    ///
    /// # Errors
    /// The kernel refuses; the text says why, and what to do.
    pub fn add(&mut self, listener: &Listener, needed: usize) -> Result<(), String> {
        let first = &self.sockets[0];
        let alone = self.sockets.len() == 1;
        if alone && !sockopt::socket_reuseport(first).unwrap_or(false) {
            if listener.inherited {
                return Err(NO_REUSE_PORT.to_owned());
            }
            sockopt::set_socket_reuseport(first, true).map_err(|error| error.to_string())?;
        }
        let added = self.join(alone).map_err(|error| refused(listener, error, needed));
        if added.is_err() && alone && !listener.inherited {
            // No socket of another process may share the address.
            let _ = sockopt::set_socket_reuseport(first, false);
        }
        self.sockets.push(Arc::new(dup_high(added?, RESERVED_FD_BASE)));
        Ok(())
    }

    fn join(&self, alone: bool) -> Result<OwnedFd, Errno> {
        let first = &self.sockets[0];
        let address = getsockname(first)?;
        let family = sockopt::socket_domain(first)?;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
        if reuseport::network(first) != reuseport::network(&socket) {
            return Err(Errno::XDEV);
        }
        sockopt::set_socket_reuseaddr(&socket, true)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        reuseport::copy_options(first, &socket);
        rustix::net::bind(&socket, &address)?;
        let flags = fcntl_getfl(first)? & OFlags::NONBLOCK;
        fcntl_setfl(&socket, fcntl_getfl(&socket)? | flags)?;
        let backlog = reuseport::accept_queue(first).map_or(4096, |(_, most)| i32::try_from(most).unwrap_or(i32::MAX));
        // The program is set before listen(2), so that the new socket gets no connection before it is steered to.
        let program = steer::program(self.live.as_ref().unwrap_or(&Targets::equal(vec![0])));
        let early = reuseport::steer(first, &program);
        rustix::net::listen(&socket, backlog)?;
        if alone && early.is_err() {
            // The first socket listened without SO_REUSEPORT (an older master made it), so it had no group before this listen(2).
            reuseport::steer(first, &program).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?;
        }
        Ok(socket)
    }
}

const NO_REUSE_PORT: &str = "systemd opened its socket without ReusePort=yes, so there can be no second one; add ReusePort=yes to \
                             the [Socket] section of the socket unit, stop the service and restart the socket unit, or set \
                             worker.balance = \"shared\"";

/// An error text: why the address can have no further socket, and a hint.
fn refused(listener: &Listener, error: Errno, needed: usize) -> String {
    let owner = fstat(&listener.fd).map_or(0, |stat| stat.st_uid);
    let port = listener.address.rsplit(':').next().unwrap_or_default();
    let by_systemd = format!(
        "let systemd open them: in the socket unit, ReusePort=yes and ListenStream={} {needed} times (one for each worker, with \
         reload.steps another one for each worker of the largest canary)",
        listener.address
    );
    match error {
        Errno::ADDRINUSE if listener.inherited && owner != own_uid() => format!(
            "the kernel lets only sockets of one user share an address; that of systemd belongs to uid {owner}, this master to \
             uid {}; {by_systemd}",
            own_uid()
        ),
        Errno::ADDRINUSE => format!(
            "another process has this port (`ss -lntp 'sport = :{port}'` shows it); stop it, or set worker.balance = \"shared\""
        ),
        Errno::ACCESS => format!(
            "ports below 1024 need CAP_NET_BIND_SERVICE, which this master has not; {by_systemd}; or give it to the master: \
             CapabilityBoundingSet=CAP_NET_BIND_SERVICE in a drop-in of the service, and with User= AmbientCapabilities=CAP_NET_BIND_SERVICE"
        ),
        Errno::XDEV => format!(
            "the socket is in another network namespace than the service (PrivateNetwork=, NetworkNamespacePath=); {by_systemd}"
        ),
        error => crate::sys::spawn::describe(error.raw_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_what_goes_wrong() {
        let here = &super::super::bind("127.0.0.1:0").expect("an address");
        let refused = |error| refused(here, error, 9);
        assert!(refused(Errno::ACCESS).contains("CAP_NET_BIND_SERVICE"));
        assert!(refused(Errno::ADDRINUSE).contains("ss -lntp"));
        assert!(refused(Errno::XDEV).contains("PrivateNetwork="));
        assert!(refused(Errno::NOMEM).contains("memory"));
        let lines = format!("ListenStream={} 9 times", here.address);
        assert!([Errno::ACCESS, Errno::XDEV].iter().all(|error| refused(*error).contains(&lines)));
    }
}
