use crate::description::{Contract, Description};
use crate::instance::{ExportsPre, Instance};
use crate::{Digest, Fault, Limits, Machine};
use std::sync::Arc;

/// A component that was checked, compiled, and has described itself. Cheap to clone.
#[derive(Clone)]
pub struct Plugin {
    inner: Arc<PluginInner>,
}

pub(crate) struct PluginInner {
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
    pub(crate) contract: Contract,
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
    /// `None` only while the plugin is being loaded.
    pub(crate) description: Option<Description>,
    pub(crate) engine: wasmtime::Engine,
    pub(crate) exports_pre: ExportsPre,
    pub(crate) limits: Arc<Limits>,
}

/// How an instance is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InstanceOptions {
    /// Seed of the randomness that a plugin's standard library asks for. The same on all replicas
    /// of a group; with the log index it gives each entry a stream of its own.
    pub seed: u64,
}

impl Plugin {
    pub(crate) fn new(inner: PluginInner) -> Self {
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Whether there is another clone than this, as each instance has one.
    pub(crate) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.inner) > 1
    }

    pub(crate) fn inner(&self) -> &PluginInner {
        &self.inner
    }

    /// SHA-256 of the component's bytes.
    pub fn digest(&self) -> Digest {
        self.inner.digest
    }

    /// What the plugin says about itself.
    pub fn description(&self) -> &Description {
        self.inner
            .description
            .as_ref()
            .expect("set before the plugin is handed out")
    }

    /// Size of the component.
    pub fn size_bytes(&self) -> u64 {
        self.inner.size_bytes
    }

    /// Which interface it exports.
    pub fn contract(&self) -> Contract {
        self.inner.contract
    }

    /// Names of the interfaces that it imports, in the component's order.
    pub fn imports(&self) -> &[String] {
        &self.inner.imports
    }

    /// Names of the interfaces that it exports, in the component's order.
    pub fn exports(&self) -> &[String] {
        &self.inner.exports
    }

    /// Makes an instance with empty state and the default options. Takes some 50 microseconds.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if the component's own start code fails, or the node has no memory for it.
    pub fn instantiate(&self) -> Result<Box<dyn Machine>, Fault> {
        self.instantiate_with(InstanceOptions::default())
    }

    /// Makes an instance with empty state.
    ///
    /// # Errors
    ///
    /// As [`instantiate`](Self::instantiate).
    pub fn instantiate_with(&self, options: InstanceOptions) -> Result<Box<dyn Machine>, Fault> {
        Ok(Box::new(Instance::new(self.clone(), options)?))
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("digest", &self.inner.digest)
            .field("description", &self.inner.description)
            .finish_non_exhaustive()
    }
}
