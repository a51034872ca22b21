//! The plugins of a node: components stored by digest, loaded when needed.

use super::native_machine::{self, NativeCounter};
use kontiki_plugin::{
    Description, Digest, Engine, Fault, InstanceOptions, LoadError, Machine, Plugin,
};
use kontiki_raft::GroupId;
use kontiki_storage::{BlobStore, StorageError};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What a group's machine is made from.
#[derive(Clone)]
pub(crate) enum PluginSource {
    /// A component.
    Wasm(Plugin),
    /// Built in.
    NativeCounter,
    /// Made by a test.
    #[cfg(test)]
    Test(fn() -> Box<dyn Machine>),
}

impl PluginSource {
    /// `sha256:…`, or the built-in's name.
    pub(crate) fn id(&self) -> Arc<str> {
        match self {
            Self::Wasm(plugin) => plugin.digest().to_string().into(),
            Self::NativeCounter => native_machine::COUNTER.into(),
            #[cfg(test)]
            Self::Test(_) => "test".into(),
        }
    }

    pub(crate) fn description(&self) -> Description {
        match self {
            Self::Wasm(plugin) => plugin.description().clone(),
            Self::NativeCounter => native_machine::description(),
            #[cfg(test)]
            Self::Test(make) => make().description().clone(),
        }
    }

    /// A new machine of `group`. Its id seeds the plugin's randomness, alike on all replicas.
    pub(crate) fn instantiate(&self, group: GroupId) -> Result<Box<dyn Machine>, Fault> {
        match self {
            Self::Wasm(plugin) => plugin.instantiate_with(InstanceOptions { seed: group.0 }),
            Self::NativeCounter => Ok(Box::new(NativeCounter::new())),
            #[cfg(test)]
            Self::Test(make) => Ok(make()),
        }
    }
}

/// Why a plugin is not to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PluginError {
    #[error("there is no plugin {0:?} on this node; push it first")]
    NotFound(String),
    #[error("{0:?} names {count} versions; give a digest", count = .1.len())]
    Ambiguous(String, Vec<String>),
    #[error("{0:?} is neither a plugin's name nor a digest sha256:<64 hex digits>")]
    NoName(String),
    #[error("{name} is offered only by nodes started with --allow-native-machines")]
    NativeNotAllowed { name: String },
    #[error("the component has {size_bytes} bytes, over the limit of {size_bytes_max}")]
    TooLarge {
        size_bytes: usize,
        size_bytes_max: usize,
    },
    #[error("this is no plugin: {0}")]
    Load(#[from] LoadError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Where components lie.
pub(crate) enum Blobs {
    /// In the data directory.
    Disk(BlobStore),
    /// Nowhere: for nodes that keep nothing.
    Memory(Mutex<BTreeMap<String, Vec<u8>>>),
}

impl Blobs {
    fn put(&self, name: &str, content: &[u8]) -> Result<(), StorageError> {
        match self {
            Self::Disk(blobs) => blobs.put(name, content),
            Self::Memory(blobs) => {
                lock(blobs).insert(name.to_owned(), content.to_vec());
                Ok(())
            }
        }
    }

    fn get(&self, name: &str) -> Result<Vec<u8>, StorageError> {
        match self {
            Self::Disk(blobs) => blobs.get(name),
            Self::Memory(blobs) => {
                let found = lock(blobs).get(name).cloned();
                found.ok_or_else(|| StorageError::BlobNotFound {
                    name: name.to_owned(),
                })
            }
        }
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        match self {
            Self::Disk(blobs) => blobs.remove(name),
            Self::Memory(blobs) => {
                let removed = lock(blobs).remove(name);
                let name = name.to_owned();
                removed.map_or(Err(StorageError::BlobNotFound { name }), |_| Ok(()))
            }
        }
    }

    fn list(&self) -> Result<Vec<String>, StorageError> {
        match self {
            Self::Disk(blobs) => blobs.list(),
            Self::Memory(blobs) => Ok(lock(blobs).keys().cloned().collect()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All plugins of a node. Calls read files and compile: not for the threads of a runtime.
pub(crate) struct PluginStore {
    engine: Engine,
    blobs: Blobs,
    size_bytes_max: usize,
    allow_native: bool,
    loaded: Mutex<BTreeMap<String, Plugin>>,
}

impl PluginStore {
    pub(crate) fn new(
        engine: Engine,
        blobs: Blobs,
        size_bytes_max: usize,
        allow_native: bool,
    ) -> Self {
        Self {
            engine,
            blobs,
            size_bytes_max,
            allow_native,
            loaded: Mutex::default(),
        }
    }

    /// Fingerprint of the engine profile.
    pub(crate) fn profile(&self) -> String {
        self.engine.profile().fingerprint().to_owned()
    }

    /// Checks a component and stores it, durably.
    pub(crate) fn push(&self, component: &[u8]) -> Result<Plugin, PluginError> {
        self.check_size(component.len())?;
        let plugin = self.engine.load(component)?;
        let digest = plugin.digest().to_string();
        self.blobs.put(&blob_name(&digest), component)?;
        self.remember(digest, plugin.clone());
        Ok(plugin)
    }

    pub(crate) fn check_size(&self, size_bytes: usize) -> Result<(), PluginError> {
        let size_bytes_max = self.size_bytes_max;
        if size_bytes > size_bytes_max {
            return Err(PluginError::TooLarge {
                size_bytes,
                size_bytes_max,
            });
        }
        Ok(())
    }

    fn remember(&self, digest: String, plugin: Plugin) {
        lock(&self.loaded).insert(digest, plugin);
    }

    /// Whether the component is stored, or built in and allowed.
    pub(crate) fn holds(&self, id: &str) -> Result<bool, PluginError> {
        if id == native_machine::COUNTER {
            return self.native(id).map(|_| true);
        }
        Ok(self.digests()?.iter().any(|digest| digest == id))
    }

    /// Whether the component is stored and undamaged, or built in and allowed.
    pub(crate) fn is_whole(&self, id: &str) -> Result<bool, PluginError> {
        if id.starts_with("native:") {
            return self.native(id).map(|_| true);
        }
        match self.component(id) {
            Ok(_) => Ok(true),
            Err(
                PluginError::NotFound(_) | PluginError::Storage(StorageError::BlobDamaged { .. }),
            ) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a component, durably; false if there is none. Whoever has it loaded keeps it.
    pub(crate) fn remove(&self, digest: &str) -> Result<bool, PluginError> {
        lock(&self.loaded).remove(digest);
        if let Ok(digest) = digest.parse() {
            self.engine.unload(&digest);
        }
        match self.blobs.remove(&blob_name(digest)) {
            Ok(()) => Ok(true),
            Err(StorageError::BlobNotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The plugin with this id, loaded.
    pub(crate) fn source(&self, id: &str) -> Result<PluginSource, PluginError> {
        if id.starts_with("native:") {
            return self.native(id);
        }
        self.plugin(id).map(PluginSource::Wasm)
    }

    fn native(&self, id: &str) -> Result<PluginSource, PluginError> {
        match id {
            native_machine::COUNTER if self.allow_native => Ok(PluginSource::NativeCounter),
            native_machine::COUNTER => Err(PluginError::NativeNotAllowed { name: id.into() }),
            _ => Err(PluginError::NotFound(id.into())),
        }
    }

    /// The component with this digest, loaded.
    pub(crate) fn plugin(&self, digest: &str) -> Result<Plugin, PluginError> {
        let loaded = lock(&self.loaded);
        if let Some(plugin) = loaded.get(digest) {
            return Ok(plugin.clone());
        }
        drop(loaded);
        let component = self.component(digest)?;
        let plugin = self.engine.load(&component)?;
        self.remember(digest.to_owned(), plugin.clone());
        Ok(plugin)
    }

    /// The bytes of the component with this digest.
    pub(crate) fn component(&self, digest: &str) -> Result<Vec<u8>, PluginError> {
        if !is_digest(digest) {
            return Err(PluginError::NoName(digest.to_owned()));
        }
        self.blobs
            .get(&blob_name(digest))
            .map_err(|error| match error {
                StorageError::BlobNotFound { .. } => PluginError::NotFound(digest.to_owned()),
                other => other.into(),
            })
    }

    /// Digests of all stored components, ascending.
    pub(crate) fn digests(&self) -> Result<Vec<String>, PluginError> {
        let names = self.blobs.list()?;
        Ok(names
            .iter()
            .filter_map(|name| digest_of_blob(name))
            .collect())
    }

    /// The id that `name` stands for: itself if it is a digest or a built-in, else that of the one
    /// stored plugin of that name, or `name@version`.
    pub(crate) fn resolve(&self, name: &str) -> Result<String, PluginError> {
        if is_digest(name) || name.starts_with("native:") {
            return match self.holds(name)? {
                true => Ok(name.to_owned()),
                false => Err(PluginError::NotFound(name.to_owned())),
            };
        }
        let mut found = Vec::new();
        for digest in self.digests()? {
            // A component that does not load any more is not what is looked for by name.
            let Ok(plugin) = self.plugin(&digest) else {
                continue;
            };
            let description = plugin.description();
            let versioned = format!("{}@{}", description.name, description.version);
            if name == description.name || name == versioned {
                found.push(digest);
            }
        }
        match found.len() {
            0 => Err(PluginError::NotFound(name.to_owned())),
            1 => Ok(found.remove(0)),
            _ => Err(PluginError::Ambiguous(name.to_owned(), found)),
        }
    }

    /// Checks that `component` is what `digest` names, and stores it.
    pub(crate) fn push_expected(&self, digest: &str, component: &[u8]) -> Result<(), PluginError> {
        if Digest::of(component).to_string() != digest {
            return Err(PluginError::NotFound(digest.to_owned()));
        }
        self.push(component).map(drop)
    }
}

fn is_digest(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or_default();
    hex.len() == 64
        && hex
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Colons are not for file names.
fn blob_name(digest: &str) -> String {
    format!("{}.wasm", digest.replacen(':', "-", 1))
}

fn digest_of_blob(name: &str) -> Option<String> {
    let digest = name.strip_suffix(".wasm")?.replacen('-', ":", 1);
    is_digest(&digest).then_some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_and_blob_names_stand_for_each_other() {
        let digest = Digest::of(b"x").to_string();
        assert!(is_digest(&digest));
        assert_eq!(digest_of_blob(&blob_name(&digest)), Some(digest));
        assert_eq!(digest_of_blob("sha256-..wasm"), None);
        assert!(!is_digest("sha256:../../x"));
    }
}
