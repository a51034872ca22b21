//! Scenario scripts: a small language in which a situation is told step by step, with everything
//! that happens written below each step.
//!
//! A script is a text file. Lines that begin with `#` are remarks, lines that begin with `>` are
//! commands, and what follows a command, up to the next blank line, is the trace it must give. The
//! commands are listed in `testdata/README.md`.

mod selector;
mod stage;
mod words;

pub use stage::Stage;

use std::fmt::Write as _;

/// Runs a script and gives it back with the traces as they really are.
///
/// # Errors
/// A command is not understood, or an invariant is broken.
pub fn replay(script: &str) -> Result<String, String> {
    let mut stage = Stage::default();
    let mut told = String::new();
    let mut in_trace = false;
    for line in script.lines() {
        if let Some(command) = line.strip_prefix('>') {
            let trace = stage
                .carry_out(command.trim())
                .map_err(|why| format!("{line}: {why}"))?;
            let _ = writeln!(told, "{line}");
            for line in trace {
                let _ = writeln!(told, "  {line}");
            }
            in_trace = true;
        } else if line.trim().is_empty() {
            in_trace = false;
            told.push('\n');
        } else if !in_trace {
            let _ = writeln!(told, "{line}");
        }
    }
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_replaced_and_remarks_stay() {
        let script = "# One node.\n> nodes 1\n  anything\n\n# It leads.\n> settle\n";
        let told = replay(script).unwrap();
        assert!(told.starts_with("# One node.\n> nodes 1\n"));
        assert!(!told.contains("anything"));
        assert!(told.contains("leads term 1"), "{told}");
        assert_eq!(replay(&told).unwrap(), told);
    }

    #[test]
    fn an_unknown_command_is_named() {
        let why = replay("> dance\n").unwrap_err();
        assert!(why.contains("dance"), "{why}");
    }
}
