//! A finished component.

use crate::{Error, Way};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// A component as it is given to a cluster.
#[derive(Clone, Debug)]
pub struct Component {
    /// Name of the package, without an ending.
    pub name: String,
    /// How it was built.
    pub way: Way,
    /// The component.
    pub bytes: Vec<u8>,
}

impl Component {
    /// Makes one from what cargo built.
    ///
    /// # Errors
    /// [`Error::File`] if the module cannot be read, [`Error::Encode`] if it is no plugin.
    pub(crate) fn from_module(name: &str, module: &Path, way: Way) -> Result<Self, Error> {
        let name = name.to_owned();
        let bytes = fs::read(module).map_err(|source| Error::File {
            path: module.to_owned(),
            source,
        })?;
        let bytes = match way {
            Way::Wasip2 => bytes,
            Way::BuildStd => encode(&bytes).map_err(|reason| Error::Encode {
                name: name.clone(),
                reason,
            })?,
        };
        Ok(Component { name, way, bytes })
    }

    /// `sha256:…` of the bytes: the name under which a cluster knows it.
    pub fn digest(&self) -> String {
        format!("sha256:{}", hex::encode(Sha256::digest(&self.bytes)))
    }

    /// Writes it as `<name>.wasm` unless the file holds these bytes already; the path, and whether it
    /// was written. A reader sees the old file or the new one, never a part.
    ///
    /// # Errors
    /// [`Error::File`] if the directory cannot be written.
    pub fn write_into(&self, directory: &Path) -> Result<(PathBuf, bool), Error> {
        let path = directory.join(format!("{}.wasm", self.name));
        if fs::read(&path).is_ok_and(|held| held == self.bytes) {
            return Ok((path, false));
        }
        match self.replace(directory, &path) {
            Ok(()) => Ok((path, true)),
            Err(source) => Err(Error::File { path, source }),
        }
    }

    fn replace(&self, directory: &Path, path: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        let temporary = directory.join(format!(".{}.{}", self.name, std::process::id()));
        fs::write(&temporary, &self.bytes)?;
        fs::rename(&temporary, path)
    }
}

/// A core module as a component; its custom section says of which world.
fn encode(module: &[u8]) -> Result<Vec<u8>, String> {
    let encoder = wit_component::ComponentEncoder::default().validate(true);
    encoder
        .module(module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| format!("{error:#}"))
}

/// Where the components of a checkout are: `$KONTIKI_PLUGINS_DIR`, else `plugins/target/components`.
pub fn components_directory(checkout: &Path) -> PathBuf {
    match std::env::var_os("KONTIKI_PLUGINS_DIR").filter(|directory| !directory.is_empty()) {
        Some(directory) => PathBuf::from(directory),
        None => checkout.join("plugins/target/components"),
    }
}
