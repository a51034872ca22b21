//! Whatever a guest does, it ends within its limits, the fault says what it was, and the process
//! goes on.

mod support;

use kontiki_plugin::{
    Answer, EnvironmentCause, Export, Fault, GuestCause, LoadError, Machine, MalformedAnswers,
    ProtocolViolation, SnapshotViolation, Trap,
};
use std::time::{Duration, Instant};
use support::{Guest, batch, engine, info, limits, open};

const ENDLESS: &str = "(loop $again (br $again)) (unreachable)";

fn guest_cause(fault: &Fault) -> &GuestCause {
    match fault {
        Fault::Guest(fault) => &fault.cause,
        Fault::Environment(_) => panic!("not the node's fault: {fault}"),
    }
}

fn out_of_fuel(fault: &Fault, limit: u64) {
    assert_eq!(
        guest_cause(fault),
        &GuestCause::OutOfFuel { limit },
        "{fault}"
    );
}

/// The instance is done for and says why; the plugin still makes good ones.
fn check_poisoned(guest: &Guest, machine: &mut dyn Machine) {
    assert!(machine.is_poisoned());
    let fault = machine
        .apply(&batch(&[b"x"]))
        .expect_err("it is poisoned")
        .fault;
    let Fault::Environment(fault) = fault else {
        panic!("{fault}")
    };
    assert!(
        matches!(fault.cause, EnvironmentCause::Poisoned(_)),
        "{fault}"
    );
    assert!(!guest.machine().is_poisoned());
}

/// `apply` that announces three entries and does `body` while the third runs.
fn at_third(body: &str) -> Guest {
    let announce: String = (0..3)
        .map(|n| format!("(call $next_entry (i32.const {n}))"))
        .collect();
    Guest::applying(&format!("{announce} {body}"))
}

#[test]
fn an_endless_loop_in_apply_ends_at_its_entry() {
    let guest = at_third(ENDLESS);
    let mut machine = guest.machine();
    let fault = machine
        .apply(&batch(&[b"a", b"b", b"c", b"d"]))
        .unwrap_err();
    assert_eq!(fault.entry, 2);
    out_of_fuel(&fault.fault, limits().fuel_per_entry);
    let site = fault.fault.site();
    assert_eq!((site.export, site.index), (Export::Apply, Some(12)));
    let text = fault.fault.to_string();
    assert!(text.starts_with("plugin test sha256:"), "{text}");
    assert!(
        text.contains("failed in apply at log index 12: it ran out of fuel"),
        "{text}"
    );
    assert!(text.contains("guest!apply"), "frames are named: {text}");
    check_poisoned(&guest, &mut *machine);
}

#[test]
fn each_entry_has_the_whole_fuel() {
    // Uses a bit more than half of it per entry.
    let body = "(local $n i32) (local $i i32)
        (block $done (loop $next
            (br_if $done (i32.ge_u (local.get $n) (local.get $count)))
            (call $next_entry (local.get $n))
            (local.set $i (i32.const 4000000))
            (loop $burn
                (local.set $i (i32.sub (local.get $i) (i32.const 1)))
                (br_if $burn (local.get $i)))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br $next)))
        (call $answers (local.get $data) (local.get $size) (local.get $ends) (local.get $count))";
    let mut machine = Guest::applying(body).machine();
    machine.apply(&batch(&[b"a", b"b", b"c", b"d"])).unwrap();
    assert!(
        machine.fuel_used() > limits().fuel_per_entry,
        "{}",
        machine.fuel_used()
    );
}

#[test]
fn endless_loops_end_in_every_call() {
    let looping = Guest {
        query: ENDLESS.into(),
        ..Guest::default()
    };
    let mut machine = looping.machine();
    out_of_fuel(&machine.query(b"").unwrap_err(), limits().fuel_per_query);
    check_poisoned(&looping, &mut *machine);

    let temporary = tempfile::tempdir().unwrap();
    let looping = Guest {
        save: ENDLESS.into(),
        load: ENDLESS.into(),
        ..Guest::default()
    };
    let fault = looping
        .machine()
        .save(open(temporary.path()), &info())
        .unwrap_err();
    out_of_fuel(&fault, limits().fuel_per_snapshot);
    let fault = looping
        .machine()
        .load(open(temporary.path()), &info(), &[])
        .unwrap_err();
    out_of_fuel(&fault, limits().fuel_per_snapshot);

    for guest in [
        Guest {
            describe: ENDLESS.into(),
            ..Guest::default()
        },
        Guest {
            items: format!("(func $s {ENDLESS}) (start $s)"),
            ..Guest::default()
        },
    ] {
        let error = engine(limits()).load(&guest.component()).unwrap_err();
        let LoadError::Describe(fault) = &error else {
            panic!("{error}")
        };
        out_of_fuel(fault, limits().fuel_per_start);
        assert!(error.to_string().contains("ran out of fuel"), "{error}");
    }
}

#[test]
fn a_memory_bomb_ends_at_the_limit() {
    let guest =
        at_third("(loop $again (drop (memory.grow (i32.const 16))) (br $again)) (unreachable)");
    let mut machine = guest.machine();
    let fault = machine.apply(&batch(&[b"a", b"b", b"c"])).unwrap_err();
    assert_eq!(fault.entry, 2);
    let limit = limits().memory_size_bytes_max;
    let GuestCause::Memory {
        wanted,
        limit: reached,
    } = guest_cause(&fault.fault)
    else {
        panic!("{}", fault.fault)
    };
    assert_eq!(*reached, limit);
    assert!(
        (limit + 1..=limit + (16 << 16)).contains(wanted),
        "{wanted}"
    );
    assert!(machine.memory_size_bytes() <= limit);
    check_poisoned(&guest, &mut *machine);
}

#[test]
fn too_much_memory_from_the_start_is_refused() {
    let guest = Guest {
        memory: r#"(memory (export "memory") 2000)"#,
        ..Guest::default()
    };
    let error = engine(limits()).load(&guest.component()).unwrap_err();
    let LoadError::Describe(fault) = &error else {
        panic!("{error}")
    };
    assert!(
        matches!(guest_cause(fault), GuestCause::Memory { .. }),
        "{fault}"
    );
}

#[test]
fn a_table_bomb_ends_at_the_limit() {
    let guest = Guest {
        items: "(table $t 1 funcref)".into(),
        ..at_third(
            "(loop $a (drop (table.grow $t (ref.null func) (i32.const 1000))) (br $a)) (unreachable)",
        )
    };
    let fault = guest
        .machine()
        .apply(&batch(&[b"a", b"b", b"c"]))
        .unwrap_err();
    assert!(matches!(
        guest_cause(&fault.fault),
        GuestCause::Table { limit: 10_000, .. }
    ));
}

#[test]
fn deep_recursion_is_the_nodes_fault_and_harmless() {
    let guest = Guest {
        items: "(func $deep (param i64) (result i64)
            (i64.add (call $deep (i64.add (local.get 0) (i64.const 1))) (local.get 0)))"
            .into(),
        ..at_third("(drop (call $deep (i64.const 0))) (unreachable)")
    };
    let mut machine = guest.machine();
    let fault = machine.apply(&batch(&[b"a", b"b", b"c"])).unwrap_err();
    assert_eq!(fault.entry, 2);
    let Fault::Environment(environment) = &fault.fault else {
        panic!("{}", fault.fault)
    };
    assert!(matches!(environment.cause, EnvironmentCause::StackOverflow));
    assert!(environment.site.frames.len() <= 20);
    check_poisoned(&guest, &mut *machine);
}

#[test]
fn traps_are_the_guests_fault() {
    for (body, trap) in [
        ("(unreachable)", Trap::UnreachableCodeReached),
        (
            "(drop (i32.div_u (i32.const 1) (i32.const 0))) (unreachable)",
            Trap::IntegerDivisionByZero,
        ),
        (
            "(drop (i32.load (i32.const -4))) (unreachable)",
            Trap::MemoryOutOfBounds,
        ),
    ] {
        let fault = at_third(body)
            .machine()
            .apply(&batch(&[b"a", b"b", b"c"]))
            .unwrap_err();
        assert_eq!(fault.entry, 2);
        assert_eq!(guest_cause(&fault.fault), &GuestCause::Trap(trap));
    }
}

#[test]
fn a_flood_of_host_calls_ends() {
    let flood = "(loop $again (call $log (i32.const 3) (i32.const 128) (i32.const 4)) (br $again)) (unreachable)";
    let fault = at_third(flood)
        .machine()
        .apply(&batch(&[b"a", b"b", b"c"]))
        .unwrap_err();
    assert_eq!(
        guest_cause(&fault.fault),
        &GuestCause::HostCalls { limit: 10_000 }
    );
}

#[test]
fn long_log_lines_cost_fuel() {
    let flood = "(loop $again (call $log (i32.const 3) (i32.const 0) (i32.const 60000)) (br $again)) (unreachable)";
    let started = Instant::now();
    let fault = at_third(flood)
        .machine()
        .apply(&batch(&[b"a", b"b", b"c"]))
        .unwrap_err();
    out_of_fuel(&fault.fault, limits().fuel_per_entry);
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_log_line_outside_of_memory_is_a_fault() {
    let body = "(call $log (i32.const 3) (i32.const 0) (i32.const -1)) (unreachable)";
    let fault = at_third(body)
        .machine()
        .apply(&batch(&[b"a", b"b", b"c"]))
        .unwrap_err();
    assert!(
        matches!(guest_cause(&fault.fault), GuestCause::Abi(_)),
        "{}",
        fault.fault
    );
}

/// Announces all entries and then returns `data` bytes, `ends` ends and `codes` codes, the ends
/// from address 2048 on.
fn answering(data: u32, ends: u32, codes: u32, end: u32) -> Guest {
    Guest::applying(&format!(
        "{}
        (i32.store (i32.const 2048) (i32.const {end})) (i32.store (i32.const 2052) (i32.const {data}))
        (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const {data}))
        (i32.store (i32.const 8) (i32.const 2048)) (i32.store (i32.const 12) (i32.const {ends}))
        (i32.store (i32.const 16) (i32.const 1024)) (i32.store (i32.const 20) (i32.const {codes}))
        (i32.const 0)",
        "(call $announce_all (local.get $count))"
    ))
    .with("(func $announce_all (param $count i32) (local $n i32)
        (block $done (loop $next
            (br_if $done (i32.ge_u (local.get $n) (local.get $count)))
            (call $next_entry (local.get $n))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br $next))))")
}

fn answers_fault(guest: &Guest) -> (usize, GuestCause) {
    let mut machine = guest.machine();
    let fault = machine
        .apply(&batch(&[b"a", b"b"]))
        .expect_err("the answers are wrong");
    assert_eq!(fault.fault.site().index, Some(10 + fault.entry as u64));
    check_poisoned(guest, &mut *machine);
    (fault.entry, guest_cause(&fault.fault).clone())
}

#[test]
fn answers_must_fit_the_batch() {
    let count = |answers, codes| {
        GuestCause::Answers(MalformedAnswers::Count {
            answers,
            codes,
            entries: 2,
        })
    };
    assert_eq!(answers_fault(&answering(8, 1, 1, 4)), (1, count(1, 1)));
    assert_eq!(answers_fault(&answering(8, 2, 1, 4)), (1, count(1, 1)));
    assert_eq!(answers_fault(&answering(8, 0, 0, 4)), (0, count(0, 0)));
    assert_eq!(answers_fault(&answering(8, 3, 3, 4)), (1, count(3, 3)));
    let ends = |entry| GuestCause::Answers(MalformedAnswers::Ends { entry });
    assert_eq!(answers_fault(&answering(8, 2, 2, 9)), (0, ends(0)));
    answering(8, 2, 2, 4)
        .machine()
        .apply(&batch(&[b"a", b"b"]))
        .unwrap();
}

#[test]
fn a_giant_answer_is_a_reject_of_its_own_entry() {
    let limit = limits().answer_size_bytes_max;
    let giant = limit as u32 + 1;
    let reason = format!(
        "ANSWER_TOO_LARGE: the plugin's answer has {giant} bytes, the limit is {limit}; what the \
         command changed stands"
    );
    for (end, rejected) in [(giant, 0), (0, 1)] {
        let mut machine = answering(giant, 2, 2, end).machine();
        for _ in 0..2 {
            let answers = machine.apply(&batch(&[b"a", b"b"])).unwrap();
            assert_eq!(
                answers.get(rejected),
                Some(Answer::Reject(reason.as_bytes()))
            );
            assert_eq!(answers.get(1 - rejected), Some(Answer::Ok(b"")));
        }
        assert!(!machine.is_poisoned());
    }
    // One entry a call.
    let simple = Guest {
        world: "simple-plugin",
        apply: format!("(call $ok (i32.const 0) (i32.const {giant}))"),
        ..Guest::default()
    };
    let answers = simple.machine().apply(&batch(&[b"a", b"b"])).unwrap();
    assert!(
        answers
            .iter()
            .all(|answer| answer == Answer::Reject(reason.as_bytes()))
    );

    // More than the host takes in one call at all.
    let huge = Guest {
        memory: r#"(memory (export "memory") 1000)"#,
        ..answering(60 << 20, 2, 2, 0)
    };
    let fault = huge.machine().apply(&batch(&[b"a", b"b"])).unwrap_err();
    assert!(
        matches!(guest_cause(&fault.fault), GuestCause::DataTooLong { .. }),
        "{}",
        fault.fault
    );

    let query = format!("(call $ok (i32.const 0) (i32.const {giant}))");
    let guest = Guest {
        query,
        ..Guest::default()
    };
    let mut machine = guest.machine();
    let reason = machine.query(b"").unwrap().unwrap_err();
    assert!(reason.starts_with("ANSWER_TOO_LARGE: "), "{reason}");
    assert!(!machine.is_poisoned(), "a query's answer changes nothing");
}

/// The name of the function that traps stands for 164 MB of text, or is an order to a terminal.
#[test]
fn names_of_functions_are_bounded_and_harmless_in_a_fault() {
    let reference = |n: usize| match n {
        0 => "S_".to_owned(),
        n => format!("S{}_", char::from(b"0123456789ABCDEFGHIJ"[n - 1])),
    };
    let levels = (1..=8).map(|level| format!("S_I{}E", reference(level).repeat(8)));
    let exploding = format!("_Z1f1AIiE{}", levels.collect::<String>());
    let escape = "\\1b[2J\\nERROR forged line".to_owned();
    for name in [exploding, escape, "long".repeat(10_000)] {
        let items = format!("(func $deep (@name \"{name}\") (result i32) unreachable)");
        let guest = at_third("(call $deep)").with(&items);
        let started = Instant::now();
        let fault = guest
            .machine()
            .apply(&batch(&[b"a", b"b", b"c"]))
            .unwrap_err()
            .fault;
        let text = fault.to_string();
        assert!(text.len() < 10_000, "{} bytes", text.len());
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert!(
            text.lines().all(|line| !line.starts_with("ERROR")),
            "{text}"
        );
        assert!(started.elapsed() < Duration::from_secs(20));
        let headline = fault.headline();
        assert!(
            !headline.contains('\n') && text.starts_with(&headline),
            "{headline}"
        );
    }
    // In the start function, where the error is put into words in another way.
    let guest = Guest::default().with("(func $s (@name \"\\1b[2J\") unreachable) (start $s)");
    let error = engine(limits()).load(&guest.component()).unwrap_err();
    assert!(!error.to_string().contains('\u{1b}'), "{error}");
}

#[test]
fn entries_are_announced_in_order() {
    let done =
        "(call $answers (local.get $data) (local.get $size) (local.get $ends) (local.get $count))";
    let cause = |announced: &[u32]| {
        let announce: String = announced
            .iter()
            .map(|n| format!("(call $next_entry (i32.const {n}))"))
            .collect();
        let guest = Guest::applying(&format!("{announce} {done}"));
        let fault = guest.machine().apply(&batch(&[b"a", b"b"])).unwrap_err();
        assert!(fault.entry < 2);
        match guest_cause(&fault.fault) {
            GuestCause::Protocol(violation) => violation.clone(),
            other => panic!("{other}"),
        }
    };
    assert_eq!(
        cause(&[1]),
        ProtocolViolation::OutOfOrder {
            announced: 1,
            expected: 0
        }
    );
    assert_eq!(
        cause(&[0, 0]),
        ProtocolViolation::OutOfOrder {
            announced: 0,
            expected: 1
        }
    );
    assert_eq!(
        cause(&[0, 1, 2]),
        ProtocolViolation::TooMany {
            announced: 2,
            entries: 2
        }
    );
    assert_eq!(
        cause(&[0]),
        ProtocolViolation::TooFew {
            announced: 1,
            entries: 2
        }
    );
    assert_eq!(
        cause(&[]),
        ProtocolViolation::TooFew {
            announced: 0,
            entries: 2
        }
    );
}

#[test]
fn entries_are_announced_in_apply_only() {
    let announce = "(call $next_entry (i32.const 0)) (call $ok (i32.const 0) (i32.const 0))";
    let expected = GuestCause::Protocol(ProtocolViolation::NotApplying);
    let guest = Guest {
        query: announce.into(),
        ..Guest::default()
    };
    assert_eq!(
        guest_cause(&guest.machine().query(b"").unwrap_err()),
        &expected
    );
    let guest = Guest {
        world: "simple-plugin",
        apply: announce.into(),
        ..Guest::default()
    };
    let fault = guest.machine().apply(&batch(&[b"a"])).unwrap_err();
    assert_eq!(guest_cause(&fault.fault), &expected);
}

#[test]
fn a_trap_in_a_snapshot_ends_the_instance_only() {
    let temporary = tempfile::tempdir().unwrap();
    let guest = Guest {
        save: "(unreachable)".into(),
        load: "(unreachable)".into(),
        ..Guest::default()
    };
    let mut machine = guest.machine();
    let fault = machine.save(open(temporary.path()), &info()).unwrap_err();
    assert_eq!(
        guest_cause(&fault),
        &GuestCause::Trap(Trap::UnreachableCodeReached)
    );
    assert_eq!(fault.site().export, Export::Save);
    check_poisoned(&guest, &mut *machine);
    let mut machine = guest.machine();
    let fault = machine
        .load(open(temporary.path()), &info(), &[])
        .unwrap_err();
    assert_eq!(fault.site().export, Export::Load);
    check_poisoned(&guest, &mut *machine);
}

#[test]
fn a_refused_snapshot_leaves_the_instance_alone() {
    let temporary = tempfile::tempdir().unwrap();
    let no = "(call $no (i32.const 136) (i32.const 5))";
    let guest = Guest {
        save: no.into(),
        load: no.into(),
        ..Guest::default()
    };
    let mut machine = guest.machine();
    let fault = machine.save(open(temporary.path()), &info()).unwrap_err();
    assert_eq!(
        guest_cause(&fault),
        &GuestCause::Refused("1.2.3".to_owned())
    );
    machine.apply(&batch(&[b"goes on"])).unwrap();
    let mut machine = guest.machine();
    machine
        .load(open(temporary.path()), &info(), &[])
        .unwrap_err();
    check_poisoned(&guest, &mut *machine);
}

/// `save` that does `body` with the snapshot directory in the local `$d`.
fn saving(data: &str, body: &str) -> Guest {
    Guest {
        items: format!(r#"(data (i32.const 200) "{data}") (global $kept (mut i32) (i32.const 0))"#),
        save: format!(
            "(local $d i32) (local $i i32)
            (local.set $d (call $writer_directory (local.get $writer)))
            {body}
            (call $ok (i32.const 0) (i32.const 0))"
        ),
        ..Guest::default()
    }
}

/// Opens the path of `size` bytes at address 200 to create and write it; its result is at 256.
fn open_path(size: usize) -> String {
    format!(
        "(call $open_at (local.get $d) (i32.const 1) (i32.const 200) (i32.const {size})
            (i32.const 1) (i32.const 2) (i32.const 256))"
    )
}

#[test]
fn paths_do_not_leave_the_snapshot() {
    let temporary = tempfile::tempdir().unwrap();
    let inside = temporary.path().join("snapshot");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(temporary.path().join("secret"), b"1234").unwrap();
    std::os::unix::fs::symlink("../secret", inside.join("link")).unwrap();
    std::os::unix::fs::symlink("..", inside.join("up")).unwrap();
    let absolute = temporary.path().join("secret").to_str().unwrap().to_owned();
    for path in [
        "../new",
        "../secret",
        "a/../../new",
        "link",
        "up/secret",
        "up/new",
        &absolute,
    ] {
        // Traps if it was opened.
        let body = format!(
            "{} (if (i32.eqz (i32.load8_u (i32.const 256))) (then (unreachable)))",
            open_path(path.len())
        );
        let files = saving(path, &body).machine().save(open(&inside), &info());
        assert_eq!(files.unwrap(), [], "{path}");
    }
    assert_eq!(
        std::fs::read(temporary.path().join("secret")).unwrap(),
        b"1234"
    );
    assert!(!temporary.path().join("new").exists());
}

#[test]
fn only_regular_files_get_into_a_snapshot() {
    let temporary = tempfile::tempdir().unwrap();
    std::fs::write(temporary.path().join("real"), b"x").unwrap();
    std::fs::create_dir(temporary.path().join("dirs")).unwrap();
    std::os::unix::fs::symlink("real", temporary.path().join("link")).unwrap();
    for name in ["link", "dirs", "none", "../x"] {
        let add = format!(
            "(call $writer_add (local.get $writer) (i32.const 200) (i32.const {}) (i32.const 0) (i32.const 0) (i32.const 256))
            (if (i32.eqz (i32.load8_u (i32.const 256))) (then (unreachable)))",
            name.len()
        );
        saving(name, &add)
            .machine()
            .save(open(temporary.path()), &info())
            .unwrap();
    }
}

#[test]
fn a_file_that_grows_for_ever_ends_the_snapshot_only() {
    let temporary = tempfile::tempdir().unwrap();
    // Writes 64 KiB pieces until it is told no.
    let grow = format!(
        "{} (block $full (loop $more
            (call $write (i32.load (i32.const 260)) (i32.const 0) (i32.const 65536)
                (i64.mul (i64.extend_i32_u (local.get $i)) (i64.const 65536)) (i32.const 272))
            (br_if $full (i32.load8_u (i32.const 272)))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br $more)))",
        open_path(4)
    );
    let mut machine = saving("file", &grow).machine();
    let limit = limits().snapshot_size_bytes_max;
    for _ in 0..2 {
        let fault = machine.save(open(temporary.path()), &info()).unwrap_err();
        let expected = GuestCause::Snapshot(SnapshotViolation::TooLarge { limit });
        assert_eq!(guest_cause(&fault), &expected);
        assert_eq!(
            std::fs::metadata(temporary.path().join("file"))
                .unwrap()
                .len(),
            limit
        );
    }
    machine.apply(&batch(&[b"goes on"])).unwrap();
}

#[test]
fn holes_count() {
    let add = "(call $writer_add (local.get $writer) (i32.const 200) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 256))";
    let far = "(call $write (i32.load (i32.const 260)) (i32.const 0) (i32.const 1) (i64.const 1000000000000) (i32.const 272))";
    let long =
        "(call $set_size (i32.load (i32.const 260)) (i64.const 1000000000000) (i32.const 272))";
    for holes in [far, long] {
        let temporary = tempfile::tempdir().unwrap();
        let mut machine = saving("file", &format!("{} {holes} {add}", open_path(4))).machine();
        let fault = machine.save(open(temporary.path()), &info()).unwrap_err();
        let violation = matches!(
            guest_cause(&fault),
            GuestCause::Snapshot(SnapshotViolation::TooLarge { .. })
        );
        assert!(violation, "{fault}");
        assert!(!machine.is_poisoned());
    }
}

#[test]
fn thousands_of_directories_end_the_snapshot_only() {
    let temporary = tempfile::tempdir().unwrap();
    // Names of four characters that count up.
    let many = "(loop $more
        (i32.store (i32.const 200) (i32.add (i32.const 0x61616161)
            (i32.or (i32.and (local.get $i) (i32.const 7))
                (i32.or (i32.shl (i32.and (local.get $i) (i32.const 56)) (i32.const 5))
                    (i32.shl (i32.and (local.get $i) (i32.const 448)) (i32.const 10))))))
        (call $create_directory (local.get $d) (i32.const 200) (i32.const 4) (i32.const 256))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $more (i32.lt_u (local.get $i) (i32.const 500))))";
    let mut machine = saving("", many).machine();
    let fault = machine.save(open(temporary.path()), &info()).unwrap_err();
    let expected = GuestCause::Snapshot(SnapshotViolation::TooManyFiles { limit: 100 });
    assert_eq!(guest_cause(&fault), &expected);
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 100);
    assert!(!machine.is_poisoned());
}

#[test]
fn no_handle_outlives_its_call() {
    let temporary = tempfile::tempdir().unwrap();
    let guest = Guest {
        // Tries to go on with the directory of the last snapshot.
        query: "(local $d i32) (local.set $d (global.get $kept))
            (call $open_at (local.get $d) (i32.const 0) (i32.const 200) (i32.const 4)
                (i32.const 1) (i32.const 2) (i32.const 256))
            (call $ok (i32.const 256) (i32.const 1))"
            .into(),
        ..saving("file", "(global.set $kept (local.get $d))")
    };
    let mut machine = guest.machine();
    machine.save(open(temporary.path()), &info()).unwrap();
    let fault = machine.query(b"").unwrap_err();
    assert!(matches!(guest_cause(&fault), GuestCause::Abi(_)), "{fault}");
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
    check_poisoned(&guest, &mut *machine);
}

#[test]
fn a_loaded_snapshot_cannot_be_changed() {
    let temporary = tempfile::tempdir().unwrap();
    let guest = Guest {
        items: r#"(data (i32.const 200) "file")"#.into(),
        load: format!(
            "(local $d i32) (local.set $d (call $reader_directory (local.get $reader)))
            {} (if (i32.eqz (i32.load8_u (i32.const 256))) (then (unreachable)))
            (call $ok (i32.const 0) (i32.const 0))",
            open_path(4)
        ),
        ..Guest::default()
    };
    guest
        .machine()
        .load(open(temporary.path()), &info(), &[])
        .unwrap();
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn a_flood_of_handles_ends() {
    let temporary = tempfile::tempdir().unwrap();
    let flood = "(loop $more (drop (call $writer_directory (local.get $writer))) (br $more))";
    let mut machine = saving("", flood).machine();
    let fault = machine.save(open(temporary.path()), &info()).unwrap_err();
    let limit = limits().handles_max as u64;
    assert_eq!(guest_cause(&fault), &GuestCause::Handles { limit });
}
