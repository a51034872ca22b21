//! `kontiki serve` as a process: ports file, signals, and what keeps it from starting.

#![allow(
    clippy::unwrap_used,
    reason = "a test may fail; this also covers its helpers"
)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);

fn serve(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kontiki"));
    command
        .env_clear()
        .arg("serve")
        .args(arguments)
        .stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for the ports file and reads it.
fn ports(path: &Path, child: &mut Child) -> Value {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Ok(text) = std::fs::read_to_string(path) {
            return serde_json::from_str(&text).unwrap();
        }
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before it listened"
        );
        assert!(Instant::now() < deadline, "no ports file");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A node that keeps nothing and listens wherever there is room.
fn start(directory: &Path, more: &[&str]) -> (Child, Value) {
    let path = directory.join("ports.json");
    let text = path.display().to_string();
    let mut arguments = vec![
        "--name",
        "n1",
        "--storage",
        "memory://",
        "--listen",
        "127.0.0.1:0",
    ];
    arguments.extend(["--http", "127.0.0.1:0", "--ports-file", &text]);
    arguments.extend(more);
    let mut child = serve(&arguments).spawn().unwrap();
    let ports = ports(&path, &mut child);
    (child, ports)
}

#[test]
fn either_signal_ends_it_in_order() {
    for first in [Signal::SIGTERM, Signal::SIGINT] {
        let directory = tempfile::tempdir().unwrap();
        let (child, ports) = start(directory.path(), &[]);
        assert_eq!(
            (&ports["name"], &ports["pid"]),
            (&"n1".into(), &child.id().into())
        );
        for key in ["client", "peer", "http"] {
            let address: std::net::SocketAddr = ports[key].as_str().unwrap().parse().unwrap();
            assert_ne!(address.port(), 0, "{key} is not the port that was bound");
            std::net::TcpStream::connect(address).expect(key);
        }
        signal(&child, first);
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(0),
            "{first}: {}",
            stderr(&output)
        );
        assert!(output.stdout.is_empty(), "standard output is for results");
        assert!(
            !directory.path().join("ports.json").exists(),
            "the ports file outlived it"
        );
    }
}

#[test]
fn the_log_can_be_json() {
    let directory = tempfile::tempdir().unwrap();
    let (child, _) = start(directory.path(), &["--log-format", "json"]);
    signal(&child, Signal::SIGTERM);
    let output = child.wait_with_output().unwrap();
    let text = stderr(&output);
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        lines.iter().any(|line| line["message"] == "listening"),
        "{text}"
    );
}

/// A pipe that takes no more, since it is full and nobody reads it.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    use std::io::Write as _;
    let (reader, writer) = std::io::pipe().unwrap();
    let set = |flags| nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
    set(nix::fcntl::OFlag::O_NONBLOCK);
    while (&writer).write(b"x").is_ok() {}
    set(nix::fcntl::OFlag::empty());
    (reader, writer)
}

#[test]
fn a_log_that_nobody_reads_stops_neither_the_node_nor_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ports.json");
    let (_unread, full) = full_pipe();
    let mut child = serve(&[
        "--name",
        "n1",
        "--storage",
        "memory://",
        "--log-level",
        "trace",
    ])
    .args([
        "--listen",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
        "--ports-file",
    ])
    .arg(&path)
    .stderr(full)
    .spawn()
    .unwrap();
    let ports = ports(&path, &mut child);
    let http: std::net::SocketAddr = ports["http"].as_str().unwrap().parse().unwrap();
    assert!(get(http, "/livez").ends_with("ok\n"));
    signal(&child, Signal::SIGTERM);
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(status.code(), Some(0));
}

#[test]
fn connections_that_say_nothing_leave_the_store_its_files() {
    let directory = tempfile::tempdir().unwrap();
    let (path, data) = (
        directory.path().join("ports.json"),
        directory.path().join("n1"),
    );
    let mut child = Command::new("sh")
        .args([
            "-c",
            "ulimit -n 200 && exec \"$0\" \"$@\"",
            env!("CARGO_BIN_EXE_kontiki"),
        ])
        .args([
            "serve",
            "--name",
            "n1",
            "--listen",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
        ])
        .args(["--allow-native-machines", "--ports-file"])
        .arg(&path)
        .arg("--data-dir")
        .arg(&data)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let ports = ports(&path, &mut child);
    let client = ports["client"].as_str().unwrap();
    let silent: Vec<_> = (0..261)
        .map(|_| std::net::TcpStream::connect(client).unwrap())
        .collect();
    let say = |words: &[&str]| {
        let said = Command::new(env!("CARGO_BIN_EXE_kontiki"))
            .args(words)
            .args(["--endpoints", client, "--timeout", "30s"])
            .output()
            .unwrap();
        assert_eq!(said.status.code(), Some(0), "{words:?}: {}", stderr(&said));
        String::from_utf8(said.stdout).unwrap()
    };
    say(&["group", "create", "counter", "--plugin", "native:counter"]);
    for before in 0..5 {
        assert_eq!(say(&["call", "counter", "add", "1"]), format!("{before}\n"));
    }
    let http: std::net::SocketAddr = ports["http"].as_str().unwrap().parse().unwrap();
    assert!(get(http, "/readyz").ends_with("ok\n"));
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    drop(silent);
}

/// A page, head and all.
fn get(address: std::net::SocketAddr, path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: n1\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_port_in_use_is_named_with_the_flag_to_change() {
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let arguments = [
        "--name",
        "n1",
        "--storage",
        "memory://",
        "--http",
        "off",
        "--listen",
    ];
    let output = serve(&arguments).arg(&address).output().unwrap();
    assert_eq!(output.status.code(), Some(10));
    let text = stderr(&output);
    assert!(
        text.contains("error[PORT_IN_USE]") && text.contains(&address),
        "{text}"
    );
    assert!(text.contains("--listen"), "{text}");
}

#[test]
fn it_refuses_to_advertise_what_nobody_can_dial() {
    let arguments = [
        "--name",
        "n1",
        "--storage",
        "memory://",
        "--listen",
        "0.0.0.0:0",
    ];
    let output = serve(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("advertise"), "{}", stderr(&output));
}

#[test]
fn it_ends_with_its_parent() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ports.json");
    // The shell is the parent; it ends when its standard input does.
    let script = format!(
        "{} serve --parent $$ --name n1 --storage memory:// --listen 127.0.0.1:0 --http off \
         --ports-file {} & read line",
        env!("CARGO_BIN_EXE_kontiki"),
        path.display()
    );
    let mut shell = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let ports = ports(&path, &mut shell);
    let pid = Pid::from_raw(i32::try_from(ports["pid"].as_u64().unwrap()).unwrap());
    drop(shell.stdin.take());
    shell.wait().unwrap();
    let deadline = Instant::now() + LIMIT;
    while is_running(pid) {
        assert!(Instant::now() < deadline, "the node outlived its parent");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Neither gone nor a zombie that nobody has reaped yet.
fn is_running(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}
