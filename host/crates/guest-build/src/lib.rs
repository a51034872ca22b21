//! Builds Rust guests to components with whatever WebAssembly toolchain a machine has.
//!
//! There are two ways ([`Way`]): the target `wasm32-wasip2` as rustup installs it, whose linker makes a
//! component; or `wasm32-unknown-unknown` with the standard library built from a compiler's own source,
//! whose modules are encoded as components here. [`Toolchain::find`] picks one, [`build`] runs cargo
//! and yields a [`Component`] for each plugin of a workspace. Equal sources give equal bytes wherever
//! they lie: paths of the machine are mapped away and no flag of the surrounding build leaks in.
//!
//! ```no_run
//! use kontiki_guest_build::{Project, Programs, Toolchain, build};
//!
//! let toolchain = Toolchain::find(&Programs::of_this_process(), None)?;
//! for component in build(&toolchain, &Project::at("my-plugin/Cargo.toml"))? {
//!     println!("{} {} {}", component.name, component.bytes.len(), component.digest());
//! }
//! # Ok::<(), kontiki_guest_build::Error>(())
//! ```

mod build_std;
mod cargo;
mod component;
mod error;
mod metadata;
mod programs;
mod toolchain;
mod wasip2;

pub use cargo::{Project, build};
pub use component::{Component, components_directory};
pub use error::Error;
pub use programs::Programs;
pub use toolchain::{Toolchain, Way};
