//! What an instance does, seen through guests written as text.

mod support;

use kontiki_plugin::{Answer, Batch, Contract};
use support::{Guest, batch, info, limits, open};

#[test]
fn a_plugin_describes_itself() {
    let component = Guest::default().component();
    let plugin = support::engine(limits()).load(&component).unwrap();
    let description = plugin.description();
    assert_eq!(
        (description.name.as_str(), description.version.as_str()),
        ("test", "1.2.3")
    );
    assert_eq!(
        (
            description.state_format,
            description.reads_formats.as_slice()
        ),
        (3, [3].as_slice())
    );
    assert_eq!(plugin.contract(), Contract::Machine);
    assert_eq!(plugin.size_bytes(), component.len() as u64);
    assert!(
        plugin
            .exports()
            .iter()
            .any(|name| name == "kontiki:plugin/machine@1.0.0")
    );
    assert!(
        plugin
            .imports()
            .iter()
            .any(|name| name == "kontiki:plugin/host@1.0.0")
    );
}

#[test]
fn a_plugin_is_compiled_once() {
    let engine = support::engine(limits());
    let component = Guest::default().component();
    let plugin = engine.load(&component).unwrap();
    let started = std::time::Instant::now();
    let again = engine.clone().load(&component).unwrap();
    assert!(
        started.elapsed() < std::time::Duration::from_millis(50),
        "it was not compiled again"
    );
    assert_eq!(again.digest(), plugin.digest());
    engine.unload(&plugin.digest());
    assert!(engine.plugin(&plugin.digest()).is_none());
    plugin.instantiate().unwrap();
}

#[test]
fn a_batch_is_answered_entry_by_entry() {
    let mut machine = Guest::default().machine();
    let answers = machine.apply(&batch(&[b"one", b"", b"three"])).unwrap();
    let all: Vec<_> = answers.iter().collect();
    assert_eq!(
        all,
        [Answer::Ok(b"one"), Answer::Ok(b""), Answer::Ok(b"three")]
    );
    assert!(machine.apply(&Batch::new()).unwrap().is_empty());
    assert!(machine.fuel_used() > 0);
    assert_eq!(machine.memory_size_bytes(), 4 * 65536);
}

#[test]
fn a_query_is_answered() {
    let mut machine = Guest::default().machine();
    assert_eq!(machine.query(b"ask").unwrap(), Ok(b"ask".to_vec()));
    let no = Guest {
        query: "(call $no (local.get $request) (local.get $size))".into(),
        ..Guest::default()
    };
    assert_eq!(
        no.machine().query(b"because").unwrap(),
        Err("because".to_owned())
    );
}

#[test]
fn a_simple_machine_gets_its_entries_one_by_one() {
    let guest = Guest {
        world: "simple-plugin",
        // Rejects the second entry, by its index, with its own payload.
        apply: "(if (result i32) (i64.eq (local.get $index) (i64.const 11))
            (then (call $no (local.get $data) (local.get $size)))
            (else (call $ok (local.get $data) (local.get $size))))"
            .into(),
        ..Guest::default()
    };
    let plugin = guest.plugin();
    assert_eq!(plugin.contract(), Contract::SimpleMachine);
    let answers = plugin
        .instantiate()
        .unwrap()
        .apply(&batch(&[b"a", b"bad", b"c"]))
        .unwrap();
    let all: Vec<_> = answers.iter().collect();
    assert_eq!(
        all,
        [Answer::Ok(b"a"), Answer::Reject(b"bad"), Answer::Ok(b"c")]
    );
    assert_eq!(answers.get(1).unwrap().reject_reason().unwrap(), "bad");
}

/// Opens the file `$name` of the length 4 for writing, and writes 5 bytes into it.
const SAVE: &str = r#"
    (call $open_at (call $writer_directory (local.get $writer)) (i32.const 0)
        (i32.const 200) (i32.const 4) (i32.const 1) (i32.const 2) (i32.const 256))
    (if (i32.load8_u (i32.const 256)) (then (unreachable)))
    (call $write (i32.load (i32.const 260)) (i32.const 136) (i32.const 5) (i64.const 0) (i32.const 272))
    (if (i32.load8_u (i32.const 272)) (then (unreachable)))
    (call $writer_add (local.get $writer) (i32.const 200) (i32.const 4) (i32.const 128) (i32.const 2) (i32.const 256))
    (if (i32.load8_u (i32.const 256)) (then (unreachable)))
    (call $ok (i32.const 0) (i32.const 0))"#;

#[test]
fn a_snapshot_is_written_and_read() {
    let guest = Guest {
        items: r#"(data (i32.const 200) "file")"#.into(),
        save: SAVE.into(),
        ..Guest::default()
    };
    let temporary = tempfile::tempdir().unwrap();
    let mut machine = guest.machine();
    for _ in 0..3 {
        let files = machine.save(open(temporary.path()), &info()).unwrap();
        let [file] = files.as_slice() else {
            panic!("{files:?}")
        };
        assert_eq!(
            (file.name.as_str(), file.meta.as_slice(), file.size_bytes),
            ("file", b"te".as_slice(), 5)
        );
        assert_eq!(
            std::fs::read(temporary.path().join("file")).unwrap(),
            b"1.2.3"
        );
        guest
            .machine()
            .load(open(temporary.path()), &info(), &files)
            .unwrap();
    }
    machine.apply(&batch(&[b"goes on"])).unwrap();
    let fault = machine
        .load(open(temporary.path()), &info(), &[])
        .unwrap_err();
    assert!(
        fault.to_string().contains("into a new instance only"),
        "{fault}"
    );
}

#[test]
fn engines_and_plugins_are_shared_between_threads() {
    fn shared<T: Send + Sync + Clone>(_: &T) {}
    let engine = support::engine(limits());
    shared(&engine);
    let plugin = engine.load(&Guest::default().component()).unwrap();
    shared(&plugin);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let plugin = plugin.clone();
            std::thread::spawn(move || {
                let mut machine = plugin.instantiate().unwrap();
                machine
                    .apply(&batch(&[b"x"]))
                    .unwrap()
                    .get(0)
                    .map(|answer| answer.bytes().to_vec())
            })
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), Some(b"x".to_vec()));
    }
}
