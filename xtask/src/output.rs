//! Results for people or programs.

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

impl Format {
    /// Prints a result.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub(crate) fn print<T: Serialize>(self, result: &T, text: impl FnOnce(&T)) -> Result<()> {
        match self {
            Format::Text => text(result),
            Format::Json => println!("{}", serde_json::to_string(result)?),
        }
        Ok(())
    }
}
