//! What is no plugin is refused, with a message that says why.

mod support;

use kontiki_plugin::{DescriptionError, Limits, LoadError, componentize};
use support::{Guest, components, engine, limits};

fn refuse(bytes: &[u8]) -> (LoadError, String) {
    let error = engine(limits())
        .load(bytes)
        .expect_err("these bytes are no plugin");
    let text = error.to_string();
    (error, text)
}

fn refuse_text(text: &str) -> (LoadError, String) {
    refuse(&wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}")))
}

#[test]
fn bytes_that_are_no_wasm_are_named() {
    for (bytes, kind) in [
        (b"".as_slice(), "an empty file"),
        (b"(module)", "WebAssembly text"),
        (b"\n (component)", "WebAssembly text"),
        (b"\x7fELF\x02", "a native program"),
        (b"!<arch>\n", "a static library"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (b"hello", "no WebAssembly file"),
    ] {
        let (error, text) = refuse(bytes);
        assert!(matches!(error, LoadError::NotWasm(_)), "{text}");
        assert!(text.contains(kind), "{text}");
    }
}

#[test]
fn a_core_module_is_no_component() {
    let (error, text) = refuse_text("(module)");
    assert!(matches!(error, LoadError::CoreModule));
    assert!(
        text.contains("build it with `kontiki plugin build`"),
        "{text}"
    );
}

#[test]
fn a_damaged_component_is_refused() {
    let component = Guest::default().component();
    for length in [8, 9, 100, component.len() / 2, component.len() - 1] {
        let (_, text) = refuse(&component[..length]);
        assert!(text.starts_with("the component"), "{length}: {text}");
    }
    // Whatever byte is damaged: an error or a plugin, never more.
    let engine = engine(limits());
    for at in (8..component.len()).step_by(97) {
        let mut damaged = component.clone();
        damaged[at] ^= 0x55;
        if let Err(error) = engine.load(&damaged) {
            assert!(!error.to_string().is_empty());
        }
    }
}

#[test]
fn too_large_components_and_functions_are_refused() {
    let component = Guest::default().component();
    let size_bytes = component.len() as u64;
    let load = |limits: Limits| engine(limits).load(&component).unwrap_err().to_string();
    let text = load(Limits {
        component_size_bytes_max: size_bytes - 1,
        ..limits()
    });
    assert!(
        text.contains(&format!("has {size_bytes} bytes; the limit is")),
        "{text}"
    );
    let text = load(Limits {
        functions_max: 5,
        ..limits()
    });
    assert!(text.contains("functions; the limit is 5"), "{text}");
    let text = load(Limits {
        function_size_bytes_max: 20,
        ..limits()
    });
    assert!(text.contains("has a function of"), "{text}");
}

#[test]
fn a_component_must_export_one_machine() {
    let (error, text) = refuse_text("(component)");
    assert!(matches!(error, LoadError::NoExport { .. }));
    assert!(
        text.contains("kontiki:plugin/machine") && text.contains("it exports nothing"),
        "{text}"
    );

    let (_, text) =
        refuse_text(r#"(component (instance $i) (export "x:y/z@1.0.0" (instance $i)))"#);
    assert!(text.contains("it exports x:y/z@1.0.0"), "{text}");

    let (_, text) = refuse_text(
        r#"(component (instance $i) (export "kontiki:plugin/machine@2.0.0" (instance $i)))"#,
    );
    assert!(
        text.contains("it exports kontiki:plugin/machine@2.0.0"),
        "{text}"
    );

    let (error, _) = refuse_text(
        r#"(component (instance $i)
            (export "kontiki:plugin/machine@1.0.0" (instance $i))
            (export "kontiki:plugin/simple-machine@1.0.0" (instance $i)))"#,
    );
    assert!(matches!(error, LoadError::TwoExports));
}

#[test]
fn an_export_must_have_its_type() {
    let (error, text) = refuse_text(
        r#"(component (instance $i) (export "kontiki:plugin/machine@1.0.0" (instance $i)))"#,
    );
    assert!(matches!(error, LoadError::WrongExport(_)), "{text}");
    assert!(
        text.contains("describe"),
        "the missing function is named: {text}"
    );
}

#[test]
fn unknown_imports_are_named() {
    let (error, text) = refuse_text(
        r#"(component
            (import "wasi:http/types@0.2.0" (instance))
            (import "kontiki:plugin/store@1.0.0" (instance)))"#,
    );
    assert!(matches!(error, LoadError::UnknownImports(_)), "{text}");
    assert!(
        text.contains("wasi:http/types@0.2.0, kontiki:plugin/store@1.0.0"),
        "{text}"
    );
    let (_, text) = refuse_text(r#"(component (import "run" (func)))"#);
    assert!(text.contains("imports run,"), "{text}");
}

#[test]
fn an_import_must_have_its_type() {
    let (error, text) = refuse_text(
        r#"(component
            (import "kontiki:plugin/host@1.0.0" (instance
                (export "next-entry" (func (param "n" string)))))
            (instance $i) (export "kontiki:plugin/machine@1.0.0" (instance $i)))"#,
    );
    assert!(matches!(error, LoadError::WrongImport(_)), "{text}");
    assert!(text.contains("next-entry"), "{text}");
    let (error, text) = refuse_text(
        r#"(component
            (import "kontiki:plugin/host@1.0.0" (instance (export "fly" (func))))
            (instance $i) (export "kontiki:plugin/machine@1.0.0" (instance $i)))"#,
    );
    assert!(
        matches!(error, LoadError::WrongImport(_)) && text.contains("fly"),
        "{text}"
    );
}

#[test]
fn a_plugin_must_describe_itself_well() {
    let with_name = |name: &str| {
        let describe = Guest::default().describe.replacen(
            "(i32.const 4)",
            &format!("(i32.const {})", name.len()),
            1,
        );
        Guest {
            describe,
            items: format!(r#"(data (i32.const 128) "{name}")"#),
            ..Guest::default()
        }
    };
    engine(limits())
        .load(&with_name("good-1").component())
        .unwrap();
    for name in ["Bad", "a b", ""] {
        let (error, text) = refuse(&with_name(name).component());
        let LoadError::Description(DescriptionError::Name(refused)) = &error else {
            panic!("{text}")
        };
        assert_eq!(refused, name);
        assert!(
            text.contains("the plugin describes itself wrongly: its name"),
            "{text}"
        );
    }
    let describe = Guest::default()
        .describe
        .replacen("(i32.const 3)", "(i32.const 9)", 1);
    let (_, text) = refuse(
        &Guest {
            describe,
            ..Guest::default()
        }
        .component(),
    );
    assert!(
        text.contains("it writes state format 9 but reads only [3]"),
        "{text}"
    );
}

#[test]
fn a_plugin_that_traps_while_it_starts_is_refused() {
    let (error, text) = refuse(
        &Guest {
            describe: "(unreachable)".into(),
            ..Guest::default()
        }
        .component(),
    );
    assert!(matches!(error, LoadError::Describe(_)), "{text}");
    assert!(
        text.contains("failed in describe: it trapped: wasm `unreachable`"),
        "{text}"
    );
}

#[test]
fn the_projects_own_plugins_load() {
    let engine = engine(Limits::default());
    for name in ["counter", "atomic"] {
        let plugin = engine.load(&components::read(name)).unwrap();
        assert_eq!(plugin.description().name, name);
    }
}

#[test]
fn componentize_refuses_what_is_no_module() {
    let error = componentize(&Guest::default().component()).unwrap_err();
    assert_eq!(error.to_string(), "this is a component already");
    let error = componentize(b"nothing").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("the module does not become a component"),
        "{error}"
    );
    let module = wat::parse_str(r#"(module (import "env" "f" (func)))"#).unwrap();
    let error = componentize(&module).unwrap_err();
    assert!(error.to_string().contains("env"), "{error}");
}

#[test]
fn plugins_that_nothing_runs_are_let_go_but_for_a_few() {
    let engine = engine(limits());
    let load = |n: u32| {
        let guest = Guest::default().with(&format!("(global i32 (i32.const {n}))"));
        engine.load(&guest.component()).unwrap()
    };
    let used = load(0);
    let (machine, digest) = (used.instantiate().unwrap(), used.digest());
    drop(used);
    let first = load(1).digest();
    for n in 2..=6 {
        load(n);
    }
    assert!(engine.plugin(&digest).is_some(), "an instance of it runs");
    assert!(engine.plugin(&first).is_none());
    drop(machine);
}
