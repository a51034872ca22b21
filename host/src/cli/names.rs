//! Ids and memberships as text.

use kontiki_client::proto::{Configuration, Introduction, MemberSet};
use serde_json::{Value, json};

/// Ids are strings in JSON: many readers round integers above 2^53.
pub(crate) fn id_json(id: u64) -> Value {
    id.to_string().into()
}

/// The name of a node, or its id where that is unknown.
pub(crate) fn name_of(id: u64, nodes: &[Introduction]) -> String {
    let known = nodes
        .iter()
        .find(|node| node.node == id && !node.name.is_empty());
    known.map_or_else(|| id.to_string(), |node| node.name.clone())
}

fn names(ids: &[u64], nodes: &[Introduction]) -> String {
    let mut names: Vec<String> = ids.iter().map(|id| name_of(*id, nodes)).collect();
    names.sort();
    names.join(",")
}

/// `n1,n2,n3 + learners n4`.
pub(crate) fn members_text(members: &MemberSet, nodes: &[Introduction]) -> String {
    let voters = names(&members.voters, nodes);
    match members.learners.is_empty() {
        true => voters,
        false => format!("{voters} + learners {}", names(&members.learners, nodes)),
    }
}

/// As [`members_text`], with the old set while a change is under way.
pub(crate) fn configuration_text(configuration: &Configuration, nodes: &[Introduction]) -> String {
    let current = configuration.current.clone().unwrap_or_default();
    let current = members_text(&current, nodes);
    match &configuration.old {
        Some(old) => format!("{current} (joint with {})", members_text(old, nodes)),
        None => current,
    }
}

fn members_json(members: &MemberSet, nodes: &[Introduction]) -> Value {
    let list = |ids: &[u64]| {
        let one = |id: &u64| json!({ "id": id_json(*id), "name": name_of(*id, nodes) });
        ids.iter().map(one).collect::<Vec<_>>()
    };
    json!({ "voters": list(&members.voters), "learners": list(&members.learners) })
}

/// A configuration with names beside ids.
pub(crate) fn configuration_json(configuration: &Configuration, nodes: &[Introduction]) -> Value {
    let set = |members: &Option<MemberSet>| members.as_ref().map(|m| members_json(m, nodes));
    json!({ "current": set(&configuration.current), "old": set(&configuration.old) })
}

/// `1.5 KiB`.
pub(crate) fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{size:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_binary_units() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (64 << 20, "64.0 MiB"),
        ] {
            assert_eq!(bytes_text(bytes), text);
        }
    }

    #[test]
    fn members_go_by_name_where_it_is_known() {
        let nodes = [Introduction {
            node: 1,
            name: "n1".into(),
            ..Default::default()
        }];
        let current = MemberSet {
            voters: vec![1, 2],
            learners: vec![3],
        };
        let old = MemberSet {
            voters: vec![1],
            learners: vec![],
        };
        let joint = Configuration {
            current: Some(current),
            old: Some(old),
        };
        assert_eq!(
            configuration_text(&joint, &nodes),
            "2,n1 + learners 3 (joint with n1)"
        );
    }
}
