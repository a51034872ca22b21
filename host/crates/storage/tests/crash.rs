//! Processes that are killed, disks that fail, fill up or lose power: what was acknowledged is
//! there afterwards, and nothing but a prefix of what was asked for.

#![allow(clippy::unwrap_used, reason = "a test program")]

mod support;
#[path = "support/workload.rs"]
mod workload;

use kontiki_storage::StorageError;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use support::{GROUP, append, entry, open_at, persist, record};
use workload::{Acknowledged, now, run, say, verify};

/// Set for the child process: where its database is.
const PATH: &str = "KONTIKI_WORKLOAD_PATH";
/// How many power cuts to make.
const POWER_CUTS: &str = "KONTIKI_POWER_CUTS";

/// The child process of the tests below; does nothing when run as a test.
#[test]
fn child() {
    let Ok(path) = std::env::var(PATH) else {
        return;
    };
    let storage = match open_at(Path::new(&path)) {
        Ok(storage) => storage,
        Err(error) => return say(&format!("refused {error:?}")),
    };
    let error = run(&*storage);
    say(&format!("failed {error:?}"));
    let later = persist(&*storage, GROUP, support::vote(u64::MAX, 1));
    say(&format!("later {later:?}"));
}

/// A running child and what it has said.
struct Workload {
    child: Child,
    lines: Receiver<String>,
    acknowledged: Acknowledged,
    said: Vec<String>,
    /// When the power was cut, on the clock of the acknowledgements.
    power_cut: Option<u128>,
}

impl Workload {
    /// Starts a child; `prefix` is a program and its arguments to run it under.
    fn start(path: &Path, prefix: &[&str]) -> Self {
        let program = std::env::current_exe().unwrap();
        let program = program.to_str().unwrap();
        let arguments = [prefix, &[program, "--exact", "child", "--nocapture"]].concat();
        let mut child = Command::new(arguments[0])
            .args(&arguments[1..])
            .env(PATH, path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Self {
            child,
            lines,
            acknowledged: Acknowledged::new(),
            said: Vec::new(),
            power_cut: None,
        }
    }

    fn take(&mut self, line: String) {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["created", group] => {
                let group = kontiki_raft::GroupId(group.parse().unwrap());
                self.acknowledged.entry(group).or_default();
            }
            ["ack", group, number, at] => {
                let group = kontiki_raft::GroupId(group.parse().unwrap());
                let number: u64 = number.parse().unwrap();
                let at: u128 = at.parse().unwrap();
                let before = self.acknowledged.get_mut(&group).unwrap();
                assert!(number > *before, "acknowledged out of order");
                if self.power_cut.is_none_or(|power_cut| at < power_cut) {
                    *before = number;
                }
            }
            _ => self.said.push(line),
        }
    }

    fn steps(&self) -> u64 {
        self.acknowledged.values().sum()
    }

    /// Waits until so many more steps are acknowledged, then `delay` longer.
    fn wait(&mut self, steps: u64, delay: Duration) {
        let mut wanted = None;
        while wanted.is_none_or(|wanted| self.steps() < wanted) {
            let line = self
                .lines
                .recv_timeout(Duration::from_secs(60))
                .expect("no progress");
            self.take(line);
            if wanted.is_none() && self.steps() > 0 {
                wanted = Some(self.steps() + steps);
            }
        }
        let until = Instant::now() + delay;
        while let Ok(line) = self
            .lines
            .recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            self.take(line);
        }
    }

    /// Takes the last words of a child that ends, by itself or by `kill -9`.
    fn end(mut self, kill: bool) -> (Acknowledged, Vec<String>) {
        if kill {
            self.child.kill().unwrap();
        }
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(60)) {
            self.take(line);
        }
        self.child.wait().unwrap();
        (
            std::mem::take(&mut self.acknowledged),
            std::mem::take(&mut self.said),
        )
    }
}

/// A test that fails leaves no child behind, which would keep its disk mounted.
impl Drop for Workload {
    fn drop(&mut self) {
        drop(self.child.kill().and_then(|()| self.child.wait()));
    }
}

/// A moment that differs from round to round.
fn delay(round: u64) -> Duration {
    Duration::from_micros(round.wrapping_mul(7_919) % 40_000)
}

#[test]
fn killed_process_leaves_a_prefix_with_everything_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let mut total = 0;
    for round in 0..20 {
        let mut workload = Workload::start(&path, &[]);
        workload.wait(20, delay(round));
        let (acknowledged, said) = workload.end(true);
        assert!(!said.iter().any(|line| line.contains("failed")), "{said:?}");
        let storage = open_at(&path).unwrap();
        let found = verify(&*storage, &acknowledged);
        storage.close();
        let steps: u64 = found.values().sum();
        assert!(steps > total, "round {round} made no progress");
        total = steps;
    }
    println!("20 kills, {total} steps");
}

#[test]
fn failed_sync_stops_all_writes_and_loses_nothing() {
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null"];
    let works = Command::new(strace[0])
        .args(&strace[1..])
        .arg("true")
        .status();
    if !works.is_ok_and(|status| status.success()) {
        println!("skipped: strace is not installed or may not trace");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    for when in [12, 40, 80] {
        let inject = format!("inject=fdatasync:error=EIO:when={when}");
        let prefix = [&strace[..], &["-e", "trace=fdatasync", "-e", &inject]].concat();
        let (acknowledged, said) = Workload::start(&path, &prefix).end(false);
        // Only one call fails: it is the storage, not the disk, that refuses the later ones.
        assert!(
            said.iter().any(|line| line.contains("failed Io")),
            "{said:?}"
        );
        assert!(
            said.iter().any(|line| line.contains("later Err(Poisoned")),
            "{said:?}"
        );
        let storage = open_at(&path).unwrap();
        verify(&*storage, &acknowledged);
        storage.close();
    }
}

/// A file system of its own, unmounted when the test ends.
struct Mounted {
    directory: tempfile::TempDir,
    image: PathBuf,
}

impl Mounted {
    fn command(program: &str, arguments: &[&str]) -> Result<(), String> {
        let output = Command::new(program).args(arguments).output();
        let output = output.map_err(|error| format!("{program}: {error}"))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!(
                "{program}: {}",
                String::from_utf8_lossy(&output.stderr)
            )),
        }
    }

    fn tmpfs(size: &str) -> Result<Self, String> {
        let mounted = Self::new();
        let options = format!("size={size}");
        let point = mounted.point();
        Self::command(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                &options,
                "tmpfs",
                point.to_str().unwrap(),
            ],
        )?;
        Ok(mounted)
    }

    fn ext4(size_bytes: u64) -> Result<Self, String> {
        let mounted = Self::new();
        let file = std::fs::File::create(&mounted.image).unwrap();
        file.set_len(size_bytes).unwrap();
        Self::command("mkfs.ext4", &["-q", mounted.image.to_str().unwrap()])?;
        mounted.mount()?;
        Ok(mounted)
    }

    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        std::fs::create_dir(directory.path().join("mnt")).unwrap();
        Self { directory, image }
    }

    fn point(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    fn mount(&self) -> Result<(), String> {
        let (image, point) = (self.image.to_str().unwrap(), self.point());
        Self::command("mount", &["-o", "loop", image, point.to_str().unwrap()])
    }

    fn unmount(&self) -> Result<(), String> {
        Self::command("umount", &[self.point().to_str().unwrap()])
    }

    /// Cuts the power: from now on nothing reaches the disk, and what is in memory only is lost.
    fn cut_power(&self) {
        use std::os::fd::AsRawFd;
        nix::ioctl_read!(ext4_shutdown, b'X', 125, u32);
        const WITHOUT_FLUSHING_THE_JOURNAL: u32 = 2;
        let root = std::fs::File::open(self.point()).unwrap();
        let mut flags = WITHOUT_FLUSHING_THE_JOURNAL;
        // SAFETY: the call reads one u32 behind the pointer, which outlives it.
        unsafe { ext4_shutdown(root.as_raw_fd(), &raw mut flags) }.unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(self.unmount());
    }
}

#[test]
fn power_cut_leaves_a_prefix_with_everything_acknowledged() {
    let cuts = std::env::var(POWER_CUTS)
        .ok()
        .map_or(3, |cuts| cuts.parse().unwrap());
    let disk = match Mounted::ext4(96 << 20) {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: cannot mount a disk of its own: {why}"),
    };
    let path = disk.point().join("db");
    let (mut total, mut beyond) = (0, 0);
    for round in 0..cuts {
        let mut workload = Workload::start(&path, &[]);
        workload.wait(30, delay(round));
        // The child lives on without power for a moment. A sync that is under way just then is
        // reported done by the kernel (seen on 6.18), so its later words do not count.
        workload.power_cut = Some(now());
        disk.cut_power();
        workload.wait(0, Duration::from_millis(20));
        let (acknowledged, _said) = workload.end(true);
        disk.unmount().unwrap();
        disk.mount().unwrap();
        let storage = open_at(&path).unwrap_or_else(|error| panic!("cut {round}: {error}"));
        let found = verify(&*storage, &acknowledged);
        storage.close();
        total = found.values().sum::<u64>();
        beyond += u64::from(found != acknowledged);
    }
    println!("{cuts} power cuts, {total} steps; {beyond} times more was found than acknowledged");
}

#[test]
fn full_disk_is_reported_as_such_and_loses_nothing() {
    let disk = match Mounted::tmpfs("24m") {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: cannot mount a disk of its own: {why}"),
    };
    let ballast = disk.point().join("ballast");
    std::fs::write(&ballast, vec![1; 8 << 20]).unwrap();
    let path = disk.point().join("db");
    let storage = open_at(&path).unwrap();
    storage.create_group(&record(GROUP, "")).unwrap();
    let payload = "0123456789abcdef".repeat(1024);
    let mut last = 0;
    let error = loop {
        let write = append(vec![entry(last + 1, 1, &payload)]);
        match persist(&*storage, GROUP, write) {
            Ok(_) => last += 1,
            Err(error) => break error,
        }
        assert!(last < 4096, "the disk never filled");
    };
    assert!(
        matches!(&error, StorageError::NoSpace { path: at } if *at == path),
        "{error:?}"
    );
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
    // Not even once there is room again: what is on disk is not known.
    std::fs::remove_file(&ballast).unwrap();
    let later = persist(&*storage, GROUP, append(vec![entry(last + 1, 1, "x")]));
    assert!(
        matches!(later, Err(StorageError::Poisoned { .. })),
        "{later:?}"
    );
    let later = storage.create_group(&record(kontiki_raft::GroupId(2), ""));
    assert!(
        matches!(later, Err(StorageError::Poisoned { .. })),
        "{later:?}"
    );
    assert!(storage.metrics().failed);
    storage.close();

    let storage = open_at(&path).unwrap();
    let found = storage.recover(GROUP, usize::MAX).unwrap();
    assert!(
        found.last.index.0 >= last,
        "{} of {last} entries",
        found.last.index
    );
    assert!(
        found
            .tail
            .iter()
            .all(|found| *found == entry(found.id.index.0, 1, &payload))
    );
    assert_eq!(found.tail.len() as u64, found.last.index.0);
    persist(
        &*storage,
        GROUP,
        append(vec![entry(found.last.index.0 + 1, 1, "x")]),
    )
    .unwrap();
    println!("full after {last} entries of 16 KiB");
}
