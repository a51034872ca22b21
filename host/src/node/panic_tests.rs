//! A fault of the program in one group: the node goes on, and says so.

use super::Node;
use super::context::lock;
use super::request::Control;
use crate::config::NodeOptions;
use kontiki_proto::v1;
use kontiki_proto::v1::admin_client::AdminClient;
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_whose_task_panics_is_shown_as_broken_and_the_others_go_on() {
    let options = NodeOptions {
        name: Some("n1".into()),
        data_dir: Some("memory://".into()),
        listen: Some("127.0.0.1:0".into()),
        http: Some("off".into()),
        allow_native_machines: Some(true),
        ..NodeOptions::default()
    };
    let node = Node::start(options.check().unwrap()).await.unwrap();
    let context = &node.context;
    let address = format!("http://{}", node.ports().client);
    let channel = Endpoint::from_shared(address).unwrap().connect_lazy();
    for name in ["faulty", "other"] {
        let request = v1::CreateGroupRequest {
            name: name.into(),
            plugin: "native:counter".into(),
            ..v1::CreateGroupRequest::default()
        };
        let mut admin = AdminClient::new(channel.clone());
        admin.create_group(request).await.unwrap();
    }
    let faulty = context.router.by_name("faulty").unwrap();
    faulty.control(Control::Panic).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while context.router.by_name("faulty").is_some() {
        assert!(Instant::now() < deadline, "nobody has seen it");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let what = lock(&context.broken)["faulty"].problem.what.clone();
    assert!(what.ends_with("as the test wants it"), "{what}");
    let problems = context.problems();
    assert!(
        problems
            .iter()
            .any(|problem| problem.what.contains("faulty"))
    );
    let mut health = HealthClient::new(channel);
    for (service, status) in [("group/faulty", 2), ("group/other", 1)] {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let service = service.to_owned();
            let said = health
                .check(HealthCheckRequest {
                    service: service.clone(),
                })
                .await;
            if said.is_ok_and(|said| said.into_inner().status == status) {
                break;
            }
            assert!(Instant::now() < deadline, "{service}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    node.shutdown().await;
}
