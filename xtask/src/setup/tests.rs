use super::machine::Machine;
use super::{apt, check, set_up};
use kontiki_guest_build::Programs;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A machine of scripts in a temporary directory. Scripts write what they were asked into a log.
struct Fake {
    directory: tempfile::TempDir,
    machine: Machine,
}

impl Fake {
    /// One that has nothing.
    fn bare() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("bin")).unwrap();
        let machine = Machine {
            programs: Programs::on(at("bin")),
            is_root: true,
            has_terminal: false,
            library_directories: vec![at("lib")],
            cache: at("cache"),
            rustup_downloads: Some(at("downloads")),
            rustup_patience: Duration::from_millis(300),
        };
        Fake { directory, machine }
    }

    /// One that can build the host and make networks of its own.
    fn with_native() -> Self {
        let fake = Fake::bare();
        for program in ["cc", "c++", "make", "ip", "nft"] {
            fake.script(program, "exit 0");
        }
        fake.file("lib/libclang-14.so.1", "");
        fake
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    fn file(&self, relative: &str, text: &str) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn script(&self, name: &str, body: &str) {
        let (path, log) = (self.path("bin").join(name), self.path("log"));
        let text = format!(
            "#!/bin/sh\necho \"{name} $*\" >> {}\n{body}\n",
            log.display()
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A compiler; whether it can build for WebAssembly depends on the files that are there.
    fn with_rust(self) -> Self {
        let sysroot = self.path("sysroot");
        self.script(
            "rustc",
            &format!(
                "case \"$*\" in\n  *libdir*) echo {0}/wasip2 ;;\n  *) echo {0} ;;\nesac",
                sysroot.display()
            ),
        );
        self.script("cargo", "exit 0");
        self
    }

    /// What `rustup target add` or `apt-get install` would leave behind.
    fn touch_command(&self, relative: &str) -> String {
        let path = self.path(relative);
        let parent = path.parent().unwrap().display().to_string();
        format!("/bin/mkdir -p {parent} && : > {}", path.display())
    }

    fn calls(&self, of: &str) -> Vec<String> {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        log.lines()
            .filter(|line| line.starts_with(of))
            .map(str::to_owned)
            .collect()
    }
}

#[test]
fn a_machine_that_has_everything_is_left_alone() {
    let fake = Fake::with_native().with_rust();
    fake.file("sysroot/wasip2/libstd-1.rlib", "");
    fake.script("apt-get", "exit 1");
    let report = set_up(&fake.machine).unwrap();
    assert!(report.ready && report.actions.is_empty(), "{report:?}");
    assert!(fake.calls("apt-get").is_empty());
}

#[test]
fn the_cpp_interface_of_clang_is_not_libclang() {
    let fake = Fake::with_native().with_rust();
    fs::rename(
        fake.path("lib/libclang-14.so.1"),
        fake.path("lib/libclang-cpp.so.14"),
    )
    .unwrap();
    assert_eq!(
        super::native::missing_packages(&fake.machine),
        ["libclang-dev"]
    );
}

#[test]
fn check_reports_and_installs_nothing() {
    let fake = Fake::bare().with_rust();
    fake.script("apt-get", "exit 0");
    fake.script("rustup", "exit 0");
    let report = check(&fake.machine).unwrap();
    assert!(!report.ready);
    assert!(
        report.needs[0].detail.contains("gcc g++ make libclang-dev"),
        "{report:?}"
    );
    assert!(
        report.needs[1].detail.contains("wasm32-wasip2"),
        "{report:?}"
    );
    assert!(fake.calls("apt-get").is_empty() && fake.calls("rustup").is_empty());
}

#[test]
fn rustup_adds_the_target_where_it_can() {
    let fake = Fake::with_native().with_rust();
    fake.script(
        "rustup",
        &fake.touch_command("sysroot/wasip2/libstd-1.rlib"),
    );
    fake.script("apt-get", "exit 1");
    let report = set_up(&fake.machine).unwrap();
    assert!(report.ready, "{report:?}");
    assert_eq!(report.actions, ["rustup target add wasm32-wasip2"]);
    assert_eq!(fake.calls("rustup"), ["rustup target add wasm32-wasip2"]);
    assert!(fake.calls("apt-get").is_empty());
}

#[test]
fn a_rustup_that_hangs_is_given_up_and_the_distribution_helps() {
    let fake = Fake::with_native().with_rust();
    fake.script("rustup", "exec /bin/sleep 60");
    let source = fake.touch_command("sysroot/lib/rustlib/src/rust/library/std/Cargo.toml");
    let linker = fake.touch_command("sysroot/lib/rustlib/host/bin/rust-lld");
    fake.script("apt-get", &format!("{source} && {linker}"));
    let start = Instant::now();
    let report = set_up(&fake.machine).unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "it waited for rustup"
    );
    assert!(report.ready, "{report:?}");
    assert!(
        report.actions[0].contains("failed (no progress"),
        "{report:?}"
    );
    let installs = fake.calls("apt-get install");
    assert!(
        installs[0].contains("rustc-web cargo-web rust-web-src lld"),
        "{installs:?}"
    );
}

#[test]
fn a_failed_rustup_is_not_tried_again_within_a_day() {
    let fake = Fake::with_native().with_rust();
    fake.script("rustup", "exit 1");
    assert!(!set_up(&fake.machine).unwrap().ready);
    assert!(!set_up(&fake.machine).unwrap().ready);
    assert_eq!(fake.calls("rustup").len(), 1);

    let note = fs::File::options()
        .write(true)
        .open(fake.path("cache/rustup-failed"))
        .unwrap();
    let yesterday = std::time::SystemTime::now() - Duration::from_secs(25 * 60 * 60);
    note.set_modified(yesterday).unwrap();
    set_up(&fake.machine).unwrap();
    assert_eq!(fake.calls("rustup").len(), 2);
}

#[test]
fn a_slow_download_is_progress() {
    let fake = Fake::with_native().with_rust();
    let part = fake.path("downloads/part");
    let target = fake.touch_command("sysroot/wasip2/libstd-1.rlib");
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    // Longer in all than the patience, never so long without a byte.
    let step = format!("echo x >> {}; /bin/sleep 0.15", part.display());
    let steps = vec![step; 6].join("\n");
    fake.script("rustup", &format!("{steps}\n{target}"));
    assert!(set_up(&fake.machine).unwrap().ready);
}

#[test]
fn what_is_missing_is_installed_as_root() {
    let fake = Fake::bare().with_rust();
    fake.file("sysroot/wasip2/libstd-1.rlib", "");
    fake.script("apt-get", "exit 0");
    set_up(&fake.machine).unwrap();
    assert_eq!(
        fake.calls("apt-get"),
        [
            "apt-get update",
            "apt-get install --yes --no-install-recommends gcc g++ make libclang-dev iproute2 nftables"
        ]
    );
}

#[test]
fn a_failing_package_manager_is_an_error() {
    let fake = Fake::bare();
    fake.script("apt-get", "exit 100");
    let error = apt::install(&fake.machine, &["make"])
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("apt-get update failed"), "{error}");
}

#[test]
fn without_rights_the_one_command_is_printed() {
    let mut fake = Fake::bare();
    fake.machine.is_root = false;
    fake.script("apt-get", "exit 0");
    let expected = apt::Outcome::Impossible {
        todo: "sudo apt-get update && sudo apt-get install --yes gcc make".to_owned(),
    };
    assert_eq!(
        apt::install(&fake.machine, &["gcc", "make"]).unwrap(),
        expected
    );

    // A sudo that wants a password helps nobody who cannot type.
    fake.script("sudo", "exit 1");
    assert_eq!(
        apt::install(&fake.machine, &["gcc", "make"]).unwrap(),
        expected
    );
    assert_eq!(fake.calls("sudo"), ["sudo -n true"]);
    assert!(fake.calls("apt-get").is_empty());
}

#[test]
fn sudo_is_used_where_it_asks_nothing() {
    let mut fake = Fake::bare();
    fake.machine.is_root = false;
    fake.script("apt-get", "exit 0");
    fake.script("sudo", "exit 0");
    apt::install(&fake.machine, &["make"]).unwrap();
    assert!(
        fake.calls("sudo")[2].starts_with("sudo -n apt-get install"),
        "{:?}",
        fake.calls("sudo")
    );
}

#[test]
fn another_distribution_is_told_what_is_needed() {
    let fake = Fake::bare();
    let outcome = apt::install(&fake.machine, &["libclang-dev"]).unwrap();
    let apt::Outcome::Impossible { todo } = outcome else {
        panic!("{outcome:?}")
    };
    assert!(todo.contains("libclang-dev"), "{todo}");
}
