//! Read-only mode (braft's `enter_readonly_mode`).

use crate::core::Core;
use crate::planted::PlantedBug;

impl Core {
    /// Whether the leader refuses commands: it is read-only itself, or too few voters of *either*
    /// set are writable. braft's code says AND where OR is meant, and lets one set of a joint
    /// configuration overwrite the other (trap 43).
    pub(crate) fn is_group_read_only(&self) -> bool {
        let too_few = self.leading.as_ref().is_some_and(|l| l.peers_read_only)
            && !self.bug(PlantedBug::ReadOnlyMajorityIgnored);
        if self.bug(PlantedBug::ReadOnlyAnd) {
            return self.read_only && too_few;
        }
        self.read_only || too_few
    }

    /// Takes note of what a peer says about itself.
    pub(crate) fn note_read_only(&mut self, at: usize, read_only: bool) {
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let peer = &mut leading.peers[at];
        if peer.read_only != read_only {
            peer.read_only = read_only;
            self.recount_writable();
        }
    }

    /// Counts writable voters; needed when a peer's word or the configuration changes. The leader
    /// itself counts as writable here: its own mode is looked at separately.
    pub(crate) fn recount_writable(&mut self) {
        if let Some(leading) = self.leading.as_deref_mut() {
            let writable = leading.agreed(true, |peer| !peer.read_only);
            leading.peers_read_only = writable == Some(false);
        }
    }
}
