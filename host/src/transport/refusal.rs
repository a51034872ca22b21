//! Why another node, or a process that says it is one, is not spoken to.

/// Why another node is not spoken to. Nothing is kept of whoever is refused, but that it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It belongs elsewhere.
    #[error("node {name:?} belongs to cluster {theirs:?}, this one to {ours:?}")]
    OtherCluster {
        /// Its name.
        name: String,
        /// Its cluster.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// It speaks another protocol.
    #[error("node {name:?} ({version}) speaks peer protocol {theirs}, this one {ours}")]
    OtherProtocol {
        /// Its name.
        name: String,
        /// Version of its program.
        version: String,
        /// Its protocol.
        theirs: u32,
        /// Ours.
        ours: u32,
    },
    /// Its disk was wiped, or it is another node under a name that is taken.
    #[error(
        "node {name:?} was known with id {known} and comes with id {came}: its data was lost, or \
         another node has taken its name; restore its data, or have it forgotten with \
         `kontiki node forget {name}`"
    )]
    IdentityChanged {
        /// Its name.
        name: String,
        /// The id it is known by.
        known: u64,
        /// The id it came with.
        came: u64,
    },
    /// It has the id of a node of another name.
    #[error("node {came:?} comes with the id of node {known:?}: is its data directory a copy?")]
    IdTaken {
        /// The name it came with.
        came: String,
        /// The name that the id is known by.
        known: String,
    },
    /// Two processes run with its data, or with copies of it.
    #[error(
        "two processes say that they are node {name:?}: the one at {known} was there first, the one \
         at {came} is refused; stop the one at {came} and wipe its data directory. If the one at \
         {known} is to go instead, stop that, then restart the other"
    )]
    Duplicate {
        /// Its name.
        name: String,
        /// Where the process is that counts.
        known: String,
        /// Where the other came from.
        came: String,
    },
    /// Whether another process is that node cannot be told now; soon it can.
    #[error(
        "node {name:?} comes from {came}, but the connection of the process that it was at {known} \
         has not ended yet; it is taken in when that ends"
    )]
    StillConnected {
        /// Its name.
        name: String,
        /// Where the earlier process was.
        known: String,
        /// Where the other came from.
        came: String,
    },
    /// Somebody listens where the node is known to be, and does not say who.
    #[error(
        "node {name:?} comes from {came}, but whoever listens at {known}, where it was, does not say \
         who it is; it is taken in when that answers or ends"
    )]
    Unsure {
        /// Its name.
        name: String,
        /// Where it was.
        known: String,
        /// Where the other came from.
        came: String,
    },
    /// Nobody at the node's addresses stands by what was said in its name.
    #[error(
        "whoever says it is node {name:?} was not found at {address}: {why}; other nodes must reach \
         it where it says it is (--peer-advertise)"
    )]
    Unconfirmed {
        /// The name that was given.
        name: String,
        /// Where it was looked for.
        address: String,
        /// What was found there.
        why: String,
    },
    /// Another node answers at the address.
    #[error("node {found:?} answers at the address of node {wanted:?}")]
    OtherName {
        /// Who was looked for.
        wanted: String,
        /// Who answered.
        found: String,
    },
    /// The address leads back here.
    #[error("the address of node {0:?} leads to this node itself")]
    Itself(String),
    /// This process is the second of two with one id.
    #[error("this process was refused as a second node {0:?} and takes part in nothing")]
    SetAside(String),
    /// The address book is full.
    #[error(
        "node {name:?} is new, and {limit} nodes are known already: have those that are gone \
         forgotten with `kontiki node forget`"
    )]
    BookFull {
        /// Who came.
        name: String,
        /// As many may be known.
        limit: usize,
    },
    /// Too many whom nobody knows want to be looked at.
    #[error("node {0:?} is new, and others that are new are looked at just now; try again")]
    Busy(String),
    /// What was said is not valid.
    #[error("the introduction is not valid: {0}")]
    Invalid(&'static str),
}

impl Refusal {
    /// Whether a second process with one id was found.
    pub(crate) fn is_duplicate(&self) -> bool {
        matches!(self, Self::Duplicate { .. })
    }
}
