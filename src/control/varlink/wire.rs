//! Messages of one connection: JSON with a zero byte at the end (<https://varlink.org>).
//!
//! Law: no peer holds a connection without use. The rest of a call must arrive within [`CALL_TIMEOUT`] of its first byte, an idle
//! connection ends after [`IDLE_TIMEOUT`], and a reader must keep reading.

use std::io;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout, timeout_at};

/// The longest call, bytes. No method has parameters that need more.
const LONGEST: usize = 64 * 1024;
/// Timeout for the whole of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout between two calls of a connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout for a reader to take more bytes once the kernel's buffer is full.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The messages of a connection.
pub(super) struct Wire {
    stream: UnixStream,
    /// Bytes that were read and not yet used; less than [`LONGEST`] and one read.
    read: Vec<u8>,
}

impl Wire {
    pub fn new(stream: UnixStream) -> Wire {
        Wire { stream, read: Vec::new() }
    }

    /// The next message without its zero byte; `None` when the peer has closed the connection. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The message is too long or came too slowly, or the connection is broken.
    pub async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let begun = Instant::now();
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == 0) {
                let rest = self.read.split_off(end + 1);
                let mut message = std::mem::replace(&mut self.read, rest);
                message.pop();
                return Ok(Some(message));
            }
            if self.read.len() > LONGEST {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let limit = if self.read.is_empty() { IDLE_TIMEOUT } else { CALL_TIMEOUT };
            timeout_at(begun + limit, self.stream.readable()).await??;
            match self.stream.try_read_buf(&mut self.read) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes a message and its zero byte.
    ///
    /// # Errors
    /// The peer has left, or does not read.
    pub async fn write(&self, message: &[u8]) -> io::Result<()> {
        let mut parts = [message, b"\0"];
        while !parts[0].is_empty() || !parts[1].is_empty() {
            timeout(WRITE_TIMEOUT, self.stream.writable()).await??;
            let part = usize::from(parts[0].is_empty());
            match self.stream.try_write(parts[part]) {
                Ok(written) => parts[part] = &parts[part][written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Resolves as soon as the peer has closed the connection, wholly or in one direction, even behind bytes that are not read yet.
    pub async fn gone(&self) {
        // No peer sends priority data on a Unix socket, so this interest is woken only by the end of the connection.
        let _ = self.stream.ready(Interest::PRIORITY).await;
    }
}
