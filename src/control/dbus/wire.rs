//! The socket of the connection, with zbus's traits.
//!
//! zbus's own socket offers to pass descriptors. This socket does not, so the bus does not pass on a caller's descriptors: the master
//! has no use for them, and a caller could exhaust the master's descriptors with them.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use zbus::connection::socket::{ReadHalf, Socket, Split, WriteHalf};
use zbus::export::async_trait::async_trait;

/// A stream to the bus that carries bytes only.
#[derive(Debug)]
pub(super) struct Wire(pub UnixStream);

impl Socket for Wire {
    type ReadHalf = Reading;
    type WriteHalf = Writing;

    fn split(self) -> Split<Reading, Writing> {
        let (read, write) = self.0.into_split();
        Split::new(Reading(read), Writing(write))
    }
}

#[derive(Debug)]
pub(super) struct Reading(OwnedReadHalf);

#[async_trait]
impl ReadHalf for Reading {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        loop {
            self.0.readable().await?;
            match self.0.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result.map(|read| (read, Vec::new())),
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Writing(OwnedWriteHalf);

#[async_trait]
impl WriteHalf for Writing {
    async fn sendmsg(&mut self, buffer: &[u8], _: &[BorrowedFd<'_>]) -> io::Result<usize> {
        loop {
            self.0.writable().await?;
            match self.0.try_write(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn close(&mut self) -> io::Result<()> {
        rustix::net::shutdown(self.0.as_ref(), rustix::net::Shutdown::Both)?;
        Ok(())
    }
}
