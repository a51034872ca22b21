//! State machines built into the node, for measuring what Wasm costs. Offered only where the
//! configuration allows it.

use cap_std::fs::Dir;
use kontiki_plugin::{
    Answer, Answers, ApplyFault, Batch, Description, EnvironmentCause, Fault, Machine,
    SnapshotFile, SnapshotInfo, clean,
};

/// How much of a command a reject repeats.
const SHOWN_SIZE_BYTES_MAX: usize = 64;

/// Name under which the counter is offered.
pub(crate) const COUNTER: &str = "native:counter";

/// The plugin `counter`, natively: `add N` answers the value before, the query `get` the value.
#[derive(Debug)]
pub(crate) struct NativeCounter {
    description: Description,
    value: i64,
}

impl NativeCounter {
    pub(crate) fn new() -> Self {
        Self {
            description: description(),
            value: 0,
        }
    }

    fn add(&mut self, command: &[u8], answers: &mut Answers) {
        match parse_add(command) {
            Ok(amount) => {
                let before = self.value;
                self.value = self.value.wrapping_add(amount);
                answers.push(Answer::Ok(before.to_string().as_bytes()));
            }
            Err(why) => answers.push(Answer::Reject(why.as_bytes())),
        }
    }
}

/// What the counter says about itself.
pub(crate) fn description() -> Description {
    Description {
        name: "counter".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state_format: 1,
        reads_formats: vec![1],
    }
}

fn parse_add(command: &[u8]) -> Result<i64, String> {
    let text = std::str::from_utf8(command).map_err(|_| "the command is not UTF-8".to_owned())?;
    let Some(amount) = text.strip_prefix("add ") else {
        let shown = clean(text, SHOWN_SIZE_BYTES_MAX);
        return Err(format!("unknown command \"{shown}\"; write: add N"));
    };
    amount.trim().parse().map_err(|_| {
        let shown = clean(amount, SHOWN_SIZE_BYTES_MAX);
        format!("\"{shown}\" is no whole number")
    })
}

impl Machine for NativeCounter {
    fn description(&self) -> &Description {
        &self.description
    }

    fn apply(&mut self, batch: &Batch<'_>) -> Result<Answers, ApplyFault> {
        let mut answers = Answers::default();
        for (_, _, payload) in batch.iter() {
            self.add(payload, &mut answers);
        }
        Ok(answers)
    }

    fn query(&mut self, request: &[u8]) -> Result<Result<Vec<u8>, String>, Fault> {
        Ok(match request {
            b"get" => Ok(self.value.to_string().into_bytes()),
            _ => Err("unknown query; write: get".to_owned()),
        })
    }

    fn save(&mut self, directory: Dir, _: &SnapshotInfo) -> Result<Vec<SnapshotFile>, Fault> {
        let text = self.value.to_string();
        directory
            .write("value", &text)
            .map_err(|source| io_fault("writing the value", source))?;
        Ok(vec![SnapshotFile {
            name: "value".to_owned(),
            meta: Vec::new(),
            size_bytes: text.len() as u64,
        }])
    }

    fn load(&mut self, directory: Dir, _: &SnapshotInfo, _: &[SnapshotFile]) -> Result<(), Fault> {
        let text = directory
            .read_to_string("value")
            .map_err(|e| io_fault("reading the value", e))?;
        let invalid = |_| io_fault("reading the value", std::io::ErrorKind::InvalidData.into());
        self.value = text.parse().map_err(invalid)?;
        Ok(())
    }

    fn set_replaying(&mut self, _: bool) {}
}

fn io_fault(operation: &'static str, source: std::io::Error) -> Fault {
    kontiki_plugin::EnvironmentFault {
        cause: EnvironmentCause::Io { operation, source },
        site: Box::new(kontiki_plugin::FaultSite {
            plugin: kontiki_plugin::Digest::of(COUNTER.as_bytes()),
            name: Some("counter".to_owned()),
            export: kontiki_plugin::Export::Save,
            index: None,
            frames: Vec::new(),
            stderr: String::new(),
        }),
    }
    .into()
}
