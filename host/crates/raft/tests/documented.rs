//! The table in `host/docs/raft-traps.md` and the tests name each other.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Every `trap_NN_…` in `text` that stands between two characters no name contains.
fn trap_names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("trap_") && word.len() > 8);
    names.map(str::to_owned).collect()
}

fn names_in_sources(root: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(root.join("tests/traps")).expect("the sources are there");
    let text = |file: std::io::Result<fs::DirEntry>| {
        fs::read_to_string(file.expect("readable").path()).expect("readable")
    };
    files.flat_map(|file| trap_names(&text(file))).collect()
}

#[test]
fn every_trap_is_in_the_table_with_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(root.join("../../docs/raft-traps.md")).expect("the table");
    let documented = trap_names(&table);
    let tested = names_in_sources(root);
    assert_eq!(documented, tested);
    let numbers: BTreeSet<&str> = documented.iter().map(|name| &name[5..7]).collect();
    assert_eq!(numbers.len(), 43, "every trap has a test");
}
