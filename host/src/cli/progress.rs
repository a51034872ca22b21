//! Progress of a membership change, on standard error.

use super::names::{bytes_text, id_json};
use super::output::Output;
use indicatif::{ProgressBar, ProgressStyle};
use kontiki_client::proto::{CatchUpProgress, MembershipProgress};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Shows what is going on: one line that changes where a person watches, else a line now and then;
/// under `-o json` and `-o jsonl` each such line is a document of kind `membership-progress`.
pub(crate) struct Reporter {
    out: Output,
    group: String,
    bar: Option<ProgressBar>,
    shown: Option<(String, Instant)>,
}

/// How often a line is printed where nobody watches.
const PERIOD: Duration = Duration::from_secs(1);

impl Reporter {
    pub(crate) fn new(out: Output, group: &str) -> Self {
        let watched = std::io::stderr().is_terminal() && !out.quiet && !out.format.is_json();
        let bar = watched.then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg}");
            let bar = ProgressBar::new_spinner();
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self {
            out,
            group: group.to_owned(),
            bar,
            shown: None,
        }
    }

    pub(crate) fn show(&mut self, progress: &MembershipProgress) {
        let line = line(progress);
        if let Some(bar) = &self.bar {
            bar.set_message(line);
            return;
        }
        let stage = progress.stage.clone();
        let fresh = match &self.shown {
            Some((last, at)) => *last != stage || at.elapsed() >= PERIOD,
            None => true,
        };
        if fresh {
            self.out.note(&line);
            self.out
                .document_aside("membership-progress", progress_json(&self.group, progress));
            self.shown = Some((stage, Instant::now()));
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn line(progress: &MembershipProgress) -> String {
    let nodes: Vec<String> = progress.catching_up.iter().map(node_line).collect();
    let what = match progress.stage.as_str() {
        "catch-up" => "catching up",
        "joint" => "joint: both majorities needed",
        "stable" => "committing the final membership",
        stage => stage,
    };
    if nodes.is_empty() {
        what.to_owned()
    } else {
        format!("{what}: {}", nodes.join("; "))
    }
}

/// `n4 1200 entries, about 3.4 MiB left, 5000 entries/s, 0.2 s to go`. The rate is that since the
/// beginning, the bytes are estimated.
pub(crate) fn node_line(node: &CatchUpProgress) -> String {
    let size = bytes_text(node.size_bytes_left);
    let left = format!(
        "{} {} entries, about {size} left",
        node.name, node.entries_left
    );
    match rate(node) {
        Some(rate) => {
            let to_go = node.entries_left as f64 / rate;
            format!("{left}, {rate:.0} entries/s, {to_go:.1} s to go")
        }
        None => format!("{left}, none received yet"),
    }
}

/// Entries per second since the beginning; none before the first.
fn rate(node: &CatchUpProgress) -> Option<f64> {
    let elapsed = node.elapsed_us as f64 / 1e6;
    let rate = node.entries_done as f64 / elapsed;
    Some(rate).filter(|rate| rate.is_finite() && *rate > 0.0)
}

/// A node that is catching up, as in every JSON document.
pub(crate) fn catch_up_json(node: &CatchUpProgress) -> Value {
    let rate = rate(node);
    json!({
        "id": id_json(node.node),
        "name": node.name,
        "entries_left": node.entries_left,
        "size_bytes_left": node.size_bytes_left,
        "entries_done": node.entries_done,
        "seconds": node.elapsed_us as f64 / 1e6,
        "entries_per_second": rate,
        "seconds_left": rate.map(|rate| node.entries_left as f64 / rate),
    })
}

fn progress_json(group: &str, progress: &MembershipProgress) -> Value {
    let catching_up = progress.catching_up.iter().map(catch_up_json);
    json!({
        "group": group,
        "stage": progress.stage,
        "catching_up": catching_up.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_what_is_left_the_rate_and_an_estimate() {
        let node = CatchUpProgress {
            node: 4,
            name: "n4".into(),
            entries_left: 1000,
            size_bytes_left: 2048,
            elapsed_us: 2_000_000,
            entries_done: 1000,
        };
        let stage = "catch-up".to_owned();
        let line = line(&MembershipProgress {
            stage,
            catching_up: vec![node],
            configuration: None,
            target: None,
        });
        assert_eq!(
            line,
            "catching up: n4 1000 entries, about 2.0 KiB left, 500 entries/s, 2.0 s to go"
        );
    }

    #[test]
    fn without_progress_there_is_no_estimate() {
        let node = CatchUpProgress {
            name: "n4".into(),
            entries_left: 9,
            ..Default::default()
        };
        let line = node_line(&node);
        assert_eq!(line, "n4 9 entries, about 0 B left, none received yet");
        assert_eq!(catch_up_json(&node)["seconds_left"], Value::Null);
    }
}
