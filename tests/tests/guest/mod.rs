//! Guests written as WebAssembly text.

use anyhow::Result;
use kontiki_plugin::componentize;
use std::path::Path;
use wit_parser::Resolve;

/// The component of a core module that imports and exports what a simple plugin does.
pub(crate) fn component(text: &str) -> Result<Vec<u8>> {
    let mut module = wat::parse_str(text)?;
    let mut resolve = Resolve::default();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
    let (package, _) = resolve.push_dir(&wit)?;
    let world = resolve.select_world(&[package], Some("simple-plugin"))?;
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding)?;
    Ok(componentize(&module)?)
}
