//! The lines that clients send.

use kontiki_guest::{Reject, shown};

/// The longest name of a register in bytes.
pub(crate) const ID_LEN_MAX: usize = 64;

const COMMANDS: &str = "there are: exchange ID V, cas ID EXPECTED NEW";

/// A line that changes a register.
#[derive(Debug, PartialEq)]
pub(crate) enum Command<'a> {
    Exchange {
        id: &'a str,
        value: i64,
    },
    CompareAndSwap {
        id: &'a str,
        expected: i64,
        new: i64,
    },
}

impl<'a> Command<'a> {
    pub(crate) fn parse(line: &'a str) -> Result<Self, Reject> {
        let mut words = line.split_ascii_whitespace();
        let word = words.next();
        let arguments = Arguments(words);
        match word {
            Some("exchange") => {
                let [id, value] = arguments.exactly("exchange ID V")?;
                Ok(Command::Exchange {
                    id: parse_id(id)?,
                    value: parse_value(value)?,
                })
            }
            Some("cas") => {
                let [id, expected, new] = arguments.exactly("cas ID EXPECTED NEW")?;
                let (expected, new) = (parse_value(expected)?, parse_value(new)?);
                Ok(Command::CompareAndSwap {
                    id: parse_id(id)?,
                    expected,
                    new,
                })
            }
            Some("get") => Err(Reject::new(
                "get is a query, not a command: send it as a query",
            )),
            Some(word) => {
                let word = shown(word);
                Err(Reject::new(format!("unknown command {word}; {COMMANDS}")))
            }
            None => Err(Reject::new(format!("empty command; {COMMANDS}"))),
        }
    }
}

/// A line that asks for a register.
#[derive(Debug, PartialEq)]
pub(crate) enum Query<'a> {
    Get { id: &'a str },
}

impl<'a> Query<'a> {
    pub(crate) fn parse(line: &'a str) -> Result<Self, Reject> {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("get") => {
                let [id] = Arguments(words).exactly("get ID")?;
                Ok(Query::Get { id: parse_id(id)? })
            }
            Some(word @ ("exchange" | "cas")) => Err(Reject::new(format!(
                "{word} is a command, not a query: send it as a command"
            ))),
            Some(word) => Err(Reject::new(format!(
                "unknown query {}; there is: get ID",
                shown(word)
            ))),
            None => Err(Reject::new("empty query; there is: get ID")),
        }
    }
}

/// The words after the first.
struct Arguments<I>(I);

impl<'a, I: Iterator<Item = &'a str>> Arguments<I> {
    fn exactly<const N: usize>(mut self, usage: &str) -> Result<[&'a str; N], Reject> {
        let mut arguments = [""; N];
        for argument in &mut arguments {
            *argument = self.0.next().ok_or_else(|| too("few", usage))?;
        }
        match self.0.next() {
            Some(_) => Err(too("many", usage)),
            None => Ok(arguments),
        }
    }
}

fn too(many: &str, usage: &str) -> Reject {
    Reject::new(format!("too {many} arguments; say: {usage}"))
}

fn parse_id(id: &str) -> Result<&str, Reject> {
    if id.len() > ID_LEN_MAX {
        let length = id.len();
        return Err(Reject::new(format!(
            "ID has {length} bytes, more than {ID_LEN_MAX}"
        )));
    }
    Ok(id)
}

fn parse_value(value: &str) -> Result<i64, Reject> {
    value.parse().map_err(|_| {
        Reject::new(format!(
            "{} is no whole number from {} to {}",
            shown(value),
            i64::MIN,
            i64::MAX
        ))
    })
}
