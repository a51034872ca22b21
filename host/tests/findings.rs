//! The page of findings names every number once, and only tests that exist.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const PAGE: &str = include_str!("../docs/findings.md");

/// Sections with their highest numbers, and the numbers that were never given.
const SECTIONS: [(char, u32); 4] = [('B', 10), ('D', 22), ('F', 27), ('G', 6)];
const NEVER_GIVEN: [&str; 3] = ["F22", "F25", "F26"];

/// The cells of every row whose first cell is a number of a finding.
fn rows() -> Vec<Vec<&'static str>> {
    let is_number = |cell: &str| {
        let digits = cell.strip_prefix(['B', 'D', 'F', 'G']);
        digits.is_some_and(|digits| digits.parse::<u32>().is_ok())
    };
    let cells = |line: &'static str| line.trim_matches('|').split(" | ").map(str::trim).collect();
    let rows = PAGE.lines().map(cells);
    rows.filter(|cells: &Vec<_>| is_number(cells[0])).collect()
}

/// Every function below this directory, of whatever language the file is.
fn functions(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let hidden = path.file_name().is_some_and(|name| name == "target");
        if path.is_dir() && !hidden {
            functions(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text.split("fn ").skip(1).filter_map(|rest| {
                rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .next()
            });
            found.extend(names.map(str::to_owned));
        }
    }
}

#[test]
fn every_finding_has_one_row() {
    let known = SECTIONS.iter().flat_map(|(section, last)| {
        let numbers = 1..=*last;
        numbers.map(move |number| format!("{section}{number}"))
    });
    let known: BTreeSet<_> = known
        .filter(|number| !NEVER_GIVEN.contains(&number.as_str()))
        .collect();
    let rows = rows();
    let listed: BTreeSet<_> = rows.iter().map(|cells| cells[0].to_owned()).collect();
    assert_eq!(listed, known);
    assert_eq!(rows.len(), known.len(), "a number has two rows");
}

#[test]
fn every_test_that_the_page_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = BTreeSet::new();
    for directory in ["host", "tests", "guest-sdk", "plugins", "xtask"] {
        functions(&root.join(directory), &mut found);
    }
    let mut named = 0;
    for cells in rows() {
        assert_eq!(cells.len(), 4, "{} needs four cells", cells[0]);
        for name in cells[3].split('`').skip(1).step_by(2) {
            assert!(
                found.contains(name),
                "{}: there is no test {name}",
                cells[0]
            );
            named += 1;
        }
    }
    assert!(named >= 40, "only {named} tests are named");
}
