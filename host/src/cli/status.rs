//! `kontiki status` and `kontiki wait`: the cluster at a glance, and waiting for it.

use super::cluster::Survey;
use super::context::Global;
use super::exit::Exit;
use super::failure::{Failure, Result};
use super::group::{Groups, group_json};
use super::node::{node_json, nodes_table};
use super::output::Document;
use clap::Args;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Shows every node and group, and what is wrong. Exit code 5 if anything is: a node that does not
/// answer, a member that is missing (`degraded`), a group without leader (`problem`).
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {}

/// Waits until the cluster is ready or healthy, at most for --timeout (then the exit code is 5).
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Every node answers, takes work, and every group has a leader (the default)
    #[arg(long)]
    healthy: bool,
    /// Every node answers and takes work
    #[arg(long, conflicts_with = "healthy")]
    ready: bool,
    /// Wait for at least so many nodes
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    nodes: usize,
}

/// Runs `kontiki status`.
pub(crate) async fn status(global: &Global, _: &StatusArgs) -> Result<()> {
    let survey = Survey::of(global).await?;
    global.out().print(&survey);
    if survey.is_healthy() {
        Ok(())
    } else {
        Err(Failure::silent(Exit::Unhealthy))
    }
}

impl Document for Survey {
    const KIND: &'static str = "status";

    fn json(&self) -> Value {
        json!({
            "healthy": self.is_healthy(),
            "ready": self.is_ready(),
            "nodes": self.nodes.iter().map(node_json).collect::<Vec<_>>(),
            "groups": self.groups.iter().map(group_json).collect::<Vec<_>>(),
            "problems": self.problems(),
        })
    }

    fn text(&self, wide: bool) -> String {
        let up = self.nodes.iter().filter(|node| node.report.is_ok()).count();
        let led = self
            .groups
            .iter()
            .filter(|group| group.has_leader())
            .count();
        let mut text = format!(
            "{up} of {} nodes up, {led} of {} groups have a leader\n\n{}\n\n{}",
            self.nodes.len(),
            self.groups.len(),
            nodes_table(&self.nodes, wide),
            Groups(&self.groups).text(wide),
        );
        let problems = self.problems();
        if !problems.is_empty() {
            text.push('\n');
        }
        for problem in problems {
            text.push_str(&format!("\nproblem: {problem}"));
        }
        text
    }

    fn names(&self) -> Vec<String> {
        let nodes = self.nodes.iter().map(|node| format!("node/{}", node.name));
        let groups = self
            .groups
            .iter()
            .map(|group| format!("group/{}", group.summary.name));
        nodes.chain(groups).collect()
    }
}

/// Runs `kontiki wait`.
pub(crate) async fn wait(global: &Global, args: &WaitArgs) -> Result<()> {
    let limit = global.timeout();
    let what = if args.ready { "ready" } else { "healthy" };
    let began = Instant::now();
    loop {
        let starting = global.dev_cluster().is_some_and(|cluster| !cluster.up);
        let problem = match Survey::of(global).await {
            Ok(_) if starting => "the dev cluster is still starting".to_owned(),
            Ok(survey) => match unmet(&survey, args) {
                None => {
                    global.out().note(&format!(
                        "{what} after {:.1} s",
                        began.elapsed().as_secs_f64()
                    ));
                    return Ok(());
                }
                Some(problem) => problem,
            },
            Err(failure) if failure.exit() == Exit::Usage => return Err(failure),
            Err(failure) => failure.message().to_owned(),
        };
        if began.elapsed() >= limit {
            let message = format!("not {what} within {:.1} s: {problem}", limit.as_secs_f64());
            return Err(
                Failure::new(Exit::Unhealthy, "NOT_HEALTHY", message).with_hint("kontiki status")
            );
        }
        tokio::time::sleep(PERIOD.min(limit)).await;
    }
}

const PERIOD: Duration = Duration::from_millis(100);

/// What is still missing.
fn unmet(survey: &Survey, args: &WaitArgs) -> Option<String> {
    let up = survey
        .nodes
        .iter()
        .filter(|node| node.state() == "up")
        .count();
    if up < args.nodes {
        return Some(format!("{up} of {} nodes are up", args.nodes));
    }
    if args.ready {
        let missing = survey.nodes.iter().find(|node| node.state() != "up")?;
        return Some(format!("{} is {}", missing.name, missing.state()));
    }
    survey.problems().first().cloned()
}
