//! RocksDB's settings for a log, each with its reason.

use crate::engine::Family;
use crate::uri::Options;
use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, LogLevel};

/// Settings of the database as a whole.
pub(crate) fn database_options(options: &Options) -> rocksdb::Options {
    let mut o = rocksdb::Options::default();
    o.create_if_missing(true);
    o.create_missing_column_families(true);
    set_recovery(&mut o);
    set_threads(&mut o);
    set_files(&mut o, options);
    o
}

/// What counts as damage.
fn set_recovery(o: &mut rocksdb::Options) {
    // `wal.rs` has looked through the logs before, cut off a torn last batch, which nobody was told
    // of, and refused damage. Whatever else RocksDB finds unusual shall be refused as well.
    // `TolerateCorruptedTailRecords` takes damage in the middle for a torn end; `PointInTime`, the
    // default, ends the log at the first damaged record and drops acknowledged ones behind it
    // without a word: a voter that forgets its vote.
    o.set_wal_recovery_mode(DBRecoveryMode::AbsoluteConsistency);
    // A synced write-ahead log that is missing or short is noticed: its size is in the manifest.
    o.set_track_and_verify_wals_in_manifest(true);
    // Checksums of blocks are verified on every read (the default, relied on here).
    o.set_paranoid_checks(true);
    // A write goes to the operating system at once; the sync follows in the same call.
    o.set_manual_wal_flush(false);
    // Families need not be flushed together: the write-ahead log is always on, and a batch over
    // several families is replayed into each from where that family was last flushed.
    o.set_atomic_flush(false);
    // A recycled log file ends in old records, which nobody could tell from damage.
    o.set_recycle_log_file_num(0);
}

/// Two cores are shared with the groups and their plugins.
fn set_threads(o: &mut rocksdb::Options) {
    // One flush and one compaction at a time.
    o.set_max_background_jobs(2);
    o.set_max_subcompactions(1);
    // There is one writer: nothing to run side by side, nobody to spin for.
    o.set_allow_concurrent_memtable_write(false);
    o.set_enable_write_thread_adaptive_yield(false);
    o.set_enable_pipelined_write(false);
    // Obsolete files are unlinked by a background thread: unlinking large files on the writer
    // would stall every group.
    o.set_avoid_unnecessary_blocking_io(true);
}

/// Files, their number and size.
fn set_files(o: &mut rocksdb::Options, options: &Options) {
    // The small families would otherwise keep old write-ahead logs alive for ever.
    o.set_max_total_wal_size(options.wal_size_bytes_max);
    // Table files are written out steadily, not all at the final sync, where they would stand in
    // the way of the log's.
    o.set_bytes_per_sync(1 << 20);
    // A node of many groups has its descriptors for connections.
    o.set_max_open_files(i32::try_from(options.open_files_max).unwrap_or(i32::MAX));
    // Opening should not read every table file for statistics only compaction uses.
    o.set_skip_stats_update_on_db_open(true);
    o.set_max_manifest_file_size(16 << 20);
    // RocksDB's own log tells of errors only, and is kept small; we report by ourselves.
    o.set_log_level(LogLevel::Warn);
    o.set_max_log_file_size(4 << 20);
    o.set_keep_log_file_num(2);
    o.set_stats_dump_period_sec(0);
    o.set_stats_persist_period_sec(0);
}

/// Settings of one column family.
pub(crate) fn column_options(family: Family, options: &Options) -> rocksdb::Options {
    let mut o = rocksdb::Options::default();
    // Written once, read seldom, deleted soon; and the codecs are not built in.
    o.set_compression_type(DBCompressionType::None);
    o.set_bottommost_compression_type(DBCompressionType::None);
    match family {
        Family::Log => {
            // Large, so that entries compacted in time never reach a table file: a flush leaves
            // out what a range delete in the same memtable covers.
            o.set_write_buffer_size(options.memtable_size_bytes);
            o.set_target_file_size_base(options.memtable_size_bytes as u64);
        }
        Family::State | Family::Node => {
            o.set_write_buffer_size(options.memtable_size_bytes.min(8 << 20));
        }
    }
    // One being flushed while the next fills; a third so that a slow flush does not stall writers.
    o.set_max_write_buffer_number(3);
    o.set_block_based_table_factory(&table_options());
    o
}

fn table_options() -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    // No Bloom filters: reads are scans, and every key asked for exists.
    // Entries are read in long runs: larger blocks, fewer index entries.
    table.set_block_size(32 << 10);
    table.set_block_cache(&Cache::new_lru_cache(8 << 20));
    table
}
