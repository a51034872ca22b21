//! `kontiki node forget`: what was done, and where.

use super::cluster::Survey;
use super::context::{Global, find_member};
use super::exit::Exit;
use super::failure::{Failure, Result};
use super::names::id_json;
use super::output::Document;
use futures_util::future::join_all;
use kontiki_client::{Error, Member};
use serde_json::{Value, json};

/// Has every other node forget one.
pub(crate) async fn run(global: &Global, node: &str, force: bool) -> Result<()> {
    let client = global.client();
    let lost = find_member(&client, node).await?;
    if !force {
        refuse_connected(global, &lost).await?;
    }
    let members = client.members().await;
    let members = members.map_err(|error| Failure::from(error).of_read())?;
    let others = members.into_iter().filter(|member| member.id != lost.id);
    let asked = others.map(|member| {
        let there = client.at(member.address.clone());
        let name = lost.name.clone();
        async move {
            let forgotten = there.admin().forget_node(&name, force).await;
            (member.name, forgotten)
        }
    });
    let mut result = Forgotten {
        name: lost.name.clone(),
        id: lost.id,
        forgotten: vec![],
        unreached: vec![],
    };
    let mut refused = Vec::new();
    for (other, outcome) in join_all(asked).await {
        match outcome {
            Ok(()) => result.forgotten.push(other),
            Err(error) if error.reason().as_str() == "NODE_NOT_FOUND" => {
                result.forgotten.push(other);
            }
            Err(error) if is_unreached(&error) => result.unreached.push((other, error)),
            Err(error) => refused.push(format!("{other}: {}", error.message())),
        }
    }
    let nowhere = result.forgotten.is_empty() && refused.is_empty();
    if let Some((_, error)) = result.unreached.pop_if(|_| nowhere) {
        return Err(error.into());
    }
    global.out().print(&result);
    if refused.is_empty() {
        return Ok(());
    }
    let message = format!("not everywhere forgotten: {}", refused.join("; "));
    Err(Failure::new(Exit::Unhealthy, "FORGET_INCOMPLETE", message)
        .with_hint("see to what they say, and run the same command again"))
}

/// A node that runs is not lost. Looked at on all nodes before the first is told anything.
async fn refuse_connected(global: &Global, lost: &Member) -> Result<()> {
    let survey = Survey::of(global).await?;
    let is_connected = |report: &kontiki_client::proto::GetNodeReply| {
        let mut peers = report.peers.iter().filter(|peer| peer.connected);
        peers.any(|peer| peer.node.as_ref().is_some_and(|it| it.node == lost.id))
    };
    let connected = survey.nodes.iter().filter(|node| {
        let report = node.report.as_ref();
        report.is_ok_and(is_connected)
    });
    let names: Vec<&str> = connected.map(|node| node.name.as_str()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let message = format!(
        "{} is connected to {}: it runs, and would be known again as soon as it calls; nothing was \
         changed",
        lost.name,
        names.join(", ")
    );
    Err(Failure::new(Exit::Conflict, "NODE_CONNECTED", message)
        .with_hint("stop it first; --force ends the connections, and it comes back by itself"))
}

fn is_unreached(error: &Error) -> bool {
    matches!(
        error.reason().as_str(),
        "UNREACHABLE" | "CONNECTION_LOST" | "DEADLINE_EXCEEDED"
    )
}

struct Forgotten {
    name: String,
    id: u64,
    /// Names of nodes.
    forgotten: Vec<String>,
    unreached: Vec<(String, Error)>,
}

impl Document for Forgotten {
    const KIND: &'static str = "forgotten";

    fn json(&self) -> Value {
        let unreached = self.unreached.iter();
        let unreached = unreached.map(|(node, why)| json!({ "node": node, "why": why.message() }));
        json!({
            "node": self.name,
            "id": id_json(self.id),
            "forgotten_by": self.forgotten,
            "unreached": unreached.collect::<Vec<_>>(),
        })
    }

    fn text(&self, _: bool) -> String {
        let mut text = format!(
            "{} is forgotten by {}",
            self.name,
            self.forgotten.join(", ")
        );
        for (node, why) in &self.unreached {
            text.push_str(&format!(
                "\n{node} could not be reached ({}): it forgets {} when it is back and hears of it \
                 from the others",
                why.message(),
                self.name
            ));
        }
        text
    }

    fn names(&self) -> Vec<String> {
        self.forgotten.clone()
    }
}
