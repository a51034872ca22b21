//! Nodes that nobody shuts down end with their runtime, threads and data included.
//!
//! One test, since it counts the databases that are open in the process.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::time::Duration;
use support::{Cluster, Data, apply};
use tokio::runtime::Runtime;

/// The last to let go of a node's data may be any of its threads. If one is still in the database
/// when the process ends, the process is aborted.
#[test]
fn a_dropped_node_has_closed_its_data_when_its_runtime_has_ended() {
    for _ in 0..5 {
        let runtime = Runtime::new().unwrap();
        let cluster = runtime.block_on(async {
            let cluster = Cluster::start(3, Data::Disk).await;
            cluster.create_group("counter", "native:counter").await;
            let leader = cluster.leader("counter").await;
            let (_, answer) = apply(&mut cluster.client(leader), "counter", "add 1")
                .await
                .unwrap();
            assert!(answer.is_ok());
            cluster
        });
        assert!(!kontiki_storage::wait_until_closed(Duration::ZERO));
        drop(cluster);
        drop(runtime);
        assert!(kontiki_storage::wait_until_closed(Duration::ZERO));
    }
}
