use crate::text::{REASON_SIZE_BYTES_MAX, clean_bytes};

/// First word of the reason of a reject that the host makes of an answer over the limit.
pub const ANSWER_TOO_LARGE: &str = "ANSWER_TOO_LARGE";

/// A plugin's answer to one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The command was carried out.
    Ok(&'a [u8]),
    /// The plugin's own no. The bytes are the reason, one line of UTF-8 by the contract.
    Reject(&'a [u8]),
}

impl<'a> Answer<'a> {
    /// The bytes, of either kind.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Self::Ok(bytes) | Self::Reject(bytes) => bytes,
        }
    }

    /// Whether it is a reject.
    pub fn is_reject(self) -> bool {
        matches!(self, Self::Reject(_))
    }

    /// The reason as clients see it, if it is a reject: [cleaned](crate::clean_bytes), and at most
    /// [`REASON_SIZE_BYTES_MAX`] of it.
    pub fn reject_reason(self) -> Option<String> {
        match self {
            Self::Ok(_) => None,
            Self::Reject(bytes) => Some(clean_bytes(bytes, REASON_SIZE_BYTES_MAX)),
        }
    }
}

/// One answer an entry, packed as the WIT record `kontiki:plugin/types.answers`.
///
/// ```
/// use kontiki_plugin::{Answer, Answers};
///
/// let mut answers = Answers::default();
/// answers.push(Answer::Ok(b"3"));
/// answers.push(Answer::Reject(b"no such key"));
/// assert_eq!(answers.get(1), Some(Answer::Reject(b"no such key")));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers {
    /// `ends` ascends and ends at the length of `data`; `codes` is as long as `ends`.
    data: Vec<u8>,
    ends: Vec<u32>,
    codes: Vec<u8>,
}

impl Answers {
    /// Takes over what a plugin returned for `count` entries. An answer that is longer than
    /// `size_bytes_max` becomes [a reject](Self::push_within) of its own entry.
    ///
    /// # Errors
    ///
    /// [`MalformedAnswers`], naming the entry, if the lists do not agree with each other or with
    /// the number of entries.
    pub fn from_parts(
        data: Vec<u8>,
        ends: Vec<u32>,
        codes: Vec<u8>,
        count: usize,
        size_bytes_max: u64,
    ) -> Result<Self, MalformedAnswers> {
        if ends.len() != count || codes.len() != count {
            let answers = ends.len().min(codes.len());
            return Err(MalformedAnswers::Count {
                answers,
                codes: codes.len(),
                entries: count,
            });
        }
        check_ends(&data, &ends)?;
        let answers = Self { data, ends, codes };
        let fits = |answer: Answer<'_>| answer.bytes().len() as u64 <= size_bytes_max;
        if answers.iter().all(fits) {
            return Ok(answers);
        }
        let mut within = Self::default();
        for answer in answers.iter() {
            within.push_within(answer, size_bytes_max);
        }
        Ok(within)
    }

    /// Appends an answer, or, if it is longer than `size_bytes_max`, a reject that says so in its
    /// place: `ANSWER_TOO_LARGE: …`, with size and limit. Such an answer concerns its own entry
    /// only, whose changes of the state stand. Every replica makes the same of it, since its length
    /// depends on the entry and the state alone.
    ///
    /// # Panics
    ///
    /// As [`push`](Self::push).
    pub fn push_within(&mut self, answer: Answer<'_>, size_bytes_max: u64) {
        let size_bytes = answer.bytes().len() as u64;
        if size_bytes <= size_bytes_max {
            return self.push(answer);
        }
        let mut reason = too_large(size_bytes, size_bytes_max);
        reason.push_str("; what the command changed stands");
        self.push(Answer::Reject(reason.as_bytes()));
    }

    /// Appends an answer, for machines that are not Wasm.
    ///
    /// # Panics
    ///
    /// If the answers of the batch get 4 GiB or more.
    pub fn push(&mut self, answer: Answer<'_>) {
        self.data.extend_from_slice(answer.bytes());
        let end = u32::try_from(self.data.len()).expect("answers are far below 4 GiB");
        self.ends.push(end);
        self.codes.push(u8::from(answer.is_reject()));
    }

    /// The answer to entry `n` of the batch, counted from 0.
    pub fn get(&self, n: usize) -> Option<Answer<'_>> {
        let end = *self.ends.get(n)? as usize;
        let start = if n == 0 { 0 } else { self.ends[n - 1] as usize };
        let bytes = &self.data[start..end];
        Some(if self.codes[n] == 0 {
            Answer::Ok(bytes)
        } else {
            Answer::Reject(bytes)
        })
    }

    /// Number of answers.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All answers in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Answer<'_>> {
        (0..self.len()).map(|n| self.get(n).expect("n is below the length"))
    }
}

/// Why an answer over the limit is a reject. In `apply` it is part of the outcome hash.
pub(crate) fn too_large(size_bytes: u64, size_bytes_max: u64) -> String {
    format!(
        "{ANSWER_TOO_LARGE}: the plugin's answer has {size_bytes} bytes, the limit is \
         {size_bytes_max}"
    )
}

fn check_ends(data: &[u8], ends: &[u32]) -> Result<(), MalformedAnswers> {
    let mut start = 0;
    for (entry, &end) in ends.iter().enumerate() {
        if end < start || end as usize > data.len() {
            return Err(MalformedAnswers::Ends { entry });
        }
        start = end;
    }
    if start as usize == data.len() {
        Ok(())
    } else {
        Err(MalformedAnswers::Ends {
            entry: ends.len().saturating_sub(1),
        })
    }
}

/// What `apply` returned are no answers to its batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MalformedAnswers {
    /// Not one answer and one code an entry.
    #[error("returned {answers} answers ({codes} codes) for {entries} entries")]
    Count {
        /// Whole answers.
        answers: usize,
        /// Codes.
        codes: usize,
        /// Entries of the batch.
        entries: usize,
    },
    /// The ends do not ascend to the length of the data.
    #[error("the end of answer {entry} does not fit the returned data")]
    Ends {
        /// Entry of the batch, from 0.
        entry: usize,
    },
}

impl MalformedAnswers {
    /// The entry to blame: the first without a proper answer.
    pub fn entry(&self) -> usize {
        match *self {
            Self::Count {
                answers, entries, ..
            } => answers.min(entries.saturating_sub(1)),
            Self::Ends { entry } => entry,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(data: &[u8], ends: &[u32], codes: &[u8], count: usize) -> Result<Answers, usize> {
        Answers::from_parts(data.to_vec(), ends.to_vec(), codes.to_vec(), count, 3)
            .map_err(|malformed| malformed.entry())
    }

    #[test]
    fn unpacks_what_agrees() {
        let answers = parts(b"abcd", &[1, 1, 4], &[0, 2, 0], 3).unwrap();
        let all: Vec<_> = answers.iter().collect();
        assert_eq!(
            all,
            [Answer::Ok(b"a"), Answer::Reject(b""), Answer::Ok(b"bcd")]
        );
        assert_eq!(answers.get(3), None);
        assert!(parts(b"", &[], &[], 0).unwrap().is_empty());
    }

    #[test]
    fn an_answer_over_the_limit_is_a_reject_of_its_own_entry() {
        let answers = parts(b"aabcdefghij", &[1, 5, 6, 11], &[0, 0, 1, 1], 4).unwrap();
        let four = "ANSWER_TOO_LARGE: the plugin's answer has 4 bytes, the limit is 3; what the \
                    command changed stands";
        let five = four.replace("has 4", "has 5");
        let expected = [
            Answer::Ok(b"a"),
            Answer::Reject(four.as_bytes()),
            Answer::Reject(b"e"),
            Answer::Reject(five.as_bytes()),
        ];
        assert!(answers.iter().eq(expected), "{answers:?}");
    }

    #[test]
    fn a_reason_is_cleaned_and_bounded() {
        let reason = |bytes| Answer::Reject(bytes).reject_reason().unwrap();
        assert_eq!(reason(b"no\x1b[2J\n\xff"), "no\\u{1b}[2J\\n\u{fffd}");
        assert!(reason(&[1; 1 << 20]).len() < 5_000);
        assert_eq!(Answer::Ok(b"x").reject_reason(), None);
    }

    #[test]
    fn refuses_what_does_not_agree_and_names_the_entry() {
        assert_eq!(parts(b"ab", &[1, 2], &[0, 0], 3), Err(2));
        assert_eq!(parts(b"ab", &[1, 2], &[0, 0], 1), Err(0));
        assert_eq!(parts(b"ab", &[1, 2], &[0], 2), Err(1));
        assert_eq!(parts(b"ab", &[2, 1], &[0, 0], 2), Err(1));
        assert_eq!(parts(b"ab", &[1, 3], &[0, 0], 2), Err(1));
        assert_eq!(parts(b"abc", &[1, 2], &[0, 0], 2), Err(1));
        assert_eq!(parts(b"a", &[], &[], 0), Err(0));
    }
}
