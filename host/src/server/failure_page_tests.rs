//! Holds `docs/operations/failures.md` to the program: reasons, exit codes and every phrase.

use super::status::Reason;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tonic::Code;

const PAGE: &str = include_str!("../../docs/operations/failures.md");

/// Reasons that the client library gives by itself.
const OF_CLIENT: [&str; 4] = [
    "UNREACHABLE",
    "WRONG_SERVER",
    "CONNECTION_LOST",
    "BAD_REPLY",
];

/// Rows of the tables of reasons: name, exit, applied.
fn rows() -> BTreeMap<&'static str, (&'static str, &'static str)> {
    let rows = PAGE.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.split(" | ").map(str::trim).collect::<Vec<_>>());
    let reasons = cells.filter(|cells| cells.len() == 5);
    reasons
        .map(|cells| (cells[0].trim_matches(['|', ' ', '`']), (cells[1], cells[2])))
        .collect()
}

#[test]
fn every_reason_stands_on_the_page_and_no_other() {
    let found: BTreeSet<_> = rows().into_keys().collect();
    let reasons = Reason::ALL.iter().map(|reason| reason.as_str());
    let known: BTreeSet<_> = reasons.chain(OF_CLIENT).collect();
    assert_eq!(found, known);
}

/// As `cli/exit.rs` maps the code of a command that was certainly not applied.
fn exit(code: Code) -> &'static str {
    match code {
        Code::Unavailable | Code::DeadlineExceeded => "3",
        Code::NotFound => "4",
        Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists => "6",
        _ => "1",
    }
}

#[test]
fn exit_codes_and_outcomes_are_those_of_the_program() {
    let rows = rows();
    for reason in Reason::ALL {
        let (found, applied) = rows[reason.as_str()];
        match reason {
            Reason::PluginFault => assert_eq!((found, applied), ("9", "the error says")),
            Reason::LeadershipLost | Reason::ReplyLost | Reason::GroupIncomplete => {
                assert_eq!((found, applied), ("8", "perhaps"), "{reason:?}");
            }
            Reason::DeadlineExceeded => assert!(found.starts_with("8, or 3 where")),
            Reason::Internal => assert!(found.starts_with("8, or 1 where")),
            _ => assert_eq!((found, applied), (exit(reason.code()), "no"), "{reason:?}"),
        }
    }
}

/// What the page says that the program says: the text between double quotes, outside of code.
fn phrases() -> Vec<String> {
    // Code may stand within a phrase, so only quotes within code are taken out.
    let outside: String = PAGE
        .split('`')
        .enumerate()
        .map(|(n, part)| match n % 2 {
            0 => part.to_owned(),
            _ => format!("`{}`", part.replace('"', "")),
        })
        .collect();
    let quoted = outside.split('"').skip(1).step_by(2);
    quoted.map(|phrase| phrase.replace('\n', " ")).collect()
}

/// The sources of the program without comments, tests and line breaks within strings.
fn sources() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut directories = vec![root.join("src"), root.join("crates")];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            match path.is_dir() {
                true if !["tests", "target", "examples", "benches"].contains(&name.as_str()) => {
                    directories.push(path);
                }
                false if name.ends_with(".rs") && !name.ends_with("tests.rs") => files.push(path),
                _ => {}
            }
        }
    }
    files.iter().map(|path| source(path)).collect()
}

fn source(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let mut joined = String::new();
    let mut goes_on = false;
    for line in lines {
        // A string that goes on in the next line leaves that line's indent out.
        joined.push_str(if goes_on { line.trim_start() } else { line });
        goes_on = line.ends_with('\\');
        match goes_on {
            true => drop(joined.pop()),
            false => joined.push('\n'),
        }
    }
    joined
}

/// Whether `source` has the parts of `phrase` in their order, near each other: between them stand
/// placeholders.
fn says(source: &str, phrase: &str) -> bool {
    const NEAR: usize = 80;
    let parts: Vec<_> = phrase.split('…').filter(|part| !part.is_empty()).collect();
    let Some((first, rest)) = parts.split_first() else {
        return false;
    };
    source.match_indices(first).any(|(at, _)| {
        let mut end = at + first.len();
        rest.iter().all(|part| {
            let near = source[end..]
                .char_indices()
                .nth(NEAR + part.chars().count());
            let near = near.map_or(source.len(), |(offset, _)| end + offset);
            match source[end..near].find(part) {
                Some(offset) => {
                    end += offset + part.len();
                    true
                }
                None => false,
            }
        })
    })
}

#[test]
fn every_phrase_is_the_programs() {
    let sources = sources();
    let phrases = phrases();
    assert!(phrases.len() > 40, "the page quotes: {phrases:?}");
    let invented: Vec<_> = phrases
        .iter()
        .filter(|phrase| !sources.iter().any(|source| says(source, phrase)))
        .collect();
    assert!(invented.is_empty(), "nowhere in the program: {invented:#?}");
}

#[test]
fn a_phrase_is_found_with_its_placeholders_and_not_by_chance() {
    let text = "format!(\"node {name:?} is {state}; see the log\")";
    assert!(says(text, "node … is …; see the log"));
    assert!(says(text, "node … is …"));
    assert!(!says(text, "node … was …"));
    let far = format!("node {}is", " ".repeat(200));
    assert!(!says(&far, "node … is"));
    assert!(!says(text, "…"));
}
