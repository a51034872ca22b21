//! The process as the system sees it: the names that Prometheus' own libraries use.

use super::page::{Page, family, family_in};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;
use std::fmt;
use std::fs;

/// What `/proc` says of this process; parts that cannot be read are left out.
#[derive(Debug, Default)]
pub(super) struct Process {
    cpu_seconds: Option<f64>,
    start_time_seconds: Option<f64>,
    resident_memory_bytes: Option<u64>,
    virtual_memory_bytes: Option<u64>,
    threads: Option<u64>,
    open_fds: Option<u64>,
    max_fds: Option<u64>,
}

impl Process {
    /// Reads it; may take long if many files are open.
    pub(super) fn read() -> Self {
        let mut process = Self {
            open_fds: fs::read_dir("/proc/self/fd")
                .ok()
                // One of them is the directory itself.
                .map(|fds| (fds.count() as u64).saturating_sub(1)),
            max_fds: getrlimit(Resource::RLIMIT_NOFILE)
                .ok()
                .map(|(soft, _hard)| soft),
            ..Self::default()
        };
        if let Ok(stat) = fs::read_to_string("/proc/self/stat") {
            process.read_stat(&stat);
        }
        process
    }

    /// Takes in `/proc/self/stat`; see proc_pid_stat(5).
    fn read_stat(&mut self, stat: &str) {
        // The second field is the program's name in brackets, which may hold anything.
        let Some((_, fields)) = stat.rsplit_once(") ") else {
            return;
        };
        let fields: Vec<_> = fields.split(' ').collect();
        // Numbered from 1 in the manual; the first here is the third there.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = setting(SysconfVar::CLK_TCK);
        let seconds = |field: Option<u64>| Some(number(field?) / number(ticks?));
        self.cpu_seconds = seconds(field(14).zip(field(15)).map(|(user, system)| user + system));
        self.start_time_seconds = seconds(field(22))
            .zip(boot_time_seconds())
            .map(|(a, b)| a + b);
        self.threads = field(20);
        self.virtual_memory_bytes = field(23);
        let pages = field(24).zip(setting(SysconfVar::PAGE_SIZE));
        self.resident_memory_bytes = pages.map(|(pages, size_bytes)| pages * size_bytes);
    }
}

fn setting(name: SysconfVar) -> Option<u64> {
    let value = sysconf(name).ok()??;
    u64::try_from(value).ok().filter(|value| *value > 0)
}

/// When the system started, since the Unix epoch.
fn boot_time_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let mut lines = stat.lines();
    lines.find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

/// Ticks are far below 2^53.
#[expect(
    clippy::cast_precision_loss,
    reason = "metrics are floating-point numbers"
)]
fn number(value: u64) -> f64 {
    value as f64
}

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page::new(encoder);
        if let Some(seconds) = self.cpu_seconds {
            let help = "Processor time spent in user and system mode";
            page.counter(&family_in(Unit::Seconds, "process_cpu", help), seconds)?;
        }
        if let Some(seconds) = self.start_time_seconds {
            let help = "When the process started, since the Unix epoch";
            page.gauge(
                &family_in(Unit::Seconds, "process_start_time", help),
                seconds,
            )?;
        }
        if let Some(bytes) = self.resident_memory_bytes {
            let help = "Memory of the process that is resident";
            page.gauge(
                &family_in(Unit::Bytes, "process_resident_memory", help),
                bytes,
            )?;
        }
        if let Some(bytes) = self.virtual_memory_bytes {
            let help = "Address space of the process";
            page.gauge(
                &family_in(Unit::Bytes, "process_virtual_memory", help),
                bytes,
            )?;
        }
        if let Some(threads) = self.threads {
            page.gauge(&family("process_threads", "Threads"), threads)?;
        }
        if let Some(open) = self.open_fds {
            page.gauge(&family("process_open_fds", "Open file descriptors"), open)?;
        }
        if let Some(max) = self.max_fds {
            let help = "File descriptors that may be open";
            page.gauge(&family("process_max_fds", help), max)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_any_name_is_read() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 200 4096000 11 \
                    18446744073709551615 1";
        let mut process = Process::default();
        process.read_stat(stat);
        let ticks = number(setting(SysconfVar::CLK_TCK).unwrap());
        assert_eq!(process.cpu_seconds, Some(200.0 / ticks));
        assert_eq!(process.threads, Some(9));
        assert_eq!(process.virtual_memory_bytes, Some(4_096_000));
        let page = setting(SysconfVar::PAGE_SIZE).unwrap();
        assert_eq!(process.resident_memory_bytes, Some(11 * page));
        process.read_stat("");
    }

    #[test]
    fn this_process_is_read() {
        let process = Process::read();
        assert!(process.open_fds > Some(2) && process.open_fds < process.max_fds);
        assert!(process.resident_memory_bytes > Some(1 << 20));
        assert!(process.virtual_memory_bytes > process.resident_memory_bytes);
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let start = process.start_time_seconds.unwrap();
        assert!(
            (now - 86_400.0..now + 2.0).contains(&start),
            "{start} of {now}"
        );
    }
}
