//! Tables of the documentation that repeat what the program knows.
#![allow(clippy::unwrap_used, reason = "a test")]

use kontiki::node::settings::SETTINGS;
use kontiki_raft::Settings;
use std::collections::BTreeMap;

const FROM_BRAFT: &str = include_str!("../docs/operations/from-braft.md");

/// Our settings and their defaults, as the page gives them.
fn documented() -> BTreeMap<&'static str, String> {
    let rows = FROM_BRAFT.lines().map(|line| line.split(" | ").collect());
    let options = rows.filter(|cells: &Vec<_>| cells.len() == 5 && cells[2].starts_with('`'));
    let pairs = options.flat_map(|cells| {
        let names = cells[2].split(", ").map(|name| name.trim_matches('`'));
        names
            .zip(cells[3].split(", ").map(plain))
            .collect::<Vec<_>>()
    });
    pairs.collect()
}

/// `512 KiB` as `kontiki settings` shows it.
fn plain(value: &str) -> String {
    let unit = |unit, bytes: u64| {
        let number: u64 = value.strip_suffix(unit)?.parse().ok()?;
        Some((number * bytes).to_string())
    };
    let bytes = unit(" KiB", 1 << 10).or(unit(" MiB", 1 << 20));
    bytes.unwrap_or_else(|| value.to_owned())
}

#[test]
fn brafts_operators_are_told_the_defaults_of_every_setting() {
    let defaults = Settings::default();
    let settings = SETTINGS.iter();
    let known = settings.map(|setting| (setting.name, setting.value(&defaults)));
    assert_eq!(documented(), known.collect());
}
