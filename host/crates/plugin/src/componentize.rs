use wit_component::ComponentEncoder;

/// Makes a component of a core module that was compiled against the contract's bindings: one for
/// `wasm32-unknown-unknown` or another target without WASI of its own.
///
/// Modules for `wasm32-wasip1` are not taken; compile them for `wasm32-wasip2`, whose linker makes
/// the component itself. A module without the bindings' custom section becomes a component that
/// exports nothing, which [`Engine::load`](crate::Engine::load) then refuses.
///
/// # Errors
///
/// [`ComponentizeError`] if the module is not valid or imports what its WIT world does not name.
pub fn componentize(core_module: &[u8]) -> Result<Vec<u8>, ComponentizeError> {
    if wasmparser::Parser::is_component(core_module) {
        return Err(ComponentizeError::AlreadyComponent);
    }
    let encode = || {
        ComponentEncoder::default()
            .validate(true)
            .module(core_module)?
            .encode()
    };
    encode().map_err(|error| {
        let causes: Vec<_> = error.chain().map(ToString::to_string).collect();
        ComponentizeError::Encode(causes.join(": "))
    })
}

/// A core module does not become a component.
#[derive(Debug, thiserror::Error)]
pub enum ComponentizeError {
    /// It is one.
    #[error("this is a component already")]
    AlreadyComponent,
    /// The module does not fit its world.
    #[error("the module does not become a component: {0}")]
    Encode(String),
}
