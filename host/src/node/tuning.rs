//! Changing settings of a node and of its replicas while they run.

use super::context::{Context, ReplicaError, lock};
use super::handle::GroupHandle;
use super::overrides::{Edit, Overrides, Own};
use super::request::{Failure, Order};
use super::settings::{Setting, SettingError};
use futures_util::future::join_all;
use kontiki_raft::{GroupId, Settings};
use kontiki_storage::Storage;
use std::sync::Arc;
use std::time::Duration;

/// Node record that holds the node's overrides.
const NODE_RECORD: &str = "settings";
/// A replica that does not take its settings within this time is passed over.
const REPLICA_PATIENCE: Duration = Duration::from_secs(5);

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nobody said anything.
    Default,
    /// The file, the environment or the flags.
    Configuration,
    /// Changed on this node while it ran.
    Node,
    /// Changed for this replica while it ran.
    Group,
}

impl Source {
    /// Its name for people and programs.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Configuration => "configuration",
            Self::Node => "node",
            Self::Group => "group",
        }
    }
}

/// The settings of a node or of a replica, and what they are made of.
#[derive(Clone, Debug)]
pub(crate) struct Layers {
    /// In force.
    pub(crate) settings: Settings,
    node: Overrides,
    own: Overrides,
}

impl Layers {
    /// Where the value of `setting` comes from.
    pub(crate) fn source(&self, context: &Context, setting: &Setting) -> Source {
        if self.own.has(setting.name) {
            Source::Group
        } else if self.node.has(setting.name) {
            Source::Node
        } else if context.config.raft_named.contains(setting.name) {
            Source::Configuration
        } else {
            Source::Default
        }
    }
}

/// What became of a change.
#[derive(Debug)]
pub(crate) struct Changed {
    /// The settings after it.
    pub(crate) layers: Layers,
    /// Replicas that could not take them now, and why; they will when they run again.
    pub(crate) skipped: Vec<(String, String)>,
}

/// Why settings were not changed. Nothing was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error(transparent)]
    Setting(#[from] SettingError),
    #[error("nothing was changed, since {group:?} could not go along: {error}")]
    Group { group: String, error: SettingError },
    #[error(transparent)]
    Replica(#[from] ReplicaError),
}

/// Reads the node's overrides. Blocks.
pub(super) fn node_overrides(storage: &dyn Storage) -> Result<Overrides, ReplicaError> {
    let record = storage.node_record(NODE_RECORD)?;
    Ok(Own::from_record(record.as_deref())?.overrides)
}

impl Context {
    /// The node's settings: those of every replica that has none of its own.
    pub(crate) fn layers(&self) -> Layers {
        let node = lock(&self.overrides).clone();
        let base = &self.config.raft;
        Layers {
            settings: self.laid_over(&node, base, "this node"),
            node,
            own: Overrides::default(),
        }
    }

    /// The settings of a replica.
    pub(crate) fn layers_of(&self, group: &GroupHandle) -> Layers {
        self.layers_with(lock(&group.inner.own).overrides.clone(), group.name())
    }

    pub(super) fn layers_with(&self, own: Overrides, group: &str) -> Layers {
        let node = self.layers();
        Layers {
            settings: self.laid_over(&own, &node.settings, group),
            own,
            ..node
        }
    }

    /// A configuration changed since may contradict what was set at run time. Better to run on the
    /// configuration than not at all.
    fn laid_over(&self, overrides: &Overrides, base: &Settings, whose: &str) -> Settings {
        overrides.over(base).unwrap_or_else(|error| {
            tracing::error!(whose, %error, "settings changed at run time are left out");
            base.clone()
        })
    }

    /// Changes the settings of one replica here, or of the node. Everything is checked first, and
    /// kept before it is put in force: a replica that cannot take it now does at its next start.
    /// With `dry_run` only checks.
    ///
    /// # Errors
    /// Nothing was changed.
    pub(crate) async fn change_settings(
        &self,
        group: Option<&GroupHandle>,
        edit: &Edit,
        dry_run: bool,
    ) -> Result<Changed, ChangeError> {
        // No replica is made or opened meanwhile, so none is missed.
        let _one_at_a_time = self.making.write().await;
        match group {
            Some(group) => self.change_own(group, edit, dry_run).await,
            None => self.change_node(edit, dry_run).await,
        }
    }

    async fn change_own(
        &self,
        group: &GroupHandle,
        edit: &Edit,
        dry_run: bool,
    ) -> Result<Changed, ChangeError> {
        let node = self.layers().settings;
        let before = lock(&group.inner.own).clone();
        let own = Own {
            overrides: before.overrides.edited(&node, edit)?,
            ..before
        };
        let layers = self.layers_with(own.overrides.clone(), group.name());
        let mut skipped = Vec::new();
        if !dry_run {
            self.keep(group, own).await?;
            skipped.extend(self.put_in_force(group, layers.settings.clone()).await);
        }
        Ok(Changed { layers, skipped })
    }

    async fn change_node(&self, edit: &Edit, dry_run: bool) -> Result<Changed, ChangeError> {
        let base = &self.config.raft;
        let before = lock(&self.overrides).clone();
        let node = before.edited(base, edit)?;
        let settings = node.over(base)?;
        let mut orders = Vec::new();
        for group in self.router.all() {
            let own = lock(&group.inner.own).overrides.clone();
            let settings = own.over(&settings).map_err(|error| {
                let group = group.name().to_owned();
                ChangeError::Group { group, error }
            })?;
            orders.push((group, settings));
        }
        let mut skipped = Vec::new();
        if !dry_run {
            self.keep_node(&node).await?;
            let orders = orders.iter().map(|(group, settings)| {
                let settings = settings.clone();
                self.put_in_force(group, settings)
            });
            skipped.extend(join_all(orders).await.into_iter().flatten());
            let broken = lock(&self.broken);
            let broken = broken.values();
            skipped.extend(broken.map(|broken| (broken.name(), broken.problem.what.clone())));
        }
        let own = Overrides::default();
        let layers = Layers {
            settings,
            node,
            own,
        };
        Ok(Changed { layers, skipped })
    }

    /// Hands settings to a replica that runs; says who could not take them, and why.
    async fn put_in_force(
        &self,
        group: &GroupHandle,
        settings: Settings,
    ) -> Option<(String, String)> {
        let order = group.order(Order::SetSettings(settings.into()));
        let taken = tokio::time::timeout(REPLICA_PATIENCE, order).await;
        let why = match taken {
            Ok(Ok(())) => return None,
            Ok(Err(Failure::ShuttingDown)) => "the replica is stopping".to_owned(),
            Ok(Err(failure)) => failure.to_string(),
            Err(_) => "the replica does not answer".to_owned(),
        };
        Some((group.name().to_owned(), why))
    }

    /// Keeps a replica's read-only mode across restarts. Durable on return.
    ///
    /// # Errors
    /// The mode is as it was set, but a restart would forget it.
    pub(crate) async fn keep_read_only(
        &self,
        group: &GroupHandle,
        read_only: bool,
    ) -> Result<(), ReplicaError> {
        let _one_at_a_time = self.making.write().await;
        let own = Own {
            read_only,
            ..lock(&group.inner.own).clone()
        };
        self.keep(group, own).await
    }

    async fn keep(&self, group: &GroupHandle, own: Own) -> Result<(), ReplicaError> {
        let (storage, id, record) = (Arc::clone(&self.storage), group.id(), own.record());
        let keeping = move || storage.put_own_record(id, &record);
        tokio::task::spawn_blocking(keeping).await??;
        *lock(&group.inner.own) = own;
        Ok(())
    }

    async fn keep_node(&self, overrides: &Overrides) -> Result<(), ReplicaError> {
        let own = Own {
            overrides: overrides.clone(),
            read_only: false,
        };
        let (storage, record) = (Arc::clone(&self.storage), own.record());
        let keeping = move || storage.put_node_record(NODE_RECORD, &record);
        tokio::task::spawn_blocking(keeping).await??;
        *lock(&self.overrides) = own.overrides;
        Ok(())
    }

    /// What a replica kept of itself. Blocks.
    pub(super) fn own(&self, id: GroupId) -> Result<Own, ReplicaError> {
        let record = self.storage.own_record(id)?;
        Ok(Own::from_record(record.as_deref())?)
    }
}
