//! Slow, obvious models of the demonstration plugins: what the answer to each command must be.

use std::collections::BTreeMap;

/// A model of one plugin.
#[derive(Clone, Debug)]
pub enum Model {
    /// Plugin `counter`.
    Counter(i64),
    /// Plugin `atomic`.
    Atomic(BTreeMap<u64, i64>),
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
    pub fn apply(&mut self, command: &str) -> Result<String, String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        match (self, words.as_slice()) {
            (Self::Counter(value), ["add", n]) => {
                let before = *value;
                *value += parse(n)?;
                Ok(before.to_string())
            }
            (Self::Atomic(registers), ["exchange", id, new]) => {
                let (id, new) = (id.parse().map_err(|_| "bad id")?, parse(new)?);
                let old = registers.insert(id, new).unwrap_or(0);
                Ok(format!("old={old} new={new} success=true"))
            }
            (Self::Atomic(registers), ["cas", id, expected, new]) => {
                let (expected, wanted) = (parse(expected)?, parse(new)?);
                let register = registers
                    .entry(id.parse().map_err(|_| "bad id")?)
                    .or_insert(0);
                let (old, success) = (*register, *register == expected);
                *register = if success { wanted } else { old };
                Ok(format!("old={old} new={} success={success}", *register))
            }
            (_, other) => Err(format!("the model knows no {other:?}")),
        }
    }
}

fn parse(word: &str) -> Result<i64, String> {
    word.parse().map_err(|_| format!("`{word}` is no number"))
}
