//! One signed 64-bit number that all replicas agree on.
//!
//! | sent as | line | answer |
//! |---|---|---|
//! | command | `add N` | the value before |
//! | query | `get` | the value |
//!
//! `N` may be negative. A sum that does not fit is a reject and changes nothing: a client that
//! counts must not see the count jump from one end to the other.

use kontiki_guest::{
    Answer, Entry, Error, Machine, Reject, SnapshotReader, SnapshotWriter, answer, shown, text,
};
use std::io::{Read, Write};

/// The one file of a snapshot.
const FILE: &str = "counter";

/// The number.
#[derive(Debug, Default, PartialEq)]
pub struct Counter {
    value: i64,
}

impl Machine for Counter {
    const NAME: &'static str = "counter";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const STATE_FORMAT: u32 = 1;

    fn apply(&mut self, entry: Entry<'_>) -> Result<Answer, Reject> {
        let amount = parse_add(entry.text()?)?;
        let before = self.value;
        self.value = before
            .checked_add(amount)
            .ok_or_else(|| Reject::new(format!("{before} + {amount} does not fit 64 bits")))?;
        Ok(answer!("{before}"))
    }

    fn query(&self, request: &[u8]) -> Result<Answer, Reject> {
        let line = text(request)?.trim();
        let word = line.split_ascii_whitespace().next().unwrap_or_default();
        match word {
            "get" if word == line => Ok(answer!("{}", self.value)),
            "get" => Err(Reject::new("get takes no arguments")),
            "add" => Err(Reject::new(
                "add is a command, not a query: send it as a command",
            )),
            _ => Err(Reject::new(format!(
                "unknown query {}; there is: get",
                shown(word)
            ))),
        }
    }

    fn save(&self, snapshot: &SnapshotWriter<'_>) -> Result<(), Error> {
        let mut file = snapshot.create_checked(FILE, Self::STATE_FORMAT)?;
        file.write_all(&self.value.to_le_bytes())?;
        Ok(file.finish(b"")?)
    }

    fn load(snapshot: &SnapshotReader<'_>) -> Result<Self, Error> {
        let mut file = snapshot.open_checked(FILE)?;
        if file.format() != Self::STATE_FORMAT {
            return Err(Error::new(format!(
                "{FILE}: unknown format {}",
                file.format()
            )));
        }
        let mut value = [0; 8];
        file.read_exact(&mut value)?;
        file.finish()?;
        Ok(Counter {
            value: i64::from_le_bytes(value),
        })
    }
}

/// The `N` of `add N`.
fn parse_add(line: &str) -> Result<i64, Reject> {
    let mut words = line.split_ascii_whitespace();
    match words.next() {
        Some("add") => {}
        Some("get") => {
            return Err(Reject::new(
                "get is a query, not a command: send it as a query",
            ));
        }
        Some(word) => {
            return Err(Reject::new(format!(
                "unknown command {}; there is: add N",
                shown(word)
            )));
        }
        None => return Err(Reject::new("empty command; there is: add N")),
    }
    let (Some(number), None) = (words.next(), words.next()) else {
        return Err(Reject::new("add takes one number: add N"));
    };
    number.parse().map_err(|_| {
        Reject::new(format!(
            "{} is no whole number from {} to {}",
            shown(number),
            i64::MIN,
            i64::MAX
        ))
    })
}

kontiki_guest::export!(Counter);

#[cfg(test)]
mod tests {
    use super::*;
    use kontiki_guest::testing::{Replica, assert_conformant};
    use proptest::prelude::*;
    use std::fs;

    fn counter_at(value: i64) -> Replica<Counter> {
        let mut counter = Replica::new();
        counter.apply(format!("add {value}")).unwrap();
        counter
    }

    #[test]
    fn add_answers_the_value_before() {
        let mut counter = Replica::<Counter>::new();
        assert_eq!(counter.apply("add 5").unwrap(), "0");
        assert_eq!(counter.apply("add -7\n").unwrap(), "5");
        assert_eq!(counter.query("get").unwrap(), "-2");
    }

    #[test]
    fn a_sum_that_does_not_fit_is_rejected_and_changes_nothing() {
        let mut counter = counter_at(i64::MAX);
        let reject = counter.apply("add 1").unwrap_err();
        assert_eq!(
            reject.reason(),
            "9223372036854775807 + 1 does not fit 64 bits"
        );
        assert_eq!(counter.query("get").unwrap(), "9223372036854775807");
    }

    #[test]
    fn bad_commands_are_named() {
        let mut counter = counter_at(1);
        for (command, named) in [
            (&b""[..], "empty command"),
            (b"sub 1", "unknown command \"sub\""),
            (b"add", "add takes one number"),
            (b"add 1 2", "add takes one number"),
            (b"add one", "\"one\" is no whole number"),
            (b"add 9223372036854775808", "is no whole number"),
            (b"get", "get is a query"),
            (b"add \xff", "not UTF-8 text: bad byte at 4"),
        ] {
            let reject = counter.apply(command).unwrap_err();
            assert!(
                reject.reason().contains(named),
                "{reject} does not say {named}"
            );
        }
        assert_eq!(counter.query("get").unwrap(), "1");
    }

    #[test]
    fn a_long_command_is_not_repeated() {
        let mut counter = counter_at(1);
        for command in [
            "\u{1}".repeat(220_000),
            format!("add {}", "9".repeat(220_000)),
        ] {
            let reject = counter.apply(&command).unwrap_err();
            assert!(reject.reason().len() < 500, "{reject}");
            let reject = counter.query(&command).unwrap_err();
            assert!(reject.reason().len() < 500, "{reject}");
        }
    }

    #[test]
    fn bad_queries_are_named() {
        let counter = counter_at(1);
        for (query, named) in [
            (&b""[..], "unknown query \"\""),
            (b"put", "unknown query \"put\""),
            (b"get it", "get takes no arguments"),
            (b"add 1", "add is a command"),
            (b"\xff", "not UTF-8"),
        ] {
            let reject = counter.query(query).unwrap_err();
            assert!(
                reject.reason().contains(named),
                "{reject} does not say {named}"
            );
        }
    }

    #[test]
    fn every_damaged_bit_is_noticed() {
        let snapshot = counter_at(42).save().unwrap();
        let path = snapshot.directory().join(FILE);
        let good = fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bad).unwrap();
            Replica::<Counter>::load(&snapshot).expect_err("a flipped bit is noticed");
        }
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).unwrap();
            Replica::<Counter>::load(&snapshot).expect_err("a missing end is noticed");
        }
        fs::write(&path, &good).unwrap();
        assert_eq!(
            Replica::<Counter>::load(&snapshot)
                .unwrap()
                .query("get")
                .unwrap(),
            "42"
        );
        fs::remove_file(&path).unwrap();
        let error = Replica::<Counter>::load(&snapshot).unwrap_err();
        assert!(error.to_string().starts_with("counter: "), "{error}");
    }

    #[test]
    fn a_newer_format_is_refused() {
        let snapshot = counter_at(1).save().unwrap();
        let path = snapshot.directory().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        bytes[8] = 2;
        fs::write(&path, bytes).unwrap();
        let error = Replica::<Counter>::load(&snapshot).unwrap_err();
        assert_eq!(error.to_string(), "counter: unknown format 2");
    }

    proptest! {
        #[test]
        fn restarts_and_batches_change_nothing(amounts in prop::collection::vec(any::<i64>(), 1..40)) {
            let commands: Vec<_> = amounts.iter().map(|amount| format!("add {amount}")).collect();
            assert_conformant::<Counter>(&commands, &["get"]);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut counter = counter_at(1);
            let _ = counter.apply(&bytes);
            let _ = counter.query(&bytes);
        }
    }
}
