use super::*;
use crate::registers::FILE;
use kontiki_guest::testing::{Replica, Snapshot, assert_conformant};
use proptest::prelude::*;
use std::fs;

fn applied(commands: &[&str]) -> Replica<Atomic> {
    let mut atomic = Replica::new();
    for command in commands {
        atomic.apply(command).unwrap();
    }
    atomic
}

#[test]
fn exchange_answers_old_and_new() {
    let mut atomic = Replica::<Atomic>::new();
    assert_eq!(atomic.apply("exchange a 5").unwrap(), "ok old=0 new=5");
    assert_eq!(atomic.apply("exchange a -3").unwrap(), "ok old=5 new=-3");
    assert_eq!(atomic.query("get a").unwrap(), "-3");
    assert_eq!(atomic.query("get b").unwrap(), "0");
}

#[test]
fn cas_changes_only_what_it_expects() {
    let mut atomic = applied(&["exchange a 5"]);
    assert_eq!(atomic.apply("cas a 4 9").unwrap(), "failed old=5 new=5");
    assert_eq!(atomic.query("get a").unwrap(), "5");
    assert_eq!(atomic.apply("cas a 5 9").unwrap(), "ok old=5 new=9");
    assert_eq!(atomic.query("get a").unwrap(), "9");
    assert_eq!(atomic.apply("cas fresh 0 1").unwrap(), "ok old=0 new=1");
}

#[test]
fn a_register_set_to_zero_is_as_if_never_set() {
    let used = applied(&["exchange a 5", "exchange b 1", "cas a 5 0"]);
    let fresh = applied(&["exchange b 1"]);
    assert_eq!(used.machine(), fresh.machine());
}

#[test]
fn bad_commands_are_named() {
    let mut atomic = applied(&["exchange a 1"]);
    let long = format!("exchange {} 1", "x".repeat(65));
    for (command, named) in [
        ("", "empty command"),
        ("swap a 1", "unknown command \"swap\""),
        ("exchange a", "too few arguments; say: exchange ID V"),
        ("exchange a 1 2", "too many arguments; say: exchange ID V"),
        ("cas a 1", "too few arguments; say: cas ID EXPECTED NEW"),
        ("cas a 1 2 3", "too many arguments"),
        ("cas a one 2", "\"one\" is no whole number"),
        ("cas a 1 2.0", "\"2.0\" is no whole number"),
        ("exchange a 99999999999999999999", "is no whole number"),
        ("get a", "get is a query"),
        (&long, "ID has 65 bytes, more than 64"),
    ] {
        let reject = atomic.apply(command).unwrap_err();
        assert!(
            reject.reason().contains(named),
            "{reject} does not say {named}"
        );
    }
    assert_eq!(atomic.machine(), applied(&["exchange a 1"]).machine());
}

#[test]
fn bad_queries_are_named() {
    let atomic = applied(&["exchange a 1"]);
    for (query, named) in [
        ("", "empty query"),
        ("get", "too few arguments; say: get ID"),
        ("get a b", "too many arguments"),
        ("cas a 1 2", "cas is a command"),
        ("exchange a 2", "exchange is a command"),
        ("list", "unknown query \"list\""),
    ] {
        let reject = atomic.query(query).unwrap_err();
        assert!(
            reject.reason().contains(named),
            "{reject} does not say {named}"
        );
    }
    assert!(
        atomic
            .query(b"get \xff")
            .unwrap_err()
            .reason()
            .contains("not UTF-8")
    );
}

/// What loading says after the one file was replaced.
fn load_error(snapshot: &Snapshot, bytes: &[u8]) -> String {
    fs::write(snapshot.directory().join(FILE), bytes).unwrap();
    Replica::<Atomic>::load(snapshot).unwrap_err().to_string()
}

#[test]
fn every_damaged_byte_is_noticed() {
    let snapshot = applied(&["exchange a 1", "exchange long-name -7"])
        .save()
        .unwrap();
    let good = fs::read(snapshot.directory().join(FILE)).unwrap();
    for i in 0..good.len() {
        let mut bad = good.clone();
        bad[i] ^= 0x55;
        load_error(&snapshot, &bad);
        load_error(&snapshot, &good[..i]);
    }
    assert!(load_error(&snapshot, &[&good[..], b"x"].concat()).contains("bytes after the end"));
    fs::write(snapshot.directory().join(FILE), &good).unwrap();
    let loaded = Replica::<Atomic>::load(&snapshot).unwrap();
    assert_eq!(loaded.query("get long-name").unwrap(), "-7");
}

#[test]
fn ten_thousand_registers_span_frames_and_come_back() {
    let mut atomic = Replica::<Atomic>::new();
    let commands: Vec<_> = (1..=10_000)
        .map(|i| format!("exchange register-{i} {i}"))
        .collect();
    atomic.apply_batch(&commands);
    let loaded = Replica::<Atomic>::load(&atomic.save().unwrap()).unwrap();
    assert_eq!(loaded.machine(), atomic.machine());
}

fn command() -> impl Strategy<Value = String> {
    let id = prop::sample::select(vec!["a", "b", "c"]);
    let value = -2i64..3;
    prop_oneof![
        (id.clone(), value.clone()).prop_map(|(id, v)| format!("exchange {id} {v}")),
        (id, value.clone(), value).prop_map(|(id, e, n)| format!("cas {id} {e} {n}")),
    ]
}

proptest! {
    #[test]
    fn restarts_and_batches_change_nothing(commands in prop::collection::vec(command(), 1..60)) {
        assert_conformant::<Atomic>(&commands, &["get a", "get b", "get c"]);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let mut atomic = applied(&["exchange a 1"]);
        let _ = atomic.apply(&bytes);
        let _ = atomic.query(&bytes);
    }
}
