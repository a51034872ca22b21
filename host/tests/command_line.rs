//! The built binary: flags, exit codes, output, help.

#![allow(
    clippy::unwrap_used,
    reason = "a test may fail; this also covers its helpers"
)]

mod fake;

use fake::Server;
use serde_json::Value;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// The binary, untouched by what runs on this machine.
fn kontiki() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kontiki"));
    let state = std::env::temp_dir().join(format!("kontiki-cli-tests-{}", std::process::id()));
    command.env_clear().env("KONTIKI_STATE_DIR", state);
    command
}

struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

fn finish(output: &Output) -> Run {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Run {
        code: output.status.code().unwrap(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// Types a line, words parted by spaces.
fn types(line: &str) -> Run {
    finish(&kontiki().args(line.split_whitespace()).output().unwrap())
}

/// The same at a server.
fn at(server: &Server, line: &str) -> Run {
    types(&format!("{line} --endpoints {}", server.address))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn dead_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn exit_0_for_what_is_done() {
    let run = types("version");
    assert_eq!(run.code, 0);
    assert!(run.stdout.contains(env!("CARGO_PKG_VERSION")) && run.stderr.is_empty());
}

#[test]
fn commands_for_a_group_that_is_not_there_are_not_tried_one_by_one() {
    let server = Server::start();
    let mut child = kontiki()
        .args(["call", "absent", "--stdin", "--endpoints", &server.address])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It ends without having read them all.
    let _ = child
        .stdin
        .take()
        .unwrap()
        .write_all(&b"add 1\n".repeat(200_000));
    let run = finish(&child.wait_with_output().unwrap());
    assert_eq!((run.code, run.stdout.as_str()), (4, ""));
    assert_eq!(run.stderr.matches("error[").count(), 1, "{}", run.stderr);
}

#[test]
fn times_and_sizes_beyond_all_bounds_are_usage_errors() {
    for line in [
        "call g x --timeout 500years",
        "bench --duration 500years",
        "bench --payload 99999999999",
        "serve --name n1 --data-dir memory:// --shutdown-grace 500years",
    ] {
        let run = types(line);
        assert_eq!(run.code, 2, "{line}: {}", run.stderr);
        assert!(!run.stderr.contains("panicked"), "{line}: {}", run.stderr);
    }
}

#[test]
fn exit_1_for_what_the_plugin_or_the_cluster_refuses() {
    let server = Server::start();
    let run = at(&server, "call rejecting x");
    assert_eq!((run.code, run.stdout.as_str()), (1, ""));
    assert!(
        run.stderr
            .starts_with("error[REJECTED]: rejecting: no such number"),
        "{}",
        run.stderr
    );
    let run = at(&server, "call too-large x");
    assert_eq!(run.code, 1);
    assert!(
        run.stderr.contains("outcome: not applied"),
        "{}",
        run.stderr
    );
}

#[test]
fn exit_2_for_a_wrong_command_line() {
    for line in [
        "nonsense",
        "call",
        "call counter",
        "call counter --hex 0g",
        "call counter add 1 -o nonsense",
        "call counter add 1 --timeout never",
        "call counter add 1 --endpoints nowhere",
        "call counter add 1 --hex 00",
        "query counter get --consistency perhaps",
        "member add n4",
        "group create g",
        "settings set nonsense",
        "bench --clients 0",
        "dev -n 0",
        "recover g --survivors n1 --confirm other",
        "member purge n1 --group g --confirm other",
        "serve --no-such-flag",
    ] {
        let run = types(line);
        assert_eq!(run.code, 2, "{line}: {}", run.stderr);
        assert!(run.stdout.is_empty(), "{line} printed a result");
        assert!(run.stderr.starts_with("error"), "{line}: {}", run.stderr);
    }
}

#[test]
fn exit_3_when_no_node_is_reached_or_there_is_no_leader() {
    let address = dead_address();
    let run = types(&format!(
        "call counter add 1 --timeout 300ms --endpoints {address}"
    ));
    assert_eq!(run.code, 3);
    assert!(run.stderr.contains("error[UNREACHABLE]"), "{}", run.stderr);
    assert!(
        run.stderr
            .contains(&format!("tried: {address} (connect: refused")),
        "{}",
        run.stderr
    );
    assert!(
        run.stderr.contains("outcome: not applied"),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("hint: "), "{}", run.stderr);
    let server = Server::start();
    let run = at(&server, "call leaderless x --timeout 200ms");
    assert_eq!(run.code, 3);
    assert!(run.stderr.contains("error[NO_LEADER]") && run.stderr.contains("tried for 0."));
}

#[test]
fn exit_4_for_what_does_not_exist() {
    let server = Server::start();
    assert_eq!(at(&server, "call absent x").code, 4);
    assert_eq!(types("dev kill leader").code, 4);
}

#[test]
fn exit_5_when_waiting_takes_too_long() {
    let run = types(&format!(
        "wait --healthy --timeout 300ms --endpoints {}",
        dead_address()
    ));
    assert_eq!(run.code, 5);
    assert!(
        run.stderr.contains("not healthy within 0.3 s"),
        "{}",
        run.stderr
    );
}

#[test]
fn exit_6_when_a_condition_does_not_hold() {
    assert_eq!(at(&Server::start(), "call conflicting x").code, 6);
}

#[test]
fn exit_7_for_what_is_not_allowed() {
    assert_eq!(at(&Server::start(), "call forbidden x").code, 7);
}

#[test]
fn exit_8_when_the_outcome_is_unknown() {
    let run = at(&Server::start(), "call deposed x");
    assert_eq!(run.code, 8);
    assert!(run.stderr.contains("outcome: unknown") && run.stderr.contains("applied twice"));
    assert_eq!(
        at(&Server::start(), "query deposed x --timeout 200ms").code,
        6,
        "no effect to know"
    );
}

#[test]
fn exit_9_when_the_plugin_fails() {
    assert_eq!(at(&Server::start(), "call trapping x").code, 9);
}

#[test]
fn exit_10_for_this_machines_own_troubles() {
    let run = types("call counter --file /no/such/file");
    assert_eq!(run.code, 10);
    assert!(run.stderr.contains("/no/such/file"), "{}", run.stderr);
    assert_eq!(types("plugin push /no/such.wasm").code, 10);
    assert_eq!(types("serve --config /no/such.toml").code, 10);
}

#[test]
fn an_answer_is_printed_plainly() {
    let server = Server::start();
    let run = at(&server, "call echo add -5");
    assert_eq!(
        (run.code, run.stdout.as_str(), run.stderr.as_str()),
        (0, "add -5\n", "")
    );
    assert_eq!(at(&server, "call binary x").stdout, "0xff00\n");
    assert_eq!(at(&server, "call echo --hex 6869").stdout, "hi\n");
    let words = [
        "call",
        "echo",
        "--endpoints",
        &server.address,
        "--",
        "--dashed",
        "-x",
    ];
    assert_eq!(
        finish(&kontiki().args(words).output().unwrap()).stdout,
        "--dashed -x\n"
    );
    let words = [
        "call",
        "binary",
        "x",
        "--raw",
        "--endpoints",
        &server.address,
    ];
    let raw = kontiki().args(words).output().unwrap();
    assert_eq!(raw.stdout, [0xff, 0x00]);
}

#[test]
fn an_answer_as_json_has_everything() {
    let server = Server::start();
    let answer = json(&at(&server, "call echo add 5 -o json").stdout);
    assert_eq!(answer["kind"], "answer");
    assert_eq!(
        (&answer["v"], &answer["group"]),
        (&1.into(), &"echo".into())
    );
    assert_eq!(
        (&answer["answer"], &answer["answer_base64"]),
        (&"add 5".into(), &"YWRkIDU=".into())
    );
    assert_eq!((&answer["index"], &answer["term"]), (&9.into(), &2.into()));
    assert_eq!(answer["plugin"], "sha256:00");
    assert!(answer["seconds"].as_f64().unwrap() > 0.0);
    let answer = json(&at(&server, "call binary x -o json").stdout);
    assert_eq!(
        (&answer["answer"], &answer["answer_base64"]),
        (&Value::Null, &"/wA=".into())
    );
    let answer = json(&at(&server, "query echo get --consistency stale -o json").stdout);
    assert_eq!(answer["staleness_seconds"], 0.0015);
    assert_eq!(answer["staleness"], "at_most");
    let answer = json(&at(&server, "query echo unknown --consistency stale -o json").stdout);
    assert_eq!(answer["staleness"], "unknown");
    assert!(answer["staleness_seconds"].is_null());
}

#[test]
fn a_reject_as_json_is_a_result_with_exit_1() {
    let run = at(&Server::start(), "call rejecting x -o json");
    assert_eq!(run.code, 1);
    let answer = json(&run.stdout);
    assert_eq!(
        (&answer["answer"], &answer["rejected"]),
        (&Value::Null, &"no such number".into())
    );
}

#[test]
fn errors_under_json_are_json_on_standard_error() {
    let run = at(&Server::start(), "call deposed x -o json");
    assert!(run.stdout.is_empty());
    let document = json(&run.stderr);
    assert_eq!(document["kind"], "error");
    let error = &document["error"];
    assert_eq!(
        (&error["code"], &error["outcome"]),
        (&"LEADERSHIP_LOST".into(), &"unknown".into())
    );
    assert_eq!(
        (&error["retryable"], &error["exit"]),
        (&false.into(), &8.into())
    );
    assert!(error["message"].is_string() && error["hint"].is_string());
    assert!(error["details"]["tried"][0]["address"].is_string());
    let usage = json(&types("nonsense -o json").stderr);
    assert_eq!(
        (&usage["error"]["code"], &usage["error"]["exit"]),
        (&"USAGE".into(), &2.into())
    );
}

#[test]
fn the_environment_gives_defaults_and_flags_win() {
    let server = Server::start();
    let run = |output: &str, words: &[&str]| {
        let command = &mut kontiki();
        command
            .env("KONTIKI_ENDPOINTS", &server.address)
            .env("KONTIKI_OUTPUT", output);
        finish(&command.args(words).output().unwrap())
    };
    assert_eq!(
        json(&run("json", &["call", "echo", "a"]).stdout)["answer"],
        "a"
    );
    assert_eq!(
        run("json", &["call", "echo", "a", "-o", "table"]).stdout,
        "a\n"
    );
    assert_eq!(run("nonsense", &["call", "echo", "a"]).code, 2);
}

fn fed(input: &str, words: &[&str]) -> Run {
    let mut child = kontiki()
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    finish(&child.wait_with_output().unwrap())
}

#[test]
fn commands_from_standard_input_are_answered_in_order() {
    let server = Server::start();
    let words = ["call", "echo", "--stdin", "--endpoints", &server.address];
    let input: String = (0..2000).map(|n| format!("add {n}\n")).collect();
    let run = fed(&input, &words);
    assert_eq!((run.code, run.stdout), (0, input));
    let words = [
        "call",
        "rejecting",
        "--stdin",
        "-o",
        "json",
        "--endpoints",
        &server.address,
    ];
    let run = fed("a\nb", &words);
    assert_eq!(run.code, 1);
    let lines: Vec<Value> = run.stdout.lines().map(json).collect();
    assert_eq!(lines.len(), 2);
    assert!(
        lines
            .iter()
            .all(|line| line["rejected"] == "no such number")
    );
}

#[test]
fn the_expected_term_holds_for_every_command_of_a_stream() {
    let server = Server::start();
    let call = |term| {
        let words = ["call", "echo", "--stdin", "--expect-term", term];
        fed(
            "a\nb",
            &[&words[..], &["--endpoints", &server.address]].concat(),
        )
    };
    let run = call("2");
    assert_eq!((run.code, run.stdout.as_str()), (0, "a\nb\n"));
    let run = call("1");
    assert_eq!(run.code, 6);
    let refused = |line: &str| line.starts_with("error[TERM_MISMATCH]");
    assert!(run.stdout.lines().count() == 2 && run.stdout.lines().all(refused));
}

#[test]
fn a_file_is_sent_as_it_is() {
    let server = Server::start();
    let words = [
        "call",
        "echo",
        "--file",
        "-",
        "--endpoints",
        &server.address,
    ];
    assert_eq!(fed("two\nlines", &words).stdout, "two\nlines\n");
}

#[test]
fn braft_verbs_are_answered_with_ours() {
    for (theirs, ours) in [
        ("add_peer --group=g --peer=h:1", "kontiki member add"),
        ("remove_peer", "kontiki member remove"),
        ("change_peers", "kontiki member change"),
        ("transfer_leader", "kontiki group transfer"),
        ("reset_peer --conf x", "kontiki recover"),
        ("snapshot", "snapshots"),
    ] {
        let run = types(theirs);
        assert_eq!(run.code, 2, "{theirs}");
        assert!(run.stderr.contains(ours), "{theirs}: {}", run.stderr);
    }
}

#[test]
fn a_mistyped_verb_is_answered_with_the_right_one() {
    let run = types("group lst");
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("list"), "{}", run.stderr);
}

#[test]
fn help_lists_every_exit_code() {
    let run = types("help exit-codes");
    assert_eq!(run.code, 0);
    for code in [
        "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "130", "143",
    ] {
        let line = format!("{code:>4}  ");
        assert!(
            run.stdout.contains(&line),
            "{code} is missing: {}",
            run.stdout
        );
        assert!(types("exit-codes").stdout.contains(&line));
    }
}

#[test]
fn every_command_has_help_and_dangerous_ones_say_so() {
    for command in [
        "dev",
        "serve",
        "config",
        "status",
        "wait",
        "plugin",
        "group",
        "member",
        "node",
        "settings",
        "recover",
        "call",
        "query",
        "bench",
        "completion",
    ] {
        let run = types(&format!("{command} --help"));
        assert_eq!(run.code, 0, "{command}");
        assert!(run.stdout.contains("Usage: kontiki"), "{command}");
        assert!(
            types("--help").stdout.contains(command),
            "{command} is not in the overview"
        );
    }
    for destructive in ["recover --help", "member purge --help"] {
        let help = types(destructive).stdout;
        assert!(help.contains("DESTRUCTIVE"), "{destructive}: {help}");
    }
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let run = types(&format!("completion {shell}"));
        assert_eq!(run.code, 0);
        assert!(
            run.stdout.contains("member") && run.stdout.contains("promote"),
            "{shell}"
        );
    }
    assert_eq!(types("completion nonsense").code, 2);
}

#[test]
fn a_configuration_is_checked_without_starting_anything() {
    assert_eq!(types("config check --name n1 --data-dir d").code, 0);
    let run = types("config check --name n1");
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("data"), "{}", run.stderr);
    let run = types("config check --name n1 --storage memory:// --set nothing=1");
    assert!(
        run.code == 2 && run.stderr.contains("nothing"),
        "{}",
        run.stderr
    );
}

#[test]
fn unknown_keys_in_a_file_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kontiki.toml");
    std::fs::write(&path, "nmae = 'n1'\n").unwrap();
    let run = types(&format!("config check --config {}", path.display()));
    assert_eq!(run.code, 2);
    assert!(
        run.stderr.contains("nmae") && run.stderr.contains("kontiki.toml"),
        "{}",
        run.stderr
    );
}

#[test]
fn each_value_says_where_it_comes_from() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kontiki.toml");
    let file = "name = 'file'\ncluster = 'file'\nadvertise = 'h:1'\n[settings]\npriority = 7\n";
    std::fs::write(&path, file).unwrap();
    let output = kontiki()
        .args(["config", "show", "--origin", "-o", "json", "--name", "flag"])
        .args(["--data-dir", "d", "--election-timeout", "2s", "--config"])
        .arg(&path)
        .env("KONTIKI_CLUSTER", "environment")
        .output()
        .unwrap();
    let config = &json(&finish(&output).stdout)["config"];
    for (key, value, origin) in [
        ("name", "flag", "flag"),
        ("cluster", "environment", "environment"),
        ("advertise", "h:1", "file"),
        ("listen", "127.0.0.1:7470", "default"),
        ("priority", "7", "file"),
        ("election_timeout", "2s", "flag"),
        ("catch_up_margin_entries", "", "default"),
    ] {
        let row = &config[key];
        assert_eq!(row["origin"], origin, "{key}: {row}");
        assert!(value.is_empty() || row["value"] == value, "{key}: {row}");
    }
}
