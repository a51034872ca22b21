//! The plugins `counter` and `atomic` once more, natively: what the components must agree with.

use cap_std::fs::Dir;
use kontiki_plugin::{
    Answer, Answers, ApplyFault, Batch, Description, Fault, Machine, SnapshotFile, SnapshotInfo,
};
use std::collections::BTreeMap;

/// What a machine does to one line.
type Outcome = Result<String, String>;

/// A machine that answers text with text, and keeps no snapshots.
pub(crate) struct Native<S> {
    description: Description,
    state: S,
    apply: fn(&mut S, &str) -> Outcome,
    query: fn(&S, &str) -> Outcome,
}

fn description(name: &str) -> Description {
    Description {
        name: name.to_owned(),
        version: "0.1.0".to_owned(),
        state_format: 1,
        reads_formats: vec![1],
    }
}

/// `add N`, and the query `get`.
pub(crate) fn counter() -> Native<i64> {
    Native {
        description: description("counter"),
        state: 0,
        apply: |value, line| {
            let amount: i64 = number(line.strip_prefix("add ").ok_or("unknown command")?)?;
            let before = *value;
            *value = before.checked_add(amount).ok_or("does not fit")?;
            Ok(before.to_string())
        },
        query: |value, line| match line {
            "get" => Ok(value.to_string()),
            _ => Err("unknown query".to_owned()),
        },
    }
}

/// `exchange ID V` and `cas ID EXPECTED NEW`, and the query `get ID`.
pub(crate) fn atomic() -> Native<BTreeMap<String, i64>> {
    Native {
        description: description("atomic"),
        state: BTreeMap::new(),
        apply: |registers, line| match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["exchange", id, new] => {
                let new = number(new)?;
                let old = registers.insert((*id).to_owned(), new).unwrap_or(0);
                Ok(format!("ok old={old} new={new}"))
            }
            ["cas", id, expected, new] => {
                let (expected, new) = (number(expected)?, number(new)?);
                let old = registers.get(*id).copied().unwrap_or(0);
                if old != expected {
                    return Ok(format!("failed old={old} new={old}"));
                }
                registers.insert((*id).to_owned(), new);
                Ok(format!("ok old={old} new={new}"))
            }
            _ => Err("unknown command".to_owned()),
        },
        query: |registers, line| match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["get", id] => Ok(registers.get(*id).copied().unwrap_or(0).to_string()),
            _ => Err("unknown query".to_owned()),
        },
    }
}

fn number(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| "no number".to_owned())
}

impl<S: Send> Machine for Native<S> {
    fn description(&self) -> &Description {
        &self.description
    }

    fn apply(&mut self, batch: &Batch<'_>) -> Result<Answers, ApplyFault> {
        let mut answers = Answers::default();
        for (_, _, payload) in batch.iter() {
            let line = std::str::from_utf8(payload).unwrap_or("");
            match (self.apply)(&mut self.state, line) {
                Ok(answer) => answers.push(Answer::Ok(answer.as_bytes())),
                Err(reason) => answers.push(Answer::Reject(reason.as_bytes())),
            }
        }
        Ok(answers)
    }

    fn query(&mut self, request: &[u8]) -> Result<Result<Vec<u8>, String>, Fault> {
        let line = std::str::from_utf8(request).unwrap_or("");
        Ok((self.query)(&self.state, line).map(String::into_bytes))
    }

    fn save(&mut self, _: Dir, _: &SnapshotInfo) -> Result<Vec<SnapshotFile>, Fault> {
        unreachable!("the native machines are compared by their answers")
    }

    fn load(&mut self, _: Dir, _: &SnapshotInfo, _: &[SnapshotFile]) -> Result<(), Fault> {
        unreachable!("the native machines are compared by their answers")
    }

    fn set_replaying(&mut self, _: bool) {}
}
