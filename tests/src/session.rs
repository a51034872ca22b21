//! One client's connection to a cluster, speaking the protocol directly.

use crate::{cluster, unsent};
use anyhow::{Context as _, Result, bail};
use kontiki_proto::v1;
use kontiki_proto::v1::admin_client::AdminClient;
use kontiki_proto::v1::client_client::ClientClient;
use kontiki_proto::v1::plugins_client::PluginsClient;
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

/// What became of one command, as far as the client can know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Replicated and applied.
    Applied {
        /// Log index at which it was applied.
        index: u64,
        /// The plugin's answer, or its reject.
        answer: Result<String, String>,
    },
    /// Certainly not applied, now or later.
    NotApplied {
        /// Reason as the node named it.
        reason: String,
    },
    /// May have been applied, or may be yet.
    Unknown {
        /// What is known.
        reason: String,
    },
}

impl Outcome {
    /// Why it was not applied, or is unknown, in one word: the node's reason, or what
    /// `kontiki-client` says for what the connection did (`UNREACHABLE`, `CONNECTION_LOST`,
    /// `DEADLINE_EXCEEDED`).
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Applied { .. } => None,
            Self::NotApplied { reason } | Self::Unknown { reason } => reason.split(' ').next(),
        }
    }
}

/// One answered query.
#[derive(Clone, Debug)]
pub struct Read {
    /// When it was sent.
    pub begin: Instant,
    /// When the answer was there.
    pub end: Instant,
    /// Log index of the state that was asked.
    pub index: u64,
    /// What the plugin said.
    pub answer: String,
    /// How stale the state may be, where the node says so.
    pub staleness: Option<Duration>,
}

/// A client that tries one node at a time, in turn.
#[derive(Clone, Debug)]
pub struct Session {
    group: String,
    addresses: Vec<String>,
    channels: Vec<Channel>,
    current: usize,
    deadline: Duration,
}

impl Session {
    /// A client of `group` that knows these nodes and waits up to `deadline` for each answer.
    ///
    /// # Errors
    /// If an address is none.
    pub fn new(group: &str, addresses: &[String], deadline: Duration) -> Result<Self> {
        let channels = addresses
            .iter()
            .map(|address| channel(address))
            .collect::<Result<_>>()?;
        let group = group.to_owned();
        Ok(Self {
            group,
            addresses: addresses.to_vec(),
            channels,
            current: 0,
            deadline,
        })
    }

    /// Sends one command to the node it talked to last; turns to the next node after a failure.
    pub async fn apply(&mut self, command: &str) -> Outcome {
        let request = v1::ApplyRequest {
            group: self.group.clone(),
            command: command.as_bytes().to_vec().into(),
            ..Default::default()
        };
        let mut request = Request::new(request);
        request.set_timeout(self.deadline);
        let mut client = ClientClient::new(self.channels[self.current].clone());
        let answer = tokio::time::timeout(self.deadline * 2, client.apply(request)).await;
        match answer {
            Ok(Ok(reply)) => applied(reply.into_inner()),
            Ok(Err(status)) => {
                self.turn();
                failed(&status)
            }
            Err(_) => {
                self.turn();
                Outcome::Unknown {
                    reason: "DEADLINE_EXCEEDED".to_owned(),
                }
            }
        }
    }

    /// Sends one command again and again until it is certainly applied, for up to `limit`. Only for
    /// commands that may be applied more than once, or that were certainly not applied before.
    ///
    /// # Errors
    /// The last failure, when the time is over.
    pub async fn apply_until(&mut self, command: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            match self.apply(command).await {
                Outcome::Applied { answer, .. } => {
                    return answer.map_err(|reason| anyhow::anyhow!("rejected: {reason}"));
                }
                other if Instant::now() > deadline => bail!("{command}: {other:?}"),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Asks the state.
    ///
    /// # Errors
    /// The node's status, or the plugin's reject.
    pub async fn query(&mut self, request: &str, consistency: v1::Consistency) -> Result<String> {
        let request = v1::QueryRequest {
            group: self.group.clone(),
            request: request.as_bytes().to_vec().into(),
            consistency: consistency.into(),
            ..Default::default()
        };
        let mut request = Request::new(request);
        request.set_timeout(self.deadline);
        let mut client = ClientClient::new(self.channels[self.current].clone());
        match client.query(request).await {
            Ok(reply) => match reply.into_inner().result.context("an empty reply")? {
                v1::query_reply::Result::Answer(bytes) => Ok(String::from_utf8(bytes.to_vec())?),
                v1::query_reply::Result::Rejected(reason) => bail!("rejected: {reason}"),
            },
            Err(status) => {
                self.turn();
                Err(status.into())
            }
        }
    }

    /// Asks node `index` for the state, and nobody else after it.
    ///
    /// # Errors
    /// The node's status, or the plugin's reject.
    pub async fn read(
        &self,
        index: usize,
        request: &str,
        consistency: v1::Consistency,
    ) -> Result<Read> {
        let request = v1::QueryRequest {
            group: self.group.clone(),
            request: request.as_bytes().to_vec().into(),
            consistency: consistency.into(),
            ..Default::default()
        };
        let mut request = Request::new(request);
        request.set_timeout(self.deadline);
        let begin = Instant::now();
        let mut client = ClientClient::new(self.channels[index].clone());
        let reply = client.query(request).await?.into_inner();
        let end = Instant::now();
        let answer = match reply.result.context("an empty reply")? {
            v1::query_reply::Result::Answer(bytes) => String::from_utf8(bytes.to_vec())?,
            v1::query_reply::Result::Rejected(reason) => bail!("rejected: {reason}"),
        };
        Ok(Read {
            begin,
            end,
            index: reply.position.context("a reply without position")?.index,
            answer,
            staleness: match reply.staleness {
                Some(v1::query_reply::Staleness::StalenessUs(us)) => {
                    Some(Duration::from_micros(us))
                }
                _ => None,
            },
        })
    }

    /// An administration client of node `index`.
    #[must_use]
    pub fn admin(&self, index: usize) -> AdminClient<Channel> {
        AdminClient::new(self.channels[index].clone())
    }

    /// A plugin store client of node `index`.
    #[must_use]
    pub fn plugins(&self, index: usize) -> PluginsClient<Channel> {
        PluginsClient::new(self.channels[index].clone())
    }

    /// What node `index` says of its own replica.
    ///
    /// # Errors
    /// The node's status.
    pub async fn describe(&self, index: usize) -> Result<v1::GroupDescription> {
        let request = v1::DescribeGroupRequest {
            group: self.group.clone(),
            local: true,
        };
        let mut request = Request::new(request);
        request.set_timeout(self.deadline);
        Ok(self
            .admin(index)
            .describe_group(request)
            .await?
            .into_inner())
    }

    /// Position of the node that leads, as soon as one does, asking all for up to `limit`.
    ///
    /// # Errors
    /// If none does in time; says what each node answered last.
    pub async fn leader(&self, limit: Duration) -> Result<usize> {
        let deadline = Instant::now() + limit;
        loop {
            let mut said = Vec::new();
            for index in 0..self.channels.len() {
                match self.describe(index).await {
                    Ok(description) => {
                        let summary = description
                            .summary
                            .context("a description without summary")?;
                        if summary.role == "leader" {
                            return Ok(index);
                        }
                        said.push(format!("{}: {}", self.addresses[index], summary.role));
                    }
                    Err(error) => said.push(format!("{}: {error:#}", self.addresses[index])),
                }
            }
            if Instant::now() > deadline {
                bail!(
                    "no leader of {} within {limit:?}: {}",
                    self.group,
                    said.join("; ")
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Every committed command that node `index` has applied, with its log index.
    ///
    /// # Errors
    /// The node's status.
    pub async fn log(&self, index: usize) -> Result<Vec<v1::UserEntry>> {
        let mut entries = Vec::new();
        let mut next = Some(1);
        while let Some(first_index) = next {
            let group = self.group.clone();
            let request = v1::ReadLogRequest {
                group,
                first_index,
                entries_max: 1_000,
            };
            let mut request = Request::new(request);
            request.set_timeout(Duration::from_secs(10));
            let reply = self.admin(index).read_log(request).await?.into_inner();
            entries.extend(reply.entries);
            next = reply.next_index;
        }
        Ok(entries)
    }

    fn turn(&mut self) {
        self.current = (self.current + 1) % self.channels.len();
    }
}

/// Stores the component on every node and creates the group on all of them.
///
/// # Errors
/// The node's status.
pub async fn create_group(session: &Session, name: &str, component: &[u8]) -> Result<String> {
    let chunks: Vec<_> = component
        .chunks(256 << 10)
        .map(|data| v1::PushRequest {
            data: data.to_vec().into(),
            local_only: false,
        })
        .collect();
    let pushed = session
        .plugins(0)
        .push(futures_util::stream::iter(chunks))
        .await?
        .into_inner();
    let request = v1::CreateGroupRequest {
        name: name.to_owned(),
        plugin: pushed.digest.clone(),
        ..Default::default()
    };
    session.admin(0).create_group(request).await?;
    Ok(pushed.digest)
}

/// Makes the group `counter` on all these nodes, waits until it has a leader, and gives a client of it
/// whose requests are given `patience`.
///
/// # Errors
/// If the plugin is not built, the group cannot be made, or nobody leads it within a minute.
pub async fn counter_on(addresses: &[String], patience: Duration) -> Result<Session> {
    let session = Session::new("counter", addresses, patience)?;
    let component = std::fs::read(cluster::component("counter")?)?;
    create_group(&session, "counter", &component).await?;
    session.leader(Duration::from_secs(60)).await?;
    Ok(session)
}

/// A connection that is made when it is first used.
pub(crate) fn channel(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    Ok(endpoint
        .connect_timeout(Duration::from_millis(500))
        .tcp_nodelay(true)
        .connect_lazy())
}

/// What a reply says of its command.
pub(crate) fn applied(reply: v1::ApplyReply) -> Outcome {
    let index = reply.position.map_or(0, |position| position.index);
    let answer = match reply.result {
        Some(v1::apply_reply::Result::Answer(bytes)) => {
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        Some(v1::apply_reply::Result::Rejected(reason)) => Err(reason),
        None => {
            return Outcome::Unknown {
                reason: "an empty reply".to_owned(),
            };
        }
    };
    Outcome::Applied { index, answer }
}

/// What a failed call says of its command. Without our own details the transport made the status,
/// and nothing is known unless it says that the command was not sent, or not looked at.
pub(crate) fn failed(status: &Status) -> Outcome {
    let details = status.get_error_details();
    let Some(info) = details.error_info() else {
        let causes = unsent::told(status);
        let said = format!("{:?}: {}{causes}", status.code(), status.message());
        return match status.code() {
            _ if unsent::is_certain(status) => Outcome::NotApplied {
                reason: format!("UNREACHABLE {said}"),
            },
            Code::Cancelled | Code::DeadlineExceeded => Outcome::Unknown {
                reason: format!("DEADLINE_EXCEEDED {said}"),
            },
            _ => Outcome::Unknown {
                reason: format!("CONNECTION_LOST {said}"),
            },
        };
    };
    match info.metadata.get("outcome").map(String::as_str) {
        Some("not_applied") => Outcome::NotApplied {
            reason: info.reason.clone(),
        },
        _ => Outcome::Unknown {
            reason: info.reason.clone(),
        },
    }
}
