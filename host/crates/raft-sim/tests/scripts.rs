//! Every script in `testdata` gives the trace that is written in it. `KONTIKI_REWRITE=1` writes the
//! traces anew; look at the difference before you keep it.

use kontiki_raft_sim::script;
use std::path::{Path, PathBuf};

fn scripts() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let files = std::fs::read_dir(directory).expect("testdata is there");
    let paths = files.map(|file| file.expect("it can be listed").path());
    let mut scripts: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    scripts.sort();
    scripts
}

#[test]
fn every_script_gives_its_trace() {
    let rewrite = std::env::var_os("KONTIKI_REWRITE").is_some();
    let mut wrong = Vec::new();
    for path in scripts() {
        let script = std::fs::read_to_string(&path).unwrap();
        match script::replay(&script) {
            Ok(told) if told == script => {}
            Ok(told) if rewrite => std::fs::write(&path, told).unwrap(),
            Ok(told) => {
                let lines = script.lines().zip(told.lines());
                let first = lines.enumerate().find(|(_, (old, new))| old != new);
                wrong.push(format!("{}: {first:?}", path.display()));
            }
            Err(why) => wrong.push(format!("{}: {why}", path.display())),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn there_are_at_least_forty_situations_each_with_a_title() {
    let scripts = scripts();
    assert!(scripts.len() >= 40, "{}", scripts.len());
    for path in scripts {
        let script = std::fs::read_to_string(&path).unwrap();
        assert!(script.starts_with("# "), "{} has no title", path.display());
    }
}
