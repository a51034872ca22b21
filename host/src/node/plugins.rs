//! The plugins of a node: components stored by digest, loaded when needed.

use super::native_machine::{self, NativeCounter};
use kontiki_plugin::{
    Description, Digest, Engine, Fault, InstanceOptions, LoadError, Machine, Plugin,
};
use kontiki_proto::v1::PluginInfo;
use kontiki_raft::GroupId;
use kontiki_storage::{BlobStore, StorageError};
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tracing::warn;

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
    /// What plugins say of themselves, by digest, as far as it was asked for.
    known: Mutex<BTreeMap<String, PluginInfo>>,
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
            known: Mutex::default(),
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
        self.remember(&digest, info_of(&plugin));
        Ok(plugin)
    }

    /// Keeps what a plugin says of itself beside it. Should that fail, it is asked again.
    fn remember(&self, digest: &str, info: PluginInfo) {
        if let Err(error) = self.blobs.put(&about_name(digest), &info.encode_to_vec()) {
            warn!(plugin = digest, %error, "what the plugin says of itself is not kept");
        }
        lock(&self.known).insert(digest.to_owned(), info);
    }

    /// What the plugin with this digest says of itself. It is compiled for that only if it was
    /// stored by a version that did not keep it.
    pub(crate) fn info(&self, digest: &str) -> Result<PluginInfo, PluginError> {
        if let Some(info) = lock(&self.known).get(digest) {
            return Ok(info.clone());
        }
        if !is_digest(digest) {
            return Err(PluginError::NoName(digest.to_owned()));
        }
        let kept = self.blobs.get(&about_name(digest)).ok();
        let kept = kept.and_then(|bytes| PluginInfo::decode(bytes.as_slice()).ok());
        if let Some(info) = kept.filter(|info| info.digest == digest) {
            lock(&self.known).insert(digest.to_owned(), info.clone());
            return Ok(info);
        }
        let info = info_of(&self.plugin(digest)?);
        self.remember(digest, info.clone());
        Ok(info)
    }

    /// Every stored plugin that can be told of, and the digests of those that cannot.
    pub(crate) fn list(&self) -> Result<Vec<PluginInfo>, PluginError> {
        let digests = self.digests()?;
        let told = digests.iter().map(|digest| {
            let told = self.info(digest);
            told.map_err(|error| warn!(plugin = %digest, %error, "a stored plugin does not load"))
        });
        Ok(told.flatten().collect())
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
        lock(&self.known).remove(digest);
        if let Ok(digest) = digest.parse() {
            self.engine.unload(&digest);
        }
        // Without its component it says nothing to anybody, so it goes first.
        match self.blobs.remove(&about_name(digest)) {
            Ok(()) | Err(StorageError::BlobNotFound { .. }) => {}
            Err(error) => return Err(error.into()),
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
        let loaded = digest
            .parse()
            .ok()
            .and_then(|digest| self.engine.plugin(&digest));
        match loaded {
            Some(plugin) => Ok(plugin),
            None => Ok(self.engine.load(&self.component(digest)?)?),
        }
    }

    /// The bytes of the component with this digest.
    pub(crate) fn component(&self, digest: &str) -> Result<Vec<u8>, PluginError> {
        if !is_digest(digest) {
            return Err(PluginError::NoName(digest.to_owned()));
        }
        let name = blob_name(digest);
        let component = self.blobs.get(&name).map_err(|error| match error {
            StorageError::BlobNotFound { .. } => PluginError::NotFound(digest.to_owned()),
            other => other.into(),
        })?;
        match Digest::of(&component).to_string() == digest {
            true => Ok(component),
            false => Err(PluginError::Storage(StorageError::BlobDamaged {
                name,
                why: "it holds another component".to_owned(),
            })),
        }
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
            let Ok(info) = self.info(&digest) else {
                continue;
            };
            let versioned = format!("{}@{}", info.name, info.version);
            if name == info.name || name == versioned {
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

/// Where what a plugin says of itself is kept: a `PluginInfo`.
fn about_name(digest: &str) -> String {
    format!("{}.about", digest.replacen(':', "-", 1))
}

/// What is told of a plugin.
pub(crate) fn info_of(plugin: &Plugin) -> PluginInfo {
    let description = plugin.description();
    PluginInfo {
        digest: plugin.digest().to_string(),
        name: description.name.clone(),
        version: description.version.clone(),
        size_bytes: plugin.size_bytes(),
        state_format: description.state_format,
        reads_formats: description.reads_formats.clone(),
        contract: plugin.contract().to_string(),
        imports: plugin.imports().to_vec(),
        exports: plugin.exports().to_vec(),
        nodes: Vec::new(),
        failed_nodes: Vec::new(),
    }
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

    fn store() -> PluginStore {
        let engine = Engine::new(kontiki_plugin::Limits::default()).unwrap();
        PluginStore::new(engine, Blobs::Memory(Mutex::default()), 1 << 20, false)
    }

    /// Nothing here is a component, so nothing could be compiled.
    #[test]
    fn what_is_kept_of_a_plugin_is_told_without_compiling_it() {
        let store = store();
        let put = |content: &[u8], about: Option<&str>| {
            let digest = Digest::of(content).to_string();
            store.blobs.put(&blob_name(&digest), content).unwrap();
            let info = about.map(|name| PluginInfo {
                digest: digest.clone(),
                name: name.to_owned(),
                version: "1.0.0".to_owned(),
                ..PluginInfo::default()
            });
            if let Some(info) = info {
                let bytes = info.encode_to_vec();
                store.blobs.put(&about_name(&digest), &bytes).unwrap();
            }
            digest
        };
        let (one, _) = (put(b"one", Some("kv")), put(b"damaged", None));
        let names =
            |list: Vec<PluginInfo>| list.into_iter().map(|info| info.name).collect::<Vec<_>>();
        assert_eq!(names(store.list().unwrap()), ["kv"]);
        assert_eq!(store.resolve("kv").unwrap(), one);
        assert_eq!(store.resolve("kv@1.0.0").unwrap(), one);
        assert_eq!(store.info(&one).unwrap().name, "kv");
        put(b"two", Some("kv"));
        assert!(matches!(
            store.resolve("kv"),
            Err(PluginError::Ambiguous(..))
        ));
    }
}
