//! The plugins of this checkout in the real host. `cargo xtask plugins` builds them.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use kontiki_plugin::{Answer, Batch, Engine, Limits, Machine, Plugin, SnapshotFile, SnapshotInfo};
use std::collections::BTreeMap;
use std::path::Path;

fn plugin(name: &str) -> Plugin {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(3)
        .unwrap();
    let directory = std::env::var_os("KONTIKI_PLUGINS_DIR")
        .filter(|directory| !directory.is_empty())
        .map_or_else(|| checkout.join("plugins/target/components"), Into::into);
    let path = directory.join(format!("{name}.wasm"));
    let bytes = std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask plugins`", path.display()));
    Engine::new(Limits::default())
        .unwrap()
        .load(&bytes)
        .unwrap()
}

/// An answer as a line, rejects marked.
fn line(answer: Answer<'_>) -> String {
    let text = String::from_utf8(answer.bytes().to_vec()).unwrap();
    if answer.is_reject() {
        format!("reject: {text}")
    } else {
        text
    }
}

/// Applies commands from a log index on, in one batch.
fn apply(machine: &mut dyn Machine, first: usize, commands: &[String]) -> Vec<String> {
    let mut batch = Batch::new();
    for (i, command) in commands.iter().enumerate() {
        let index = (first + i) as u64;
        batch.push(index, index * 1000, command.as_bytes());
    }
    machine.apply(&batch).unwrap().iter().map(line).collect()
}

fn query(machine: &mut dyn Machine, request: &str) -> String {
    match machine.query(request.as_bytes()).unwrap() {
        Ok(bytes) => String::from_utf8(bytes).unwrap(),
        Err(reason) => format!("reject: {reason}"),
    }
}

/// A snapshot in a temporary directory.
struct Saved {
    directory: tempfile::TempDir,
    info: SnapshotInfo,
    files: Vec<SnapshotFile>,
}

impl Saved {
    fn of(machine: &mut dyn Machine) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let format = machine.description().state_format;
        let info = SnapshotInfo {
            index: 1,
            term: 1,
            format,
            ..SnapshotInfo::default()
        };
        let files = machine.save(open(&directory), &info).unwrap();
        Saved {
            directory,
            info,
            files,
        }
    }

    fn load(&self, plugin: &Plugin) -> Result<Box<dyn Machine>, kontiki_plugin::Fault> {
        let mut machine = plugin.instantiate().unwrap();
        machine.load(open(&self.directory), &self.info, &self.files)?;
        Ok(machine)
    }

    fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let read = |file: &SnapshotFile| {
            (
                file.name.clone(),
                std::fs::read(self.directory.path().join(&file.name)).unwrap(),
            )
        };
        self.files.iter().map(read).collect()
    }
}

fn open(directory: &tempfile::TempDir) -> Dir {
    Dir::open_ambient_dir(directory.path(), ambient_authority()).unwrap()
}

/// One batch, and batches of other lengths with a save and load between them: the same answers, the
/// same state, the same snapshot.
fn assert_conformant(plugin: &Plugin, commands: &[String], queries: &[&str]) {
    let mut whole = plugin.instantiate().unwrap();
    let expected: Vec<_> = commands
        .chunks(256)
        .enumerate()
        .flat_map(|(i, chunk)| apply(whole.as_mut(), 1 + i * 256, chunk))
        .collect();
    for length in [1, 7, 100] {
        let mut machine = plugin.instantiate().unwrap();
        let mut answers = Vec::new();
        for chunk in commands.chunks(length) {
            answers.extend(apply(machine.as_mut(), 1 + answers.len(), chunk));
            machine = Saved::of(machine.as_mut()).load(plugin).unwrap();
        }
        assert_eq!(answers, expected);
        for request in queries {
            assert_eq!(
                query(machine.as_mut(), request),
                query(whole.as_mut(), request)
            );
        }
        let same = Saved::of(machine.as_mut()).contents() == Saved::of(whole.as_mut()).contents();
        assert!(same, "equal states wrote different snapshots");
    }
}

/// The plugin refuses its snapshot when a byte of the one file is another.
fn assert_damage_is_noticed(plugin: &Plugin, commands: &[String]) {
    let mut machine = plugin.instantiate().unwrap();
    apply(machine.as_mut(), 1, commands);
    let saved = Saved::of(machine.as_mut());
    let path = saved.directory.path().join(&saved.files[0].name);
    let good = std::fs::read(&path).unwrap();
    for i in (0..good.len()).step_by(5) {
        let mut bad = good.clone();
        bad[i] ^= 1;
        std::fs::write(&path, bad).unwrap();
        assert!(saved.load(plugin).is_err(), "byte {i}");
    }
    std::fs::write(&path, good).unwrap();
    saved.load(plugin).unwrap();
}

fn lines(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

#[test]
fn counter_counts() {
    let plugin = plugin("counter");
    assert_eq!(plugin.description().name, "counter");
    let mut machine = plugin.instantiate().unwrap();
    let answers = apply(machine.as_mut(), 1, &lines(&["add 5", "add -7", "sub 1"]));
    assert_eq!(
        answers,
        ["0", "5", "reject: unknown command \"sub\"; there is: add N"]
    );
    assert_eq!(query(machine.as_mut(), "get"), "-2");
    assert!(query(machine.as_mut(), "add 1").starts_with("reject: add is a command"));
}

#[test]
fn counter_is_a_function_of_its_log() {
    let plugin = plugin("counter");
    let amounts = (0..300i64).map(|i| i.wrapping_mul(0x5851_f42d_4c95_7f2d));
    let commands: Vec<_> = amounts.map(|amount| format!("add {amount}")).collect();
    assert_conformant(&plugin, &commands, &["get"]);
    assert_damage_is_noticed(&plugin, &commands[..10]);
}

#[test]
fn atomic_exchanges_and_compares() {
    let plugin = plugin("atomic");
    assert_eq!(plugin.description().name, "atomic");
    let mut machine = plugin.instantiate().unwrap();
    let commands = lines(&["exchange a 5", "cas a 4 9", "cas a 5 9", "get a"]);
    let answers = apply(machine.as_mut(), 1, &commands);
    assert_eq!(
        answers[..3],
        ["ok old=0 new=5", "failed old=5 new=5", "ok old=5 new=9"]
    );
    assert!(
        answers[3].starts_with("reject: get is a query"),
        "{}",
        answers[3]
    );
    assert_eq!(query(machine.as_mut(), "get a"), "9");
}

#[test]
fn atomic_is_a_function_of_its_log() {
    let plugin = plugin("atomic");
    let command = |i: u64| {
        let (id, mix) = (i * i % 17, i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60);
        match mix % 3 {
            0 => format!("exchange r{id} {mix}"),
            1 => format!("cas r{id} {} {mix}", mix % 5),
            _ => format!("cas r{id} {mix} 0"),
        }
    };
    let commands: Vec<_> = (0..300).map(command).collect();
    assert_conformant(
        &plugin,
        &commands,
        &["get r0", "get r1", "get r2", "get r16"],
    );
    assert_damage_is_noticed(&plugin, &commands[..40]);
}
