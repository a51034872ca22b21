//! `kontiki recover`: a group whose majority is lost for good.

use super::context::{Global, find_member};
use super::exit::Exit;
use super::failure::{Failure, Result};
use super::names::{configuration_json, configuration_text};
use super::output::{Document, fields};
use clap::Args;
use kontiki::node::offline::OfflineError;
use kontiki_client::proto::{
    Configuration, GroupDescription, Introduction, LogId, NamedMembers, ResetPeersReply,
    ResetPeersRequest,
};
use kontiki_client::{Client, Member};
use kontiki_storage::StorageError;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// DESTRUCTIVE: forces a membership on the survivors of a group that lost its majority for good.
///
/// Without --confirm it says what would happen and changes nothing. Commands that only lost nodes
/// had acknowledged are gone afterwards. The recovered group is another epoch: a lost node that comes
/// back stops serving as soon as it reaches a node that knows, and `kontiki status` names it. Until
/// then it cannot know: wipe it before it is started again.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kontiki recover orders --survivors n1
  kontiki recover orders --survivors n1 --confirm orders
  kontiki recover orders --survivors n1 --data-dir /var/lib/kontiki    (while n1 is stopped)")]
pub(crate) struct RecoverArgs {
    /// Name of the group
    group: String,
    /// Every node that survived with its data, by name or id: the voters from now on
    #[arg(long, value_delimiter = ',', value_name = "NODE,…", required = true)]
    survivors: Vec<String>,
    /// The name of the group, typed again: do it
    #[arg(long, value_name = "GROUP")]
    confirm: Option<String>,
    /// Work on the data directory of a stopped node, instead of a running one. Of several survivors
    /// take the one whose log is furthest
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The node that the directory belongs to [default: the first survivor]
    #[arg(long, requires = "data_dir")]
    name: Option<String>,
}

/// Runs `kontiki recover`.
pub(crate) async fn run(global: &Global, args: &RecoverArgs) -> Result<()> {
    if let Some(typed) = args.confirm.as_ref().filter(|typed| **typed != args.group) {
        return Err(Failure::usage(format!(
            "--confirm says {typed:?}, the group is {:?}: nothing was changed",
            args.group
        )));
    }
    if let Some(directory) = &args.data_dir {
        return offline(global, args, directory);
    }
    let client = global.client();
    let survivors = survivors(&client, args).await?;
    let best = furthest(&survivors);
    let request = ResetPeersRequest {
        group: args.group.clone(),
        members: Some(NamedMembers {
            voters: args.survivors.clone(),
            learners: vec![],
        }),
        dry_run: args.confirm.is_none(),
        confirm: args.confirm.clone().unwrap_or_default(),
    };
    let (member, description) = &survivors[best];
    let reply = client
        .at(member.address.clone())
        .admin()
        .reset_peers(request)
        .await?;
    let recovery = Recovery {
        group: &args.group,
        done: args.confirm.is_some(),
        survivors: args.survivors.len(),
        compared: true,
        through: &member.name,
        nodes: &description.nodes,
        reply,
    };
    show(global, args, &recovery);
    Ok(())
}

fn show(global: &Global, args: &RecoverArgs, recovery: &Recovery<'_>) {
    global.out().print(recovery);
    if recovery.done {
        return;
    }
    let mut words = format!(
        "--survivors {} --confirm {}",
        args.survivors.join(","),
        args.group
    );
    if let Some(directory) = &args.data_dir {
        words += &format!(" --data-dir {}", directory.display());
        if let Some(name) = &args.name {
            words += &format!(" --name {name}");
        }
    }
    let group = &args.group;
    let note = format!("nothing was changed; to do it: kontiki recover {group} {words}");
    global.out().note(&note);
}

/// Does it to the data of a node that does not run.
fn offline(global: &Global, args: &RecoverArgs, directory: &Path) -> Result<()> {
    let name = args.name.as_ref().unwrap_or(&args.survivors[0]);
    let done = args.confirm.is_some();
    let reset = kontiki::node::offline::reset_peers;
    let (mut reply, nodes) =
        reset(directory, name, &args.group, &args.survivors, done).map_err(offline_failure)?;
    if args.survivors.len() > 1 {
        let compare = "only this log was looked at: run this without --confirm on the directory of \
                       each survivor, and recover the one whose log ends in the highest term, then \
                       at the highest index; another would overwrite entries that it still has";
        reply.warnings.push(compare.to_owned());
    }
    let recovery = Recovery {
        group: &args.group,
        done,
        survivors: args.survivors.len(),
        compared: false,
        through: name,
        nodes: &nodes,
        reply,
    };
    show(global, args, &recovery);
    Ok(())
}

fn offline_failure(error: OfflineError) -> Failure {
    let message = error.to_string();
    match error {
        OfflineError::Storage(StorageError::InUse { .. }) => Failure::local("DATA_IN_USE", message)
            .with_hint("stop the node, or leave --data-dir out to recover while it runs"),
        OfflineError::Storage(_) | OfflineError::Record(_) => Failure::local("DATA", message),
        OfflineError::GroupNotFound { .. } => {
            Failure::new(Exit::NotFound, "GROUP_NOT_FOUND", message)
        }
        OfflineError::NodeNotFound(_) => Failure::new(Exit::NotFound, "NODE_NOT_FOUND", message),
        OfflineError::Refused(_) => Failure::new(Exit::Conflict, "MEMBERSHIP_INVALID", message),
    }
}

async fn survivors(client: &Client, args: &RecoverArgs) -> Result<Vec<(Member, GroupDescription)>> {
    let mut survivors = Vec::new();
    for name in &args.survivors {
        let member = find_member(client, name).await?;
        let there = client.at(member.address.clone());
        let description = there
            .admin()
            .describe(&args.group, true)
            .await
            .map_err(|error| {
                let failure = Failure::from(error).of_read();
                failure.with_hint(format!(
                    "a survivor must run and hold a replica; {name} does not"
                ))
            })?;
        survivors.push((member, description));
    }
    Ok(survivors)
}

/// The replica whose log is furthest: a later epoch holds what was acknowledged since an earlier
/// recovery; within one, by Raft's rule, the last term first, then the last index. Resetting another
/// one would let it overwrite entries that this one still has.
fn furthest(survivors: &[(Member, GroupDescription)]) -> usize {
    let last = |description: &GroupDescription| {
        let LogId { term, index } = description.last.unwrap_or_default();
        let epoch = description.summary.as_ref().and_then(|it| it.epoch);
        let epoch = epoch.map_or((0, 0), |epoch| (epoch.number, epoch.random));
        (epoch, term, index)
    };
    let numbered = survivors.iter().enumerate();
    numbered
        .max_by_key(|(_, (_, description))| last(description))
        .map_or(0, |(n, _)| n)
}

struct Recovery<'a> {
    group: &'a str,
    done: bool,
    /// How many survivors there are.
    survivors: usize,
    /// Their logs were compared; of a directory only this one is read.
    compared: bool,
    through: &'a str,
    nodes: &'a [Introduction],
    reply: ResetPeersReply,
}

impl Recovery<'_> {
    fn through(&self) -> String {
        match (self.survivors, self.compared) {
            (1, _) => format!("{}, the only survivor", self.through),
            (_, true) => format!("{}, whose log is furthest of the survivors'", self.through),
            (_, false) => format!("{}, compared with no other survivor", self.through),
        }
    }

    fn configuration(&self, of: &Option<Configuration>) -> Configuration {
        of.clone().unwrap_or_default()
    }
}

impl Document for Recovery<'_> {
    const KIND: &'static str = "recovery";

    fn json(&self) -> Value {
        let reply = &self.reply;
        json!({
            "group": self.group,
            "done": self.done,
            "through": self.through,
            "logs_compared": self.compared || self.survivors == 1,
            "before": configuration_json(&self.configuration(&reply.before), self.nodes),
            "after": configuration_json(&self.configuration(&reply.after), self.nodes),
            "last": reply.last.map(|last| json!({ "index": last.index, "term": last.term })),
            "commit_index": reply.commit_index,
            "warnings": reply.warnings,
        })
    }

    fn text(&self, _: bool) -> String {
        let last = self.reply.last.unwrap_or_default();
        let kept = match self.reply.commit_index {
            Some(commit) => {
                let unsure = last.index.saturating_sub(commit);
                format!(
                    "{unsure} entries, up to index {} of term {}",
                    last.index, last.term
                )
            }
            None => String::new(),
        };
        let committed = self.reply.commit_index;
        let rows = [
            (
                if self.done {
                    "recovered"
                } else {
                    "would recover"
                },
                self.group.to_owned(),
            ),
            ("through", self.through()),
            (
                "its log",
                format!("ends at index {} of term {}", last.index, last.term),
            ),
            (
                "members before",
                configuration_text(&self.configuration(&self.reply.before), self.nodes),
            ),
            (
                "members after",
                configuration_text(&self.configuration(&self.reply.after), self.nodes),
            ),
            (
                "known committed",
                committed.map_or(String::new(), |index| format!("up to index {index}")),
            ),
            ("kept beyond that", kept),
        ];
        let warnings: Vec<String> = self
            .reply
            .warnings
            .iter()
            .map(|warning| format!("\nwarning: {warning}"))
            .collect();
        format!("{}{}", fields(&rows), warnings.concat())
    }

    fn names(&self) -> Vec<String> {
        vec![self.group.to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survivor(name: &str, term: u64, index: u64) -> (Member, GroupDescription) {
        let address = "127.0.0.1:1".parse().unwrap();
        let member = Member {
            id: 1,
            name: name.into(),
            address,
        };
        let last = Some(LogId { term, index });
        (
            member,
            GroupDescription {
                last,
                ..Default::default()
            },
        )
    }

    #[test]
    fn the_furthest_log_is_by_term_then_index() {
        let all = [
            survivor("a", 2, 90),
            survivor("b", 3, 10),
            survivor("c", 3, 12),
        ];
        assert_eq!(furthest(&all), 2);
    }
}
