//! `kontiki call` and `kontiki query`: what an application does, by hand.

use super::context::Global;
use super::exit::Exit;
use super::failure::{Failure, Result};
use super::output::{Document, Format, bytes_out, line_out, tagged};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use futures_util::StreamExt as _;
use kontiki_client::{Consistency, Error, Reason, Reply, Staleness, Verdict};
use serde_json::{Value, json};
use std::io::Read as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// Replicates a command and prints the plugin's answer.
///
/// The command is the words, joined by single spaces, unless one of --hex, --file, --stdin says
/// otherwise. Exit code 8 means that it was sent and no answer came: it may have been applied.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kontiki call counter add 5
  kontiki call atomic cas x 1 2 -o json
  seq 1 1000 | sed 's/^/add /' | kontiki call counter --stdin")]
pub(crate) struct CallArgs {
    /// Name of the group
    group: String,
    #[command(flatten)]
    payload: Payload,
    /// One command a line from standard input; answers come in the same order, one a line
    #[arg(long, conflicts_with_all = ["words", "hex", "file"])]
    stdin: bool,
    /// Refuse unless the leader's term is this one
    #[arg(long, value_name = "TERM")]
    expect_term: Option<u64>,
    /// Write the answer's bytes as they are
    #[arg(long)]
    raw: bool,
}

/// Asks a group's state something, without entering the log.
///
/// The question is the words, joined by single spaces, unless --hex or --file says otherwise.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kontiki query counter get
  kontiki query atomic get x --consistency stale -o json")]
pub(crate) struct QueryArgs {
    /// Name of the group
    group: String,
    #[command(flatten)]
    payload: Payload,
    /// What the answer may miss
    #[arg(long, value_enum, default_value_t)]
    consistency: ConsistencyArg,
    /// Ask this node, by name, instead of the leader
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Write the answer's bytes as they are
    #[arg(long)]
    raw: bool,
}

#[derive(Debug, Args)]
struct Payload {
    /// The words of the command (after `--` if one begins with a dash and is no number)
    #[arg(allow_negative_numbers = true)]
    words: Vec<String>,
    /// The bytes, in hexadecimal
    #[arg(long, conflicts_with = "words", value_name = "HEX")]
    hex: Option<String>,
    /// The bytes, from a file; `-` is standard input
    #[arg(long, conflicts_with_all = ["words", "hex"], value_name = "PATH")]
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum ConsistencyArg {
    /// Linearizable: sees every command acknowledged before
    #[default]
    Linear,
    /// Linearizable by the leader's lease, where that is enabled
    Lease,
    /// Whatever the node has
    Stale,
}

impl Payload {
    fn bytes(&self) -> Result<Bytes> {
        match (&self.hex, &self.file) {
            (Some(hex), _) => hex::decode(hex)
                .map(Bytes::from)
                .map_err(|error| Failure::usage(format!("--hex: {error}"))),
            (_, Some(path)) => read(path),
            _ if self.words.is_empty() => Err(Failure::usage(
                "there is nothing to send: give words, --hex, --file, or (for call) --stdin",
            )),
            _ => Ok(self.words.join(" ").into()),
        }
    }
}

fn read(path: &std::path::Path) -> Result<Bytes> {
    let mut bytes = Vec::new();
    let done = if path.as_os_str() == "-" {
        std::io::stdin().read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    done.map_err(|error| Failure::file(path, &error))?;
    Ok(bytes.into())
}

/// Runs `kontiki call`.
pub(crate) async fn call(global: &Global, args: &CallArgs) -> Result<()> {
    if args.stdin {
        return stream(global, &args.group, args.expect_term).await;
    }
    let command = args.payload.bytes()?;
    let began = Instant::now();
    let reply = global
        .client()
        .apply_in_term(&args.group, command, args.expect_term)
        .await?;
    show(global, &args.group, reply, began.elapsed(), args.raw)
}

/// Runs `kontiki query`.
pub(crate) async fn query(global: &Global, args: &QueryArgs) -> Result<()> {
    let request = args.payload.bytes()?;
    let client = match &args.node {
        Some(node) => global.client_of(node).await?,
        None => global.client(),
    };
    let consistency = match args.consistency {
        ConsistencyArg::Linear => Consistency::Linearizable,
        ConsistencyArg::Lease => Consistency::Lease,
        ConsistencyArg::Stale => Consistency::Stale,
    };
    let began = Instant::now();
    let reply = client
        .query(&args.group, request, consistency)
        .await
        .map_err(|error| Failure::from(error).of_read())?;
    show(global, &args.group, reply, began.elapsed(), args.raw)
}

fn show(global: &Global, group: &str, reply: Reply, took: Duration, raw: bool) -> Result<()> {
    let out = global.out();
    let answer = Answer { group, reply, took };
    match &answer.reply.verdict {
        Verdict::Answer(bytes) if raw && !out.format.is_json() => bytes_out(bytes),
        Verdict::Rejected(why) if !out.format.is_json() => {
            return Err(Failure::new(
                Exit::Refused,
                "REJECTED",
                format!("{group}: {why}"),
            ));
        }
        _ => out.print(&answer),
    }
    if out.format == Format::Table {
        out.aside(&answer.aside());
    }
    match answer.reply.verdict {
        Verdict::Answer(_) => Ok(()),
        Verdict::Rejected(_) => Err(Failure::silent(Exit::Refused)),
    }
}

struct Answer<'a> {
    group: &'a str,
    reply: Reply,
    took: Duration,
}

impl Answer<'_> {
    fn aside(&self) -> String {
        let Reply {
            index,
            term,
            served_by,
            staleness,
            ..
        } = &self.reply;
        let stale = staleness.map(|age| match age {
            Staleness::AtMost(age) => format!(" · at most {:.3} s stale", age.as_secs_f64()),
            Staleness::Unknown => " · how stale is not known".to_owned(),
        });
        let took = self.took.as_secs_f64() * 1e3;
        let stale = stale.unwrap_or_default();
        format!("{served_by} · term {term} · index {index}{stale} · {took:.1} ms")
    }
}

impl Document for Answer<'_> {
    const KIND: &'static str = "answer";

    fn json(&self) -> Value {
        let mut fields = verdict_json(&self.reply);
        if let Some(fields) = fields.as_object_mut() {
            fields.insert("group".into(), self.group.into());
            fields.insert("seconds".into(), self.took.as_secs_f64().into());
            match self.reply.staleness {
                Some(Staleness::AtMost(age)) => {
                    fields.insert("staleness".into(), "at_most".into());
                    fields.insert("staleness_seconds".into(), age.as_secs_f64().into());
                }
                Some(Staleness::Unknown) => {
                    fields.insert("staleness".into(), "unknown".into());
                }
                None => {}
            }
        }
        fields
    }

    fn text(&self, wide: bool) -> String {
        let answer = verdict_text(&self.reply.verdict);
        if wide {
            format!("{answer}\n{}\n{}", self.aside(), self.reply.plugin)
        } else {
            answer
        }
    }

    fn names(&self) -> Vec<String> {
        vec![verdict_text(&self.reply.verdict)]
    }
}

/// Text where it is text, else hexadecimal.
fn verdict_text(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Answer(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => format!("0x{}", hex::encode(bytes)),
        },
        Verdict::Rejected(why) => why.clone(),
    }
}

fn verdict_json(reply: &Reply) -> Value {
    let (answer, rejected) = match &reply.verdict {
        Verdict::Answer(bytes) => (Some(bytes), None),
        Verdict::Rejected(why) => (None, Some(why)),
    };
    json!({
        // Absent where the bytes are no text.
        "answer": answer.and_then(|bytes| std::str::from_utf8(bytes).ok()),
        "answer_base64": answer.map(|bytes| STANDARD.encode(bytes)),
        "rejected": rejected,
        "index": reply.index,
        "term": reply.term,
        "plugin": reply.plugin,
        "node": reply.served_by.to_string(),
    })
}

/// Commands from standard input, answers to standard output, in order.
async fn stream(global: &Global, group: &str, expect_term: Option<u64>) -> Result<()> {
    let out = global.out();
    let lines = BufReader::new(tokio::io::stdin()).split(b'\n');
    let commands = futures_util::stream::unfold(lines, |mut lines| async move {
        let mut line = lines.next_segment().await.ok().flatten()?;
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Some((Bytes::from(line), lines))
    });
    let client = global.client();
    let mut replies = client.apply_stream_in_term(group, Box::pin(commands), expect_term);
    let mut worst = Exit::Ok;
    while let Some(reply) = replies.next().await {
        if let Err(error) = &reply
            && *error.reason() == Reason::GROUP_NOT_FOUND
        {
            // No other command would fare better.
            return Err(error.clone().into());
        }
        worst = worse(worst, show_streamed(out, reply));
    }
    if worst == Exit::Ok {
        Ok(())
    } else {
        Err(Failure::silent(worst))
    }
}

fn show_streamed(out: super::output::Output, reply: std::result::Result<Reply, Error>) -> Exit {
    match reply {
        Ok(reply) if out.format.is_json() => {
            line_out(&tagged("answer", verdict_json(&reply)).to_string());
            rejected(&reply)
        }
        Ok(reply) => {
            let prefix = if rejected(&reply) == Exit::Ok {
                ""
            } else {
                "error[REJECTED]: "
            };
            line_out(&format!("{prefix}{}", verdict_text(&reply.verdict)));
            rejected(&reply)
        }
        Err(error) => {
            // Standard output keeps one line for each command, or answers would not line up.
            let failure = Failure::from(error);
            let json = out.format.is_json();
            let first = || failure.text().lines().next().unwrap_or_default().to_owned();
            line_out(&if json {
                failure.json().to_string()
            } else {
                first()
            });
            failure.exit()
        }
    }
}

fn rejected(reply: &Reply) -> Exit {
    match reply.verdict {
        Verdict::Answer(_) => Exit::Ok,
        Verdict::Rejected(_) => Exit::Refused,
    }
}

/// An unknown outcome outweighs everything; else the first failure stands.
fn worse(so_far: Exit, next: Exit) -> Exit {
    match (so_far, next) {
        (Exit::Ok, next) | (_, next @ Exit::Unknown) => next,
        _ => so_far,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_text_or_hexadecimal() {
        assert_eq!(verdict_text(&Verdict::Answer("42".into())), "42");
        assert_eq!(
            verdict_text(&Verdict::Answer(vec![0xff, 0].into())),
            "0xff00"
        );
    }

    #[test]
    fn an_unknown_outcome_outweighs_other_failures() {
        assert_eq!(worse(Exit::Refused, Exit::Unknown), Exit::Unknown);
        assert_eq!(worse(Exit::Unknown, Exit::Refused), Exit::Unknown);
        assert_eq!(worse(Exit::Refused, Exit::Conflict), Exit::Refused);
        assert_eq!(worse(Exit::Ok, Exit::Ok), Exit::Ok);
    }
}
