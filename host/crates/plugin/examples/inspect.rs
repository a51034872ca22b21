//! Loads a component, and says what it is: `cargo run --example inspect FILE [ENTRY…]`. Entries are
//! applied in one batch.

use kontiki_plugin::{Batch, Engine, Limits};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("usage: inspect FILE [ENTRY…]")?;
    let engine = Engine::new(Limits::default())?;
    println!(
        "profile {} {}",
        engine.profile().number(),
        engine.profile().fingerprint()
    );
    let plugin = engine.load(&std::fs::read(file)?)?;
    println!(
        "{} {:?} {:?}",
        plugin.digest(),
        plugin.contract(),
        plugin.description()
    );
    println!("imports {}", plugin.imports().join(" "));
    println!("exports {}", plugin.exports().join(" "));
    let entries: Vec<_> = arguments.collect();
    let mut batch = Batch::new();
    for (index, entry) in entries.iter().enumerate() {
        batch.push(index as u64 + 1, 0, entry.as_bytes());
    }
    let mut machine = plugin.instantiate()?;
    for answer in machine.apply(&batch)?.iter() {
        let kind = if answer.is_reject() { "no" } else { "ok" };
        println!("{kind} {}", String::from_utf8_lossy(answer.bytes()));
    }
    println!(
        "fuel {} memory {}",
        machine.fuel_used(),
        machine.memory_size_bytes()
    );
    Ok(())
}
