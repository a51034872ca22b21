//! Groups in storage that cannot be opened, or stopped by a fault of the program: what is known of them, and what to do.

use super::context::ReplicaError;
use super::plugins::PluginError;
use super::registry::RecordError;
use super::request::Problem;
use kontiki_proto::v1::GroupSpec;
use kontiki_raft::GroupId;
use kontiki_storage::StorageError;

/// A replica that is in storage and takes part in nothing.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) id: GroupId,
    /// How the group was created; none if the record of it cannot be read.
    pub(crate) spec: Option<GroupSpec>,
    pub(crate) problem: Problem,
    /// The plugin that is missing or damaged here, if it is that: another node may have it.
    pub(crate) missing_plugin: Option<String>,
}

impl Broken {
    pub(crate) fn new(id: GroupId, spec: Option<GroupSpec>, error: &ReplicaError) -> Self {
        let problem = Problem {
            what: format!("this replica cannot be opened: {error}"),
            next_step: next_step(error).to_owned(),
        };
        let plugin = spec.as_ref().map(|spec| spec.plugin.clone());
        Self {
            id,
            spec,
            problem,
            missing_plugin: plugin.filter(|_| is_missing_plugin(error)),
        }
    }

    /// A replica whose task ended by a fault of the program.
    pub(crate) fn panicked(id: GroupId, spec: GroupSpec, why: &str) -> Self {
        let problem = Problem {
            what: format!("this replica has stopped by a fault of the program: {why}"),
            next_step: "keep this node's log and report it, then restart the node".to_owned(),
        };
        let spec = Some(spec);
        Self {
            id,
            spec,
            problem,
            missing_plugin: None,
        }
    }

    /// The group's name, or its id in decimal if the name cannot be read.
    pub(crate) fn name(&self) -> String {
        match &self.spec {
            Some(spec) => spec.name.clone(),
            None => self.id.to_string(),
        }
    }
}

fn is_missing_plugin(error: &ReplicaError) -> bool {
    let ReplicaError::Plugin(error) = error else {
        return false;
    };
    matches!(
        error,
        PluginError::NotFound(_)
            | PluginError::Storage(
                StorageError::BlobNotFound { .. } | StorageError::BlobDamaged { .. }
            )
    )
}

fn next_step(error: &ReplicaError) -> &'static str {
    match error {
        ReplicaError::Storage(error) => storage_step(error),
        ReplicaError::Plugin(error) => plugin_step(error),
        ReplicaError::Record(RecordError::Newer(_)) => NEWER,
        ReplicaError::Record(RecordError::Damaged(_)) => DAMAGED,
        _ => "see this node's log, then restart the node",
    }
}

const NEWER: &str = "start this node with the newer version of Kontiki that wrote its data";
const DAMAGED: &str = "the other members hold the data: remove this node from its groups, give it \
                       an empty data directory and add it again";
const PUSH: &str = "wait: it is fetched from a node that has it, and the group opened; if none has it, \
                    `kontiki plugin push FILE`";

fn storage_step(error: &StorageError) -> &'static str {
    match error {
        StorageError::Damaged { .. } => DAMAGED,
        StorageError::NewerFormat { .. } => NEWER,
        _ => "see to the disk, then restart this node",
    }
}

fn plugin_step(error: &PluginError) -> &'static str {
    match error {
        PluginError::NotFound(_)
        | PluginError::Storage(
            StorageError::BlobNotFound { .. } | StorageError::BlobDamaged { .. },
        ) => PUSH,
        PluginError::Storage(error) => storage_step(error),
        PluginError::NativeNotAllowed { .. } => {
            "start this node with --allow-native-machines, as it was when the group was created"
        }
        _ => "this version does not run the group's plugin: go back to the version that did",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_step_fits_the_reason() {
        let digest = || "sha256:…".to_owned();
        let blob = || StorageError::BlobDamaged {
            name: digest(),
            why: "checksum".into(),
        };
        let damaged = StorageError::Damaged {
            group: GroupId(7),
            index: None,
            why: "a hole".into(),
        };
        for (error, step) in [
            (
                ReplicaError::Plugin(PluginError::NotFound(digest())),
                "plugin push",
            ),
            (
                ReplicaError::Plugin(PluginError::Storage(blob())),
                "plugin push",
            ),
            (ReplicaError::Storage(damaged), "empty data directory"),
            (
                ReplicaError::Storage(StorageError::Closed),
                "see to the disk",
            ),
            (ReplicaError::Record(RecordError::Newer(2)), "newer version"),
            (
                ReplicaError::Record(RecordError::Damaged("short")),
                "empty data directory",
            ),
        ] {
            let broken = Broken::new(GroupId(7), None, &error);
            assert!(
                broken.problem.next_step.contains(step),
                "{error}: {broken:?}"
            );
            assert!(broken.problem.what.contains(&error.to_string()));
            assert_eq!(broken.name(), "7");
        }
    }
}
