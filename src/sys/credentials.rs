//! Credentials of the peer of a Unix socket, and of this process.

use std::io;
use std::os::fd::AsFd;

/// The peer's credentials at the moment of its `connect(2)`, as recorded by the kernel (`SO_PEERCRED`, unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Effective user of the peer.
    pub uid: u32,
    /// Effective group of the peer.
    pub gid: u32,
    /// The peer's process; `None` when it is in a PID namespace that this process can't see.
    pub pid: Option<u32>,
}

/// The credentials of the peer of a connected Unix stream.
pub fn peer(stream: impl AsFd) -> io::Result<Peer> {
    let mut raw = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // Not by rustix: its type can't hold the pid 0, which the kernel returns for a peer in an outer namespace.
    // SAFETY: both pointers are to local variables, of the size that `length` says.
    let result = unsafe {
        libc::getsockopt(
            std::os::fd::AsRawFd::as_raw_fd(&stream.as_fd()),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut raw).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if raw.uid == u32::MAX {
        return Err(io::Error::from_raw_os_error(libc::ENOTCONN));
    }
    Ok(Peer { uid: raw.uid, gid: raw.gid, pid: u32::try_from(raw.pid).ok().filter(|&pid| pid != 0) })
}

/// `SO_PEERGROUPS` of socket(7), which the libc crate does not have.
const SO_PEERGROUPS: libc::c_int = 59;
/// The kernel's own limit of groups (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

/// The supplementary groups of the peer of a connected Unix stream at the moment of its `connect(2)`.
///
/// # Errors
/// The socket is no Unix stream, or the kernel is older than Linux 4.13.
pub fn peer_groups(stream: impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups: Vec<u32> = vec![0; 32];
    loop {
        let mut length = size_of_val(groups.as_slice()) as libc::socklen_t;
        // SAFETY: both pointers are to memory of this function, of the size that `length` says.
        let result = unsafe {
            libc::getsockopt(
                std::os::fd::AsRawFd::as_raw_fd(&stream.as_fd()),
                libc::SOL_SOCKET,
                SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() || count > GROUPS_MAX {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// This process's effective user.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// This process's effective group.
pub fn own_gid() -> u32 {
    rustix::process::getegid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_peer_of_a_pair_is_ourselves() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert_eq!(peer(&one).unwrap(), Peer { uid: own_uid(), gid: own_gid(), pid: Some(std::process::id()) });
    }

    #[test]
    fn groups_of_the_peer_of_a_pair_are_our_own() {
        let (one, _other) = UnixStream::pair().unwrap();
        let own: Vec<u32> = rustix::process::getgroups().unwrap().into_iter().map(rustix::process::Gid::as_raw).collect();
        assert_eq!(peer_groups(&one).unwrap(), own);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(peer_groups(&listener).is_err());
    }

    #[test]
    fn what_has_no_peer_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(peer(&listener).is_err());
        assert!(peer(std::fs::File::open(directory.path()).unwrap()).is_err());
    }
}
