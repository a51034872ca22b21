//! The data directory and the blobs in it.

#![allow(clippy::unwrap_used, reason = "a test program")]

use kontiki_raft::NodeId;
use kontiki_storage::{BlobStore, DataDirectory, Identity, StorageError};
use std::fs;
use std::path::Path;

fn identity(name: &str, cluster: &str) -> Identity {
    Identity {
        node: NodeId(0xdead_beef_0123),
        name: name.to_owned(),
        cluster: cluster.to_owned(),
    }
}

fn open(path: &Path, create: bool) -> Result<DataDirectory, StorageError> {
    DataDirectory::open(path, create, &identity("n1", "demo"))
}

fn created() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path(), true).unwrap();
    directory
}

#[test]
fn identity_survives_and_the_recorded_id_counts() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("not/yet/there");
    let first = open(&path, true).unwrap();
    assert_eq!(*first.identity(), identity("n1", "demo"));
    drop(first);
    let mut other = identity("n1", "");
    other.node = NodeId(1);
    for create in [true, false] {
        let again = DataDirectory::open(&path, create, &other).unwrap();
        assert_eq!(*again.identity(), identity("n1", "demo"));
    }
}

#[test]
fn nothing_is_created_unless_asked() {
    let parent = tempfile::tempdir().unwrap();
    for path in [parent.path().join("absent"), parent.path().to_owned()] {
        let error = open(&path, false).unwrap_err();
        assert!(
            matches!(error, StorageError::NotInitialised { .. }),
            "{error}"
        );
        assert!(error.to_string().contains(path.to_str().unwrap()));
    }
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
}

#[test]
fn locked_directory_names_the_process() {
    let directory = created();
    let _holder = open(directory.path(), false).unwrap();
    let error = open(directory.path(), true).unwrap_err();
    let expected = format!("in use by process {}", std::process::id());
    assert!(error.to_string().contains(&expected), "{error}");
}

#[test]
fn foreign_directory_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("thesis.tex"), "x").unwrap();
    let error = open(directory.path(), true).unwrap_err();
    assert!(matches!(error, StorageError::Foreign { .. }));
    assert!(error.to_string().contains("thesis.tex"), "{error}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn other_node_and_other_cluster_are_refused() {
    let directory = created();
    let error = DataDirectory::open(directory.path(), true, &identity("n2", "demo")).unwrap_err();
    assert!(matches!(error, StorageError::OtherNode { .. }), "{error}");
    let error = DataDirectory::open(directory.path(), true, &identity("n1", "live")).unwrap_err();
    assert!(
        matches!(error, StorageError::OtherCluster { .. }),
        "{error}"
    );
    open(directory.path(), false).unwrap();
}

#[test]
fn newer_format_is_refused_as_such() {
    let directory = created();
    let path = directory.path().join("identity");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("format 1\n", "format 7\n")).unwrap();
    let error = open(directory.path(), true).unwrap_err();
    let is_newer = matches!(
        error,
        StorageError::NewerFormat {
            found: 7,
            supported: 1,
            ..
        }
    );
    assert!(is_newer, "{error}");
}

#[test]
fn every_flipped_bit_and_every_truncation_of_the_identity_is_noticed() {
    let directory = created();
    let path = directory.path().join("identity");
    let good = fs::read(&path).unwrap();
    let damaged = |bytes: &[u8], what: &str| {
        fs::write(&path, bytes).unwrap();
        let error = open(directory.path(), true).expect_err(what);
        let expected = matches!(
            error,
            StorageError::DirectoryDamaged { .. } | StorageError::NewerFormat { .. }
        );
        assert!(expected, "{what}: {error}");
    };
    for length in 0..good.len() {
        damaged(&good[..length], &format!("cut at {length}"));
    }
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        damaged(&bytes, &format!("bit {bit}"));
    }
    damaged(&[&good[..], b"x"].concat(), "more");
    fs::write(&path, good).unwrap();
    open(directory.path(), false).unwrap();
}

#[test]
fn interrupted_creation_is_taken_up_again() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("LOCK"), "123\n").unwrap();
    fs::write(directory.path().join("identity.new"), "Kontiki da").unwrap();
    open(directory.path(), true).unwrap();
    open(directory.path(), false).unwrap();
}

#[test]
fn names_that_do_not_fit_a_line_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["a\nb", &"x".repeat(256)] {
        let error = DataDirectory::open(directory.path(), true, &identity(name, "")).unwrap_err();
        assert!(matches!(
            error,
            StorageError::InvalidName { what: "node", .. }
        ));
    }
}

fn blobs(directory: &Path) -> BlobStore {
    open(directory, true).unwrap().blobs().unwrap()
}

fn name(digit: char) -> String {
    format!("sha256-{}.wasm", digit.to_string().repeat(64))
}

#[test]
fn blobs_are_kept_listed_replaced_and_removed() {
    let directory = created();
    let content = vec![7; 100_000];
    blobs(directory.path()).put(&name('b'), &content).unwrap();
    blobs(directory.path()).put(&name('a'), b"old").unwrap();
    blobs(directory.path()).put(&name('a'), b"").unwrap();
    let store = blobs(directory.path());
    assert_eq!(store.list().unwrap(), [name('a'), name('b')]);
    assert_eq!(store.get(&name('b')).unwrap(), content);
    assert_eq!(store.get(&name('a')).unwrap(), b"");
    store.remove(&name('a')).unwrap();
    assert!(matches!(
        store.get(&name('a')),
        Err(StorageError::BlobNotFound { .. })
    ));
    assert!(matches!(
        store.remove(&name('a')),
        Err(StorageError::BlobNotFound { .. })
    ));
    assert_eq!(store.list().unwrap(), [name('b')]);
    assert!(store.contains(&name('b')).unwrap() && !store.contains(&name('a')).unwrap());
}

#[test]
fn names_that_are_no_digests_are_refused() {
    let directory = created();
    let store = blobs(directory.path());
    let bad = [
        "",
        "../identity",
        "sha256-.wasm",
        "sha256-../../../../../../../../../../../../../../../../../../etc/passwd.wasm",
        &name('g'),
        &name('A'),
        &name('a').replace(".wasm", ""),
        &name('a').replace("sha256", "sha512"),
        &format!("{}\0", name('a')),
        &format!("/{}", name('a')),
    ];
    for name in bad {
        for result in [
            store.put(name, b"x"),
            store.get(name).map(drop),
            store.remove(name),
        ] {
            assert!(
                matches!(result, Err(StorageError::BlobName { .. })),
                "{name:?}"
            );
        }
    }
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn damaged_blob_is_noticed() {
    let directory = created();
    let store = blobs(directory.path());
    store.put(&name('c'), b"a component").unwrap();
    let path = directory.path().join("plugins").join(name('c'));
    let good = fs::read(&path).unwrap();
    let flips = (0..good.len() * 8).map(|bit| {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    });
    let cuts = (0..good.len()).map(|length| good[..length].to_vec());
    for bytes in flips.chain(cuts) {
        fs::write(&path, bytes).unwrap();
        assert!(matches!(
            store.get(&name('c')),
            Err(StorageError::BlobDamaged { .. })
        ));
    }
}

#[test]
fn leftovers_of_interrupted_writes_are_removed_and_never_listed() {
    let directory = created();
    let store = blobs(directory.path());
    let leftover = directory
        .path()
        .join("plugins")
        .join(format!("{}.0.new", name('d')));
    fs::write(&leftover, "half").unwrap();
    assert!(store.list().unwrap().is_empty());
    blobs(directory.path());
    assert!(!leftover.exists());
}
