//! Random numbers for simulated canaries: the same in each run.

/// Random numbers (xorshift64) from a seed, which is not 0.
pub(in crate::pool) struct Random(pub(in crate::pool) u64);

impl Random {
    /// A number from 0 to 1.
    pub(in crate::pool) fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}
