//! What a machine says to a command or a query.

use std::fmt;

/// The longest answer that is kept without an allocation.
const INLINE_LEN: usize = 46;

/// The bytes a client gets back. Short ones need no allocation.
///
/// Made from bytes or text, or written like a string with [`answer!`](crate::answer).
///
/// ```
/// use kontiki_guest::{Answer, answer};
///
/// assert_eq!(answer!("{} of {}", 3, 7), Answer::from("3 of 7"));
/// assert_eq!(Answer::from(vec![1, 2, 3]).as_bytes(), [1, 2, 3]);
/// ```
#[derive(Clone)]
pub struct Answer(Bytes);

#[derive(Clone)]
enum Bytes {
    Inline { len: u8, bytes: [u8; INLINE_LEN] },
    Heap(Vec<u8>),
}

impl Answer {
    /// An answer that says nothing but that the command was carried out.
    pub const fn empty() -> Self {
        Answer(Bytes::Inline {
            len: 0,
            bytes: [0; INLINE_LEN],
        })
    }

    /// The bytes as they are sent.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Bytes::Heap(bytes) => bytes,
        }
    }

    /// The bytes as they are sent, in their own allocation.
    pub fn into_bytes(self) -> Vec<u8> {
        match self.0 {
            Bytes::Inline { len, bytes } => bytes[..usize::from(len)].to_vec(),
            Bytes::Heap(bytes) => bytes,
        }
    }

    /// Adds bytes at the end.
    pub fn extend_from_slice(&mut self, more: &[u8]) {
        match &mut self.0 {
            Bytes::Inline { len, bytes } => {
                let (start, end) = (usize::from(*len), usize::from(*len) + more.len());
                if let Some(free) = bytes.get_mut(start..end) {
                    free.copy_from_slice(more);
                    *len = end as u8;
                } else {
                    let mut heap = Vec::with_capacity(end.next_power_of_two());
                    heap.extend_from_slice(&bytes[..start]);
                    heap.extend_from_slice(more);
                    self.0 = Bytes::Heap(heap);
                }
            }
            Bytes::Heap(bytes) => bytes.extend_from_slice(more),
        }
    }
}

impl Default for Answer {
    fn default() -> Self {
        Answer::empty()
    }
}

impl fmt::Write for Answer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl From<&[u8]> for Answer {
    fn from(bytes: &[u8]) -> Self {
        let mut answer = Answer::empty();
        answer.extend_from_slice(bytes);
        answer
    }
}

impl From<Vec<u8>> for Answer {
    fn from(bytes: Vec<u8>) -> Self {
        Answer(Bytes::Heap(bytes))
    }
}

impl From<&str> for Answer {
    fn from(text: &str) -> Self {
        Answer::from(text.as_bytes())
    }
}

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Answer::from(text.into_bytes())
    }
}

impl PartialEq for Answer {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Answer {}

impl PartialEq<str> for Answer {
    fn eq(&self, text: &str) -> bool {
        self.as_bytes() == text.as_bytes()
    }
}

impl PartialEq<&str> for Answer {
    fn eq(&self, text: &&str) -> bool {
        self == *text
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(self.as_bytes()) {
            Ok(text) => write!(f, "{text:?}"),
            Err(_) => write!(f, "{:?}", self.as_bytes()),
        }
    }
}

/// An [`Answer`] from a format string, as `format!` makes a `String`.
///
/// ```
/// # use kontiki_guest::answer;
/// assert_eq!(answer!("{:>4}", 42), "  42");
/// ```
#[macro_export]
macro_rules! answer {
    ($($format:tt)*) => {{
        let mut answer = $crate::Answer::empty();
        // Writing to an answer cannot fail.
        let _ = ::std::fmt::Write::write_fmt(&mut answer, ::std::format_args!($($format)*));
        answer
    }};
}

/// The longest reason of a [`Reject`] in bytes.
pub const REASON_LEN_MAX: usize = 1024;

/// How much of somebody's words [`shown`] repeats, in bytes.
const SHOWN_LEN_MAX: usize = 64;

/// Somebody's words as a reason may repeat them: quoted, escaped, and no more than the first 64 bytes.
/// A command has up to some megabytes, and escaped up to six times as many.
///
/// ```
/// use kontiki_guest::shown;
///
/// assert_eq!(shown("sub 1"), "\"sub 1\"");
/// assert_eq!(shown(&"x".repeat(1_000_000)).len(), 64 + 5);
/// ```
pub fn shown(text: &str) -> String {
    match cut(text, SHOWN_LEN_MAX) {
        whole if whole.len() == text.len() => format!("{whole:?}"),
        start => format!("{start:?}…"),
    }
}

/// The beginning of a text, at most `len` bytes and whole characters.
fn cut(text: &str, len: usize) -> &str {
    let mut end = text.len().min(len);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A machine's own "no" to a command or query, with one line that tells the sender what was wrong.
///
/// A rejected command is an entry of the log like any other, and every replica rejects it alike: its
/// reason may depend on the command and the state only. Repeat what was sent by [`shown`].
///
/// ```
/// use kontiki_guest::Reject;
///
/// assert_eq!(Reject::new("no such\naccount").reason(), "no such account");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    reason: String,
}

impl Reject {
    /// A reject with this reason; control characters become spaces, so that it is one line, and
    /// what is beyond [`REASON_LEN_MAX`] is cut off.
    pub fn new(reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        if reason.len() > REASON_LEN_MAX {
            reason.truncate(cut(&reason, REASON_LEN_MAX - "…".len()).len());
            reason.push('…');
        }
        if reason.contains(char::is_control) {
            reason = reason.replace(char::is_control, " ");
        }
        Reject { reason }
    }

    /// What was wrong.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What was wrong, without a copy.
    pub fn into_reason(self) -> String {
        self.reason
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Reject {}

impl From<String> for Reject {
    fn from(reason: String) -> Self {
        Reject::new(reason)
    }
}

impl From<&str> for Reject {
    fn from(reason: &str) -> Self {
        Reject::new(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_grows_from_inline_to_heap_without_loss() {
        let mut answer = Answer::empty();
        let mut expected = Vec::new();
        for byte in 0..200u8 {
            answer.extend_from_slice(&[byte]);
            expected.push(byte);
            assert_eq!(answer.as_bytes(), expected);
        }
    }

    #[test]
    fn an_answer_is_its_bytes_however_it_is_kept() {
        assert_eq!(Answer::from("short"), Answer::from(b"short".to_vec()));
        let long = "long".repeat(20);
        assert_eq!(Answer::from(long.as_str()), Answer::from(long.clone()));
        assert_eq!(answer!("{long}"), Answer::from(long));
    }

    #[test]
    fn a_reason_and_what_it_repeats_are_cut_at_a_character() {
        let reason = Reject::new("ä".repeat(REASON_LEN_MAX));
        assert!(reason.reason().len() <= REASON_LEN_MAX && reason.reason().ends_with("ä…"));
        let whole = "x".repeat(REASON_LEN_MAX);
        assert_eq!(Reject::new(whole.clone()).reason(), whole);
        assert_eq!(shown("a\n"), "\"a\\n\"");
        let long = format!("x{}", "ä".repeat(100));
        assert_eq!(shown(&long), format!("\"x{}\"…", "ä".repeat(31)));
    }

    #[test]
    fn a_reason_is_one_line() {
        assert_eq!(Reject::new("a\r\nb\u{85}c").reason(), "a  b c");
    }
}
