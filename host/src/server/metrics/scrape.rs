//! Reading a node's state for one scrape.

use super::group::{GroupState, Groups};
use super::page::{Page, family, family_in};
use super::process::Process;
use super::storage;
use crate::node::context::{Context, lock};
use crate::node::handle::GroupHandle;
use crate::server::Shared;
use crate::transport::LinkStatus;
use futures_util::future::join_all;
use kontiki_raft::NodeId;
use kontiki_storage::{Storage, StorageMetrics};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Time for everything that a scrape waits for. What has not answered by then is left out: the page
/// is needed most when something stands still.
const LIMIT: Duration = Duration::from_secs(1);

/// What a scrape has found.
pub(super) struct Scrape {
    pub(super) state: State,
    pub(super) process: Process,
}

impl Scrape {
    /// Looks at everything at once.
    pub(super) async fn take(shared: &Shared) -> Self {
        let (context, disk) = (&shared.context, &shared.disk_probe);
        let deadline = Instant::now() + LIMIT;
        let links = context.transport.links();
        let (groups, size_bytes, process) = tokio::join!(
            groups(context, &links, deadline),
            disk.size_bytes(&context.storage, deadline),
            timeout_at(deadline, tokio::task::spawn_blocking(Process::read)),
        );
        let process = process.ok().and_then(Result::ok);
        Self {
            state: State::of(context, groups, links, size_bytes, shared.inside.count()),
            process: process.unwrap_or_default(),
        }
    }
}

/// Measures the size of the storage, one at a time: on a disk that hangs, every scrape would
/// otherwise leave one more thread waiting.
#[derive(Clone, Debug)]
pub(crate) struct DiskProbe {
    one_at_a_time: Arc<Semaphore>,
}

impl Default for DiskProbe {
    fn default() -> Self {
        Self {
            one_at_a_time: Arc::new(Semaphore::new(1)),
        }
    }
}

impl DiskProbe {
    /// None if it is not known in time.
    async fn size_bytes(&self, storage: &Arc<dyn Storage>, deadline: Instant) -> Option<u64> {
        let turn = Arc::clone(&self.one_at_a_time).acquire_owned();
        let turn = timeout_at(deadline, turn).await.ok()?.ok()?;
        let storage = Arc::clone(storage);
        let measuring = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            storage.size_bytes().ok()
        });
        timeout_at(deadline, measuring).await.ok()?.ok()?
    }
}

async fn groups(context: &Context, links: &[LinkStatus], deadline: Instant) -> Groups {
    let handles = context.router.all();
    let each = handles.len() <= context.config.metrics_per_group;
    let ask = |handle: GroupHandle| async move {
        let answer = timeout_at(deadline, handle.status()).await;
        GroupState::new(handle, answer.ok().and_then(Result::ok))
    };
    let states = join_all(handles.into_iter().map(ask)).await;
    let name = |peer: NodeId| {
        let link = links.iter().find(|link| link.node == Some(peer));
        link.map_or_else(|| peer.to_string(), |link| link.name.clone())
    };
    let peers = Groups::peers(&states).into_iter();
    let names = peers.map(|peer| (peer, name(peer))).collect();
    Groups {
        states,
        broken: lock(&context.broken).len(),
        each,
        names,
    }
}

/// What is read from a node's state.
#[derive(Debug)]
pub(super) struct State {
    engine_profile: String,
    uptime: Duration,
    groups: Groups,
    storage: StorageMetrics,
    storage_size_bytes: Option<u64>,
    links: Vec<LinkStatus>,
    messages_refused: u64,
    duplicates: u64,
    connections: Connections,
}

/// Who is let in, in numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connections {
    pub(crate) taken: usize,
    pub(crate) max: usize,
    pub(crate) refused: u64,
    pub(crate) in_hand_size_bytes: usize,
}

impl State {
    fn of(
        context: &Context,
        groups: Groups,
        links: Vec<LinkStatus>,
        storage_size_bytes: Option<u64>,
        connections: Connections,
    ) -> Self {
        let transport = &context.transport;
        Self {
            engine_profile: transport.me().engine_profile,
            uptime: context.clock.uptime(),
            groups,
            storage: context.storage.metrics(),
            storage_size_bytes,
            links,
            messages_refused: transport.refused(),
            duplicates: transport.duplicates(),
            connections,
        }
    }

    fn encode_node(&self, page: &mut Page<'_>) -> fmt::Result {
        let labels = vec![
            ("version", env!("CARGO_PKG_VERSION")),
            ("engine_profile", self.engine_profile.as_str()),
        ];
        let help = "Version of the program; always 1";
        page.gauges(&family("build_info", help), [(labels, 1_u32)])?;
        let help = "Time since the node started";
        let uptime = self.uptime.as_secs_f64();
        page.gauge(&family_in(Unit::Seconds, "uptime", help), uptime)?;
        let connections = self.connections;
        let help = "Connections that are let in, pages included";
        page.gauge(&family("connections", help), connections.taken as u64)?;
        let help = "Connections that may be let in at a time";
        page.gauge(&family("connections_max", help), connections.max as u64)?;
        let help = "Connections that were refused because there was no place for them";
        page.counter(&family("connections_refused", help), connections.refused)?;
        let help = "Requests and answers that connections have in hand";
        let in_hand = family_in(Unit::Bytes, "connections_in_hand", help);
        page.gauge(&in_hand, connections.in_hand_size_bytes as u64)?;
        let help = "Lines of the log that were dropped because nobody read them in time";
        page.counter(&family("log_lines_dropped", help), crate::log::dropped())
    }

    fn encode_peers(&self, page: &mut Page<'_>) -> fmt::Result {
        let help = "1 if messages to the node go out";
        let connected = self.links.iter().map(|link| {
            let labels = vec![("peer", link.name.as_str())];
            (labels, u32::from(link.connected))
        });
        page.gauges(&family("peer_connected", help), connected)?;
        let help = "Messages to the node by what became of them";
        let messages = self.links.iter().flat_map(|link| {
            let labels = |result| vec![("peer", link.name.as_str()), ("result", result)];
            [
                (labels("sent"), link.sent),
                (labels("dropped"), link.dropped),
            ]
        });
        page.counters(&family("peer_messages", help), messages)?;
        let help = "Messages from other nodes that were refused";
        page.counter(
            &family("peer_messages_refused", help),
            self.messages_refused,
        )?;
        let help = "Processes that were refused because another one is the node they say they are";
        page.counter(&family("duplicate_nodes_refused", help), self.duplicates)
    }
}

impl Collector for State {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page::new(encoder);
        self.encode_node(&mut page)?;
        self.groups.encode(&mut page)?;
        storage::encode(&mut page, &self.storage, self.storage_size_bytes)?;
        self.encode_peers(&mut page)
    }
}
