//! A second process as witness: what one process made of a seed, another must make of it too.
//!
//! Within one process a run that looks at an address, or at the order of a map that was seeded once,
//! may well do the same twice.

use crate::oracle::{Check, Invariant, broken};
use crate::require;
use crate::world::Setup;
use std::path::Path;
use std::process::Command;

/// A seed and the hash of its trace, as the command `hashes` prints it.
#[must_use]
pub fn line(seed: u64, hash: u64) -> String {
    format!("{seed} {hash:016x}")
}

fn parse(line: &str) -> Option<(u64, u64)> {
    let (seed, hash) = line.split_once(' ')?;
    Some((seed.parse().ok()?, u64::from_str_radix(hash, 16).ok()?))
}

/// Lets `program`, this simulator, run the seeds again in a process of its own. `setup` says how;
/// its seed does not count.
///
/// # Errors
/// A hash differs, or the other process did not do its work.
pub fn run_again(program: &Path, setup: Setup, hashes: &[(u64, u64)]) -> Check {
    if hashes.is_empty() {
        return Ok(());
    }
    let mut command = Command::new(program);
    command.args(["hashes", "--steps", &setup.steps.to_string()]);
    command.args(["--mode", setup.mode.name()]);
    if let Some(bug) = setup.bug {
        command.args(["--bug", &format!("{bug:?}")]);
    }
    command.args(hashes.iter().map(|(seed, _)| seed.to_string()));
    match command.output() {
        Ok(output) => compare(hashes, &String::from_utf8_lossy(&output.stdout)),
        Err(error) => broken(
            Invariant::Determinism,
            format!("{} cannot be run: {error}", program.display()),
        ),
    }
}

fn compare(hashes: &[(u64, u64)], told: &str) -> Check {
    let told: Vec<(u64, u64)> = told.lines().filter_map(parse).collect();
    require!(
        told.len() == hashes.len(),
        Determinism,
        "another process gave {} of {} hashes",
        told.len(),
        hashes.len()
    );
    for (here, there) in hashes.iter().zip(&told) {
        require!(
            here == there,
            Determinism,
            "seed {} has hash {:016x} here, in another process seed {} has {:016x}",
            here.0,
            here.1,
            there.0,
            there.1
        );
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::oracle::assert_breaks;

    #[test]
    pub(crate) fn another_hash_or_none_is_found() {
        let hashes = [(7, 0xabc), (8, 1)];
        let told = |last| format!("{}\n{}\n", line(7, 0xabc), line(8, last));
        compare(&hashes, &told(1)).unwrap();
        assert_breaks(compare(&hashes, &told(2)), Invariant::Determinism);
        assert_breaks(compare(&hashes, &line(7, 0xabc)), Invariant::Determinism);
    }
}
