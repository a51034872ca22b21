//! The tables in `host/docs/raft-traps.md` and `host/docs/raft-situations.md` name tests that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Every `trap_NN_…` in `text` that stands between two characters no name contains.
fn trap_names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("trap_") && word.len() > 8);
    names.map(str::to_owned).collect()
}

/// The text of every file below `directory` with this ending.
fn sources(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("the sources are there");
    let mut texts = Vec::new();
    for entry in entries {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            texts.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            texts.push(fs::read_to_string(path).expect("readable"));
        }
    }
    texts
}

/// The functions in `text` that are tests: `#[test]`, perhaps with other attributes, then `fn`.
fn test_names(text: &str) -> BTreeSet<String> {
    let after_mark = text.split("#[test]").skip(1);
    let names = after_mark.filter_map(|rest| {
        let (_, rest) = rest.split_once("fn ")?;
        rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .next()
    });
    names.map(str::to_owned).collect()
}

fn tests_below(directory: &Path) -> BTreeSet<String> {
    sources(directory)
        .iter()
        .flat_map(|text| test_names(text))
        .collect()
}

/// What stands between back-ticks in the section of `text` under this heading.
fn quoted<'a>(text: &'a str, heading: &str) -> Vec<&'a str> {
    let (_, rest) = text.split_once(heading).expect("the heading");
    let section = rest.split("\n## ").next().expect("never empty");
    section.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_situation_of_the_page_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("../../docs/raft-situations.md")).expect("the page");
    let scripts = quoted(&page, "## etcd's interaction scripts");
    assert!(scripts.len() >= 28);
    for script in scripts {
        let path = root.join("../raft-sim/testdata").join(script);
        assert!(path.is_file(), "there is no script {script}");
    }
    let tests = tests_below(&root.join("tests"));
    let pure = quoted(&page, "## etcd's pure scripts");
    let cases = quoted(&page, "## braft's cases");
    let is_case = |name: &&&str| !["braft_node", "braft_lease"].contains(*name);
    let is_reason = |name: &&&str| **name != "NoChange";
    for name in pure
        .iter()
        .filter(is_reason)
        .chain(cases.iter().filter(is_case))
    {
        assert!(tests.contains(*name), "there is no test {name}");
    }
    assert_eq!(cases.iter().filter(is_case).count(), 40 + 9);
}

#[test]
fn every_trap_is_in_the_table_with_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(root.join("../../docs/raft-traps.md")).expect("the table");
    let documented = trap_names(&table);
    let tested = tests_below(&root.join("tests/traps"));
    let tested: BTreeSet<_> = tested
        .into_iter()
        .filter(|name| name.starts_with("trap_"))
        .collect();
    assert_eq!(documented, tested);
    let numbers: BTreeSet<&str> = documented.iter().map(|name| &name[5..7]).collect();
    assert_eq!(numbers.len(), 43, "every trap has a test");
}
