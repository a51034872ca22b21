//! The client itself.

use crate::call::{Call, Safety, Sending};
use crate::pool::{Connection, Pool};
use crate::proto::client_client::ClientClient;
use crate::proto::{ApplyRequest, GetNodeReply, GetNodeRequest, Introduction, QueryRequest};
use crate::reply::{Consistency, Reply};
use crate::route::RouteTable;
use crate::stream::{self, Replies};
use crate::{Address, Admin, ClientTlsConfig, Leader, Result};
use bytes::Bytes;
use futures_util::{FutureExt, Stream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tonic::transport::Channel;

/// A client of one cluster. Cheap to clone; clones share connections and what was learned.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    timeout: Duration,
    /// Send everything here and nowhere else.
    pinned: Option<Address>,
}

/// What all clones share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) pool: Pool,
    pub(crate) options: Options,
    routes: Mutex<RouteTable>,
}

/// Longer times count as this, so that clocks can be added to them.
const TIME_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Time for one call, retries included. 10 s.
    pub timeout: Duration,
    /// How long to look for any node at all before giving up earlier than `timeout`. 10 s.
    pub patience: Duration,
    /// Time for one name look-up, and for one TCP connection. 1 s.
    pub connect_timeout: Duration,
    /// Encryption for `https://` addresses.
    pub tls: Option<ClientTlsConfig>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            patience: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(1),
            tls: None,
        }
    }
}

/// A node as it introduced itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// What people call it.
    pub name: String,
    /// Where it takes calls of clients.
    pub address: Address,
}

impl Member {
    /// None for a node whose address cannot be reached from elsewhere.
    pub(crate) fn introduced(node: &Introduction) -> Option<Self> {
        let address: Address = node.client_address.parse().ok()?;
        let unspecified = matches!(address.host(), "0.0.0.0" | "::");
        (!unspecified).then(|| Self {
            id: node.node,
            name: node.name.clone(),
            address,
        })
    }
}

impl Client {
    /// A client of the cluster to which `endpoints` belong. Connects when first needed.
    pub fn connect(endpoints: impl IntoIterator<Item = Address>, options: Options) -> Self {
        let options = Options {
            timeout: options.timeout.min(TIME_MAX),
            patience: options.patience.min(TIME_MAX),
            connect_timeout: options.connect_timeout.min(TIME_MAX),
            ..options
        };
        let routes = Mutex::new(RouteTable::new(endpoints.into_iter().collect()));
        let (timeout, pool) = (options.timeout, Pool::new(options.clone()));
        Self {
            shared: Arc::new(Shared {
                pool,
                options,
                routes,
            }),
            timeout,
            pinned: None,
        }
    }

    /// The same client with another time limit for each call.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            timeout: timeout.min(TIME_MAX),
            ..self.clone()
        }
    }

    /// The same client talking to one node only: no redirection, no other node is tried.
    #[must_use]
    pub fn at(&self, address: Address) -> Self {
        Self {
            pinned: Some(address),
            ..self.clone()
        }
    }

    /// Time limit of each call.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Replicates a command and answers when it is applied.
    ///
    /// # Errors
    /// See [`Error::outcome`](crate::Error::outcome): only `Unknown` leaves open whether the command
    /// has been or will be applied.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the outcome open.
    pub async fn apply(&self, group: &str, command: impl Into<Bytes>) -> Result<Reply> {
        self.apply_in_term(group, command, None).await
    }

    /// As [`apply`](Self::apply), refused unless the leader's term is `expected_term`.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub async fn apply_in_term(
        &self,
        group: &str,
        command: impl Into<Bytes>,
        expected_term: Option<u64>,
    ) -> Result<Reply> {
        let (name, command) = (group.to_owned(), command.into());
        let answered = self
            .call(Safety::Write, Some(group))
            .run(move |to: Sending| {
                let request = to.request(ApplyRequest {
                    group: name.clone(),
                    command: command.clone(),
                    expected_term,
                    no_forward: to.no_forward,
                });
                async move { client_service(to.channel).apply(request).await }.boxed()
            })
            .await?;
        let reply = Reply::applied(answered.message, answered.address)?;
        self.shared.note_leader(group, &reply, answered.direct);
        Ok(reply)
    }

    /// Reads the state.
    ///
    /// # Errors
    /// A query has no effect; its outcome is always `NotApplied`.
    pub async fn query(
        &self,
        group: &str,
        request: impl Into<Bytes>,
        consistency: Consistency,
    ) -> Result<Reply> {
        let (name, request) = (group.to_owned(), request.into());
        let call = match consistency {
            // Any node may answer, so the leader is not sought.
            Consistency::Stale => self.call(Safety::Read, None),
            _ => self.call(Safety::Read, Some(group)),
        };
        let answered = call
            .run(move |to: Sending| {
                let request = to.request(QueryRequest {
                    group: name.clone(),
                    request: request.clone(),
                    consistency: consistency.to_proto().into(),
                    no_forward: to.no_forward && consistency != Consistency::Stale,
                });
                async move { client_service(to.channel).query(request).await }.boxed()
            })
            .await?;
        Reply::queried(answered.message, answered.address)
    }

    /// Replicates many commands over one stream; replies come in the order of commands.
    ///
    /// Up to 256 commands are on their way at a time, and they take effect in their order unless
    /// leadership changes meanwhile: a command known not to be applied is then sent again behind
    /// those after it. Each command has the client's time limit to itself.
    pub fn apply_stream<S>(&self, group: &str, commands: S) -> Replies
    where
        S: Stream<Item = Bytes> + Send + Unpin + 'static,
    {
        self.apply_stream_in_term(group, commands, None)
    }

    /// As [`Client::apply_stream`]; each command is refused with `TERM_MISMATCH` unless the leader's
    /// term is `expected_term`, if one is given.
    pub fn apply_stream_in_term<S>(
        &self,
        group: &str,
        commands: S,
        expected_term: Option<u64>,
    ) -> Replies
    where
        S: Stream<Item = Bytes> + Send + Unpin + 'static,
    {
        stream::start(self.clone(), group.to_owned(), expected_term, commands)
    }

    /// Calls of an operator.
    pub fn admin(&self) -> Admin<'_> {
        Admin::new(self)
    }

    /// The nodes of the cluster as one of them knows them; hints are checked against them from now.
    ///
    /// # Errors
    /// If no node answers.
    pub async fn members(&self) -> Result<Vec<Member>> {
        let reply = self.admin().node().await?;
        Ok(self.shared.note_members(&reply))
    }

    pub(crate) fn call<'a>(&'a self, safety: Safety, group: Option<&'a str>) -> Call<'a> {
        Call::new(
            &self.shared,
            safety,
            group,
            self.timeout,
            self.pinned.clone(),
        )
    }
}

pub(crate) fn client_service(channel: Channel) -> ClientClient<Channel> {
    ClientClient::new(channel)
        .max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_SIZE_BYTES_MAX)
}

/// Far above what any server accepts, so that the refusal is the server's and says its limit.
pub(crate) const MESSAGE_SIZE_BYTES_MAX: usize = 256 << 20;

impl Shared {
    pub(crate) fn routes(&self) -> MutexGuard<'_, RouteTable> {
        // The table is whole between any two statements, so a panic elsewhere cannot have spoilt it.
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever applied a command without forwarding it leads.
    fn note_leader(&self, group: &str, reply: &Reply, direct: bool) {
        let mut routes = self.routes();
        let known = routes.leader(group).is_some_and(|leader| {
            leader.address == reply.served_by && leader.term == Some(reply.term)
        });
        if !direct || known {
            return;
        }
        let member = routes.member_at(&reply.served_by);
        let hint = Leader {
            id: member.map(|member| member.id),
            name: member.map(|member| member.name.clone()).unwrap_or_default(),
            address: reply.served_by.clone(),
            term: Some(reply.term),
        };
        routes.learn(group, &hint);
    }

    pub(crate) fn note_members(&self, reply: &GetNodeReply) -> Vec<Member> {
        let peers = reply.peers.iter().filter_map(|peer| peer.node.as_ref());
        let members: Vec<Member> = reply
            .node
            .iter()
            .chain(peers)
            .filter_map(Member::introduced)
            .collect();
        self.routes().set_members(&members);
        members
    }

    /// Asks the node at the other end of `connection` for the members, without retries.
    pub(crate) async fn refresh_members(&self, connection: &Connection) {
        let mut service = crate::admin::admin_service(connection.channel.clone());
        let asked = service.get_node(GetNodeRequest {});
        match tokio::time::timeout(self.options.connect_timeout, asked).await {
            Ok(Ok(reply)) => drop(self.note_members(reply.get_ref())),
            Ok(Err(status)) => tracing::debug!(%status, "members not refreshed"),
            Err(_) => tracing::debug!("members not refreshed: no answer"),
        }
    }
}
