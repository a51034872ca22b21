//! What goes wrong at the command line: one clear message, the documented exit code, nothing lost.

use anyhow::{Context as _, Result};
use kontiki_tests::{Cluster, ClusterOptions, Operator, Session, cluster, session};
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// Runs `kontiki WORDS…` to its end without a cluster; a node that would start is ended by `timeout`.
fn kontiki(words: &[&str]) -> Result<Output> {
    let mut command = Command::new("timeout");
    command.arg("20").arg(cluster::binary()?).args(words);
    command.output().context("run kontiki")
}

/// Asserts exit code and that standard error holds every one of `parts`, and no panic.
#[track_caller]
fn fails(output: &Output, code: i32, parts: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(
        output.stdout.is_empty(),
        "a failed command printed a result"
    );
    for part in parts {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

async fn one_node() -> Result<(Cluster, Session)> {
    let cluster = Cluster::start(ClusterOptions {
        nodes: 1,
        ..ClusterOptions::default()
    })?;
    let session = Session::new("counter", &cluster.addresses(), Duration::from_secs(5))?;
    let component = fs::read(cluster::component("counter")?)?;
    session::create_group(&session, "counter", &component).await?;
    session.leader(LIMIT).await?;
    Ok((cluster, session))
}

#[test]
fn wrong_flags_are_usage_errors() -> Result<()> {
    fails(
        &kontiki(&["serve", "--no-such-flag"])?,
        2,
        &["--no-such-flag"],
    );
    fails(
        &kontiki(&["serve", "--data-dir", "memory://"])?,
        2,
        &["name"],
    );
    let bad_peer = [
        "serve",
        "--name",
        "n1",
        "--data-dir",
        "memory://",
        "--peer",
        "nonsense",
    ];
    fails(&kontiki(&bad_peer)?, 2, &["nonsense"]);
    let bad_set = [
        "serve",
        "--name",
        "n1",
        "--data-dir",
        "memory://",
        "--set",
        "election_timeout=1ms",
    ];
    fails(&kontiki(&bad_set)?, 2, &["election_timeout"]);
    fails(
        &kontiki(&["call", "-o", "nonsense", "g", "x"])?,
        2,
        &["nonsense"],
    );
    Ok(())
}

#[test]
fn an_unreachable_cluster_is_named_and_nothing_was_applied() -> Result<()> {
    let port = cluster::free_ports(1)?[0];
    let operator = Operator::at(&[format!("127.0.0.1:{port}")]);
    let output = operator.types(&["--timeout", "3s", "call", "counter", "add", "1"])?;
    fails(&output, 3, &[&port.to_string(), "not applied"]);
    Ok(())
}

#[test]
fn a_port_in_use_and_a_foreign_directory_are_refused() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let at = |listen: &str, directory: &PathBuf, name: &str| {
        let directory = directory.display().to_string();
        let fixed = ["serve", "--name", name, "--http", "off", "--listen", listen];
        kontiki(&[&fixed[..], &["--data-dir", &directory]].concat())
    };
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("n1");
    fails(&at(&address, &data, "n1")?, 10, &[&address, "in use"]);

    let foreign = directory.path().join("foreign");
    fs::create_dir(&foreign)?;
    fs::write(foreign.join("letter.txt"), "dear diary")?;
    fails(&at("127.0.0.1:0", &foreign, "n1")?, 10, &["foreign"]);
    assert_eq!(
        fs::read_to_string(foreign.join("letter.txt"))?,
        "dear diary"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_nodes_directory_and_a_locked_one_are_refused() -> Result<()> {
    let (mut cluster, _) = one_node().await?;
    let data = cluster.nodes()[0].data_directory.display().to_string();
    let serve = |name| {
        let words = [
            "serve",
            "--name",
            name,
            "--cluster",
            "test",
            "--http",
            "off",
        ];
        kontiki(
            &[
                &words[..],
                &["--listen", "127.0.0.1:0", "--data-dir", &data],
            ]
            .concat(),
        )
    };
    let pid = cluster.pid(0).context("it runs")?.to_string();
    fails(&serve("n1")?, 10, &[&data, &pid]);
    cluster.stop_node(0, LIMIT)?;
    fails(&serve("n9")?, 10, &[&data, "n1"]);
    cluster.start_node(0)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_exist_is_not_found() -> Result<()> {
    let (cluster, _) = one_node().await?;
    let operator = Operator::of(&cluster);
    let call = operator.types(&["call", "nothing", "add", "1"])?;
    fails(&call, 4, &["GROUP_NOT_FOUND", "nothing", "not applied"]);
    let create = operator.types(&["group", "create", "other", "--plugin", "nothing"])?;
    fails(&create, 4, &["PLUGIN_NOT_FOUND", "nothing"]);
    let json = operator.types(&["-o", "json", "call", "nothing", "add", "1"])?;
    let error: serde_json::Value = serde_json::from_slice(&json.stderr)?;
    assert_eq!(error["error"]["code"], "GROUP_NOT_FOUND");
    assert_eq!(error["error"]["outcome"], "not_applied");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_too_large_is_refused_before_it_is_appended() -> Result<()> {
    let (cluster, mut session) = one_node().await?;
    session.apply_until("add 5", LIMIT).await?;
    let big = cluster.directory().join("big");
    fs::write(&big, vec![b'x'; 5 << 20])?;
    let operator = Operator::of(&cluster);
    let output = operator.types(&["call", "counter", "--file", &big.display().to_string()])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("TOO_LARGE"),
        "{said}"
    );
    assert_eq!(
        session.log(0).await?.len(),
        1,
        "it was appended all the same"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_plugin_is_refused_by_name() -> Result<()> {
    let (cluster, _) = one_node().await?;
    let operator = Operator::of(&cluster);
    let good = fs::read(cluster::component("counter")?)?;
    let corrupt = [
        &good[..good.len() / 2],
        &[0xff; 64],
        &good[good.len() / 2 + 64..],
    ]
    .concat();
    // The smallest core module, and the smallest component: neither exports a machine.
    let module = b"\0asm\x01\0\0\0".to_vec();
    let empty = b"\0asm\x0d\0\x01\0".to_vec();
    let cases: [(&str, Vec<u8>, &str); 4] = [
        ("text", b"not wasm at all".to_vec(), ""),
        ("corrupt", corrupt, ""),
        ("module", module, "module"),
        ("empty", empty, "machine"),
    ];
    for (name, bytes, part) in cases {
        let path = cluster.directory().join(format!("{name}.wasm"));
        fs::write(&path, bytes)?;
        let output = operator.types(&["plugin", "push", &path.display().to_string()])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{name} was accepted");
        assert!(
            said.contains("error[") && said.contains(part),
            "{name}: {said}"
        );
    }
    let stored = operator.reads(&["plugin", "list"])?;
    assert_eq!(
        stored["plugins"].as_array().map(Vec::len),
        Some(1),
        "{stored}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugins_own_no_is_an_answer() -> Result<()> {
    let (cluster, mut session) = one_node().await?;
    let operator = Operator::of(&cluster);
    let output = operator.types(&["call", "counter", "multiply", "2"])?;
    assert_eq!(
        output.status.code(),
        Some(1),
        "a reject is told by the exit code"
    );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("multiply"),
        "the reject names what was wrong: {said}"
    );
    assert_eq!(session.apply_until("add 1", LIMIT).await?, "0");
    Ok(())
}
