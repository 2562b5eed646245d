//! How the C library's allocator is told to keep its house: small, and without rooms that nobody enters again.
//!
//! Law: only advice; without this C library nothing happens.

/// Below this, bytes, memory comes from the heap; above it is the kernel's own again as soon as it is free, unless the heap has
/// room for it.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 16 << 10;
/// So many bytes at the heap's end are kept for the next who need some, and so many are fetched at once.
#[cfg(target_env = "gnu")]
const SPARE: [libc::c_int; 2] = [64 << 10, 16 << 10];

/// One heap for all threads, each of which would else keep one of its own; large pieces apart from it: the table of a
/// thousand workers leaves no hole when it has grown; and little that is free at its end. Call it before the first thread is made.
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

/// To be called by who has freed many small pieces: the C library sorts them when the next one asks for memory, which takes
/// milliseconds for a large document's and may else be the loop.
pub fn sort() {
    // Larger than what is given without a look at what is free.
    drop(std::hint::black_box(Vec::<u8>::with_capacity(8 << 10)));
}
