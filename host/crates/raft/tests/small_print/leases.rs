//! Leases.

use crate::support::{Image, Seen, Solo, say, voters};
use kontiki_raft::Settings;

#[test]
fn a_promise_that_is_on_record_is_not_written_again() {
    let settings = Settings {
        leader_lease: true,
        ..Settings::default()
    };
    let mut node = Solo::with(settings, voters([1, 2, 3]), Image::default());
    let first = node.receive(2, 1, say::heartbeat(0));
    assert_eq!(first.writes().len(), 1);
    let second = node.receive(2, 1, say::heartbeat(0));
    assert!(second.writes().is_empty(), "{second:?}");
}
