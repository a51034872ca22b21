//! Changing settings of many nodes: what it would be on each, in which order, what became of it.

use super::super::cluster;
use super::super::context::{Global, find_member};
use super::super::exit::Exit;
use super::super::failure::{Failure, Result};
use super::super::output::{Document, table};
use futures_util::future::join_all;
use kontiki_client::proto::{GetSettingsReply, Setting};
use kontiki_client::{Client, Member};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;

/// What to do with settings.
pub(super) enum Edit {
    /// Set these.
    Set(HashMap<String, String>),
    /// Undo these, or all.
    Reset(Vec<String>),
}

/// A change, and where.
pub(super) struct Change<'a> {
    pub(super) edit: Edit,
    /// Empty: of the nodes themselves.
    pub(super) group: &'a str,
    pub(super) node: Option<&'a str>,
    pub(super) dry_run: bool,
}

/// A value that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    name: String,
    from: String,
    to: String,
}

/// One node, and how it goes there.
struct Place {
    member: Member,
    outcome: Outcome,
}

enum Outcome {
    /// It would go so, or went so.
    Fine {
        steps: Vec<Step>,
        skipped: Vec<(String, String)>,
        /// Election timeout and its sum with the drift, before and after.
        promise: [(Duration, Duration); 2],
        done: bool,
    },
    /// It has no replica of the group.
    NoReplica,
    Failed(Failure),
}

impl Change<'_> {
    /// Looks on every node first, and changes none if one refuses.
    pub(super) async fn run(&self, global: &Global) -> Result<()> {
        let client = global.client();
        let members = self.members(&client).await?;
        let mut places = join_all(members.into_iter().map(|m| self.look(&client, m))).await;
        if places
            .iter()
            .all(|p| matches!(p.outcome, Outcome::NoReplica))
        {
            let message = format!("no reachable node has a replica of {:?}", self.group);
            return Err(Failure::new(Exit::NotFound, "GROUP_NOT_FOUND", message));
        }
        if let Some(refusal) = take_refusal(&mut places) {
            return Err(refusal.with_hint("nothing was changed on any node"));
        }
        if !self.dry_run {
            self.arrange(&client, &mut places).await;
            for place in &mut places {
                self.act(&client, place).await;
            }
        }
        self.report(global, places)
    }

    async fn members(&self, client: &Client) -> Result<Vec<Member>> {
        match self.node {
            Some(node) => Ok(vec![find_member(client, node).await?]),
            None => client
                .members()
                .await
                .map_err(|error| Failure::from(error).of_read()),
        }
    }

    async fn call(
        &self,
        there: &Client,
        dry_run: bool,
    ) -> kontiki_client::Result<GetSettingsReply> {
        let (admin, group) = (there.admin(), self.group);
        match &self.edit {
            Edit::Set(values) => admin.set_settings(group, values.clone(), dry_run).await,
            Edit::Reset(names) => admin.reset_settings(group, names.clone(), dry_run).await,
        }
    }

    /// What it would be on this node.
    async fn look(&self, client: &Client, member: Member) -> Place {
        let there = client.at(member.address.clone());
        let before = there.admin().settings(self.group).await;
        let outcome = match before {
            Err(error) => self.failed(error),
            Ok(before) => match self.call(&there, true).await {
                Err(error) => self.failed(error),
                Ok(after) => Outcome::Fine {
                    steps: steps(&before, &after.settings),
                    skipped: Vec::new(),
                    promise: [promise(&before), promise(&after.settings)],
                    done: false,
                },
            },
        };
        Place { member, outcome }
    }

    fn failed(&self, error: kontiki_client::Error) -> Outcome {
        // Without --node, those without a replica are passed over.
        if self.node.is_none() && error.reason().as_str() == "GROUP_NOT_FOUND" {
            return Outcome::NoReplica;
        }
        Outcome::Failed(Failure::from(error))
    }

    /// A leader whose timeout grows sends heartbeats more rarely, so its followers must have the
    /// longer timeout before it; where it shrinks, the leader comes first. Leases hold in any order.
    async fn arrange(&self, client: &Client, places: &mut [Place]) {
        let leading = self.leading(client, places).await;
        let weight = |place: &Place| leading.get(&place.member.id).copied().unwrap_or(0);
        if places.iter().any(Place::grows) {
            places.sort_by_key(weight);
        } else {
            places.sort_by_key(|place| std::cmp::Reverse(weight(place)));
        }
    }

    /// How many of the groups in question each node leads; what is not known counts as none.
    async fn leading(&self, client: &Client, places: &[Place]) -> HashMap<u64, u32> {
        if !self.group.is_empty() {
            let described = cluster::describe(client, self.group).await;
            let leader = described.ok().and_then(|d| d.summary?.leader);
            return leader.into_iter().map(|leader| (leader, 1)).collect();
        }
        let reachable = places.iter().filter(|place| place.is_fine());
        let asked = reachable.map(|place| async {
            let there = client.at(place.member.address.clone());
            let leading = there.admin().node().await.map_or(0, |node| node.leading);
            (place.member.id, leading)
        });
        join_all(asked).await.into_iter().collect()
    }

    async fn act(&self, client: &Client, place: &mut Place) {
        let Outcome::Fine { skipped, done, .. } = &mut place.outcome else {
            return;
        };
        match self
            .call(&client.at(place.member.address.clone()), false)
            .await
        {
            Ok(reply) => {
                *done = true;
                skipped.extend(reply.skipped.into_iter().map(|s| (s.group, s.why)));
            }
            Err(error) => place.outcome = Outcome::Failed(Failure::from(error)),
        }
    }

    fn report(&self, global: &Global, places: Vec<Place>) -> Result<()> {
        if let Some(note) = self.note_of_drift(&places) {
            global.out().note(&note);
        }
        let failed = places.iter().find_map(|place| match &place.outcome {
            Outcome::Failed(failure) => Some(failure.exit()),
            _ => None,
        });
        global.out().print(&Report {
            places,
            dry_run: self.dry_run,
        });
        failed.map_or(Ok(()), |exit| Err(Failure::silent(exit)))
    }

    /// Says that the drift follows an election timeout that is set alone, and how far.
    fn note_of_drift(&self, places: &[Place]) -> Option<String> {
        let Edit::Set(values) = &self.edit else {
            return None;
        };
        if !values.contains_key("election_timeout") || values.contains_key("max_clock_drift") {
            return None;
        }
        let steps = places.iter().filter_map(|place| match &place.outcome {
            Outcome::Fine { steps, .. } => Some(steps),
            _ => None,
        });
        let drift = steps
            .flatten()
            .find(|step| step.name == "max_clock_drift")?;
        Some(format!(
            "max_clock_drift goes from {} to {}, so that its sum with election_timeout stays; \
             give max_clock_drift=… too to set it",
            drift.from, drift.to
        ))
    }
}

impl Place {
    fn is_fine(&self) -> bool {
        matches!(self.outcome, Outcome::Fine { .. })
    }

    /// Whether what is promised grows, or how rare heartbeats may be.
    fn grows(&self) -> bool {
        match &self.outcome {
            Outcome::Fine {
                promise: [before, after],
                ..
            } => after > before,
            _ => false,
        }
    }

    fn result(&self, dry_run: bool) -> &'static str {
        match &self.outcome {
            Outcome::NoReplica => "no replica",
            Outcome::Failed(_) => "failed",
            Outcome::Fine { steps, .. } if steps.is_empty() => "as it was",
            Outcome::Fine { .. } if dry_run => "would change",
            Outcome::Fine { done: true, .. } => "changed",
            Outcome::Fine { .. } => "not changed",
        }
    }

    fn steps(&self) -> &[Step] {
        match &self.outcome {
            Outcome::Fine { steps, .. } => steps,
            _ => &[],
        }
    }

    fn skipped(&self) -> &[(String, String)] {
        match &self.outcome {
            Outcome::Fine { skipped, .. } => skipped,
            _ => &[],
        }
    }

    fn remark(&self) -> String {
        if let Outcome::Failed(failure) = &self.outcome {
            return failure.message().to_owned();
        }
        let skipped = self.skipped().iter();
        let skipped: Vec<_> = skipped
            .map(|(group, why)| format!("{group}: not before it runs again: {why}"))
            .collect();
        skipped.join("; ")
    }
}

/// A refusal by a node that was reached: what it says holds for all. With a single node every
/// failure is one.
fn take_refusal(places: &mut Vec<Place>) -> Option<Failure> {
    let alone = places.len() == 1;
    let refuses = |place: &Place| match &place.outcome {
        Outcome::Failed(failure) => alone || failure.exit() != Exit::Unreachable,
        _ => false,
    };
    let at = places.iter().position(refuses)?;
    match places.swap_remove(at).outcome {
        Outcome::Failed(failure) => Some(failure),
        _ => None,
    }
}

fn steps(before: &[Setting], after: &[Setting]) -> Vec<Step> {
    let changed = before
        .iter()
        .zip(after)
        .filter(|(b, a)| b.value != a.value || b.source != a.source);
    changed
        .map(|(before, after)| Step {
            name: after.name.clone(),
            from: before.value.clone(),
            to: after.value.clone(),
        })
        .collect()
}

/// Election timeout, and its sum with the clock drift.
fn promise(settings: &[Setting]) -> (Duration, Duration) {
    let value = |name| {
        let setting = settings.iter().find(|setting| setting.name == name);
        let text = setting
            .map(|setting| setting.value.as_str())
            .unwrap_or_default();
        humantime::parse_duration(text).unwrap_or_default()
    };
    let timeout = value("election_timeout");
    (timeout, timeout + value("max_clock_drift"))
}

struct Report {
    places: Vec<Place>,
    dry_run: bool,
}

impl Document for Report {
    const KIND: &'static str = "settings-change";

    fn json(&self) -> Value {
        json!({ "dry_run": self.dry_run, "nodes": self.items() })
    }

    fn text(&self, _wide: bool) -> String {
        let rows = self.places.iter().map(|place| {
            let steps = place.steps().iter();
            let steps = steps.map(|step| format!("{} {} -> {}", step.name, step.from, step.to));
            [
                place.member.name.clone(),
                place.result(self.dry_run).to_owned(),
                steps.collect::<Vec<_>>().join(", "),
                place.remark(),
            ]
        });
        table(["NODE", "RESULT", "WHAT", "REMARK"], rows.collect())
    }

    fn names(&self) -> Vec<String> {
        let changed = self.places.iter().filter(|place| place.is_fine());
        changed.map(|place| place.member.name.clone()).collect()
    }

    fn items(&self) -> Option<Vec<Value>> {
        let item = |place: &Place| {
            let steps = place.steps().iter();
            let steps = steps.map(|s| json!({ "name": s.name, "from": s.from, "to": s.to }));
            let skipped = place.skipped().iter();
            let skipped = skipped.map(|(group, why)| json!({ "group": group, "why": why }));
            let error = match &place.outcome {
                Outcome::Failed(failure) => failure.json(),
                _ => Value::Null,
            };
            json!({
                "node": place.member.name,
                "result": place.result(self.dry_run),
                "changes": steps.collect::<Vec<_>>(),
                "skipped": skipped.collect::<Vec<_>>(),
                "error": error,
            })
        };
        Some(self.places.iter().map(item).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(values: &[(&str, &str, &str)]) -> Vec<Setting> {
        let one = |(name, value, source): &(&str, &str, &str)| Setting {
            name: (*name).into(),
            value: (*value).into(),
            source: (*source).into(),
            ..Setting::default()
        };
        values.iter().map(one).collect()
    }

    fn place(id: u64, before: &[Setting], after: &[Setting]) -> Place {
        Place {
            member: Member {
                id,
                name: format!("n{id}"),
                address: "127.0.0.1:1".parse().unwrap(),
            },
            outcome: Outcome::Fine {
                steps: steps(before, after),
                skipped: Vec::new(),
                promise: [promise(before), promise(after)],
                done: false,
            },
        }
    }

    #[test]
    fn growth_is_told_from_shrinking_by_the_timeout_first() {
        let timers = |timeout: &'static str, drift: &'static str| {
            settings(&[
                ("election_timeout", timeout, "default"),
                ("max_clock_drift", drift, "default"),
            ])
        };
        let usual = timers("1s", "1s");
        assert!(place(1, &usual, &timers("1500ms", "500ms")).grows());
        assert!(place(1, &usual, &timers("1s", "2s")).grows());
        assert!(!place(1, &usual, &timers("500ms", "9s")).grows());
        assert!(!place(1, &usual, &usual).grows());
    }

    #[test]
    fn a_change_of_source_alone_is_a_change() {
        let before = settings(&[("priority", "100", "default")]);
        let after = settings(&[("priority", "100", "node")]);
        assert_eq!(steps(&before, &after).len(), 1);
        assert_eq!(place(1, &before, &before).result(false), "as it was");
        assert_eq!(place(1, &before, &after).result(true), "would change");
    }
}
