use crate::fault::Export;
use sha2::{Digest as _, Sha256};

/// Randomness that is the same on every replica: SHA-256 over the group's seed, the call, the log
/// index and a counter. It starts anew with each entry, so that it does not depend on how much of
/// it was used before.
#[derive(Debug)]
pub(crate) struct RandomStream {
    seed: u64,
    export: Export,
    index: u64,
    counter: u64,
    block: [u8; 32],
    /// How much of `block` was handed out.
    taken: usize,
}

impl RandomStream {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            export: Export::Start,
            index: 0,
            counter: 0,
            block: [0; 32],
            taken: 32,
        }
    }

    /// Starts the stream of the entry at `index`, or of another call.
    pub(crate) fn restart(&mut self, export: Export, index: u64) {
        self.export = export;
        self.index = index;
        self.counter = 0;
        self.taken = self.block.len();
    }

    /// Fills `out` with the next bytes.
    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            if self.taken == self.block.len() {
                self.next_block();
            }
            *byte = self.block[self.taken];
            self.taken += 1;
        }
    }

    /// The next 64 bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A constant of the group, for the seeds of hash tables. It does not depend on the time of
    /// asking, since a restored replica asks at another one.
    pub(crate) fn constant(&self) -> (u64, u64) {
        let mut stream = Self::new(self.seed);
        (stream.next_u64(), stream.next_u64())
    }

    fn next_block(&mut self) {
        let mut hash = Sha256::new();
        hash.update(b"kontiki random 1");
        hash.update(self.seed.to_le_bytes());
        hash.update([self.export as u8]);
        hash.update(self.index.to_le_bytes());
        hash.update(self.counter.to_le_bytes());
        self.block = hash.finalize().into();
        self.counter += 1;
        self.taken = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_the_same_stream_whatever_came_before() {
        let mut one = RandomStream::new(5);
        one.restart(Export::Apply, 9);
        let first: Vec<_> = (0..10).map(|_| one.next_u64()).collect();
        one.restart(Export::Apply, 10);
        let other = one.next_u64();
        one.fill(&mut [0; 77]);
        one.restart(Export::Apply, 9);
        let again: Vec<_> = (0..10).map(|_| one.next_u64()).collect();
        assert_eq!(first, again);
        assert_ne!(first[0], other);
        assert_ne!(first[0], first[4], "blocks differ");
    }

    #[test]
    fn seeds_give_other_streams_and_constants() {
        let (mut one, mut other) = (RandomStream::new(1), RandomStream::new(2));
        assert_ne!(one.next_u64(), other.next_u64());
        assert_ne!(one.constant(), other.constant());
        assert_eq!(one.constant(), RandomStream::new(1).constant());
    }
}
