//! What a node serves: gRPC for clients, operators and peers, and HTTP pages.

mod accept;
mod admin;
mod admission;
mod bounded;
mod client;
mod create_group;
mod deadline;
mod delete_group;
mod describe;
mod door;
#[cfg(test)]
mod failure_page_tests;
mod fetch;
mod forward;
mod health;
mod holdings;
mod http;
mod ledger;
mod linger;
mod log;
mod membership;
mod metrics;
mod page_listener;
mod peer;
pub(crate) mod places;
mod plugins;
mod purge;
mod raft_stat;
mod read_only;
mod recover;
mod remove_plugin;
mod replicas;
mod same_origin;
mod settings;
mod settle;
mod status;
mod steward;
mod visitor;
pub(crate) mod witness;

use crate::node::Listeners;
use crate::node::context::{Context, lock};
use crate::node::handle::GroupHandle;
use crate::transport::MESSAGE_SIZE_BYTES_MAX;
use admission::Admission;
use door::{Doors, Inside};
use forward::Forwarder;
use futures_util::future::join_all;
use kontiki_proto::v1::admin_server::AdminServer;
use kontiki_proto::v1::client_server::ClientServer;
use kontiki_proto::v1::peer_server::PeerServer;
use kontiki_proto::v1::plugins_server::PluginsServer;
use ledger::Ledgers;
use places::Places;
pub(crate) use recover::dropped_learners;
use status::{Fault, Reason};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout_at;
use tonic::service::Routes;
use tracing::{error, warn};
use visitor::Exits;

/// The running servers of a node.
pub(crate) struct Servers {
    exits: Exits,
    doors: Doors,
    admission: Admission,
    tasks: Vec<JoinHandle<()>>,
    health: health::Health,
}

/// Calls of one connection at a time; a client keeps more of them to itself.
const STREAMS_MAX: u32 = 1_024;
/// Silence after which a connection is asked whether its other side is there.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Longest time for connections to end of which nobody waits for an answer any more.
const END_LIMIT: Duration = Duration::from_secs(1);

impl Servers {
    /// Tells health checks that this node is going.
    pub(crate) async fn say_not_ready(&self) {
        self.health.say_not_ready().await;
    }

    /// Finishes the calls under way, at most until `deadline`, then ends the streams of peers, which
    /// a leadership that was not handed over needs until then, and every connection.
    pub(crate) async fn finish(self, context: &Context, deadline: tokio::time::Instant) {
        // Nobody holds a door longer than it takes to look at it.
        let _ = timeout_at(deadline, self.doors.shut()).await;
        self.exits.stop.cancel();
        let calls = self.admission.wait_for_calls();
        if timeout_at(deadline, calls).await.is_err() {
            warn!("calls were still under way at the end of the grace period");
        }
        context.peers_closing.cancel();
        let mut tasks = self.tasks;
        let ended = join_all(tasks.iter_mut());
        if tokio::time::timeout(END_LIMIT, ended).await.is_err() {
            // Whoever watches something, or does not read, is not waited for.
            self.exits.cut.cancel();
            let ended = join_all(tasks.iter_mut().filter(|task| !task.is_finished()));
            let _ = tokio::time::timeout(END_LIMIT, ended).await;
        }
        for task in tasks {
            task.abort();
        }
        let last_words = self.doors.wait_for_last_words();
        let _ = tokio::time::timeout(END_LIMIT, last_words).await;
    }
}

/// What every service shares.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) context: Arc<Context>,
    pub(crate) forwarder: Arc<Forwarder>,
    pub(crate) disk_probe: metrics::DiskProbe,
    inside: Inside,
}

impl Shared {
    /// The group of that name.
    pub(crate) fn group(&self, name: &str) -> Result<GroupHandle, Fault> {
        if self.context.is_stopping() {
            return Err(Fault::new(
                Reason::ShuttingDown,
                "the node is shutting down",
            ));
        }
        if let Some(aside) = self.context.transport.set_aside() {
            return Err(Fault::new(Reason::DuplicateNode, &aside.why).of_group(name));
        }
        if let Some(handle) = self.context.router.by_name(name) {
            return Ok(handle);
        }
        if let Some(broken) = lock(&self.context.broken).get(name) {
            let message = broken.problem.what.clone();
            return Err(Fault::new(Reason::ReplicaFailed, message).of_group(name));
        }
        if self.context.loading.load(Ordering::Acquire) {
            let message = "the node is still opening its groups";
            return Err(Fault::new(Reason::GroupLoading, message).of_group(name));
        }
        Err(Fault::group_not_found(name))
    }

    /// Adds to a failure which group it concerns and where its leader is.
    pub(crate) fn explain(&self, group: &GroupHandle, fault: impl Into<Fault>) -> Fault {
        let transport = &self.context.transport;
        let name = |node| transport.introduction(node).map(|known| known.name);
        let fault = fault.into().of_group(group.name()).with_names(name);
        match fault.leader() {
            Some(leader) => {
                let introduction = self.context.transport.introduction(leader);
                fault.with_leader(Some(leader), introduction)
            }
            None => fault,
        }
    }
}

/// Serves on all listeners.
///
/// # Errors
/// If there are too few file descriptors.
pub(crate) fn serve(context: &Arc<Context>, listeners: Listeners) -> io::Result<Servers> {
    let shared = Shared {
        context: Arc::clone(context),
        forwarder: Arc::default(),
        disk_probe: metrics::DiskProbe::default(),
        inside: Inside {
            places: Places::new(context.config.limits.connections_max),
            ledgers: Ledgers::default(),
            exits: Exits::default(),
        },
    };
    steward::start(&shared);
    let exits = shared.inside.exits.clone();
    let doors = Doors::new(shared.inside.clone());
    let admission = Admission::new(context);
    let (health, health_service) = health::start(&shared, &exits.stop);
    let peer = PeerServer::new(peer::PeerService::new(shared.clone()))
        .max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_SIZE_BYTES_MAX);
    let mut routes = client_routes(&shared).add_service(health_service);
    let mut tasks = Vec::new();
    match listeners.peer {
        Some(listener) => {
            let routes = Routes::new(peer);
            tasks.push(spawn(&shared, routes, listener, &admission, &doors)?);
        }
        None => routes = routes.add_service(peer),
    }
    tasks.push(spawn(
        &shared,
        routes,
        listeners.client,
        &admission,
        &doors,
    )?);
    if let Some(listener) = listeners.http {
        tasks.push(http::spawn(shared, listener));
    }
    Ok(Servers {
        exits,
        doors,
        admission,
        tasks,
        health,
    })
}

fn client_routes(shared: &Shared) -> Routes {
    // What is let in is limited by what the groups take; see `admission`.
    let client = ClientServer::new(client::ClientService::new(shared.clone()))
        .max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_SIZE_BYTES_MAX);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(kontiki_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors were made by the compiler of this build");
    Routes::new(client)
        .add_service(AdminServer::new(admin::AdminService::new(shared.clone())))
        .add_service(PluginsServer::new(plugins::PluginsService::new(
            shared.clone(),
        )))
        .add_service(reflection)
}

fn spawn(
    shared: &Shared,
    routes: Routes,
    listener: TcpListener,
    admission: &Admission,
    doors: &Doors,
) -> io::Result<JoinHandle<()>> {
    let door = doors.open(listener)?;
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(PING_INTERVAL))
        // A visitor that is silent for too long ends by itself; see `visitor`.
        .http2_keepalive_timeout(Some(Duration::from_secs(3_600)))
        .layer(shared.context.metrics.grpc_layer())
        .layer(admission.clone())
        .add_routes(routes)
        .serve_with_incoming_shutdown(door, shared.inside.exits.stop.clone().cancelled_owned());
    Ok(tokio::spawn(async move {
        if let Err(error) = server.await {
            error!(%error, "a listener failed");
        }
    }))
}
