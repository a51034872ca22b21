//! What cargo knows about a workspace.

use crate::{Error, Project, Toolchain};
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
    build_directory: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    kind: Vec<String>,
}

impl Package {
    fn directory(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(&self.manifest_path)
    }

    fn is_plugin(&self) -> bool {
        self.targets
            .iter()
            .any(|target| target.kind.iter().any(|kind| kind == "cdylib"))
    }
}

impl Metadata {
    pub(crate) fn read(toolchain: &Toolchain, project: &Project) -> Result<Self, Error> {
        let mut command = project.cargo(toolchain, "metadata");
        command.args([
            "--format-version",
            "1",
            "--filter-platform",
            toolchain.way.target(),
        ]);
        let output = command
            .stderr(std::process::Stdio::inherit())
            .output()
            .map_err(|source| Error::Start {
                program: toolchain.cargo.clone(),
                source,
            })?;
        if !output.status.success() {
            return Err(Error::Cargo {
                manifest: project.manifest.clone(),
                status: output.status,
            });
        }
        serde_json::from_slice(&output.stdout).map_err(|source| Error::CargoOutput {
            what: "metadata",
            source,
        })
    }

    /// Names of the packages that become components.
    pub(crate) fn plugins(&self) -> Vec<&str> {
        let member = |package: &&Package| self.workspace_members.contains(&package.id);
        let plugins = self
            .packages
            .iter()
            .filter(member)
            .filter(|package| package.is_plugin());
        plugins.map(|package| package.name.as_str()).collect()
    }

    /// Name of a package by its id.
    pub(crate) fn name_of(&self, id: &str) -> Option<&str> {
        let package = self.packages.iter().find(|package| package.id == id)?;
        Some(&package.name)
    }

    /// Paths of this machine that the compiler may write into a module, each with what is to stand
    /// there instead. The compiler takes the last that fits, so the more special ones come later.
    pub(crate) fn path_mappings(&self) -> Vec<(PathBuf, String)> {
        let mut mappings = vec![
            (self.target_directory.clone(), "/build".to_owned()),
            (self.workspace_root.clone(), "/workspace".to_owned()),
        ];
        if let Some(directory) = &self.build_directory {
            mappings.push((directory.clone(), "/build".to_owned()));
        }
        for package in &self.packages {
            let stand_in = format!("/{}-{}", package.name, package.version);
            // The whole registry at once: a standard library that is built from source brings packages
            // from there that are not in this list.
            let mapping = match registry_of(package.directory()) {
                Some(registry) => (registry.to_owned(), "/registry".to_owned()),
                None => (package.directory().to_owned(), stand_in),
            };
            if !mappings.contains(&mapping) {
                mappings.push(mapping);
            }
        }
        mappings
    }
}

/// The directory of unpacked packages (`…/registry/src/<index>`) that a package lies in.
fn registry_of(package: &Path) -> Option<&Path> {
    let registry = package.parent()?;
    registry
        .parent()?
        .ends_with("registry/src")
        .then_some(registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_mapped_once_and_a_path_package_by_itself() {
        let metadata: Metadata = serde_json::from_str(
            r#"{
                "packages": [
                    {"id": "a", "name": "a", "version": "1.0.0", "targets": [{"kind": ["cdylib"]}],
                     "manifest_path": "/home/me/plugins/a/Cargo.toml"},
                    {"id": "b", "name": "b", "version": "2.0.0", "targets": [{"kind": ["lib"]}],
                     "manifest_path": "/home/me/.cargo/registry/src/index-1/b-2.0.0/Cargo.toml"},
                    {"id": "c", "name": "c", "version": "3.0.0", "targets": [{"kind": ["cdylib"]}],
                     "manifest_path": "/home/me/.cargo/registry/src/index-1/c-3.0.0/Cargo.toml"}
                ],
                "workspace_members": ["a"],
                "workspace_root": "/home/me/plugins",
                "target_directory": "/home/me/plugins/target",
                "build_directory": "/home/me/build"
            }"#,
        )
        .unwrap();
        let mappings = metadata.path_mappings();
        let of = |path: &str| {
            mappings
                .iter()
                .filter(|(from, _)| from == Path::new(path))
                .collect::<Vec<_>>()
        };
        assert_eq!(of("/home/me/.cargo/registry/src/index-1").len(), 1);
        assert_eq!(of("/home/me/plugins/a")[0].1, "/a-1.0.0");
        assert_eq!(of("/home/me/build")[0].1, "/build");
        assert_eq!(metadata.plugins(), ["a"]);
        assert_eq!(metadata.name_of("b"), Some("b"));
    }
}
