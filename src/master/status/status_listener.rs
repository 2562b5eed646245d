//! The socket of `status.listen`: served from the start, and replaced by a reload that names another address.
//!
//! Law: the socket of a reload is bound before its generation starts, and served only after the commit. If it cannot be bound,
//! the reload reports that, and the earlier address stays.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use tokio::task::AbortHandle;

use crate::api::Handle;
use crate::control::http::ConnectionRegistry;
use crate::master::fronts;
use crate::pool::GenerationId;

/// The change that a reload makes to `status.listen`.
#[derive(Debug)]
pub struct StatusChange {
    address: Option<String>,
    socket: Option<OwnedFd>,
}

impl StatusChange {
    /// The socket for an address other than the one that is served; `None` when nothing changes. Blocks: binding may access the
    /// file system.
    ///
    /// # Errors
    /// A sentence that says why the address cannot be served, and which address still is.
    pub fn prepare(served: Option<&str>, wanted: Option<&str>) -> Result<Option<StatusChange>, String> {
        if served == wanted {
            return Ok(None);
        }
        let Some(address) = wanted else { return Ok(Some(StatusChange { address: None, socket: None })) };
        let socket = fronts::listen(address).map_err(|error| {
            let stays =
                served.map_or_else(|| "the status is served at no address".to_owned(), |it| format!("{it:?} is served on"));
            format!(
                "status.listen = {address:?} cannot be served: {error}; {stays}; free the address and reload, or restart the \
                 service"
            )
        })?;
        Ok(Some(StatusChange { address: Some(address.to_owned()), socket: Some(socket) }))
    }
}

/// The socket that is served, and the one of a reload that is not committed yet.
pub struct StatusListener {
    handle: Handle,
    registry: Arc<ConnectionRegistry>,
    address: Option<String>,
    socket: Option<OwnedFd>,
    server: Option<AbortHandle>,
    candidate: Option<(GenerationId, StatusChange)>,
}

impl StatusListener {
    /// Serves a socket. `address` is its address as the configuration writes it.
    ///
    /// # Errors
    /// The runtime does not take the socket, or no descriptor is left. The socket is kept all the same.
    pub fn begin(
        address: Option<String>,
        socket: Option<OwnedFd>,
        handle: &Handle,
        registry: &Arc<ConnectionRegistry>,
    ) -> (StatusListener, std::io::Result<()>) {
        let (handle, registry) = (handle.clone(), registry.clone());
        let address = address.filter(|_| socket.is_some());
        let mut listener = StatusListener { handle, registry, address, socket, server: None, candidate: None };
        let served = listener.serve();
        (listener, served)
    }

    /// The address that is served.
    pub fn address(&self) -> Option<&str> {
        self.address.as_deref()
    }

    /// The socket that is served.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Keeps the change of a prepared reload until its commit.
    pub fn prepared(&mut self, number: GenerationId, change: Option<StatusChange>) {
        self.candidate = change.map(|change| (number, change));
    }

    /// Drops the change of a reload that failed, and closes its socket.
    pub fn withdrawn(&mut self) {
        self.candidate = None;
    }

    /// Serves the socket of a committed reload in place of the earlier one, whose connections end.
    ///
    /// # Errors
    /// As [`StatusListener::begin`].
    pub fn committed(&mut self, number: GenerationId) -> std::io::Result<()> {
        let Some((_, change)) = self.candidate.take().filter(|(of, _)| *of == number) else { return Ok(()) };
        if let Some(server) = self.server.take() {
            server.abort();
        }
        (self.address, self.socket) = (change.address, change.socket);
        self.serve()
    }

    fn serve(&mut self) -> std::io::Result<()> {
        let serve = |socket| fronts::serve_status(socket, &self.handle, &self.registry);
        self.server = self.socket.as_ref().map(serve).transpose()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_address_is_left_alone() {
        assert!(matches!(StatusChange::prepare(Some("127.0.0.1:1"), Some("127.0.0.1:1")), Ok(None)));
        assert!(matches!(StatusChange::prepare(None, None), Ok(None)));
        assert!(matches!(StatusChange::prepare(Some("x"), None), Ok(Some(StatusChange { address: None, socket: None }))));
    }

    #[test]
    fn address_in_use_is_said_with_what_stays() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("an address").to_string();
        let why = StatusChange::prepare(Some("[::1]:9"), Some(&address)).expect_err("in use");
        assert!(why.contains(&format!("status.listen = {address:?} cannot be served: Address already in use")), "{why}");
        assert!(why.contains("\"[::1]:9\" is served on"), "{why}");
        drop(taken);
        let change = StatusChange::prepare(None, Some(&address)).expect("free again").expect("a change");
        assert!(change.socket.is_some());
    }
}
