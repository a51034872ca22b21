//! The registers and their file in a snapshot.
//!
//! The file is a checked one. It holds the number of registers as `u64`, then each by ascending name:
//! the length of the name in one byte, the name, the value as `i64`; integers little-endian.

use crate::request::ID_LEN_MAX;
use kontiki_guest::{CheckedReader, Error, SnapshotReader, SnapshotWriter};
use std::collections::BTreeMap;
use std::io::{Read, Write};

/// The one file of a snapshot.
pub(crate) const FILE: &str = "registers";

/// Values by name. A register that holds 0 is not in the map, so that equal states are equal maps
/// and equal files.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Registers(BTreeMap<String, i64>);

impl Registers {
    /// The value, 0 if it was never set.
    pub(crate) fn get(&self, id: &str) -> i64 {
        self.0.get(id).copied().unwrap_or(0)
    }

    /// Sets a value; the one before.
    pub(crate) fn set(&mut self, id: &str, value: i64) -> i64 {
        if value == 0 {
            return self.0.remove(id).unwrap_or(0);
        }
        match self.0.get_mut(id) {
            Some(held) => std::mem::replace(held, value),
            None => self.0.insert(id.to_owned(), value).unwrap_or(0),
        }
    }

    pub(crate) fn save(&self, snapshot: &SnapshotWriter<'_>, format: u32) -> Result<(), Error> {
        let mut file = snapshot.create_checked(FILE, format)?;
        file.write_all(&(self.0.len() as u64).to_le_bytes())?;
        for (id, value) in &self.0 {
            file.write_all(&[id.len() as u8])?;
            file.write_all(id.as_bytes())?;
            file.write_all(&value.to_le_bytes())?;
        }
        Ok(file.finish(b"")?)
    }

    pub(crate) fn load(snapshot: &SnapshotReader<'_>, format: u32) -> Result<Self, Error> {
        let mut file = snapshot.open_checked(FILE)?;
        if file.format() != format {
            return Err(Error::new(format!(
                "{FILE}: unknown format {}",
                file.format()
            )));
        }
        let count = u64::from_le_bytes(read_array(&mut file)?);
        let mut registers = BTreeMap::new();
        for _ in 0..count {
            let (id, value) = read_register(&mut file)?;
            let ascending = registers
                .last_key_value()
                .is_none_or(|(last, _)| *last < id);
            if value == 0 || !ascending {
                return Err(Error::new(format!(
                    "{FILE}: register {id:?} breaks the format"
                )));
            }
            registers.insert(id, value);
        }
        file.finish()?;
        Ok(Registers(registers))
    }
}

fn read_register(file: &mut CheckedReader) -> Result<(String, i64), Error> {
    let [length] = read_array(file)?;
    if usize::from(length) > ID_LEN_MAX {
        return Err(Error::new(format!("{FILE}: a name of {length} bytes")));
    }
    let mut id = vec![0; usize::from(length)];
    file.read_exact(&mut id)?;
    let id = String::from_utf8(id)
        .map_err(|error| Error::new(format!("{FILE}: a name is not UTF-8: {error}")))?;
    Ok((id, i64::from_le_bytes(read_array(file)?)))
}

fn read_array<const N: usize>(file: &mut CheckedReader) -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}
