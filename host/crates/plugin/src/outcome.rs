use crate::Answer;
use crc_fast::{CrcAlgorithm, Digest};

/// Running hash over all that a machine has answered: equal on two replicas that answered the same
/// to the same entries, whatever the batches.
///
/// A chain of CRC-64/NVME: each value is the checksum of the value before, the log index and the
/// length of the answer (8 bytes each, little-endian), the kind (0 ok, 1 reject) and the answer. It
/// finds replicas that drifted apart by mistake; it is no defence against forgery.
///
/// ```
/// use kontiki_plugin::{Answer, OutcomeHash};
///
/// let mut one = OutcomeHash::default();
/// let mut other = OutcomeHash::default();
/// one.add(1, Answer::Ok(b"5"));
/// other.add(1, Answer::Reject(b"5"));
/// assert_ne!(one, other);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct OutcomeHash(u64);

impl OutcomeHash {
    /// Goes on from a value that was stored.
    pub const fn from_value(value: u64) -> Self {
        Self(value)
    }

    /// The value, to be stored or compared.
    pub const fn value(self) -> u64 {
        self.0
    }

    /// Adds the answer to the entry at `index`.
    pub fn add(&mut self, index: u64, answer: Answer<'_>) {
        let bytes = answer.bytes();
        let mut head = [0; 25];
        head[..8].copy_from_slice(&self.0.to_le_bytes());
        head[8..16].copy_from_slice(&index.to_le_bytes());
        head[16..24].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        head[24] = u8::from(answer.is_reject());
        let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
        digest.update(&head);
        digest.update(bytes);
        self.0 = digest.finalize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(outcomes: &[(u64, Answer<'_>)]) -> u64 {
        let mut hash = OutcomeHash::default();
        for &(index, answer) in outcomes {
            hash.add(index, answer);
        }
        hash.value()
    }

    #[test]
    fn index_kind_bytes_and_order_count() {
        let base = [(1, Answer::Ok(b"a")), (2, Answer::Ok(b"b"))];
        let others = [
            [(1, Answer::Ok(b"a")), (3, Answer::Ok(b"b"))],
            [(1, Answer::Ok(b"a")), (2, Answer::Reject(b"b"))],
            [(1, Answer::Ok(b"a")), (2, Answer::Ok(b"c"))],
            [(2, Answer::Ok(b"b")), (1, Answer::Ok(b"a"))],
            [(1, Answer::Ok(b"ab")), (2, Answer::Ok(b""))],
        ];
        for other in others {
            assert_ne!(hash(&base), hash(&other), "{other:?}");
        }
    }

    #[test]
    fn value_is_part_of_the_log_format() {
        assert_eq!(hash(&[]), 0);
        let value = hash(&[(1, Answer::Ok(b"5")), (2, Answer::Reject(b"no"))]);
        assert_eq!(value, OUTCOME_OF_TWO, "{value:#x}");
    }

    /// Computed bit by bit in another language; may only change together with the format.
    const OUTCOME_OF_TWO: u64 = 0x7830_2297_4960_14a0;
}
