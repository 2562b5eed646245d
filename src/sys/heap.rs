//! malloc tuning for glibc: one arena, a low mmap threshold and eager trimming, so that the idle master stays small.
//!
//! Law: the settings are only advice; with another C library nothing happens.

/// `M_MMAP_THRESHOLD`, bytes. Smaller blocks come from the heap. Larger ones are mapped, unless the heap has room for them, and
/// return to the kernel when they are freed.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 16 << 10;
/// `M_TRIM_THRESHOLD` and `M_TOP_PAD`, bytes: free memory that may stay at the end of the heap, and extra memory per growth.
#[cfg(target_env = "gnu")]
const SPARE: [libc::c_int; 2] = [64 << 10, 16 << 10];

/// Sets one arena for all threads (by default threads have arenas of their own), maps large blocks apart from the heap, so that a table
/// that has grown leaves no hole, and keeps little free memory at the end of the heap. Call it before the first thread is made.
pub fn tune_malloc() {
    #[cfg(target_env = "gnu")]
    // SAFETY: numbers; no other thread allocates meanwhile.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, SPARE[0]);
        libc::mallopt(libc::M_TOP_PAD, SPARE[1]);
    }
}

/// Call it after freeing many small blocks: the C library sorts them at the next allocation. For those of a large document
/// that takes milliseconds, which would otherwise be spent in the loop.
pub fn sort() {
    // A block of this size is too large for the caches of small blocks, so the C library sorts its free blocks.
    drop(std::hint::black_box(Vec::<u8>::with_capacity(8 << 10)));
}
