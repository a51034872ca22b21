//! What a measurement showed.

use super::load::Measured;
use crate::cli::output::{Document, table};
use serde_json::{Value, json};

/// Percentiles that are shown.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999)];

/// All measurements of one run.
pub(super) struct Report {
    pub(super) group: String,
    pub(super) plugin: String,
    pub(super) nodes: usize,
    pub(super) rows: Vec<Row>,
}

/// One measurement.
pub(super) struct Row {
    pub(super) clients: u32,
    pub(super) payload: usize,
    /// Length of the measurement.
    pub(super) seconds: f64,
    pub(super) measured: Measured,
    /// How far a counter went, warm-up included.
    pub(super) counted: Option<i64>,
}

impl Row {
    fn per_second(&self) -> f64 {
        self.measured.latency.len() as f64 / self.seconds
    }

    fn millis(&self, quantile: f64) -> f64 {
        self.measured.latency.value_at_quantile(quantile) as f64 / 1e3
    }

    fn errors(&self) -> u64 {
        self.measured.errors.values().sum()
    }

    /// What does not add up: every acknowledged command counts once, an unknown one once or not.
    pub(super) fn discrepancy(&self) -> Option<String> {
        let counted = i128::from(self.counted?);
        let (sure, open) = (self.measured.acknowledged, self.measured.unknown);
        let allowed = i128::from(sure)..=i128::from(sure) + i128::from(open);
        (!allowed.contains(&counted)).then(|| {
            format!(
                "{} clients, {} bytes: {sure} acknowledged and {open} unknown, but the counter went up by {counted}",
                self.clients, self.payload
            )
        })
    }

    fn json(&self) -> Value {
        let latency = &self.measured.latency;
        let seconds = |micros: u64| micros as f64 / 1e6;
        let mut quantiles: serde_json::Map<String, Value> = QUANTILES
            .iter()
            .map(|(name, q)| {
                (
                    (*name).to_owned(),
                    seconds(latency.value_at_quantile(*q)).into(),
                )
            })
            .collect();
        quantiles.insert("max".into(), seconds(latency.max()).into());
        quantiles.insert("mean".into(), (latency.mean() / 1e6).into());
        let errors = self.measured.errors.iter().map(|((reason, outcome), count)| {
            json!({ "reason": reason, "outcome": outcome, "count": count })
        });
        json!({
            "clients": self.clients,
            "payload_bytes": self.payload,
            "seconds": self.seconds,
            "commands": latency.len(),
            "commands_per_second": self.per_second(),
            "latency_seconds": quantiles,
            "errors": errors.collect::<Vec<_>>(),
            "acknowledged": self.measured.acknowledged,
            "unknown": self.measured.unknown,
            "counted": self.counted,
            "adds_up": self.counted.map(|_| self.discrepancy().is_none()),
        })
    }
}

impl Document for Report {
    const KIND: &'static str = "bench";

    fn json(&self) -> Value {
        json!({
            "group": self.group,
            "plugin": self.plugin,
            "nodes": self.nodes,
            "loop": "closed",
            "rows": self.items(),
        })
    }

    fn text(&self, _: bool) -> String {
        let rows = self.rows.iter().map(|row| {
            let millis = |q| format!("{:.2}", row.millis(q));
            let check = match (row.counted, row.discrepancy()) {
                (None, _) => "-",
                (Some(_), None) => "adds up",
                (Some(_), Some(_)) => "WRONG",
            };
            [
                row.clients.to_string(),
                row.payload.to_string(),
                format!("{:.0}", row.per_second()),
                millis(0.5),
                millis(0.9),
                millis(0.99),
                millis(0.999),
                format!("{:.2}", row.measured.latency.max() as f64 / 1e3),
                row.errors().to_string(),
                check.to_owned(),
            ]
        });
        let head = [
            "CLIENTS",
            "BYTES",
            "COMMANDS/S",
            "P50 MS",
            "P90",
            "P99",
            "P99.9",
            "MAX",
            "ERRORS",
            "COUNT",
        ];
        let mut text = table(head, rows.collect());
        for row in &self.rows {
            for ((reason, outcome), count) in &row.measured.errors {
                text += &format!(
                    "\n{} clients, {} bytes: {count} × {reason} ({outcome})",
                    row.clients, row.payload
                );
            }
        }
        text
    }

    fn names(&self) -> Vec<String> {
        self.rows
            .iter()
            .map(|row| format!("{:.0}", row.per_second()))
            .collect()
    }

    fn items(&self) -> Option<Vec<Value>> {
        Some(self.rows.iter().map(Row::json).collect())
    }
}
