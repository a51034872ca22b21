//! The disk encoding: what goes in comes out, and nothing else does.

#![allow(clippy::unwrap_used, reason = "a test program")]

use bytes::Bytes;
use kontiki_raft::{Configuration, Entry, EntryKind, LogId, LogIndex, MemberSet, NodeId, Term};
use kontiki_storage::codec::{
    CodecError, Place, decode_configuration, decode_entry, decode_record, encode_configuration,
    encode_entry, encode_record,
};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

const PLACE: Place<'_> = Place {
    family: b'l',
    key: b"group and index",
};

fn member_sets() -> impl Strategy<Value = MemberSet> {
    let nodes = || btree_set(any::<u64>().prop_map(NodeId), 0..6);
    (nodes(), nodes()).prop_map(|(voters, learners)| {
        let learners = learners.difference(&voters).copied().collect();
        MemberSet { voters, learners }
    })
}

fn configurations() -> impl Strategy<Value = Configuration> {
    (member_sets(), proptest::option::of(member_sets()))
        .prop_map(|(current, old)| Configuration { current, old })
}

fn kinds() -> impl Strategy<Value = EntryKind> {
    let payload = || vec(any::<u8>(), 0..200).prop_map(Bytes::from);
    prop_oneof![
        payload().prop_map(EntryKind::Command),
        configurations().prop_map(|configuration| EntryKind::Configuration(configuration.into())),
        (any::<u8>(), payload()).prop_map(|(tag, payload)| EntryKind::Internal { tag, payload }),
    ]
}

fn log_entries() -> impl Strategy<Value = Entry> {
    (any::<u64>(), any::<u64>(), any::<u64>(), kinds()).prop_map(|(term, index, time_ns, kind)| {
        Entry {
            id: LogId::new(Term(term), LogIndex(index)),
            time_ns,
            kind,
        }
    })
}

fn record_of(entry: &Entry) -> Vec<u8> {
    let mut record = Vec::new();
    encode_record(PLACE, &mut record, |out| encode_entry(entry, out));
    record
}

fn read(record: &[u8]) -> Result<Entry, CodecError> {
    decode_record(PLACE, record).and_then(decode_entry)
}

proptest! {
    #[test]
    fn entries_come_back(entry in log_entries()) {
        prop_assert_eq!(read(&record_of(&entry)), Ok(entry));
    }

    #[test]
    fn configurations_come_back(configuration in configurations()) {
        let mut bytes = Vec::new();
        encode_configuration(&configuration, &mut bytes);
        prop_assert_eq!(decode_configuration(&bytes), Ok(configuration));
    }

    /// A body that decodes is the only one of its value: nothing is read leniently.
    #[test]
    fn arbitrary_bytes_decode_to_what_encodes_to_them(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(entry) = decode_entry(&bytes) {
            let mut again = Vec::new();
            encode_entry(&entry, &mut again);
            prop_assert_eq!(&again, &bytes);
        }
        if let Ok(configuration) = decode_configuration(&bytes) {
            let mut again = Vec::new();
            encode_configuration(&configuration, &mut again);
            prop_assert_eq!(&again, &bytes);
        }
        let _must_not_panic = decode_record(PLACE, &bytes);
    }

    /// The same for bytes that are nearly right, which reach deeper into the decoder.
    #[test]
    fn damaged_bodies_decode_to_what_encodes_to_them(
        entry in log_entries(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = Vec::new();
        encode_entry(&entry, &mut bytes);
        *at.get_mut(&mut bytes[..]) = byte;
        if let Ok(entry) = decode_entry(&bytes) {
            let mut again = Vec::new();
            encode_entry(&entry, &mut again);
            prop_assert_eq!(again, bytes);
        }
    }
}

fn samples() -> Vec<Entry> {
    let sets = [vec![1, 2, 3], vec![2, 3, 4]];
    let [current, old] = sets.map(|nodes| MemberSet::of_voters(nodes.into_iter().map(NodeId)));
    let kinds = [
        EntryKind::Command(Bytes::from_static(b"add 5")),
        EntryKind::Command(Bytes::new()),
        EntryKind::Configuration(
            Configuration {
                current,
                old: Some(old),
            }
            .into(),
        ),
        EntryKind::Internal {
            tag: 3,
            payload: Bytes::from_static(b"skip"),
        },
    ];
    let entry = |kind| Entry {
        id: LogId::new(Term(3), LogIndex(77)),
        time_ns: 1_700_000_000_000_000_000,
        kind,
    };
    kinds.into_iter().map(entry).collect()
}

#[test]
fn every_flipped_bit_is_noticed() {
    for entry in samples() {
        let good = record_of(&entry);
        for bit in 0..good.len() * 8 {
            let mut record = good.clone();
            record[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 8 { "version" } else { "checksum" };
            let error = read(&record).unwrap_err().to_string();
            assert!(error.contains(expected), "bit {bit} of {entry:?}: {error}");
        }
    }
}

#[test]
fn every_truncation_is_noticed() {
    for entry in samples() {
        let good = record_of(&entry);
        for length in 0..good.len() {
            assert!(read(&good[..length]).is_err(), "{length} of {entry:?}");
        }
        let mut body = Vec::new();
        encode_entry(&entry, &mut body);
        for length in 0..body.len() {
            // Even without the checksum: the lengths say where it must end.
            assert_eq!(
                decode_entry(&body[..length]),
                Err(CodecError::Truncated),
                "{length}"
            );
        }
        body.push(0);
        assert_eq!(decode_entry(&body), Err(CodecError::TrailingBytes(1)));
    }
}

#[test]
fn a_record_belongs_to_its_place() {
    let record = record_of(&samples()[0]);
    let elsewhere = [
        (b's', PLACE.key),
        (b'l', &b"group and indey"[..]),
        (b'l', b"group"),
    ];
    for (family, key) in elsewhere {
        let place = Place { family, key };
        assert_eq!(decode_record(place, &record), Err(CodecError::Checksum));
    }
}

#[test]
fn counts_larger_than_the_input_allocate_nothing() {
    // Not joint; 2^32 - 1 voters, of which none follows.
    let bytes = [0, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(decode_configuration(&bytes), Err(CodecError::Truncated));
}

#[test]
fn members_out_of_order_twice_or_of_both_kinds_are_invalid() {
    let set = |voters: &[u64], learners: &[u64]| {
        let mut bytes = vec![0];
        for nodes in [voters, learners] {
            bytes.extend_from_slice(&u32::try_from(nodes.len()).unwrap().to_le_bytes());
            nodes
                .iter()
                .for_each(|node| bytes.extend_from_slice(&node.to_le_bytes()));
        }
        decode_configuration(&bytes)
    };
    assert!(set(&[1, 2], &[3]).is_ok());
    for (voters, learners) in [(&[2, 1][..], &[][..]), (&[1, 1], &[]), (&[1], &[1])] {
        assert!(matches!(set(voters, learners), Err(CodecError::Invalid(_))));
    }
}

/// Format 1, byte for byte: this test must never need to change.
#[test]
fn format_1_is_what_it_always_was() {
    let record = record_of(&samples()[3]);
    let expected = "01\
        6c32c58a\
        0300000000000000\
        4d00000000000000\
        00002a36fe9c9717\
        02\
        05000000\
        03736b6970";
    let shown: String = record.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(shown, expected);
}
