//! `/raft_stat`: everything this node's replicas know, as text for people with curl or as JSON.

use super::Shared;
use super::describe::{describe, describe_broken};
use super::status::Fault;
use crate::node::context::lock;
use crate::raft_stat::{document, text};
use kontiki_proto::v1;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

/// How the page reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// `key: value` lines.
    Text,
    /// One document.
    Json,
}

/// This node's replicas.
pub(crate) struct Page {
    node_name: String,
    /// There may be more: groups are still being opened.
    loading: bool,
    groups: Vec<v1::GroupDescription>,
}

/// This node's replica of every group, those that could not be opened included.
pub(crate) async fn all(shared: &Shared) -> Page {
    let context = &shared.context;
    let mut groups = Vec::new();
    for group in context.router.all() {
        // A group that has just ended is no group any more.
        groups.extend(describe(context, &group).await.ok());
    }
    let broken: Vec<_> = lock(&context.broken).keys().cloned().collect();
    groups.extend(
        broken
            .iter()
            .filter_map(|name| describe_broken(context, name)),
    );
    Page {
        node_name: context.config.name.clone(),
        loading: context.loading.load(Ordering::Acquire),
        groups,
    }
}

/// This node's replica of one group, by name.
pub(crate) async fn one(shared: &Shared, name: &str) -> Result<v1::GroupDescription, Fault> {
    if let Some(broken) = describe_broken(&shared.context, name) {
        return Ok(broken);
    }
    let group = shared.group(name)?;
    let description = describe(&shared.context, &group).await;
    description.map_err(|failure| shared.explain(&group, failure))
}

pub(crate) fn render(format: Format, page: &Page) -> String {
    match format {
        Format::Json => {
            let groups: Vec<_> = page.groups.iter().map(tagged).collect();
            let page = json!({
                "kind": "raft_stat",
                "v": 1,
                "node_name": page.node_name,
                "loading": page.loading,
                "groups": groups,
            });
            format!("{page:#}\n")
        }
        Format::Text => render_text(page),
    }
}

fn render_text(page: &Page) -> String {
    let mut parts: Vec<_> = page.groups.iter().map(text).collect();
    if page.loading {
        parts.push(format!(
            "node {} is still opening its groups\n",
            page.node_name
        ));
    } else if parts.is_empty() {
        parts.push(format!("node {} has no groups\n", page.node_name));
    }
    parts.join("\n")
}

pub(crate) fn render_one(format: Format, description: &v1::GroupDescription) -> String {
    match format {
        Format::Json => format!("{:#}\n", tagged(description)),
        Format::Text => text(description),
    }
}

/// A failure in the same format.
pub(crate) fn render_fault(format: Format, fault: &Fault) -> String {
    let (reason, message) = (fault.reason_name(), fault.message());
    match format {
        Format::Json => {
            let error = json!({ "code": reason, "message": message });
            let document = json!({ "kind": "error", "v": 1, "error": error });
            format!("{document:#}\n")
        }
        Format::Text => format!("error[{reason}]: {message}\n"),
    }
}

fn tagged(description: &v1::GroupDescription) -> Value {
    let mut document = document(description);
    document.insert("kind".to_owned(), json!("raft_stat"));
    document.insert("v".to_owned(), json!(1));
    Value::Object(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(loading: bool, groups: Vec<v1::GroupDescription>) -> Page {
        Page {
            node_name: "n1".into(),
            loading,
            groups,
        }
    }

    #[test]
    fn a_node_without_groups_says_so() {
        let text = |loading| render(Format::Text, &page(loading, vec![]));
        assert_eq!(text(false), "node n1 has no groups\n");
        assert_eq!(text(true), "node n1 is still opening its groups\n");
    }

    #[test]
    fn documents_are_tagged() {
        let group = v1::GroupDescription::default();
        let text = render(Format::Json, &page(true, vec![group]));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&value["kind"], &value["loading"]),
            (&json!("raft_stat"), &json!(true))
        );
        assert_eq!(value["groups"][0]["kind"], "raft_stat");
    }

    #[test]
    fn failures_come_in_the_format_that_was_asked_for() {
        let fault = Fault::group_not_found("x");
        let json: Value = serde_json::from_str(&render_fault(Format::Json, &fault)).unwrap();
        assert_eq!(json["error"]["code"], "GROUP_NOT_FOUND");
        let text = render_fault(Format::Text, &fault);
        assert_eq!(
            text,
            "error[GROUP_NOT_FOUND]: there is no group \"x\" on this node\n"
        );
    }
}
