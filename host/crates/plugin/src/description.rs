/// What a plugin says about itself; checked when it is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Short name, `[a-z][a-z0-9-]*`, at most 64 bytes.
    pub name: String,
    /// Semantic version, for people.
    pub version: String,
    /// Format in which `save` writes.
    pub state_format: u32,
    /// Formats that `load` understands, `state_format` among them.
    pub reads_formats: Vec<u32>,
}

/// Which interface a plugin exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contract {
    /// `kontiki:plugin/machine`: takes packed batches.
    Machine,
    /// `kontiki:plugin/simple-machine`: one entry a call.
    SimpleMachine,
}

impl Contract {
    /// Name of the interface in WIT, without its package.
    pub const fn interface(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::SimpleMachine => "simple-machine",
        }
    }
}

impl std::fmt::Display for Contract {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.interface())
    }
}

const NAME_SIZE_BYTES_MAX: usize = 64;
const VERSION_SIZE_BYTES_MAX: usize = 64;
const READS_FORMATS_MAX: usize = 256;

/// A plugin's `describe` returned something that breaks the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescriptionError {
    /// The name is not `[a-z][a-z0-9-]*` of at most 64 bytes.
    #[error("its name \"{0}\" is not of the form [a-z][a-z0-9-]*, at most 64 bytes")]
    Name(String),
    /// The version is no semantic version of at most 64 bytes.
    #[error("its version \"{0}\" is no semantic version (as 1.0.0) of at most 64 bytes")]
    Version(String),
    /// The plugin would not read what it writes.
    #[error("it writes state format {state_format} but reads only {reads_formats:?}")]
    StateFormat {
        /// What it writes.
        state_format: u32,
        /// What it reads.
        reads_formats: Vec<u32>,
    },
    /// An endless list of formats.
    #[error("it lists {0} formats that it reads; at most 256 are allowed")]
    ReadsFormats(usize),
}

impl Description {
    /// Checks the values against the contract.
    ///
    /// # Errors
    ///
    /// The first rule that is broken.
    pub fn check(self) -> Result<Self, DescriptionError> {
        if !is_name(&self.name) {
            return Err(DescriptionError::Name(shorten(&self.name)));
        }
        if !is_version(&self.version) {
            return Err(DescriptionError::Version(shorten(&self.version)));
        }
        if self.reads_formats.len() > READS_FORMATS_MAX {
            return Err(DescriptionError::ReadsFormats(self.reads_formats.len()));
        }
        if !self.reads_formats.contains(&self.state_format) {
            return Err(DescriptionError::StateFormat {
                state_format: self.state_format,
                reads_formats: self.reads_formats,
            });
        }
        Ok(self)
    }
}

fn shorten(text: &str) -> String {
    crate::clean(text, NAME_SIZE_BYTES_MAX)
}

fn is_name(name: &str) -> bool {
    name.len() <= NAME_SIZE_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// Three numbers, then perhaps `-` or `+` and more of the characters that semver allows.
fn is_version(version: &str) -> bool {
    let (numbers, rest) = match version.find(['-', '+']) {
        Some(at) => (&version[..at], Some(&version[at + 1..])),
        None => (version, None),
    };
    let is_number = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    let is_rest = |rest: &str| {
        !rest.is_empty()
            && rest
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'+'))
    };
    version.len() <= VERSION_SIZE_BYTES_MAX
        && numbers.split('.').count() == 3
        && numbers.split('.').all(is_number)
        && rest.is_none_or(is_rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(name: &str, version: &str, state_format: u32, reads: &[u32]) -> Description {
        Description {
            name: name.to_owned(),
            version: version.to_owned(),
            state_format,
            reads_formats: reads.to_vec(),
        }
    }

    #[test]
    fn good_descriptions_pass() {
        for (name, version) in [
            ("a", "0.1.0"),
            ("key-value2", "1.20.3-rc.1+build"),
            ("z", "1.0.0+1"),
        ] {
            description(name, version, 1, &[1]).check().unwrap();
        }
        description(&"n".repeat(64), "1.0.0", 3, &[1, 2, 3])
            .check()
            .unwrap();
    }

    #[test]
    fn bad_names_are_refused() {
        for name in [
            "",
            "Counter",
            "1up",
            "-a",
            "a_b",
            "a b",
            "ä",
            &"n".repeat(65),
        ] {
            let error = description(name, "1.0.0", 1, &[1]).check().unwrap_err();
            assert!(
                matches!(error, DescriptionError::Name(_)),
                "{name}: {error}"
            );
        }
    }

    #[test]
    fn bad_versions_are_refused() {
        for version in [
            "",
            "1",
            "1.0",
            "1.0.0.0",
            "01.0.0",
            "1.0.x",
            "1.0.0-",
            "1.0.0-a b",
            "v1.0.0",
        ] {
            let error = description("a", version, 1, &[1]).check().unwrap_err();
            assert!(
                matches!(error, DescriptionError::Version(_)),
                "{version}: {error}"
            );
        }
    }

    #[test]
    fn a_plugin_must_read_what_it_writes() {
        let error = description("a", "1.0.0", 2, &[1]).check().unwrap_err();
        assert_eq!(
            error.to_string(),
            "it writes state format 2 but reads only [1]"
        );
        let error = description("a", "1.0.0", 0, &[0; 257]).check().unwrap_err();
        assert_eq!(error, DescriptionError::ReadsFormats(257));
    }
}
