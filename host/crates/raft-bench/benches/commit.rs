//! Criterion's view of the same rounds: `cargo bench`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kontiki_raft_bench::{Group, Ours, Theirs, measure};

fn commit(criterion: &mut Criterion) {
    for members in [3, 5] {
        for batch in [1, 256] {
            let mut group = criterion.benchmark_group(format!("{members} members, batch {batch}"));
            group.throughput(Throughput::Elements(batch as u64));
            let id = BenchmarkId::from_parameter("kontiki");
            let mut ours = Ours::start(members);
            group.bench_function(id, |b| b.iter_custom(|n| measure(&mut ours, batch, n)));
            let id = BenchmarkId::from_parameter("raft-rs");
            let mut theirs = Theirs::start(members);
            group.bench_function(id, |b| b.iter_custom(|n| measure(&mut theirs, batch, n)));
            group.finish();
        }
    }
}

criterion_group!(benches, commit);
criterion_main!(benches);
