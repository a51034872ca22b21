//! Nodes in this process, over real sockets.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "a module of tests"
)]

pub mod gate;
pub mod narrow;
pub mod openmetrics;
pub mod stranger;

use kontiki::config::{NodeConfig, NodeOptions};
use kontiki::node::{Node, RunningNode};
use kontiki_proto::v1;
use kontiki_proto::v1::admin_client::AdminClient;
use kontiki_proto::v1::client_client::ClientClient;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

/// Longest wait for anything that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Nodes `n1`, `n2`, … that know each other.
pub struct Cluster {
    pub nodes: Vec<Option<RunningNode>>,
    options: Vec<NodeOptions>,
    pub directory: TempDir,
}

/// An address nobody listens on. Its port lies below those the system hands out by itself: one of
/// those could be taken by any connection between now and its use.
pub fn free_address() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id() * 37;
    loop {
        let port = 10_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let address = format!("127.0.0.1:{port}");
        if std::net::TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

/// Where nodes keep their data.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Data {
    Memory,
    Disk,
}

impl Cluster {
    pub async fn start(count: usize, data: Data) -> Self {
        let mut cluster = Self::prepare(count, data);
        for index in 0..count {
            cluster.start_node(index).await;
        }
        cluster.connected().await;
        cluster
    }

    pub fn prepare(count: usize, data: Data) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let addresses: Vec<_> = (0..count).map(|_| free_address()).collect();
        let name = |index: usize| format!("n{}", index + 1);
        let peers = |me: usize| {
            let others = (0..count).filter(move |index| *index != me);
            others
                .map(|index| format!("{}={}", name(index), addresses[index]))
                .collect()
        };
        let options = (0..count).map(|index| NodeOptions {
            name: Some(name(index)),
            cluster: Some("test".into()),
            data_dir: Some(place(directory.path(), &name(index), data)),
            listen: Some(addresses[index].clone()),
            http: Some("127.0.0.1:0".into()),
            peers: peers(index),
            election_timeout: Some("300ms".into()),
            shutdown_grace: Some("2s".into()),
            allow_native_machines: Some(true),
            ..NodeOptions::default()
        });
        Self {
            nodes: (0..count).map(|_| None).collect(),
            options: options.collect(),
            directory,
        }
    }

    /// One more node, which knows only those of the given indexes and is known to nobody.
    pub fn add_node(&mut self, knows: &[usize]) -> usize {
        let index = self.options.len();
        let name = format!("n{}", index + 1);
        let listens = |other: &usize| self.options[*other].listen.clone().unwrap();
        let peers = knows
            .iter()
            .map(|other| format!("n{}={}", other + 1, listens(other)));
        let options = NodeOptions {
            peers: peers.collect(),
            data_dir: Some(self.directory.path().join(&name).display().to_string()),
            name: Some(name),
            listen: Some(free_address()),
            ..self.options[0].clone()
        };
        self.options.push(options);
        self.nodes.push(None);
        index
    }

    /// Changes the options of a node that is not running.
    pub fn options(&mut self, index: usize) -> &mut NodeOptions {
        &mut self.options[index]
    }

    pub async fn start_node(&mut self, index: usize) {
        self.start_node_with(index, |_| {}).await;
    }

    /// Starts a node with something changed that has no option.
    pub async fn start_node_with(&mut self, index: usize, change: impl FnOnce(&mut NodeConfig)) {
        let mut config = self.options[index].clone().check().unwrap();
        change(&mut config);
        self.nodes[index] = Some(Node::start(config).await.unwrap());
    }

    pub async fn stop_node(&mut self, index: usize) {
        self.nodes[index].take().unwrap().shutdown().await;
    }

    pub async fn stop(mut self) {
        self.stop_nodes().await;
    }

    /// Stops all nodes; their data stays.
    pub async fn stop_nodes(&mut self) {
        for node in self.nodes.iter_mut().filter_map(Option::take) {
            node.shutdown().await;
        }
    }

    pub fn node(&self, index: usize) -> &RunningNode {
        self.nodes[index].as_ref().unwrap()
    }

    /// Where clients reach the nodes.
    pub fn addresses(&self) -> Vec<String> {
        let listen = |options: &NodeOptions| options.listen.clone().unwrap();
        self.options.iter().map(listen).collect()
    }

    /// Where node `index` listens for clients.
    pub fn address(&self, index: usize) -> String {
        self.options[index].listen.clone().unwrap()
    }

    pub fn channel(&self, index: usize) -> Channel {
        let address = self.options[index].listen.clone().unwrap();
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
        endpoint.unwrap().tcp_nodelay(true).connect_lazy()
    }

    pub fn client(&self, index: usize) -> ClientClient<Channel> {
        ClientClient::new(self.channel(index))
    }

    pub fn admin(&self, index: usize) -> AdminClient<Channel> {
        AdminClient::new(self.channel(index))
    }

    /// Waits until every running node is connected to every other.
    pub async fn connected(&self) {
        let running: Vec<_> = (0..self.nodes.len())
            .filter(|i| self.nodes[*i].is_some())
            .collect();
        for index in &running {
            wait_for("connections", || async {
                let reply = self
                    .admin(*index)
                    .get_node(v1::GetNodeRequest {})
                    .await
                    .ok()?;
                let peers = reply.into_inner().peers;
                let up = peers.iter().filter(|peer| peer.connected).count();
                (up + 1 >= running.len()).then_some(())
            })
            .await;
        }
    }

    pub async fn create_group(&self, name: &str, plugin: &str) {
        self.try_create_group(name, plugin, &[]).await.unwrap();
    }

    pub async fn try_create_group(
        &self,
        name: &str,
        plugin: &str,
        voters: &[&str],
    ) -> Result<v1::GroupSpec, Status> {
        let request = v1::CreateGroupRequest {
            name: name.into(),
            plugin: plugin.into(),
            voters: voters.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        let reply = self.admin(0).create_group(request).await?;
        Ok(reply.into_inner().group.unwrap())
    }

    /// What node `index` says of its own replica.
    pub async fn describe(&self, index: usize, group: &str) -> Option<v1::GroupDescription> {
        let request = v1::DescribeGroupRequest {
            group: group.into(),
            local: true,
        };
        Some(
            self.admin(index)
                .describe_group(request)
                .await
                .ok()?
                .into_inner(),
        )
    }

    /// Position of the node that leads.
    pub async fn leader(&self, group: &str) -> usize {
        wait_for("a leader", || async {
            for index in (0..self.nodes.len()).filter(|index| self.nodes[*index].is_some()) {
                let role = self
                    .describe(index, group)
                    .await
                    .and_then(|d| Some(d.summary?.role));
                if role.as_deref() == Some("leader") {
                    return Some(index);
                }
            }
            None
        })
        .await
    }

    /// Waits until every running node has applied the same entries with the same answers.
    pub async fn agree(&self, group: &str) -> v1::GroupDescription {
        wait_for("agreement", || async {
            let mut all = Vec::new();
            for index in (0..self.nodes.len()).filter(|index| self.nodes[*index].is_some()) {
                all.push(self.describe(index, group).await?);
            }
            let key = |d: &v1::GroupDescription| {
                let summary = d.summary.clone().unwrap_or_default();
                (
                    summary.applied_index,
                    d.outcome_hash.clone(),
                    d.last.map(|id| id.index),
                )
            };
            let first = key(&all[0]);
            let caught_up = Some(first.0) == first.2;
            (caught_up && all.iter().all(|d| key(d) == first)).then(|| all.remove(0))
        })
        .await
    }
}

fn place(directory: &Path, name: &str, data: Data) -> String {
    match data {
        Data::Memory => "memory://".into(),
        Data::Disk => directory.join(name).display().to_string(),
    }
}

/// Asks again and again until there is an answer.
pub async fn wait_for<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "waited in vain for {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One request to the pages; status code and body.
pub async fn http(address: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, body.to_owned())
}

/// One command; its index and the answer.
pub async fn apply(
    client: &mut ClientClient<Channel>,
    group: &str,
    command: &str,
) -> Result<(u64, Result<String, String>), Status> {
    let mut request = Request::new(v1::ApplyRequest {
        group: group.into(),
        command: command.as_bytes().to_vec().into(),
        ..Default::default()
    });
    request.set_timeout(Duration::from_secs(5));
    let reply = client.apply(request).await?.into_inner();
    let answer = match reply.result.unwrap() {
        v1::apply_reply::Result::Answer(bytes) => Ok(String::from_utf8(bytes.to_vec()).unwrap()),
        v1::apply_reply::Result::Rejected(reason) => Err(reason),
    };
    Ok((reply.position.unwrap().index, answer))
}

/// One query; the answer.
pub async fn query(
    client: &mut ClientClient<Channel>,
    group: &str,
    request: &str,
    consistency: v1::Consistency,
) -> Result<String, Status> {
    let mut request = Request::new(v1::QueryRequest {
        group: group.into(),
        request: request.as_bytes().to_vec().into(),
        consistency: consistency.into(),
        ..Default::default()
    });
    request.set_timeout(Duration::from_secs(5));
    match client.query(request).await?.into_inner().result.unwrap() {
        v1::query_reply::Result::Answer(bytes) => Ok(String::from_utf8(bytes.to_vec()).unwrap()),
        v1::query_reply::Result::Rejected(reason) => panic!("rejected: {reason}"),
    }
}

/// Reason and outcome in a status's details.
pub fn details(status: &Status) -> (String, String) {
    let details = status.get_error_details();
    let info = details
        .error_info()
        .unwrap_or_else(|| panic!("no details in {status:?}"));
    (
        info.reason.clone(),
        info.metadata.get("outcome").cloned().unwrap_or_default(),
    )
}
