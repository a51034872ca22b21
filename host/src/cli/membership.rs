//! Carrying a membership change out, and watching it to its end, whoever leads.

use super::cluster;
use super::context::Global;
use super::exit::Exit;
use super::failure::{Failure, Result};
use super::names::{configuration_json, configuration_text, members_text, name_of};
use super::output::{Document, Output};
use super::progress::Reporter;
use kontiki_client::proto::{
    ChangeMembershipRequest, Configuration, GroupDescription, Introduction, MemberSet,
    MembershipProgress,
};
use kontiki_client::{Error, Outcome};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often another leader is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Orders a change and waits until it is in force, or only until it is under way.
pub(crate) async fn execute(
    global: &Global,
    request: ChangeMembershipRequest,
    wait: bool,
) -> Result<()> {
    let group = request.group.clone();
    let mut progress = global.client().admin().change_membership(request).await?;
    let mut reporter = Reporter::new(global.out(), &group);
    let mut target = None;
    let configuration = loop {
        let message = match progress.next().await {
            Ok(Some(message)) => message,
            Ok(None) => break None,
            Err(error) => break Some(follow(global, &mut reporter, &group, target, error).await?),
        };
        target = message.target.clone().or(target);
        if message.stage == "done" {
            break message.configuration;
        }
        reporter.show(&message);
        if !wait && message.stage != "starting" {
            reporter.finish();
            note_under_way(global.out(), &group);
            return Ok(());
        }
    };
    reporter.finish();
    let nodes = cluster::describe(&global.client(), &group).await;
    let nodes = nodes.map(|it| it.nodes).unwrap_or_default();
    global.out().print(&Changed {
        group: group.clone(),
        configuration: configuration.unwrap_or_default(),
        nodes,
    });
    Ok(())
}

fn note_under_way(out: Output, group: &str) {
    out.note(&format!(
        "under way; `kontiki member list --group {group}` shows how far it is"
    ));
}

/// The leader that was asked is lost, or cannot be reached any more, after the change may have been
/// logged: whoever leads next carries on what it has of it. Watches until that is over.
async fn follow(
    global: &Global,
    reporter: &mut Reporter,
    group: &str,
    target: Option<MemberSet>,
    error: Error,
) -> Result<Configuration> {
    let Some(target) = target.filter(|_| error.outcome() == Outcome::Unknown) else {
        reporter.finish();
        return Err(error.into());
    };
    let why = error.message();
    global
        .out()
        .note(&format!("{why}; looking at what the next leader does"));
    let client = global.client();
    let mut deadline = Instant::now() + global.timeout();
    while Instant::now() < deadline {
        match cluster::describe(&client, group).await {
            Ok(it) if is_settled(&it) => return outcome(&it, &target),
            Ok(it) if leads(&it) => {
                deadline = Instant::now() + global.timeout();
                reporter.show(&seen(&it));
            }
            Ok(_) | Err(_) => {}
        }
        sleep(LOOK_INTERVAL).await;
    }
    reporter.finish();
    let message = format!("{why}; no leader says what became of the change");
    let hint = format!("kontiki member list --group {group}");
    Err(Failure::new(Exit::Unknown, "CHANGE_UNKNOWN", message).with_hint(hint))
}

fn leads(description: &GroupDescription) -> bool {
    let summary = description.summary.as_ref();
    summary.is_some_and(|summary| summary.role == "leader")
}

/// Whether this leader has no change under way, and its membership is safe.
fn is_settled(description: &GroupDescription) -> bool {
    let commit = description.summary.as_ref().map_or(0, |s| s.commit_index);
    let configuration = description.configuration.clone().unwrap_or_default();
    leads(description)
        && description.change_stage == "none"
        && configuration.old.is_none()
        && description.configuration_index <= commit
}

fn seen(description: &GroupDescription) -> MembershipProgress {
    MembershipProgress {
        stage: description.change_stage.clone(),
        catching_up: description.catching_up.clone(),
        configuration: None,
        target: description.change_target.clone(),
    }
}

/// Whether the membership of the new leader is the one that was wanted.
fn outcome(description: &GroupDescription, target: &MemberSet) -> Result<Configuration> {
    let configuration = description.configuration.clone().unwrap_or_default();
    let current = configuration.current.clone().unwrap_or_default();
    if same(&current, target) {
        return Ok(configuration);
    }
    let nodes = &description.nodes;
    let message = format!(
        "the change is lost with the leader that began it: the members are {}, not {}",
        members_text(&current, nodes),
        members_text(target, nodes)
    );
    Err(Failure::new(Exit::Conflict, "CHANGE_LOST", message).with_hint("run the command again"))
}

fn same(one: &MemberSet, other: &MemberSet) -> bool {
    let sorted = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    sorted(&one.voters) == sorted(&other.voters) && sorted(&one.learners) == sorted(&other.learners)
}

/// Runs `kontiki member cancel`.
pub(crate) async fn cancel(global: &Global, group: &str) -> Result<()> {
    global.client().admin().cancel_change(group).await?;
    global.out().note(&format!(
        "{group}: the change is given up, nothing of it was logged"
    ));
    Ok(())
}

struct Changed {
    group: String,
    configuration: Configuration,
    nodes: Vec<Introduction>,
}

impl Document for Changed {
    const KIND: &'static str = "membership";

    fn json(&self) -> Value {
        json!({
            "group": self.group,
            "configuration": configuration_json(&self.configuration, &self.nodes),
        })
    }

    fn text(&self, _: bool) -> String {
        format!(
            "{}: {}",
            self.group,
            configuration_text(&self.configuration, &self.nodes)
        )
    }

    fn names(&self) -> Vec<String> {
        let set = self.configuration.current.clone().unwrap_or_default();
        set.voters
            .iter()
            .chain(&set.learners)
            .map(|id| name_of(*id, &self.nodes))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kontiki_client::proto::GroupSummary;

    fn leader(voters: &[u64], commit_index: u64) -> GroupDescription {
        GroupDescription {
            summary: Some(GroupSummary {
                role: "leader".into(),
                commit_index,
                ..GroupSummary::default()
            }),
            configuration: Some(Configuration {
                current: Some(set(voters)),
                old: None,
            }),
            configuration_index: 5,
            change_stage: "none".into(),
            ..GroupDescription::default()
        }
    }

    fn set(voters: &[u64]) -> MemberSet {
        MemberSet {
            voters: voters.to_vec(),
            learners: vec![],
        }
    }

    #[test]
    fn a_change_is_over_when_a_leader_has_the_final_membership_committed() {
        assert!(is_settled(&leader(&[1, 2], 5)));
        assert!(!is_settled(&leader(&[1, 2], 4)), "it may still be lost");
        let mut joint = leader(&[1, 2], 5);
        joint.change_stage = "joint".into();
        assert!(!is_settled(&joint));
        let mut follower = leader(&[1, 2], 5);
        follower.summary.as_mut().unwrap().role = "follower".into();
        assert!(!is_settled(&follower));
    }

    #[test]
    fn a_change_that_the_next_leader_lacks_is_lost() {
        assert!(outcome(&leader(&[2, 1], 5), &set(&[1, 2])).is_ok());
        let lost = outcome(&leader(&[1], 5), &set(&[1, 2])).unwrap_err();
        assert_eq!(
            (lost.reason(), lost.exit()),
            ("CHANGE_LOST", Exit::Conflict)
        );
    }
}
