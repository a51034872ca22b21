//! `kontiki group campaign`: an election by order, and how it ended.

use super::context::Global;
use super::exit::Exit;
use super::failure::{Failure, Result};
use super::names::id_json;
use super::output::Document;
use clap::Args;
use kontiki_client::Client;
use kontiki_client::proto::GroupSummary;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(10);

/// Starts an election now
///
/// For a group whose leader is there and of no use: voters follow the order though they hear a leader.
/// The leader that they have steps down, also if the node then loses because its log is behind, as it
/// easily is under load; the group is without a leader until the next election, one to two election
/// timeouts later. Where the leader still does its work, `kontiki group transfer` hands over without a
/// pause.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kontiki group campaign orders --node n3
  kontiki group transfer orders --to n3     # if the leader still leads")]
pub(crate) struct CampaignArgs {
    /// Name of the group
    group: String,
    /// The node that shall campaign, by name or id
    #[arg(long)]
    node: String,
}

/// Who leads after the election.
struct Elected<'a> {
    args: &'a CampaignArgs,
    summary: GroupSummary,
    /// It is the node that campaigned.
    won: bool,
    took: Duration,
}

/// Runs `kontiki group campaign`: orders the election and waits until somebody leads.
pub(crate) async fn campaign(global: &Global, args: &CampaignArgs) -> Result<()> {
    let there = global.client_of(&args.node).await?;
    let before = look(&there, args).await?.term;
    let begin = Instant::now();
    there.admin().campaign(&args.group).await?;
    loop {
        // While votes are counted the node may be too busy to answer: only the last failure counts.
        let seen = look(&there, args).await;
        let leads = |summary: &&GroupSummary| summary.leader.is_some() && summary.term > before;
        if let Some(summary) = seen.as_ref().ok().filter(leads).cloned() {
            let (won, took) = (summary.role == "leader", begin.elapsed());
            let elected = Elected {
                args,
                summary,
                won,
                took,
            };
            global.out().print(&elected);
            return Ok(());
        }
        if begin.elapsed() >= global.timeout() {
            return Err(seen
                .err()
                .unwrap_or_else(|| undecided(args, global.timeout())));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// What the node itself says of the group.
async fn look(there: &Client, args: &CampaignArgs) -> Result<GroupSummary> {
    let described = there.admin().describe(&args.group, true).await;
    let described = described.map_err(|error| Failure::from(error).of_read())?;
    Ok(described.summary.unwrap_or_default())
}

fn undecided(args: &CampaignArgs, limit: Duration) -> Failure {
    let message = format!(
        "{} campaigned for {:?}, and {} later it knows of no leader",
        args.node,
        args.group,
        humantime::format_duration(limit)
    );
    Failure::new(Exit::Unhealthy, "ELECTION_UNDECIDED", message).with_hint(format!(
        "kontiki group describe {} --node {}",
        args.group, args.node
    ))
}

impl Document for Elected<'_> {
    const KIND: &'static str = "election";

    fn json(&self) -> Value {
        json!({
            "group": self.args.group,
            "candidate": self.args.node,
            "won": self.won,
            "leader": self.summary.leader.map(id_json),
            "leader_name": self.summary.leader_name,
            "term": self.summary.term,
            "seconds": self.took.as_secs_f64(),
        })
    }

    fn text(&self, _: bool) -> String {
        let (group, candidate) = (&self.args.group, &self.args.node);
        let GroupSummary {
            leader_name, term, ..
        } = &self.summary;
        let took = self.took.as_secs_f64() * 1e3;
        let leads = format!("{leader_name} leads {group} in term {term}, after {took:.1} ms");
        match self.won {
            true => leads,
            false => format!("{leads}; {candidate} did not win"),
        }
    }

    fn names(&self) -> Vec<String> {
        vec![self.summary.leader_name.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_that_lost_is_told_apart_from_the_leader() {
        let args = CampaignArgs {
            group: "orders".into(),
            node: "n3".into(),
        };
        let elected = |won, leader: &str| Elected {
            args: &args,
            summary: GroupSummary {
                leader: Some(7),
                leader_name: leader.into(),
                term: 4,
                ..GroupSummary::default()
            },
            won,
            took: Duration::from_micros(12_300),
        };
        let won = elected(true, "n3");
        assert_eq!(won.text(false), "n3 leads orders in term 4, after 12.3 ms");
        let lost = elected(false, "n1");
        assert!(lost.text(false).ends_with("; n3 did not win"));
        let json = lost.json();
        assert_eq!(
            (&json["won"], &json["leader"]),
            (&false.into(), &"7".into())
        );
        assert_eq!(lost.names(), ["n1"]);
    }
}
