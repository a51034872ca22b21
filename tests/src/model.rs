//! Slow, obvious models of the demonstration plugins: what the answer to each command must be.

use std::collections::BTreeMap;

/// A model of one plugin.
#[derive(Clone, Debug)]
pub enum Model {
    /// Plugin `counter`.
    Counter(i64),
    /// Plugin `atomic`.
    Atomic(BTreeMap<String, i64>),
}

impl Model {
    /// A counter at zero.
    #[must_use]
    pub fn counter() -> Self {
        Self::Counter(0)
    }

    /// Registers, all zero.
    #[must_use]
    pub fn atomic() -> Self {
        Self::Atomic(BTreeMap::new())
    }

    /// Carries out one well-formed command and gives the answer.
    ///
    /// # Errors
    /// If the command is none that a load of these tests sends.
    pub fn apply(&mut self, command: &str) -> Result<String, String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        match (self, words.as_slice()) {
            (Self::Counter(value), ["add", n]) => {
                let before = *value;
                *value += parse(n)?;
                Ok(before.to_string())
            }
            (Self::Atomic(registers), ["exchange", id, new]) => {
                let new = parse(new)?;
                let old = registers.insert((*id).to_owned(), new).unwrap_or(0);
                Ok(format!("ok old={old} new={new}"))
            }
            (Self::Atomic(registers), ["cas", id, expected, new]) => {
                let (expected, new) = (parse(expected)?, parse(new)?);
                let old = registers.get(*id).copied().unwrap_or(0);
                if old != expected {
                    return Ok(format!("failed old={old} new={old}"));
                }
                registers.insert((*id).to_owned(), new);
                Ok(format!("ok old={old} new={new}"))
            }
            (_, other) => Err(format!("the model knows no {other:?}")),
        }
    }
}

fn parse(word: &str) -> Result<i64, String> {
    word.parse().map_err(|_| format!("`{word}` is no number"))
}
