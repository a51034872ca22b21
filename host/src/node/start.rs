//! Starting a node: data, then listeners, then groups. No leader may exist that clients cannot
//! reach, so groups come last.

use super::clock::Clock;
use super::context::{Context, Parts, random_u64};
use super::listen::Listeners;
use super::overrides::Overrides;
use super::plugins::{Blobs, PluginStore};
use super::router::Router;
use super::{Ports, RunningNode, StartError, stop, tuning};
use super::{descriptors, drain};
use crate::config::{Address, DataLocation, NodeConfig};
use crate::server;
use crate::transport::{QueueLimits, Transport};
use kontiki_plugin::{Engine, Limits};
use kontiki_proto::PEER_PROTOCOL;
use kontiki_proto::v1::Introduction;
use kontiki_raft::NodeId;
use kontiki_storage::{DataDirectory, Identity, Options, Storage};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

/// A node's data, opened.
struct Data {
    node: NodeId,
    storage: Arc<dyn Storage>,
    blobs: Blobs,
    directory: Option<DataDirectory>,
}

pub(super) async fn start(config: NodeConfig) -> Result<RunningNode, StartError> {
    // Bound first: a port in use is found before anything is written.
    let listeners = Listeners::bind(&config).await?;
    let (data, engine) = open(config.clone()).await?;
    let overrides = kept_overrides(&data.storage).await?;
    let ports = ports(&config, &listeners, data.node)?;
    let limits = &config.limits;
    let plugins = PluginStore::new(
        engine,
        data.blobs,
        limits.plugin_size_bytes_max,
        config.allow_native_machines,
    );
    let me = introduction(&config, &ports, plugins.profile());
    let router = Router::default();
    let storage = Arc::clone(&data.storage);
    let drained = drain::is_recorded(&*storage)?;
    let queue = QueueLimits {
        messages_max: limits.peer_queue_max,
        size_bytes_max: limits.peer_queue_size_bytes_max,
    };
    let transport = Transport::start(me, storage, &config.peers, queue, router.clone())?;
    let context = Arc::new(Context::new(Parts {
        clock: Clock::new(),
        storage: data.storage,
        plugins,
        transport,
        router,
        drained,
        http_address: ports
            .http
            .map(|address| address.to_string())
            .unwrap_or_default(),
        config,
        overrides,
    }));
    let servers = match server::serve(&context, listeners) {
        Ok(servers) => servers,
        Err(error) => {
            stop::close(&context).await;
            return Err(StartError::Serve(error));
        }
    };
    context.in_background(server::witness::run(Arc::downgrade(&context)));
    let opened = context.open_groups().await;
    let node = RunningNode {
        ports,
        context,
        servers,
        directory: data.directory,
    };
    match opened {
        Ok(()) => Ok(node),
        Err(error) => {
            node.shutdown().await;
            Err(StartError::Groups(error.to_string()))
        }
    }
}

/// Opens data and engine on a thread that may block.
async fn open(config: NodeConfig) -> Result<(Data, Engine), StartError> {
    tokio::task::spawn_blocking(move || {
        let data = open_data(&config)?;
        let engine = Engine::new(Limits {
            component_size_bytes_max: config.limits.plugin_size_bytes_max as u64,
            ..Limits::default()
        })?;
        Ok((data, engine))
    })
    .await?
}

/// What was set while the node ran before.
async fn kept_overrides(storage: &Arc<dyn Storage>) -> Result<Overrides, StartError> {
    let storage = Arc::clone(storage);
    let reading = move || tuning::node_overrides(&*storage);
    let read = tokio::task::spawn_blocking(reading).await?;
    read.map_err(|error| StartError::Groups(error.to_string()))
}

fn open_data(config: &NodeConfig) -> Result<Data, StartError> {
    let node = NodeId(getrandom::u64().map_err(StartError::Random)?.max(1));
    let options = Options {
        open_files_max: descriptors::store_max(),
        ..Options::default()
    };
    match &config.data {
        DataLocation::Memory => {
            let uri = "memory://".parse().expect("a valid URI");
            Ok(Data {
                node,
                storage: kontiki_storage::open(&uri, &options)?,
                blobs: Blobs::Memory(Mutex::default()),
                directory: None,
            })
        }
        DataLocation::Directory(path) => {
            let wanted = Identity {
                node,
                name: config.name.clone(),
                cluster: config.cluster.clone(),
            };
            let directory = DataDirectory::open(path, true, &wanted)?;
            Ok(Data {
                node: directory.identity().node,
                storage: kontiki_storage::open(&directory.storage_uri()?, &options)?,
                blobs: Blobs::Disk(directory.blobs()?),
                directory: Some(directory),
            })
        }
    }
}

fn ports(config: &NodeConfig, listeners: &Listeners, node: NodeId) -> Result<Ports, StartError> {
    Ok(Ports {
        name: config.name.clone(),
        node: node.to_string(),
        pid: std::process::id(),
        client: listeners.client_address()?,
        peer: listeners.peer_address()?,
        http: listeners.http_address()?,
    })
}

fn introduction(config: &NodeConfig, ports: &Ports, engine_profile: String) -> Introduction {
    Introduction {
        cluster: config.cluster.clone(),
        node: ports.node.parse().expect("it is the id in decimal"),
        name: config.name.clone(),
        peer_address: told(
            config.peer_advertise.as_ref(),
            config.peer_listen.as_ref(),
            ports.peer,
        ),
        client_address: told(
            config.advertise.as_ref(),
            Some(&config.listen),
            ports.client,
        ),
        protocol: PEER_PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        engine_profile,
        incarnation: random_u64().max(1),
        // The address book numbers the addresses.
        ..Introduction::default()
    }
}

/// The address that others are told: the advertised one, else the configured host with the port
/// that was bound.
fn told(advertised: Option<&Address>, listen: Option<&Address>, bound: SocketAddr) -> String {
    match (advertised, listen) {
        (Some(address), _) => address.to_string(),
        (None, Some(listen)) if listen.port() != 0 => listen.to_string(),
        _ => bound.to_string(),
    }
}
