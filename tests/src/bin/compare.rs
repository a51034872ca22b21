//! The measurement behind `cargo xtask bench`: three nodes with sync on, one group whose state machine
//! is a WebAssembly component and one whose state machine is compiled in, in one run.

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use kontiki_tests::session::{self, Session};
use kontiki_tests::{Cluster, ClusterOptions, Operator, cluster};
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;

/// Measures commands per second of a plugin beside the same machine compiled in.
#[derive(Parser)]
struct Arguments {
    /// Clients at a time
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    clients: Vec<u32>,
    /// Bytes of a command
    #[arg(long, value_delimiter = ',', default_value = "16,256")]
    payload: Vec<usize>,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Measurements of each kind, taken in turns; the median is shown
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Serialize)]
struct Row {
    clients: u32,
    payload_bytes: usize,
    wasm: Measured,
    native: Measured,
}

/// Medians over the rounds.
#[derive(Clone, Default, Serialize)]
struct Measured {
    commands_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let serve_args = vec!["--allow-native-machines".to_owned()];
    let cluster = Cluster::start(ClusterOptions {
        serve_args,
        ..ClusterOptions::default()
    })?;
    let operator = Operator::of(&cluster);
    let wasm = Session::new("wasm", &cluster.addresses(), LIMIT)?;
    let component = std::fs::read(cluster::component("counter")?)?;
    session::create_group(&wasm, "wasm", &component).await?;
    operator.does(&["group", "create", "native", "--plugin", "native:counter"])?;
    let leader = wasm.leader(LIMIT).await?;
    let native = Session::new("native", &cluster.addresses(), LIMIT)?;
    native.leader(LIMIT).await?;
    // Both leaders on one node: a difference between nodes is none between machines.
    operator.does(&[
        "group",
        "transfer",
        "native",
        "--to",
        &cluster.nodes()[leader].name,
    ])?;
    let mut rows = Vec::new();
    for &payload in &arguments.payload {
        for &clients in &arguments.clients {
            rows.push(compare(&operator, &arguments, clients, payload)?);
        }
    }
    match arguments.output {
        Format::Json => println!("{}", serde_json::to_string_pretty(&rows)?),
        Format::Text => print(&rows),
    }
    Ok(())
}

fn compare(
    operator: &Operator,
    arguments: &Arguments,
    clients: u32,
    payload: usize,
) -> Result<Row> {
    let (mut wasm, mut native) = (Vec::new(), Vec::new());
    for round in 0..arguments.rounds {
        eprintln!("{clients} clients, {payload} bytes, round {}", round + 1);
        wasm.push(measure(
            operator,
            "wasm",
            arguments.seconds,
            clients,
            payload,
        )?);
        native.push(measure(
            operator,
            "native",
            arguments.seconds,
            clients,
            payload,
        )?);
    }
    let (wasm, native) = (median(wasm), median(native));
    Ok(Row {
        clients,
        payload_bytes: payload,
        wasm,
        native,
    })
}

fn measure(
    operator: &Operator,
    group: &str,
    seconds: u32,
    clients: u32,
    payload: usize,
) -> Result<Measured> {
    let (clients, payload) = (clients.to_string(), payload.to_string());
    let duration = format!("{seconds}s");
    let words = [
        "bench",
        "--group",
        group,
        "--clients",
        &clients,
        "--payload",
        &payload,
    ];
    let document = operator.reads(&[&words[..], &["--duration", &duration]].concat())?;
    let row = document["rows"].get(0).context("a bench without rows")?;
    ensure!(
        row["adds_up"] != Value::Bool(false),
        "the counter does not add up: {row}"
    );
    let number = |value: &Value| {
        value
            .as_f64()
            .with_context(|| format!("no number in {row}"))
    };
    Ok(Measured {
        commands_per_second: number(&row["commands_per_second"])?,
        p50_ms: number(&row["latency_seconds"]["p50"])? * 1e3,
        p99_ms: number(&row["latency_seconds"]["p99"])? * 1e3,
    })
}

fn median(mut rounds: Vec<Measured>) -> Measured {
    rounds.sort_by(|a, b| a.commands_per_second.total_cmp(&b.commands_per_second));
    let middle = rounds.len() / 2;
    rounds.into_iter().nth(middle).unwrap_or_default()
}

fn print(rows: &[Row]) {
    println!(
        "| clients | bytes | Wasm commands/s | p50 ms | p99 ms | native commands/s | p50 | p99 |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for Row {
        clients,
        payload_bytes,
        wasm,
        native,
    } in rows
    {
        println!(
            "| {clients} | {payload_bytes} | {:.0} | {:.2} | {:.2} | {:.0} | {:.2} | {:.2} |",
            wasm.commands_per_second,
            wasm.p50_ms,
            wasm.p99_ms,
            native.commands_per_second,
            native.p50_ms,
            native.p99_ms
        );
    }
}
