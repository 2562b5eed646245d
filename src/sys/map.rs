//! Memory as a file: what is mapped by workers, and what another program reads.

use std::io;
use std::os::fd::OwnedFd;

pub use ratoon_worker::sys::map::{MOST, sealed, sealed_size};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// Makes a memfd, close-on-exec, that holds these bytes and is sealed against every change.
pub fn document(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = std::fs::File::from(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    std::io::Write::write_all(&mut file, bytes)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file.into())
}
