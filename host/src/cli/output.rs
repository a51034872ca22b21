//! How results are printed. Standard output carries the result and nothing else.

use super::exit;
use super::failure::Failure;
use clap::ValueEnum;
use comfy_table::{Table, presets};
use kontiki_plugin::clean_lines;
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};

/// Form of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For people, with more columns.
    Wide,
    /// One JSON document.
    Json,
    /// One JSON document a line.
    Jsonl,
    /// Names or ids only, one a line.
    Name,
}

impl Format {
    pub(crate) fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::Jsonl)
    }
}

/// A result that can be printed in every form.
pub(crate) trait Document {
    /// The word that says what it is.
    const KIND: &'static str;

    /// Its fields, without `kind` and `v`.
    fn json(&self) -> Value;

    /// For people; no newline at the end.
    fn text(&self, wide: bool) -> String;

    /// What `-o name` prints.
    fn names(&self) -> Vec<String>;

    /// The parts `-o jsonl` prints a line each; none: the document itself.
    fn items(&self) -> Option<Vec<Value>> {
        None
    }
}

/// Where results and notes go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) quiet: bool,
}

impl Output {
    /// Prints a result.
    pub(crate) fn print<D: Document>(self, document: &D) {
        for line in self.lines(document) {
            line_out(&line);
        }
    }

    fn lines<D: Document>(self, document: &D) -> Vec<String> {
        let format = if self.quiet && !self.format.is_json() {
            Format::Name
        } else {
            self.format
        };
        match format {
            Format::Table => vec![document.text(false)],
            Format::Wide => vec![document.text(true)],
            Format::Name => document.names(),
            Format::Json => vec![pretty(&tagged(D::KIND, document.json()))],
            Format::Jsonl => match document.items() {
                Some(items) => items.iter().map(ToString::to_string).collect(),
                None => vec![tagged(D::KIND, document.json()).to_string()],
            },
        }
    }

    /// Says something to a person, beside the result.
    pub(crate) fn note(self, text: &str) {
        if !self.quiet && !self.format.is_json() {
            writeln!(std::io::stderr(), "{}", clean_lines(text)).ok();
        }
    }

    /// As [`note`](Self::note), for programs: a document in one line.
    pub(crate) fn document_aside(self, kind: &str, fields: Value) {
        if !self.quiet && self.format.is_json() {
            writeln!(std::io::stderr(), "{}", tagged(kind, fields)).ok();
        }
    }

    /// As [`note`](Self::note), only if a person is watching.
    pub(crate) fn aside(self, text: &str) {
        if std::io::stderr().is_terminal() && std::io::stdout().is_terminal() {
            self.note(text);
        }
    }

    /// Prints a failure, if there is anything left to say.
    pub(crate) fn fail(self, failure: &Failure) {
        if failure.is_silent() {
            return;
        }
        let text = if self.format.is_json() {
            failure.json().to_string()
        } else {
            failure.text()
        };
        writeln!(std::io::stderr(), "{}", clean_lines(&text)).ok();
    }
}

/// Lines to standard output, without anything that a terminal would obey: much of it others have
/// written. A reader that went away (`| head`) wants no more of it: the program
/// ends as if it had been told by SIGPIPE.
pub(crate) fn line_out(line: &str) {
    if writeln!(std::io::stdout(), "{}", clean_lines(line)).is_err() {
        exit::at_once(141);
    }
}

/// Bytes to standard output: as they are to a file or a program, harmless to a terminal.
pub(crate) fn bytes_out(bytes: &[u8]) {
    let mut out = std::io::stdout();
    let text = out.is_terminal().then(|| String::from_utf8_lossy(bytes));
    let cleaned = text.as_deref().map(clean_lines);
    let bytes = cleaned.as_deref().map_or(bytes, str::as_bytes);
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        exit::at_once(141);
    }
}

/// Adds `kind` and `v` in front of a document's fields.
pub(crate) fn tagged(kind: &str, fields: Value) -> Value {
    let mut document = json!({ "kind": kind, "v": 1 });
    if let (Some(into), Value::Object(fields)) = (document.as_object_mut(), fields) {
        into.extend(fields);
    }
    document
}

fn pretty(document: &Value) -> String {
    serde_json::to_string_pretty(document).expect("a JSON value can be written")
}

/// Aligned columns without lines, as `ps` prints them.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: Vec<[String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(head);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// `label: value` lines, aligned; empty values are left out.
pub(crate) fn fields(fields: &[(&str, String)]) -> String {
    let shown = fields.iter().filter(|(_, value)| !value.is_empty());
    let width = shown
        .clone()
        .map(|(label, _)| label.chars().count())
        .max()
        .unwrap_or(0);
    let lines = shown.map(|(label, value)| format!("{label:width$}  {value}"));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair;

    impl Document for Pair {
        const KIND: &'static str = "pair";

        fn json(&self) -> Value {
            json!({ "items": [1, 2] })
        }

        fn text(&self, wide: bool) -> String {
            if wide {
                "one two three".into()
            } else {
                "one two".into()
            }
        }

        fn names(&self) -> Vec<String> {
            vec!["one".into(), "two".into()]
        }

        fn items(&self) -> Option<Vec<Value>> {
            Some(vec![json!(1), json!(2)])
        }
    }

    #[test]
    fn every_form() {
        let lines = |format, quiet| Output { format, quiet }.lines(&Pair);
        assert_eq!(lines(Format::Table, false), ["one two"]);
        assert_eq!(lines(Format::Wide, false), ["one two three"]);
        assert_eq!(lines(Format::Name, false), ["one", "two"]);
        assert_eq!(lines(Format::Table, true), ["one", "two"], "quiet is names");
        assert_eq!(lines(Format::Jsonl, false), ["1", "2"]);
        let document: Value = serde_json::from_str(&lines(Format::Json, true)[0]).unwrap();
        assert_eq!(document, json!({ "kind": "pair", "v": 1, "items": [1, 2] }));
    }

    #[test]
    fn tables_are_aligned_and_bare() {
        let rows = vec![
            ["n1".into(), "leader".into()],
            ["node-22".into(), String::new()],
        ];
        assert_eq!(
            table(["NAME", "ROLE"], rows),
            "NAME     ROLE\nn1       leader\nnode-22"
        );
    }
}
