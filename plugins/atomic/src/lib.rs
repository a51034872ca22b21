//! Named registers with exchange and compare-and-swap.
//!
//! | sent as | line | answer |
//! |---|---|---|
//! | command | `exchange ID V` | `ok old=OLD new=V` |
//! | command | `cas ID EXPECTED NEW` | `ok old=EXPECTED new=NEW`, or `failed old=OLD new=OLD` |
//! | query | `get ID` | the value |
//!
//! `ID` is a word of at most 64 bytes, values are signed 64-bit numbers, and a register that was never
//! set holds 0. `old` and `new` are the values before and after the command, so a `cas` that found
//! another value than expected names it; that is an answer, not a reject.

mod registers;
mod request;

use kontiki_guest::{
    Answer, Entry, Error, Machine, Reject, SnapshotReader, SnapshotWriter, answer, text,
};
use registers::Registers;
use request::{Command, Query};

/// The registers.
#[derive(Debug, Default, PartialEq)]
pub struct Atomic {
    registers: Registers,
}

impl Machine for Atomic {
    const NAME: &'static str = "atomic";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const STATE_FORMAT: u32 = 1;

    fn apply(&mut self, entry: Entry<'_>) -> Result<Answer, Reject> {
        match Command::parse(entry.text()?)? {
            Command::Exchange { id, value } => {
                let old = self.registers.set(id, value);
                Ok(answer!("ok old={old} new={value}"))
            }
            Command::CompareAndSwap { id, expected, new } => {
                let old = self.registers.get(id);
                if old != expected {
                    return Ok(answer!("failed old={old} new={old}"));
                }
                self.registers.set(id, new);
                Ok(answer!("ok old={old} new={new}"))
            }
        }
    }

    fn query(&self, request: &[u8]) -> Result<Answer, Reject> {
        let Query::Get { id } = Query::parse(text(request)?)?;
        Ok(answer!("{}", self.registers.get(id)))
    }

    fn save(&self, snapshot: &SnapshotWriter<'_>) -> Result<(), Error> {
        self.registers.save(snapshot, Self::STATE_FORMAT)
    }

    fn load(snapshot: &SnapshotReader<'_>) -> Result<Self, Error> {
        let registers = Registers::load(snapshot, Self::STATE_FORMAT)?;
        Ok(Atomic { registers })
    }
}

kontiki_guest::export!(Atomic);

#[cfg(test)]
mod tests;
