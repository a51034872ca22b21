//! The document as lines for people with curl.

use super::{Field, Fields, fields};
use kontiki_proto::v1;
use serde_json::Value;
use std::fmt::Write as _;

/// The document as `key: value` lines under the group's name. What has parts is one line too: `key:
/// part=value part=value`; of several such, each is named by its node.
#[must_use]
pub fn text(description: &v1::GroupDescription) -> String {
    let summary = description.summary.as_ref();
    let name = summary.map(|summary| summary.name.as_str());
    let mut text = format!("[{}]\n", name.unwrap_or_default());
    for (key, field) in fields(description) {
        match field {
            Field::One(value) => line(&mut text, key, &plain(&value)),
            Field::Parts(parts) => line(&mut text, key, &inline(&parts)),
            Field::Each(items) if items.is_empty() => line(&mut text, key, "-"),
            Field::Each(items) => items
                .iter()
                .for_each(|item| item_line(&mut text, key, item)),
        }
    }
    text
}

fn line(text: &mut String, key: &str, value: &str) {
    let _ = writeln!(text, "{key}: {value}");
}

/// One of several: `replicators.n2: …`; a problem is read by people and stands as it is.
fn item_line(text: &mut String, key: &str, item: &Fields) {
    match item.as_slice() {
        [("what", Field::One(what)), ("next_step", Field::One(step))] => {
            line(
                text,
                key,
                &format!("{}; next: {}", plain(what), plain(step)),
            );
        }
        [("node_name", Field::One(name)), rest @ ..] => {
            line(text, &format!("{key}.{}", plain(name)), &inline(rest));
        }
        other => line(text, key, &inline(other)),
    }
}

fn inline(parts: &[(&'static str, Field)]) -> String {
    let pairs = parts.iter().map(|(key, field)| {
        let value = match field {
            Field::One(value) => plain(value),
            Field::Parts(parts) => inline(parts),
            Field::Each(items) => items.len().to_string(),
        };
        match value.is_empty() || value.contains(char::is_whitespace) {
            true => format!("{key}={value:?}"),
            false => format!("{key}={value}"),
        }
    });
    pairs.collect::<Vec<_>>().join(" ")
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        // A node goes by its name, or by its id where that is unknown.
        Value::Object(node) => {
            let name = node.get("name").filter(|name| !name.is_null());
            plain(name.or(node.get("id")).unwrap_or(&Value::Null))
        }
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
