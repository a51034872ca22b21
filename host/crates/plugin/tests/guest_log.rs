//! What a plugin logs, and what becomes of too much of it.

mod support;

use kontiki_plugin::Limits;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use support::{Guest, batch, engine, limits};
use tracing::field::{Field, Visit};
use tracing::span;

/// Collects the lines of guests.
#[derive(Clone, Default)]
struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    count: Arc<AtomicUsize>,
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() != "message" {
            self.0 += &format!("{}={value:?} ", field.name());
        }
    }
}

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "kontiki::guest"
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text(format!("{} ", event.metadata().level()));
        event.record(&mut text);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.lines
            .lock()
            .expect("no test panics while it holds it")
            .push(text.0);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Logs `lines` lines at entry 0, then answers.
fn logging(lines: u32) -> Guest {
    Guest::applying(&format!(
        "(local $i i32)
        (call $next_entry (i32.const 0))
        (loop $more
            (call $log (i32.const 1) (i32.const 128) (i32.const 4))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $i) (i32.const {lines}))))
        (call $answers (local.get $data) (local.get $size) (local.get $ends) (local.get $count))"
    ))
}

#[test]
fn lines_name_the_plugin_and_stop_while_replaying() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let mut machine = logging(1).machine();
    machine.set_replaying(true);
    machine.apply(&batch(&[b"x"])).unwrap();
    assert_eq!(lines.count.load(Ordering::Relaxed), 0);
    machine.set_replaying(false);
    machine.apply(&batch(&[b"x"])).unwrap();
    let lines = lines.lines.lock().unwrap();
    assert_eq!(lines.as_slice(), [r#"WARN plugin="test" text="test" "#]);
}

#[test]
fn a_flood_of_lines_is_dropped_and_answered_all_the_same() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let limits = Limits {
        log_lines_per_second: 20,
        ..limits()
    };
    let plugin = engine(limits).load(&logging(9_000).component()).unwrap();
    let started = std::time::Instant::now();
    let answers = plugin
        .instantiate()
        .unwrap()
        .apply(&batch(&[b"x"]))
        .unwrap();
    assert_eq!(answers.len(), 1);
    // One second's worth, and the next one's for each further second that it took.
    let most = 21 * (1 + started.elapsed().as_secs() as usize + 1);
    let count = lines.count.load(Ordering::Relaxed);
    assert!((20..=most).contains(&count), "{count} lines");
}
