//! The sockets that were handed over: descriptors from 3 on, `LISTEN_FDS` of them (sd_listen_fds(3)).

use std::os::raw::{c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use libc::socklen_t;

use crate::address::Address;

const FIRST: c_int = 3;

struct Socket {
    fd: c_int,
    inode: u64,
    kind: c_int,
    address: Address,
}

/// The handed listening sockets of this process.
pub struct Handed {
    sockets: Vec<Socket>,
}

impl Handed {
    /// Found at the first call. `LISTEN_PID` is not compared: a wrapper passes the sockets on. What does not listen is left out.
    pub fn get() -> &'static Handed {
        static HANDED: OnceLock<Handed> = OnceLock::new();
        HANDED.get_or_init(|| {
            let count = std::env::var("LISTEN_FDS").ok().and_then(|count| count.parse().ok()).unwrap_or(0).clamp(0, 1024);
            let stands_in_for = std::env::var("RATOON_PROBE_ADDRESSES").unwrap_or_default();
            let mut public = stands_in_for.split(' ').map(Address::parse);
            Handed { sockets: (FIRST..FIRST + count).filter_map(|fd| look_at(fd, public.next().flatten())).collect() }
        })
    }

    /// The handed socket of the same type for an address that the program wants to bind `fd` to.
    pub fn find(&self, fd: c_int, wanted: &Address) -> Option<c_int> {
        let kind = option(fd, libc::SO_TYPE)?;
        let serves =
            |socket: &&Socket| socket.kind == kind && socket.address.serves(wanted) && inode(socket.fd) == Some(socket.inode);
        // An exact address goes before a wildcard.
        let exact = self.sockets.iter().filter(serves).find(|socket| socket.address == *wanted);
        exact.or_else(|| self.sockets.iter().find(serves)).map(|socket| socket.fd)
    }

    /// Whether the descriptor is one of the handed sockets.
    pub fn owns(&self, fd: c_int) -> bool {
        inode(fd).is_some_and(|inode| self.sockets.iter().any(|socket| socket.inode == inode))
    }
}

/// A handed socket. `public`: in a probed worker, the address for which the private socket stands in.
fn look_at(fd: c_int, public: Option<Address>) -> Option<Socket> {
    let inode = inode(fd)?;
    let kind = option(fd, libc::SO_TYPE)?;
    if option(fd, libc::SO_ACCEPTCONN)? == 0 {
        return None;
    }
    // SAFETY: All zeros is a value of sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_storage>() as socklen_t;
    // SAFETY: `storage` has room for `length` bytes.
    if unsafe { libc::getsockname(fd, ptr::from_mut(&mut storage).cast(), &mut length) } < 0 {
        return None;
    }
    // SAFETY: The kernel wrote `length` bytes, at most what there is room for.
    let own = unsafe { Address::read(ptr::from_ref(&storage).cast(), length) };
    Some(Socket { fd, inode, kind, address: public.or(own)? })
}

fn option(fd: c_int, name: c_int) -> Option<c_int> {
    let mut value: c_int = 0;
    let mut length = size_of::<c_int>() as socklen_t;
    // SAFETY: `value` has room for `length` bytes.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, name, ptr::from_mut(&mut value).cast::<c_void>(), &mut length) };
    (result == 0).then_some(value)
}

fn inode(fd: c_int) -> Option<u64> {
    // SAFETY: All zeros is a value of stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is of this function; a wrong descriptor is an error.
    let result = unsafe { libc::fstat(fd, &mut stat) };
    (result == 0 && stat.st_mode & libc::S_IFMT == libc::S_IFSOCK).then_some(stat.st_ino)
}
