//! Which compiler builds guests on this machine.

use crate::{Error, Programs, build_std, wasip2};
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// How guests are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// The target `wasm32-wasip2` with its ready-made standard library; the linker makes a component.
    Wasip2,
    /// The target `wasm32-unknown-unknown` with the standard library built from source; the module is
    /// encoded as a component afterwards. Needs a compiler with its source, and a WebAssembly linker.
    BuildStd,
}

impl Way {
    /// The better way first: it is quicker, and its compiler is the one the host is built with.
    pub const ALL: [Way; 2] = [Way::Wasip2, Way::BuildStd];

    /// Name as it is printed and typed.
    pub fn name(self) -> &'static str {
        match self {
            Way::Wasip2 => "wasip2",
            Way::BuildStd => "build-std",
        }
    }

    pub(crate) fn target(self) -> &'static str {
        match self {
            Way::Wasip2 => "wasm32-wasip2",
            Way::BuildStd => "wasm32-unknown-unknown",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Way {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let way = Way::ALL.into_iter().find(|way| way.name() == name);
        way.ok_or_else(|| format!("unknown way {name:?}; there are: wasip2, build-std"))
    }
}

/// A compiler that can build guests.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// How it does.
    pub way: Way,
    pub(crate) programs: Programs,
    pub(crate) cargo: PathBuf,
    pub(crate) rustc: PathBuf,
    /// For [`Way::BuildStd`]: the source of the standard library and the linker.
    pub(crate) from_source: Option<FromSource>,
}

/// What building the standard library takes.
#[derive(Clone, Debug)]
pub(crate) struct FromSource {
    pub(crate) library: PathBuf,
    pub(crate) linker: PathBuf,
}

impl Toolchain {
    /// Finds one, by the given way or by the first that works.
    ///
    /// # Errors
    /// [`Error::NoToolchain`] says what each way lacks; [`Error::Start`] if a compiler cannot be run.
    pub fn find(programs: &Programs, way: Option<Way>) -> Result<Self, Error> {
        let mut reasons = Vec::new();
        for candidate in Way::ALL {
            if way.is_some_and(|way| way != candidate) {
                continue;
            }
            let found = match candidate {
                Way::Wasip2 => wasip2::find(programs)?,
                Way::BuildStd => build_std::find(programs)?,
            };
            match found {
                Ok(toolchain) => return Ok(toolchain),
                Err(reason) => reasons.push(format!("{candidate}: {reason}")),
            }
        }
        Err(Error::NoToolchain { reasons })
    }

    /// The compiler, for people.
    pub fn rustc(&self) -> &std::path::Path {
        &self.rustc
    }
}
