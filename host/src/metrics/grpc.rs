//! Calls of this node's gRPC services, by method.

use super::buckets;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tonic::Code;

/// What all paths are called that are no method of this node: a client can ask for anything.
const OTHER: &str = "other";

/// The codes of gRPC by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabel {
    method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandledLabels {
    method: String,
    code: &'static str,
}

/// Calls, by method.
#[derive(Debug)]
pub(super) struct Grpc {
    /// By path.
    methods: HashMap<String, Arc<Method>>,
    other: Arc<Method>,
}

/// Calls of one method. A series begins with the first call that belongs to it.
#[derive(Debug)]
pub(super) struct Method {
    /// `package.Service/Method`.
    name: String,
    families: Families,
    /// By number of the code.
    handled: [OnceLock<Counter>; CODES.len()],
    duration: OnceLock<Histogram>,
}

#[derive(Clone, Debug)]
struct Families {
    handled: Family<HandledLabels, Counter>,
    duration: Family<MethodLabel, Histogram>,
}

impl Grpc {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let families = Families {
            handled: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(buckets::REQUEST)),
        };
        registry.register(
            "grpc_handled",
            "Calls of this node's gRPC services that have ended, by method and code",
            families.handled.clone(),
        );
        registry.register_with_unit(
            "grpc_duration",
            "Time of a gRPC call, of a stream until its end",
            Unit::Seconds,
            families.duration.clone(),
        );
        let method = |name: String| Arc::new(Method::new(name, families.clone()));
        let methods = method_names().map(|name| (format!("/{name}"), method(name)));
        Self {
            methods: methods.collect(),
            other: method(OTHER.to_owned()),
        }
    }

    /// The method at this path.
    pub(super) fn method(&self, path: &str) -> &Arc<Method> {
        self.methods.get(path).unwrap_or(&self.other)
    }
}

impl Method {
    fn new(name: String, families: Families) -> Self {
        Self {
            name,
            families,
            handled: std::array::from_fn(|_| OnceLock::new()),
            duration: OnceLock::new(),
        }
    }

    /// A call has ended.
    pub(super) fn handled(&self, code: Code, took: Duration) {
        let number = code as usize;
        let handled = self.handled[number].get_or_init(|| {
            self.families.handled.get_or_create_owned(&HandledLabels {
                method: self.name.clone(),
                code: CODES[number],
            })
        });
        handled.inc();
        let duration = self.duration.get_or_init(|| {
            let method = self.name.clone();
            self.families
                .duration
                .get_or_create_owned(&MethodLabel { method })
        });
        duration.observe(took.as_secs_f64());
    }
}

/// Every method that a node serves, as `package.Service/Method`.
fn method_names() -> impl Iterator<Item = String> {
    let descriptors = [
        kontiki_proto::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    ];
    descriptors.into_iter().flat_map(|bytes| {
        let set = FileDescriptorSet::decode(bytes)
            .expect("the descriptors were made by the compiler of this build");
        set.file.into_iter().flat_map(|file| {
            let package = file.package().to_owned();
            file.service.into_iter().flat_map(move |service| {
                let service_name = format!("{package}.{}", service.name());
                let methods = service.method.into_iter();
                methods.map(move |method| format!("{service_name}/{}", method.name()))
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_known_and_others_share_one_series() {
        let mut registry = Registry::default();
        let grpc = Grpc::register(&mut registry);
        for path in [
            "/kontiki.v1.Client/Apply",
            "/kontiki.v1.Admin/CreateGroup",
            "/kontiki.v1.Plugins/Push",
            "/kontiki.v1.Peer/Stream",
            "/grpc.health.v1.Health/Check",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            assert_eq!(grpc.method(path).name, path[1..]);
        }
        for path in ["/kontiki.v1.Client/Nothing", "/", "", "/a\"b\n{}"] {
            grpc.method(path)
                .handled(Code::Unimplemented, Duration::ZERO);
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let handled = "grpc_handled_total{method=\"other\",code=\"UNIMPLEMENTED\"} 4";
        assert!(text.lines().any(|line| line == handled), "{text}");
    }

    #[test]
    fn codes_have_the_numbers_of_the_protocol() {
        for (number, name) in (0..).zip(CODES) {
            let code = Code::from_i32(number);
            let ours = name.replace('_', "").to_lowercase();
            assert_eq!(format!("{code:?}").to_lowercase(), ours);
        }
    }
}
