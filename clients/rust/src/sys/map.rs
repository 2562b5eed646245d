//! Memory that is shared with another process, as words that are only accessed atomically.
//!
//! Law: mapped memory can't shrink (it is sealed, or anonymous), so no access raises SIGBUS. Every access is atomic, so
//! writes by another process are no data race here.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// The largest mapping in bytes.
pub const MOST: usize = 16 << 20;

/// Makes a memfd, close-on-exec, of `bytes` zeros that can neither shrink nor grow.
pub fn sealed(name: &str, bytes: usize) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&fd, bytes as u64)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

/// The size of a sealed memfd in bytes. Fails when the file is not a memfd, or not sealed against shrinking.
pub fn sealed_size(fd: impl AsFd) -> io::Result<usize> {
    if !fcntl_get_seals(&fd)?.contains(SealFlags::SHRINK) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file is not sealed against shrinking"));
    }
    usize::try_from(fstat(&fd)?.st_size).map_err(io::Error::other)
}

/// A readable and writable mapping, as atomic words.
#[derive(Debug)]
pub struct Words {
    at: NonNull<AtomicU64>,
    count: usize,
}

impl Words {
    /// Maps a [`sealed`] memfd, shared with all processes that have it. Fails when it isn't sealed, is empty or larger than [`MOST`].
    pub fn shared(fd: impl AsFd) -> io::Result<Self> {
        let bytes = sealed_size(&fd)?;
        Self::of(bytes, |bytes| {
            // SAFETY: a new mapping at an address that the kernel chooses overlaps no other mapping.
            unsafe { mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &fd, 0) }
        })
    }

    /// Maps `bytes` zeroed bytes, private to this process. A page takes no memory until it is touched.
    pub fn private(bytes: usize) -> io::Result<Self> {
        Self::of(bytes, |bytes| {
            // SAFETY: as above, and there is no file.
            unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) }
        })
    }

    fn of(bytes: usize, map: impl FnOnce(usize) -> rustix::io::Result<*mut std::ffi::c_void>) -> io::Result<Self> {
        let count = bytes / size_of::<AtomicU64>();
        if count == 0 || bytes > MOST {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{bytes} bytes cannot be mapped, 8 to {MOST} can")));
        }
        let at = NonNull::new(map(bytes)?.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Words { at, count })
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping holds `count` words, is aligned to a page, initialised by the kernel, and stays until the
        // drop; no reference outlives `self`. Its file is sealed against shrinking, so every page of it exists.
        // Other processes may change the words at any time, which atomics allow.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.count) }
    }
}

// SAFETY: a mapping belongs to the process, not to a thread, and its words are atomic.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: `self` owns the mapping, which has this length (munmap rounds it up to a page, as mmap did), and no reference
        // into it outlives `self`. munmap cannot fail for an existing mapping.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.count * size_of::<AtomicU64>()) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no memfd")]
    fn two_mappings_of_one_file_are_one_memory() {
        let fd = sealed("map-test", 8192).unwrap();
        assert_eq!(sealed_size(&fd).unwrap(), 8192);
        let (one, two) = (Words::shared(&fd).unwrap(), Words::shared(&fd).unwrap());
        assert_eq!(one.len(), 1024);
        one[1023].store(7, Relaxed);
        assert_eq!(two[1023].load(Relaxed), 7);
        drop(one);
        assert_eq!(two[1023].load(Relaxed), 7);
        let own = Words::private(4096).unwrap();
        assert!(own.iter().all(|word| word.load(Relaxed) == 0));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no memfd")]
    fn what_could_shrink_is_refused() {
        let fd = sealed("map-test", 4096).unwrap();
        assert_eq!(ftruncate(&fd, 0).unwrap_err(), rustix::io::Errno::PERM);
        assert_eq!(ftruncate(&fd, 1 << 20).unwrap_err(), rustix::io::Errno::PERM);
        let open = memfd_create("map-test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&open, 4096).unwrap();
        assert!(Words::shared(&open).is_err());
        assert!(Words::shared(std::io::stdin()).is_err());
        assert!(Words::shared(sealed("map-test", 0).unwrap()).is_err());
        assert!(Words::shared(sealed("map-test", MOST + 4096).unwrap()).is_err());
    }
}
