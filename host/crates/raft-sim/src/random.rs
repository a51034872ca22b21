//! The simulator's only source of randomness.

/// xoshiro256++ seeded by splitmix64: small, fast, and the same on every machine.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

/// One step of splitmix64; also a good mixer of a single word.
#[must_use]
pub fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Random {
    /// A stream of its own for every seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut word = seed;
        let state = core::array::from_fn(|_| {
            word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(word)
        });
        Self { state }
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number in `[0, bound)`; zero if `bound` is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.word()) * u128::from(bound)) >> 64) as u64
    }

    /// A position in a slice of length `length`.
    pub fn position(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// A number in `[low, high]`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True `ppm` times in a million.
    pub fn chance(&mut self, ppm: u32) -> bool {
        ppm != 0 && self.below(1_000_000) < u64::from(ppm)
    }

    /// One of `choices`, which must not be empty.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.position(choices.len())]
    }

    /// One bit of `mask`, which must not be zero.
    pub fn bit(&mut self, mask: u32) -> usize {
        let mut left = self.below(u64::from(mask.count_ones()));
        let mut rest = mask;
        while left > 0 {
            rest &= rest - 1;
            left -= 1;
        }
        rest.trailing_zeros() as usize
    }

    /// A rate in parts per million: zero for a third of the seeds, else anything up to `max_ppm`,
    /// small values as likely as large ones (swarm testing: a fixed mix hides bugs).
    pub fn swarm(&mut self, max_ppm: u32) -> u32 {
        match self.below(6) {
            0 | 1 => 0,
            2 => (self.below(u64::from(max_ppm) / 50 + 1) + 1) as u32,
            3 => (self.below(u64::from(max_ppm) / 7 + 1) + 1) as u32,
            _ => (self.below(u64::from(max_ppm)) + 1) as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_stream_and_seeds_differ() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..4).map(|_| random.word()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn numbers_stay_in_range_and_reach_both_ends() {
        let mut random = Random::new(1);
        let drawn: Vec<u64> = (0..1_000).map(|_| random.between(3, 6)).collect();
        assert!(drawn.iter().all(|n| (3..=6).contains(n)));
        assert!(drawn.contains(&3) && drawn.contains(&6));
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn a_bit_is_one_of_the_mask() {
        let mut random = Random::new(2);
        let mask = 0b1010_0100;
        assert!((0..200).all(|_| mask & (1 << random.bit(mask)) != 0));
    }

    #[test]
    fn swarm_rates_include_zero_and_stay_below_the_maximum() {
        let mut random = Random::new(3);
        let rates: Vec<u32> = (0..300).map(|_| random.swarm(1_000)).collect();
        assert!(rates.contains(&0));
        assert!(rates.iter().any(|r| *r > 500));
        assert!(rates.iter().all(|r| *r <= 1_000));
    }
}
