//! The trace of a run: always as one hash, in words only when somebody will read it.

use crate::random::mix;
use std::collections::VecDeque;
use std::fmt;

/// How much of the trace is put into words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Words {
    /// Only the hash.
    #[default]
    None,
    /// The last lines are kept.
    Last(usize),
    /// Every line is printed as it comes.
    Print,
}

/// Trace of one run.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    words: Words,
    lines: VecDeque<String>,
}

impl Trace {
    /// An empty trace.
    #[must_use]
    pub fn new(words: Words) -> Self {
        Self {
            words,
            ..Self::default()
        }
    }

    /// Adds numbers to the hash.
    pub fn note(&mut self, a: u64, b: u64) {
        self.hash = mix(self.hash ^ a).wrapping_add(b);
    }

    /// Adds a line, if anybody reads it.
    pub fn line(&mut self, line: impl FnOnce() -> String) {
        match self.words {
            Words::None => {}
            Words::Last(lines_max) => {
                if self.lines.len() >= lines_max {
                    self.lines.pop_front();
                }
                self.lines.push_back(line());
            }
            Words::Print => println!("{}", line()),
        }
    }

    /// The hash so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The lines kept.
    #[must_use]
    pub fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}

/// A moment of simulated time, in words.
#[derive(Clone, Copy, Debug)]
pub struct At(pub u64);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>4}.{:06}s", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}
