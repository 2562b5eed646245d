//! The numbers by which the pool and the master name workers, generations, slots and requesters.

/// A worker's number; an instance never uses a number twice.
pub type WorkerId = u64;
/// A generation's number, from 1.
pub type GenerationId = u64;
/// The index of a worker's slot, `0 … N-1`.
pub type Slot = u32;
/// The number of a requester, which waits for an [`Answer`](super::Answer).
pub type RequesterId = u64;
