//! Texts that a plugin made, for people: one line, printable, of bounded length.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// Longest reason of a reject as clients see it, in bytes; the rest is cut off and counted.
pub const REASON_SIZE_BYTES_MAX: usize = 4 << 10;

/// Longest name of an import, export or function in a message.
pub(crate) const NAME_SIZE_BYTES_MAX: usize = 256;

/// What a cut text may be longer than its limit, for the words that say so.
const MARK_SIZE_BYTES_MAX: usize = 40;

/// `text` with everything escaped that a terminal or a log would obey instead of showing: control
/// characters (line ends too), and those that change the direction of writing. What is beyond
/// `size_bytes_max` is cut off, and counted behind a mark.
///
/// ```
/// assert_eq!(kontiki_plugin::clean("a\u{1b}[2J\nb", 99), r"a\u{1b}[2J\nb");
/// assert_eq!(kontiki_plugin::clean("0123456789", 4), "0123… (6 more bytes)");
/// ```
pub fn clean(text: &str, size_bytes_max: usize) -> String {
    clean_bytes(text.as_bytes(), size_bytes_max)
}

/// As [`clean`], for bytes that should be UTF-8; what is none becomes U+FFFD.
///
/// Takes time for what it returns, not for what it was given.
pub fn clean_bytes(bytes: &[u8], size_bytes_max: usize) -> String {
    let mut cleaned = String::with_capacity(bytes.len().min(size_bytes_max) + MARK_SIZE_BYTES_MAX);
    let mut taken = 0;
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if !push(&mut cleaned, c, size_bytes_max) {
                return marked(cleaned, bytes.len() - taken);
            }
            taken += c.len_utf8();
        }
        if !chunk.invalid().is_empty() {
            if !push(&mut cleaned, char::REPLACEMENT_CHARACTER, size_bytes_max) {
                return marked(cleaned, bytes.len() - taken);
            }
            taken += chunk.invalid().len();
        }
    }
    cleaned
}

/// `text` with the same escaped but for line ends and tabs, and nothing cut off: for what is several
/// lines by design.
pub fn clean_lines(text: &str) -> Cow<'_, str> {
    let stays = |c: char| is_harmless(c) || matches!(c, '\n' | '\t');
    if text.chars().all(stays) {
        return Cow::Borrowed(text);
    }
    let mut cleaned = String::with_capacity(text.len() + 64);
    for c in text.chars() {
        match stays(c) {
            true => cleaned.push(c),
            false => cleaned.extend(c.escape_default()),
        }
    }
    Cow::Owned(cleaned)
}

/// Adds a character in its harmless form, if there is room.
fn push(cleaned: &mut String, c: char, size_bytes_max: usize) -> bool {
    let before = cleaned.len();
    match is_harmless(c) {
        true => cleaned.push(c),
        false => cleaned.extend(c.escape_default()),
    }
    let fits = cleaned.len() <= size_bytes_max;
    if !fits {
        cleaned.truncate(before);
    }
    fits
}

fn marked(mut cleaned: String, left_out_bytes: usize) -> String {
    // Writing to a string cannot fail.
    let _ = write!(cleaned, "… ({left_out_bytes} more bytes)");
    cleaned
}

/// Whether a character is shown as it is, and nothing else happens.
fn is_harmless(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let ends_line = matches!(c, '\u{2028}' | '\u{2029}');
    !(c.is_control() || turns || ends_line)
}

/// Takes what is written to it until it is full, and then fails, so that whoever writes stops.
pub(crate) struct Bounded {
    text: String,
    size_bytes_max: usize,
    /// Writes left: some formatters work without end and write nothing.
    writes_left: usize,
}

/// Writes that a text may be made of.
const WRITES_MAX: usize = 10_000;

impl Bounded {
    pub(crate) fn new(size_bytes_max: usize) -> Self {
        Self {
            text: String::new(),
            size_bytes_max,
            writes_left: WRITES_MAX,
        }
    }

    /// What was written, as far as it fits.
    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.size_bytes_max - self.text.len();
        let fitting = text.floor_char_boundary(room);
        self.text.push_str(&text[..fitting]);
        self.writes_left = self.writes_left.saturating_sub(1);
        match fitting == text.len() && self.writes_left > 0 {
            true => Ok(()),
            false => Err(fmt::Error),
        }
    }
}

/// A function's name for people: demangled if that stays short, cleaned and cut.
///
/// What a mangled C++ or Rust name stands for can be longer than the name by any factor, so it is
/// written only as far as there is room, and names that are long already stay as they are.
pub(crate) fn function_name(name: &str) -> String {
    let demangled = match name.len() <= NAME_SIZE_BYTES_MAX {
        true => demangle(name),
        false => None,
    };
    clean(demangled.as_deref().unwrap_or(name), NAME_SIZE_BYTES_MAX)
}

fn demangle(name: &str) -> Option<String> {
    let mut text = Bounded::new(NAME_SIZE_BYTES_MAX);
    if let Ok(symbol) = rustc_demangle::try_demangle(name) {
        write!(text, "{symbol}").ok()?;
        return Some(text.into_text());
    }
    if !name.starts_with("_Z") {
        return None;
    }
    let parse = cpp_demangle::ParseOptions::default().recursion_limit(CPP_RECURSION_MAX);
    let options = cpp_demangle::DemangleOptions::default().recursion_limit(CPP_RECURSION_MAX);
    let symbol = cpp_demangle::Symbol::new_with_options(name, &parse).ok()?;
    let mut writer = Cpp(text);
    symbol.structured_demangle(&mut writer, &options).ok()?;
    Some(writer.0.into_text())
}

/// How deep names may be nested; each level takes some hundred bytes of stack.
const CPP_RECURSION_MAX: u32 = 64;

/// [`Bounded`], as the C++ demangler wants it.
struct Cpp(Bounded);

impl cpp_demangle::DemangleWrite for Cpp {
    fn write_string(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(clean("ok ä \"quoted\"", 99), "ok ä \"quoted\"");
        assert_eq!(clean("\u{1b}[2J\r\n\t\0", 99), r"\u{1b}[2J\r\n\t\u{0}");
        assert_eq!(clean("\u{9b}1m\u{7f}", 99), r"\u{9b}1m\u{7f}");
        assert_eq!(clean_lines("a\n\tb"), "a\n\tb");
        assert_eq!(clean_lines("a\n\u{1b}b\r"), "a\n\\u{1b}b\\r");
        assert_eq!(clean("a\u{202e}b\u{2028}", 99), r"a\u{202e}b\u{2028}");
    }

    #[test]
    fn no_utf8_is_replaced_and_the_cut_is_counted() {
        assert_eq!(clean_bytes(b"a\xff\xfeb", 99), "a\u{fffd}\u{fffd}b");
        assert_eq!(
            clean_bytes(b"\x01\x01\x01", 11),
            r"\u{1}\u{1}… (1 more bytes)"
        );
        assert_eq!(clean(&"ä".repeat(10), 5), "ää… (16 more bytes)");
        let long = clean_bytes(&vec![1; 1 << 20], REASON_SIZE_BYTES_MAX);
        assert!(long.len() <= REASON_SIZE_BYTES_MAX + MARK_SIZE_BYTES_MAX);
        assert_eq!(clean("0123", 4), "0123");
    }

    #[test]
    fn names_are_demangled_as_far_as_they_stay_short() {
        assert_eq!(function_name("_ZN3foo3barEi"), "foo::bar(int)");
        assert_eq!(function_name("_RNvC6_123foo3bar"), "123foo::bar");
        assert_eq!(function_name("apply"), "apply");
        assert_eq!(function_name("\u{1b}[2J"), r"\u{1b}[2J");
        let long = "x".repeat(10_000);
        assert!(function_name(&long).len() < 300);
    }

    /// Each level is eight times as long as the one before: level 8 is 164 MB of text.
    #[test]
    fn a_name_that_demangles_to_gigabytes_takes_no_time_and_no_memory() {
        let reference = |n: usize| match n {
            0 => "S_".to_owned(),
            n => format!("S{}_", char::from(b"0123456789ABCDEFGHIJ"[n - 1])),
        };
        for levels in [3, 8, 9, 16] {
            let nested: String = (1..=levels)
                .map(|level| format!("S_I{}E", reference(level).repeat(8)))
                .collect();
            let name = format!("_Z1f1AIiE{nested}");
            let started = std::time::Instant::now();
            assert!(function_name(&name).len() < 300);
            assert!(started.elapsed().as_secs() < 5, "{levels} levels");
        }
    }
}
