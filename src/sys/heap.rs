//! How the C library's allocator is told to keep its house: small, and without rooms that nobody enters again.
//!
//! Law: only advice; without this C library nothing happens.

/// Below this, bytes, memory comes from the heap; above it is the kernel's own again as soon as it is free.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 64 << 10;

/// One heap for all threads, each of which would else keep one of its own, and large pieces apart from it: the table of a
/// thousand workers leaves no hole when it has grown. Call it before the first thread is made.
pub fn frugal() {
    #[cfg(target_env = "gnu")]
    // SAFETY: numbers; no other thread allocates meanwhile.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}
