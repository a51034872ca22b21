//! Error texts of any length, made to fit into the trailers of a call.
//!
//! A client takes a few KiB of trailers (16 by default, other programs 8); with more the call ends
//! as if the connection had broken, and whoever called never learns why.

/// Room for a message, percent-encoded as it is sent.
const MESSAGE_SIZE_BYTES_MAX: usize = 4 << 10;
/// Room for one value of an error's details, encoded likewise.
const VALUE_SIZE_BYTES_MAX: usize = 512;
/// Room for the details of an error that another node made.
pub(super) const DETAILS_SIZE_BYTES_MAX: usize = 2 << 10;

/// A message that fits: a long one loses its middle, since the beginning says what happened and the
/// end where.
pub(super) fn message(text: &str) -> String {
    cut(text, MESSAGE_SIZE_BYTES_MAX)
}

/// A value of the details that fits.
pub(super) fn value(text: &str) -> String {
    cut(text, VALUE_SIZE_BYTES_MAX)
}

fn cut(text: &str, size_bytes_max: usize) -> String {
    if text.chars().map(encoded_size).sum::<usize>() <= size_bytes_max {
        return text.to_owned();
    }
    let head = fitting(text.chars(), size_bytes_max * 2 / 3);
    let tail = fitting(text.chars().rev(), size_bytes_max / 3 - MARK_SIZE_BYTES_MAX);
    let (start, end) = (&text[..head], &text[text.len() - tail..]);
    let left_out = text.len() - head - tail;
    format!("{start} … ({left_out} bytes left out; the node's log has more) … {end}")
}

/// Room for the words in the middle.
const MARK_SIZE_BYTES_MAX: usize = 128;

/// Bytes of text that the first of these characters have, as long as they fit.
fn fitting(chars: impl Iterator<Item = char>, size_bytes_max: usize) -> usize {
    let (mut encoded, mut size_bytes) = (0, 0);
    for c in chars {
        encoded += encoded_size(c);
        if encoded > size_bytes_max {
            break;
        }
        size_bytes += c.len_utf8();
    }
    size_bytes
}

/// What a character takes in a header: more than this never.
fn encoded_size(c: char) -> usize {
    match c {
        c if c.is_ascii_alphanumeric() => 1,
        '-' | '.' | '_' | ':' | '/' | '(' | ')' | '!' | ',' => 1,
        c => 3 * c.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_messages_stay_and_long_ones_keep_both_ends() {
        assert_eq!(message("no: ä\n"), "no: ä\n");
        for middle in ["x", "ä", "\n", " "] {
            let long = format!("begins{}ends", middle.repeat(1 << 20));
            let cut = message(&long);
            assert!(cut.starts_with("begins") && cut.ends_with("ends"), "{cut}");
            let encoded: usize = cut.chars().map(encoded_size).sum();
            assert!(encoded <= MESSAGE_SIZE_BYTES_MAX, "{encoded} of {middle:?}");
        }
    }
}
