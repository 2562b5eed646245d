//! Inputs for readers of what comes from outside: pieces of what they know, in every order, and bytes that they do not.
#![allow(dead_code, reason = "not every test program uses all of it")]

/// How many inputs a reader gets: `RATOON_FUZZ`, or as many as this.
pub fn count(few: u64) -> u64 {
    std::env::var("RATOON_FUZZ").map_or(few, |text| text.parse().expect("RATOON_FUZZ is a number"))
}

/// A small generator (splitmix64): the same inputs for the same number.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub fn pick<'a>(&mut self, from: &[&'a [u8]]) -> &'a [u8] {
        from[self.below(from.len())]
    }

    /// Pieces of what a reader knows, and a few bytes that it does not.
    pub fn text(&mut self, pieces: &[&[u8]], most: usize) -> Vec<u8> {
        let mut text = Vec::new();
        for _ in 0..self.below(most) {
            match self.below(8) {
                0 => text.push(self.next() as u8),
                1 => text.extend_from_slice(self.next().to_string().as_bytes()),
                2 if !text.is_empty() => {
                    let at = self.below(text.len());
                    text[at] ^= 1 << self.below(8);
                }
                _ => text.extend_from_slice(self.pick(pieces)),
            }
        }
        text
    }
}
