//! The stand-ins, called as a guest would call them.

use super::*;
use crate::fault::{Export, GuestCause, SnapshotViolation, Stop};
use crate::host::{Access, Session, SnapshotAccess};
use crate::{Batch, InstanceOptions, Limits, SnapshotInfo};
use cap_std::fs::Dir;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use wasmtime::component::Resource;
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p2::bindings::cli::stdout;
use wasmtime_wasi::p2::bindings::clocks::{monotonic_clock, wall_clock};
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;
use wasmtime_wasi::p2::bindings::sync::filesystem::preopens;
use wasmtime_wasi::p2::bindings::sync::filesystem::types::{
    DescriptorFlags, HostDescriptor, HostDirectoryEntryStream, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::bindings::sync::io::poll::{Host as _, HostPollable};
use wasmtime_wasi::p2::bindings::sync::io::streams::{self, HostInputStream, HostOutputStream};
use wasmtime_wasi::p2::{FsResult, StreamError};

fn state() -> HostState {
    let limits = Limits {
        snapshot_size_bytes_max: 100_000,
        snapshot_files_max: 10,
        host_calls_per_snapshot: 1_000,
        host_calls_per_entry: 100,
        ..Limits::default()
    };
    let options = InstanceOptions { seed: 7 };
    let mut state = HostState::new(Arc::new(limits), "test", options).unwrap();
    state.begin(Export::Start);
    state
}

fn begin(state: &mut HostState, access: Access, path: &Path) {
    state.begin(match access {
        Access::Write => Export::Save,
        Access::Read => Export::Load,
    });
    let directory = Dir::open_ambient_dir(path, cap_std::ambient_authority()).unwrap();
    let info = SnapshotInfo::default();
    state
        .snapshot
        .begin(&mut state.table, access, directory, &info, &[])
        .unwrap();
}

fn end(state: &mut HostState) -> Session {
    SnapshotAccess::end(&mut state.snapshot, &mut state.table).unwrap()
}

/// The preopens, `/snapshot/out` and `/snapshot/in`.
fn preopened(state: &mut HostState) -> [Resource<Descriptor>; 2] {
    let directories = preopens::Host::get_directories(state).unwrap();
    let paths: Vec<_> = directories.iter().map(|(_, path)| path.as_str()).collect();
    assert_eq!(paths, ["/snapshot/out", "/snapshot/in"]);
    let [(out, _), (r#in, _)] = directories.try_into().unwrap();
    [out, r#in]
}

fn again(descriptor: &Resource<Descriptor>) -> Resource<Descriptor> {
    Resource::new_borrow(descriptor.rep())
}

fn create(
    state: &mut HostState,
    at: &Resource<Descriptor>,
    path: &str,
) -> FsResult<Resource<Descriptor>> {
    let flags = DescriptorFlags::READ | DescriptorFlags::WRITE;
    state.open_at(
        again(at),
        PathFlags::empty(),
        path.to_owned(),
        OpenFlags::CREATE,
        flags,
    )
}

#[track_caller]
fn code<T>(result: FsResult<T>) -> ErrorCode {
    match result {
        Ok(_) => panic!("it was allowed"),
        Err(error) => error.downcast().unwrap(),
    }
}

#[test]
fn preopens_mean_the_directory_of_the_running_call() {
    let mut state = state();
    let [out, r#in] = preopened(&mut state);
    assert!(matches!(
        code(create(&mut state, &out, "file")),
        ErrorCode::NoEntry
    ));
    for round in 0..2 {
        let temporary = tempfile::tempdir().unwrap();
        begin(&mut state, Access::Write, temporary.path());
        let file = create(&mut state, &out, "file").unwrap();
        HostDescriptor::write(
            &mut state,
            again(&file),
            format!("round {round}").into_bytes(),
            0,
        )
        .unwrap();
        assert!(matches!(
            code(create(&mut state, &r#in, "file")),
            ErrorCode::NoEntry
        ));
        end(&mut state);
        assert!(matches!(
            code(create(&mut state, &out, "file")),
            ErrorCode::NoEntry
        ));
        assert!(
            state.stat(again(&file)).is_err(),
            "the file's handle is gone"
        );
        let text = std::fs::read_to_string(temporary.path().join("file")).unwrap();
        assert_eq!(text, format!("round {round}"));

        begin(&mut state, Access::Read, temporary.path());
        let flags = DescriptorFlags::READ;
        let file = state
            .open_at(
                again(&r#in),
                PathFlags::empty(),
                "file".into(),
                OpenFlags::empty(),
                flags,
            )
            .unwrap();
        assert_eq!(
            HostDescriptor::read(&mut state, again(&file), 100, 0)
                .unwrap()
                .0,
            text.as_bytes()
        );
        assert!(matches!(
            code(create(&mut state, &r#in, "new")),
            ErrorCode::NotPermitted
        ));
        assert!(matches!(
            code(create(&mut state, &out, "new")),
            ErrorCode::NoEntry
        ));
        end(&mut state);
    }
    // The C library drops nothing and asks once; others may do both.
    HostDescriptor::drop(&mut state, out).unwrap();
    preopened(&mut state);
}

#[test]
fn a_snapshot_has_no_links() {
    let temporary = tempfile::tempdir().unwrap();
    let mut state = state();
    let [out, _] = preopened(&mut state);
    begin(&mut state, Access::Write, temporary.path());
    create(&mut state, &out, "file").unwrap();
    let symlink = state.symlink_at(again(&out), "/etc/passwd".into(), "link".into());
    assert!(matches!(code(symlink), ErrorCode::NotPermitted));
    let (flags, file, link) = (PathFlags::empty(), "file".to_owned(), "link".to_owned());
    let link = state.link_at(again(&out), flags, file, again(&out), link);
    assert!(matches!(code(link), ErrorCode::NotPermitted));
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 1);
}

#[test]
fn what_differs_between_nodes_is_not_shown() {
    let temporary = tempfile::tempdir().unwrap();
    let mut state = state();
    let [out, _] = preopened(&mut state);
    begin(&mut state, Access::Write, temporary.path());
    let mut numbers = Vec::new();
    for name in ["c", "a", "b"] {
        let file = create(&mut state, &out, name).unwrap();
        let stat = state.stat(again(&file)).unwrap();
        assert!(stat.data_modification_timestamp.is_none() && stat.link_count == 1);
        numbers.push(state.metadata_hash(file).unwrap().lower);
    }
    assert_eq!(numbers, [1, 2, 3]);
    let at = state
        .metadata_hash_at(again(&out), PathFlags::empty(), "a".into())
        .unwrap();
    assert_eq!(at.lower, 2);
    let listing = state.read_directory(again(&out)).unwrap();
    let mut names = Vec::new();
    while let Some(entry) = state
        .read_directory_entry(Resource::new_borrow(listing.rep()))
        .unwrap()
    {
        names.push(entry.name);
    }
    assert_eq!(names, ["a", "b", "c"]);
    HostDirectoryEntryStream::drop(&mut state, listing).unwrap();
}

#[test]
fn streams_read_and_write_files_within_the_limits() {
    let temporary = tempfile::tempdir().unwrap();
    let mut state = state();
    let [out, _] = preopened(&mut state);
    begin(&mut state, Access::Write, temporary.path());
    let file = create(&mut state, &out, "file").unwrap();
    let stream = state.write_via_stream(again(&file), 2).unwrap();
    let to = || Resource::new_borrow(stream.rep());
    assert!(state.check_write(to()).unwrap() >= 4096);
    HostOutputStream::write(&mut state, to(), b"cd".to_vec()).unwrap();
    state
        .blocking_write_and_flush(to(), b"ef".to_vec())
        .unwrap();
    let append = state.append_via_stream(again(&file)).unwrap();
    HostOutputStream::write(&mut state, append, b"gh".to_vec()).unwrap();
    assert_eq!(
        std::fs::read(temporary.path().join("file")).unwrap(),
        b"\0\0cdefgh"
    );

    let from = state.read_via_stream(again(&file), 4).unwrap();
    let from = || Resource::new_borrow(from.rep());
    assert_eq!(
        HostInputStream::read(&mut state, from(), 3).unwrap(),
        b"efg"
    );
    assert_eq!(state.blocking_read(from(), 100).unwrap(), b"h");
    assert!(matches!(
        state.blocking_read(from(), 1),
        Err(StreamError::Closed)
    ));

    let pollable = HostOutputStream::subscribe(&mut state, to()).unwrap();
    assert_eq!(
        state
            .poll(vec![Resource::new_borrow(pollable.rep())])
            .unwrap(),
        [0]
    );
    HostPollable::drop(&mut state, pollable).unwrap();

    let piece = vec![0; 60_000];
    HostOutputStream::write(&mut state, to(), piece.clone()).unwrap();
    let refused = HostOutputStream::write(&mut state, to(), piece);
    assert!(matches!(refused, Err(StreamError::LastOperationFailed(_))));
    let session = end(&mut state);
    let Err(Stop::Guest(GuestCause::Snapshot(violation))) = session.check_limits() else {
        panic!("the limit is remembered");
    };
    assert_eq!(violation, SnapshotViolation::TooLarge { limit: 100_000 });
    let late = HostOutputStream::write(&mut state, to(), vec![1]);
    assert!(
        matches!(late, Err(StreamError::Trap(_))),
        "the stream's handle is gone"
    );
}

/// Linux has a device that is always full.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_the_nodes_fault() {
    let temporary = tempfile::tempdir().unwrap();
    let mut state = state();
    begin(&mut state, Access::Write, temporary.path());
    let full = Path::new("/dev/full");
    let file = Arc::new(std::fs::OpenOptions::new().write(true).open(full).unwrap());
    let stream = state
        .table
        .push(OutputStream::File {
            file,
            position: Some(0),
        })
        .unwrap();
    let stream = Resource::new_borrow(stream.rep());
    let failed = HostOutputStream::write(&mut state, stream, vec![1; 10]);
    assert!(matches!(failed, Err(StreamError::LastOperationFailed(_))));
    let mut session = end(&mut state);
    assert!(matches!(session.check_io(), Err(Stop::Environment(_))));
}

#[test]
fn standard_streams_stay_for_good() {
    let mut state = state();
    let stdout = c::stdout::Host::get_stdout(&mut state).unwrap();
    let rep = stdout.rep();
    HostOutputStream::drop(&mut state, stdout).unwrap();
    HostOutputStream::write(&mut state, Resource::new_borrow(rep), b"line\n".to_vec()).unwrap();
    let stdin = c::stdin::Host::get_stdin(&mut state).unwrap();
    assert!(matches!(
        state.blocking_read(stdin, 1),
        Err(StreamError::Closed)
    ));
    assert!(
        c::environment::Host::get_environment(&mut state)
            .unwrap()
            .is_empty()
    );
    assert!(
        c::environment::Host::get_arguments(&mut state)
            .unwrap()
            .is_empty()
    );
    let exit = c::exit::Host::exit(&mut state, Ok(())).unwrap_err();
    let Some(Stop::Guest(cause)) = exit.downcast_ref::<Stop>() else {
        panic!("{exit}")
    };
    assert_eq!(cause, &GuestCause::Exit);
}

#[test]
fn clocks_show_the_entrys_time_and_sleep_takes_none() {
    let mut state = state();
    let mut batch = Batch::new();
    batch.push(5, 3_000_000_007, b"");
    state.begin(Export::Apply);
    state.entries.begin(&batch, true);
    state.entries.announce(0).unwrap();
    let now = wall_clock::Host::now(&mut state).unwrap();
    assert_eq!((now.seconds, now.nanoseconds), (3, 7));
    assert_eq!(
        monotonic_clock::Host::now(&mut state).unwrap(),
        3_000_000_007
    );
    let hour = monotonic_clock::Host::subscribe_duration(&mut state, 3_600_000_000_000).unwrap();
    let started = std::time::Instant::now();
    state.block(hour).unwrap();
    assert!(started.elapsed().as_secs() < 60);
    state.begin(Export::Query);
    assert_eq!(
        monotonic_clock::Host::now(&mut state).unwrap(),
        3_000_000_007
    );
    state.begin(Export::Save);
    assert_eq!(monotonic_clock::Host::now(&mut state).unwrap(), 0);
}

#[test]
fn host_calls_are_counted() {
    let mut state = state();
    state.begin(Export::Query);
    let refused = (0..1_000)
        .find_map(|n| {
            monotonic_clock::Host::now(&mut state)
                .err()
                .map(|error| (n, error))
        })
        .unwrap();
    assert_eq!(refused.0, 100);
    let Some(Stop::Guest(cause)) = refused.1.downcast_ref::<Stop>() else {
        panic!("{}", refused.1)
    };
    assert_eq!(cause, &GuestCause::HostCalls { limit: 100 });
}

#[test]
fn too_many_random_bytes_are_refused() {
    let mut state = state();
    state.begin(Export::Query);
    assert_eq!(
        r::random::Host::get_random_bytes(&mut state, 10)
            .unwrap()
            .len(),
        10
    );
    assert!(r::random::Host::get_random_bytes(&mut state, u64::MAX).is_err());
}

#[test]
fn handles_end_with_their_call_and_with_their_entry() {
    let mut state = state();
    let mut batch = Batch::new();
    for index in 1..=200 {
        batch.push(index, 1, b"");
    }
    let leak = |state: &mut HostState| {
        for _ in 0..90 {
            monotonic_clock::Host::subscribe_duration(state, 1).unwrap();
            let error = StreamError::LastOperationFailed(std::io::Error::other("full").into());
            streams::Host::convert_stream_error(state, error).unwrap();
        }
        state.table.iter_mut().count()
    };
    let mut seen = BTreeSet::new();
    for _ in 0..200 {
        state.begin(Export::Query);
        seen.insert(leak(&mut state));
    }
    state.begin(Export::Apply);
    for _ in batch.iter() {
        state.end_handles();
        state.calls.refill_again();
        seen.insert(leak(&mut state));
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
    // The standard streams are where they were, and dropping late is no fault.
    let stdout = stdout::Host::get_stdout(&mut state).unwrap();
    assert!(HostOutputStream::check_write(&mut state, stdout).is_ok());
    HostOutputStream::drop(&mut state, Resource::new_own(9_999)).unwrap();
}
