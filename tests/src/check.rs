//! Holds what clients saw against the committed logs of the nodes.

use crate::load::Record;
use crate::model::Model;
use crate::session::{Outcome, Session};
use anyhow::{Context as _, Result, bail, ensure};
use kontiki_proto::v1::{GroupDescription, UserEntry};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What a check has looked at.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Report {
    /// Commands acknowledged with an index; each found there, with the answer the model gives.
    pub acknowledged: usize,
    /// Commands certainly not applied; none found in the log.
    pub not_applied: usize,
    /// Commands of unknown outcome.
    pub unknown: usize,
    /// Of those, found in the log (once each).
    pub unknown_applied: usize,
    /// Commands in the log.
    pub committed: usize,
    /// Applied index of every replica.
    pub applied_index: u64,
    /// Hash over every answer up to there, equal on all replicas.
    pub outcome_hash: String,
}

/// Waits until the replicas on `nodes` stand at one applied index with nothing left to apply.
///
/// # Errors
/// If they do not within `limit`; says where each stands.
pub async fn converged(
    session: &Session,
    nodes: &[usize],
    limit: Duration,
) -> Result<Vec<GroupDescription>> {
    let deadline = Instant::now() + limit;
    loop {
        let mut replicas = Vec::new();
        for &node in nodes {
            replicas.push(session.describe(node).await);
        }
        if let Some(replicas) = at_one_index(&replicas) {
            return Ok(replicas);
        }
        if Instant::now() > deadline {
            bail!(
                "the replicas have not converged in {limit:?}: {}",
                positions(&replicas)
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Checks a whole record: every acknowledged command stands in every replica's log at its index and
/// was answered as the model answers it there; none that was certainly refused is in the log; no
/// command is in twice; real time is respected; all replicas hold one state.
///
/// # Errors
/// The first violation found.
pub async fn history(
    session: &Session,
    nodes: &[usize],
    records: &[Record],
    model: Model,
) -> Result<Report> {
    let replicas = converged(session, nodes, Duration::from_secs(30)).await?;
    let hashes: BTreeSet<_> = replicas
        .iter()
        .map(|replica| &replica.outcome_hash)
        .collect();
    ensure!(
        hashes.len() == 1,
        "the replicas hold different states: {hashes:?}"
    );
    let mut logs = Vec::new();
    for &node in nodes {
        logs.push(
            session
                .log(node)
                .await
                .with_context(|| format!("log of node {node}"))?,
        );
    }
    for (log, node) in logs.iter().zip(nodes).skip(1) {
        same_log(&logs[0], log).with_context(|| format!("node {node} against {}", nodes[0]))?;
    }
    let mut report = against_log(records, &logs[0], model)?;
    real_time_order(records)?;
    report.applied_index = applied_index(&replicas[0]);
    report.outcome_hash.clone_from(&replicas[0].outcome_hash);
    Ok(report)
}

fn at_one_index(replicas: &[Result<GroupDescription>]) -> Option<Vec<GroupDescription>> {
    let replicas: Vec<_> = replicas
        .iter()
        .map(|r| r.as_ref().ok().cloned())
        .collect::<Option<_>>()?;
    let index = applied_index(replicas.first()?);
    let level = |replica: &GroupDescription| {
        let last = replica.last.as_ref().map_or(0, |id| id.index);
        applied_index(replica) == index && last == index && index > 0
    };
    replicas.iter().all(level).then_some(replicas)
}

fn applied_index(replica: &GroupDescription) -> u64 {
    replica
        .summary
        .as_ref()
        .map_or(0, |summary| summary.applied_index)
}

fn positions(replicas: &[Result<GroupDescription>]) -> String {
    let place = |replica: &Result<GroupDescription>| match replica {
        Ok(replica) => format!(
            "{} applied {} last {}",
            replica.node_name,
            applied_index(replica),
            replica.last.as_ref().map_or(0, |id| id.index)
        ),
        Err(error) => format!("{error:#}"),
    };
    replicas.iter().map(place).collect::<Vec<_>>().join("; ")
}

fn same_log(ours: &[UserEntry], theirs: &[UserEntry]) -> Result<()> {
    ensure!(
        ours.len() == theirs.len(),
        "{} commands against {}",
        theirs.len(),
        ours.len()
    );
    for (a, b) in ours.iter().zip(theirs) {
        ensure!(
            a.id == b.id && a.command == b.command,
            "the logs differ: {a:?} against {b:?}"
        );
    }
    Ok(())
}

fn against_log(records: &[Record], log: &[UserEntry], mut model: Model) -> Result<Report> {
    let mut answers = BTreeMap::new();
    let mut places: BTreeMap<&[u8], u64> = BTreeMap::new();
    for entry in log {
        let index = entry.id.as_ref().context("an entry without id")?.index;
        let command = str::from_utf8(&entry.command)?;
        answers.insert(index, (command, model.apply(command)));
        if let Some(first) = places.insert(&entry.command, index) {
            bail!("`{command}` was applied twice, at {first} and {index}");
        }
    }
    let mut report = Report {
        committed: log.len(),
        ..Report::default()
    };
    for record in records {
        let found = places.get(record.command.as_bytes()).copied();
        match &record.outcome {
            Outcome::Applied { index, answer } => {
                let (command, expected) = answers.get(index).with_context(|| {
                    format!(
                        "acknowledged `{}` is missing at {index}: lost",
                        record.command
                    )
                })?;
                ensure!(
                    *command == record.command,
                    "at {index}: {command}, not {record:?}"
                );
                ensure!(
                    answer == expected,
                    "at {index}: {record:?}, the model says {expected:?}"
                );
                report.acknowledged += 1;
            }
            Outcome::NotApplied { .. } => {
                ensure!(
                    found.is_none(),
                    "refused, yet applied at {found:?}: {record:?}"
                );
                report.not_applied += 1;
            }
            Outcome::Unknown { .. } => {
                report.unknown += 1;
                report.unknown_applied += usize::from(found.is_some());
            }
        }
    }
    Ok(report)
}

/// A command that was answered before another was sent has the lower index.
fn real_time_order(records: &[Record]) -> Result<()> {
    let mut begun: Vec<_> = records
        .iter()
        .filter_map(|r| Some((r.begin, index_of(r)?, r)))
        .collect();
    let mut ended: Vec<_> = records
        .iter()
        .filter_map(|r| Some((r.end, index_of(r)?, r)))
        .collect();
    begun.sort_by_key(|(time, ..)| *time);
    ended.sort_by_key(|(time, ..)| *time);
    let mut ended = ended.into_iter().peekable();
    let mut highest: Option<(u64, &Record)> = None;
    for (begin, index, record) in begun {
        while let Some((_, done, earlier)) = ended.next_if(|(end, ..)| *end < begin) {
            if highest.is_none_or(|(high, _)| done > high) {
                highest = Some((done, earlier));
            }
        }
        if let Some((high, earlier)) = highest {
            ensure!(
                high < index,
                "{record:?} at {index} was sent after {earlier:?} had its answer"
            );
        }
    }
    Ok(())
}

fn index_of(record: &Record) -> Option<u64> {
    match record.outcome {
        Outcome::Applied { index, .. } => Some(index),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kontiki_proto::v1::LogId;

    fn entry(index: u64, command: &str) -> UserEntry {
        let id = Some(LogId { term: 1, index });
        UserEntry {
            id,
            time_ns: 0,
            command: command.as_bytes().to_vec().into(),
        }
    }

    fn record(command: &str, outcome: Outcome) -> Record {
        let now = Instant::now();
        Record {
            client: 0,
            command: command.to_owned(),
            begin: now,
            end: now,
            outcome,
        }
    }

    fn applied(index: u64, answer: &str) -> Outcome {
        Outcome::Applied {
            index,
            answer: Ok(answer.to_owned()),
        }
    }

    #[test]
    fn a_lost_command_is_found() {
        let lost = [record("add 1", applied(7, "0"))];
        let error = against_log(&lost, &[], Model::counter()).unwrap_err();
        assert!(error.to_string().contains("lost"), "{error}");
    }

    #[test]
    fn a_wrong_answer_is_found() {
        let log = [entry(2, "add 5"), entry(3, "add 1")];
        let right = [record("add 1", applied(3, "5"))];
        assert_eq!(
            against_log(&right, &log, Model::counter())
                .unwrap()
                .acknowledged,
            1
        );
        let wrong = [record("add 1", applied(3, "0"))];
        assert!(against_log(&wrong, &log, Model::counter()).is_err());
    }

    #[test]
    fn a_refused_command_in_the_log_is_found() {
        let refused = Outcome::NotApplied {
            reason: "NOT_LEADER".to_owned(),
        };
        let log = [entry(2, "add 5")];
        assert!(against_log(&[record("add 5", refused)], &log, Model::counter()).is_err());
    }

    #[test]
    fn a_command_applied_twice_is_found() {
        let log = [entry(2, "add 5"), entry(3, "add 5")];
        assert!(against_log(&[], &log, Model::counter()).is_err());
    }

    #[test]
    fn an_order_against_real_time_is_found() {
        let early = record("add 1", applied(9, "0"));
        let begin = early.end + Duration::from_millis(1);
        let late = Record {
            begin,
            end: begin,
            ..record("add 2", applied(8, "0"))
        };
        assert!(real_time_order(&[early.clone(), late.clone()]).is_err());
        let late = Record {
            outcome: applied(10, "1"),
            ..late
        };
        assert!(real_time_order(&[early, late]).is_ok());
    }
}
