//! `kontiki plugin`: from source to cluster.

use super::context::Global;
use super::exit::Exit;
use super::failure::{Failure, Result};
use super::names::bytes_text;
use super::output::{Document, fields, table};
use super::remove_plugin::{self, RemoveArgs};
use bytes::Bytes;
use clap::{Args, Subcommand};
use kontiki_client::proto::PluginInfo;
use kontiki_client::publication_limit;
use kontiki_guest_build::{Programs, Project, Toolchain, Way, build};
use kontiki_plugin::{Engine, Limits};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Plugins: WebAssembly components, named by the digest of their bytes.
#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// Builds a Rust plugin to a component
    Build(BuildArgs),
    /// Shows a plugin of the cluster, or checks a file, for which no cluster is needed
    Inspect(InspectArgs),
    /// Stores a component on every node
    Push(PushArgs),
    /// Lists the plugins of the cluster
    #[command(visible_alias = "ls")]
    List,
    /// Removes a plugin from every node
    #[command(name = "rm", visible_alias = "remove")]
    Remove(RemoveArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  kontiki plugin build my-plugin && kontiki plugin push my-plugin/target/components/my-plugin.wasm")]
pub(crate) struct BuildArgs {
    /// The plugin's directory, or its Cargo.toml
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Where to put the component [default: target/components beside the Cargo.toml]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Build this way instead of the best one: wasip2 or build-std
    #[arg(long)]
    way: Option<Way>,
    /// Packages of a workspace to build [default: all that are plugins]
    #[arg(long, short, value_name = "NAME")]
    package: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A file, a digest, or a name of which one version is stored
    plugin: String,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The component
    path: PathBuf,
    /// On the answering node only
    #[arg(long)]
    local: bool,
}

/// Runs `kontiki plugin`.
pub(crate) async fn run(global: &Global, command: &PluginCommand) -> Result<()> {
    match command {
        PluginCommand::Build(args) => {
            let built = build_all(args)?;
            global.out().print(&Built(built));
        }
        PluginCommand::Inspect(args) => global.out().print(&Info(inspect(global, args).await?)),
        PluginCommand::Push(args) => push(global, args).await?,
        PluginCommand::Remove(args) => remove_plugin::run(global, args).await?,
        PluginCommand::List => {
            let plugins = global.client().admin().plugins().await;
            global
                .out()
                .print(&Plugins(plugins.map_err(|e| Failure::from(e).of_read())?));
        }
    }
    Ok(())
}

struct BuiltOne {
    name: String,
    path: PathBuf,
    size_bytes: usize,
    digest: String,
    way: Way,
}

fn build_all(args: &BuildArgs) -> Result<Vec<BuiltOne>> {
    let manifest = match args.path.is_dir() {
        true => args.path.join("Cargo.toml"),
        false => args.path.clone(),
    };
    if !manifest.is_file() {
        let message = format!("{} is no file", manifest.display());
        return Err(Failure::local("IO", message)
            .with_hint("say where the plugin's Cargo.toml is: kontiki plugin build DIR"));
    }
    let beside = manifest
        .parent()
        .unwrap_or(Path::new("."))
        .join("target/components");
    let directory = args.out.clone().unwrap_or(beside);
    let failed = |error: kontiki_guest_build::Error| {
        Failure::new(Exit::Refused, "BUILD_FAILED", error.to_string())
    };
    let toolchain = Toolchain::find(&Programs::of_this_process(), args.way).map_err(failed)?;
    let project = Project::at(manifest).packages(args.package.clone());
    let components = build(&toolchain, &project).map_err(failed)?;
    let write = |component: kontiki_guest_build::Component| {
        let (path, _) = component.write_into(&directory).map_err(failed)?;
        Ok(BuiltOne {
            digest: component.digest(),
            size_bytes: component.bytes.len(),
            way: component.way,
            name: component.name,
            path,
        })
    };
    components.into_iter().map(write).collect()
}

struct Built(Vec<BuiltOne>);

impl Document for Built {
    const KIND: &'static str = "built-plugins";

    fn json(&self) -> Value {
        json!({ "plugins": self.items() })
    }

    fn text(&self, _: bool) -> String {
        let rows = self.0.iter().map(|built| {
            [
                built.name.clone(),
                bytes_text(built.size_bytes as u64),
                built.digest.clone(),
                built.path.display().to_string(),
            ]
        });
        table(["PLUGIN", "SIZE", "DIGEST", "FILE"], rows.collect())
    }

    fn names(&self) -> Vec<String> {
        self.0
            .iter()
            .map(|built| built.path.display().to_string())
            .collect()
    }

    fn items(&self) -> Option<Vec<Value>> {
        let item = |built: &BuiltOne| {
            json!({
                "name": built.name,
                "digest": built.digest,
                "size_bytes": built.size_bytes,
                "path": built.path,
                "way": built.way.name(),
            })
        };
        Some(self.0.iter().map(item).collect())
    }
}

fn read(path: &Path) -> Result<Bytes> {
    std::fs::read(path)
        .map(Bytes::from)
        .map_err(|error| Failure::file(path, &error))
}

async fn inspect(global: &Global, args: &InspectArgs) -> Result<PluginInfo> {
    let path = Path::new(&args.plugin);
    if path.is_file() {
        return check_file(&read(path)?);
    }
    if args.plugin.contains('/') || args.plugin.ends_with(".wasm") {
        let message = format!("{}: no such file", path.display());
        return Err(Failure::local("IO", message));
    }
    let info = global.client().admin().plugin(&args.plugin).await;
    info.map_err(|error| Failure::from(error).of_read())
}

/// Loads a component as a node would, and says what it is.
fn check_file(bytes: &[u8]) -> Result<PluginInfo> {
    // How large is too large is for the nodes to say, and differs between them.
    let limits = Limits {
        component_size_bytes_max: u64::MAX,
        ..Limits::default()
    };
    let engine =
        Engine::new(limits).map_err(|error| Failure::local("ENGINE", error.to_string()))?;
    let plugin = engine
        .load(bytes)
        .map_err(|error| Failure::new(Exit::Refused, "PLUGIN_REFUSED", error.to_string()))?;
    let description = plugin.description();
    Ok(PluginInfo {
        digest: plugin.digest().to_string(),
        name: description.name.clone(),
        version: description.version.clone(),
        size_bytes: plugin.size_bytes(),
        state_format: description.state_format,
        reads_formats: description.reads_formats.clone(),
        contract: plugin.contract().interface().to_owned(),
        imports: plugin.imports().to_vec(),
        exports: plugin.exports().to_vec(),
        nodes: vec![],
        failed_nodes: vec![],
    })
}

async fn push(global: &Global, args: &PushArgs) -> Result<()> {
    let component = read(&args.path)?;
    // The nodes compile it, one after the other's answer: as long as that may take.
    let limit = global.timeout().max(2 * publication_limit(component.len()));
    let info = global
        .client()
        .with_timeout(limit)
        .admin()
        .push_plugin(component, args.local)
        .await?;
    let failed = info.failed_nodes.clone();
    global.out().print(&Info(info));
    if failed.is_empty() {
        return Ok(());
    }
    let message = format!("not stored on every node: {}", failed.join("; "));
    Err(Failure::new(Exit::Unhealthy, "PUSH_INCOMPLETE", message)
        .with_hint("a node that needs it fetches it from another; pushing again is harmless"))
}

struct Info(PluginInfo);

fn info_json(info: &PluginInfo) -> Value {
    json!({
        "digest": info.digest,
        "name": info.name,
        "version": info.version,
        "size_bytes": info.size_bytes,
        "state_format": info.state_format,
        "reads_formats": info.reads_formats,
        "contract": info.contract,
        "imports": info.imports,
        "exports": info.exports,
        "nodes": info.nodes,
        "failed_nodes": info.failed_nodes,
    })
}

fn numbers(numbers: &[u32]) -> String {
    numbers
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

impl Document for Info {
    const KIND: &'static str = "plugin";

    fn json(&self) -> Value {
        info_json(&self.0)
    }

    fn text(&self, wide: bool) -> String {
        let info = &self.0;
        let mut rows = vec![
            ("plugin", format!("{} {}", info.name, info.version)),
            ("digest", info.digest.clone()),
            ("size", bytes_text(info.size_bytes)),
            ("contract", info.contract.clone()),
            ("state format", info.state_format.to_string()),
            ("reads formats", numbers(&info.reads_formats)),
            ("nodes", info.nodes.join(", ")),
        ];
        if wide {
            rows.push(("exports", info.exports.join("\n               ")));
            rows.push(("imports", info.imports.join("\n               ")));
        }
        fields(&rows)
    }

    fn names(&self) -> Vec<String> {
        vec![self.0.digest.clone()]
    }
}

struct Plugins(Vec<PluginInfo>);

impl Document for Plugins {
    const KIND: &'static str = "plugins";

    fn json(&self) -> Value {
        json!({ "plugins": self.items() })
    }

    fn text(&self, _: bool) -> String {
        if self.0.is_empty() {
            return "no plugins; `kontiki plugin push FILE` stores one".to_owned();
        }
        let rows = self.0.iter().map(|info| {
            [
                info.name.clone(),
                info.version.clone(),
                bytes_text(info.size_bytes),
                info.digest.clone(),
            ]
        });
        table(["PLUGIN", "VERSION", "SIZE", "DIGEST"], rows.collect())
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|info| info.digest.clone()).collect()
    }

    fn items(&self) -> Option<Vec<Value>> {
        Some(self.0.iter().map(info_json).collect())
    }
}
