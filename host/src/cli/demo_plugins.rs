//! The plugins of the demonstration: in the binary, or where a checkout builds them.

use bytes::Bytes;
use std::path::PathBuf;

/// Those that were there when the binary was built.
const EMBEDDED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/demo_plugins.rs"));

/// Groups that `kontiki dev` makes, each with the plugin of its name.
pub(crate) const NAMES: [&str; 2] = ["counter", "atomic"];

/// The component of that name. Files win over what is in the binary: they may be newer.
pub(crate) fn component(name: &str) -> Option<Bytes> {
    let files = directories()
        .into_iter()
        .map(|directory| directory.join(format!("{name}.wasm")));
    let file = files
        .filter_map(|path| std::fs::read(path).ok())
        .next()
        .map(Bytes::from);
    let embedded = || EMBEDDED.iter().find(|(known, _)| *known == name);
    file.or_else(|| embedded().map(|(_, bytes)| Bytes::from_static(bytes)))
}

/// `$KONTIKI_PLUGINS_DIR`, and `plugins/target/components` of the checkout this program lies in.
fn directories() -> Vec<PathBuf> {
    let named = std::env::var_os("KONTIKI_PLUGINS_DIR").map(PathBuf::from);
    let program = std::env::current_exe().ok();
    let checkout = program.as_deref().and_then(|program| {
        program
            .ancestors()
            .find(|directory| directory.join("plugins/Cargo.toml").is_file())
    });
    let built = checkout.map(|checkout| checkout.join("plugins/target/components"));
    named.into_iter().chain(built).collect()
}
