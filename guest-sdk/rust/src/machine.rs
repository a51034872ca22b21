//! The trait an author implements.

use crate::{Answer, Reject, SnapshotReader, SnapshotWriter};
use std::{fmt, io};

/// A replicated state machine. [The crate's front page](crate) shows one whole, and lists what every
/// machine must keep to.
///
/// The default value is the state of a new group, before its first command.
pub trait Machine: Default + 'static {
    /// Short name, `[a-z][a-z0-9-]*`, at most 64 bytes.
    const NAME: &'static str;
    /// Version for people; usually `env!("CARGO_PKG_VERSION")`.
    const VERSION: &'static str;
    /// Format in which [`save`](Machine::save) writes. Raise it with every change of that format.
    const STATE_FORMAT: u32;
    /// Formats that [`load`](Machine::load) understands. Keep the older ones so that a group can be
    /// upgraded; contains [`STATE_FORMAT`](Machine::STATE_FORMAT).
    const READS_FORMATS: &'static [u32] = &[Self::STATE_FORMAT];

    /// Carries out one command.
    ///
    /// # Errors
    /// A [`Reject`] says that the command was wrong. It should leave the state as it was: what it
    /// changed stays changed.
    fn apply(&mut self, entry: Entry<'_>) -> Result<Answer, Reject>;

    /// Answers a question about the state.
    ///
    /// # Errors
    /// A [`Reject`] says that the request was wrong.
    fn query(&self, request: &[u8]) -> Result<Answer, Reject>;

    /// Writes the whole state as files of a snapshot. Equal states write equal bytes.
    ///
    /// # Errors
    /// An error fails the snapshot, not the group: the log is kept and the host tries again.
    fn save(&self, snapshot: &SnapshotWriter<'_>) -> Result<(), Error>;

    /// Reads a state that [`save`](Machine::save) wrote, in any of
    /// [`READS_FORMATS`](Machine::READS_FORMATS).
    ///
    /// # Errors
    /// An error says what is wrong with the files; the replica takes another snapshot.
    fn load(snapshot: &SnapshotReader<'_>) -> Result<Self, Error>;
}

/// Panics at compile time if what a machine says about itself breaks the contract.
pub(crate) const fn check<M: Machine>() {
    let name = M::NAME.as_bytes();
    assert!(
        !name.is_empty() && name.len() <= 64,
        "NAME must have 1 to 64 bytes"
    );
    assert!(
        name[0].is_ascii_lowercase(),
        "NAME must begin with a lower-case letter"
    );
    let mut i = 1;
    while i < name.len() {
        let letter = name[i];
        let allowed = letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
        assert!(
            allowed,
            "NAME may have lower-case letters, digits and '-' only"
        );
        i += 1;
    }
    let mut reads_own = false;
    let mut i = 0;
    while i < M::READS_FORMATS.len() {
        reads_own |= M::READS_FORMATS[i] == M::STATE_FORMAT;
        i += 1;
    }
    assert!(reads_own, "READS_FORMATS must contain STATE_FORMAT");
}

/// One command at its place in the log.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    payload: &'a [u8],
    index: u64,
    time: u64,
}

impl<'a> Entry<'a> {
    /// An entry as the host would hand it over; for tests of a machine's own parts.
    pub fn new(payload: &'a [u8], index: u64, time: u64) -> Self {
        Entry {
            payload,
            index,
            time,
        }
    }

    /// What the client sent.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The payload as text, for machines whose commands are lines.
    ///
    /// # Errors
    /// A [`Reject`] if it is not UTF-8.
    pub fn text(&self) -> Result<&'a str, Reject> {
        text(self.payload)
    }

    /// Its index in the log: ascending, not always consecutive, the same on every replica.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// When it was proposed, in nanoseconds since the Unix epoch: stamped by the leader, never going
    /// back, the same on every replica. The only clock there is.
    pub fn time(&self) -> u64 {
        self.time
    }
}

/// Bytes as text, for machines whose commands and requests are lines.
///
/// # Errors
/// A [`Reject`] that says where they stop being UTF-8.
pub fn text(bytes: &[u8]) -> Result<&str, Reject> {
    std::str::from_utf8(bytes).map_err(|error| {
        Reject::new(format!(
            "not UTF-8 text: bad byte at {}",
            error.valid_up_to()
        ))
    })
}

/// Why a snapshot could not be written or read: one text, for an operator.
///
/// ```
/// use kontiki_guest::Error;
///
/// fn check(format: u32) -> Result<(), Error> {
///     if format > 2 {
///         return Err(Error::new(format!("format {format} is newer than this plugin")));
///     }
///     std::fs::metadata("/")?; // I/O errors convert
///     Ok(())
/// }
/// assert!(check(3).unwrap_err().to_string().contains("newer"));
/// ```
#[derive(Debug)]
pub struct Error(String);

impl Error {
    /// An error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Error(text.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error(error.to_string())
    }
}

impl From<String> for Error {
    fn from(text: String) -> Self {
        Error(text)
    }
}

impl From<&str> for Error {
    fn from(text: &str) -> Self {
        Error(text.to_owned())
    }
}
