//! Sends a request to a preload process, with the descriptors of the worker.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::Pending;
use super::protocol::DESCRIPTORS_MAX;
use crate::config::Stdin;
use crate::sys::notify::NotifySocket;

/// Sends a request with its descriptors; never waits.
pub(super) fn send(socket: &NotifySocket, pending: &Pending) -> io::Result<()> {
    let Pending { start, kit, roles, .. } = pending;
    let sockets = start.sockets.as_deref().unwrap_or(&start.release.plan.listeners);
    let first = sockets.first().filter(|_| start.release.config.worker.stdin == Stdin::Socket);
    let null = match first {
        Some(_) => None,
        None => Some(OwnedFd::from(std::fs::File::open("/dev/null")?)),
    };
    let stdin = first.map(|socket: &Arc<OwnedFd>| socket.as_fd()).or(null.as_ref().map(AsFd::as_fd));
    let mut descriptors: Vec<BorrowedFd<'_>> = stdin.into_iter().collect();
    descriptors.extend([kit.stdout.as_fd(), kit.stderr.as_fd()]);
    descriptors.extend(sockets.iter().map(|socket| socket.as_fd()));
    descriptors.extend(kit.scoreboard.as_ref().map(|page| page.as_fd()));
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if descriptors.len() != roles.len() || !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    let text = [io::IoSlice::new(&pending.text)];
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(socket, &text, &mut control, flags))?;
    Ok(())
}
