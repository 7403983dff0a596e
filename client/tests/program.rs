//! The binary from outside: flags, their environment twins, and the exit codes that scripts read.
//! Nothing here needs a server.

use std::process::{Command, Output};

fn client(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_client"));
    for variable in ["CLIENTS", "API_URL", "WSPROXY_URL", "FASTAPI_URL", "LOAD_TOKENS", "OUTPUT_DIR"] {
        command.env_remove(variable);
    }
    command.args(arguments).envs(environment.iter().copied()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn all_faults_are_told_at_once_and_the_code_is_104() {
    let output =
        client(&["--clients", "0", "--queries", "-1", "--ramp-up", "nan"], &[("API_URL", "gopher://x")]);
    assert_eq!(output.status.code(), Some(104));
    for fault in ["--clients 0", "--queries -1", "--ramp-up NaN", "gopher://x"] {
        assert!(stderr(&output).contains(fault), "{}", stderr(&output));
    }
}

#[test]
fn what_clap_refuses_has_the_same_code() {
    for arguments in
        [&["--no-such-flag"][..], &["--clients", "many"], &["analyze"], &["analyze", "/no/such.csv"]]
    {
        assert_eq!(client(arguments, &[]).status.code(), Some(104), "{arguments:?}");
    }
    assert_eq!(client(&["--help"], &[]).status.code(), Some(0));
    assert_eq!(client(&["--version"], &[]).status.code(), Some(0));
}

#[test]
fn a_flag_has_a_twin_and_outranks_it() {
    let twin = client(&[], &[("CLIENTS", "0")]);
    assert!(stderr(&twin).contains("--clients 0"), "{}", stderr(&twin));
    let both = client(&["--clients", "-7"], &[("CLIENTS", "0")]);
    assert!(stderr(&both).contains("--clients -7"), "{}", stderr(&both));
}

#[test]
fn an_empty_variable_is_none() {
    let empty =
        ["CLIENTS", "LOAD_RAMP_UP", "LOAD_BURST", "API_URL", "LOAD_TOKEN", "LOAD_FAULTS", "LOAD_STALL"];
    let empty: Vec<_> = empty.map(|name| (name, "")).into();
    let output = client(&["--queries", "0"], &empty);
    assert_eq!(output.status.code(), Some(104));
    assert!(stderr(&output).starts_with("error: --queries 0"), "{}", stderr(&output));
}

#[test]
fn habits_and_faults_are_checked_with_all_the_rest() {
    let arguments =
        ["--drop-rate", "-1", "--stall", "many:10s", "--late-connect", "5..0", "--fault", "moon:kill@3s"];
    let more = ["--fault", "redis:restart", "--fault", "redis:restart@soon", "--embedded"];
    let output = client(&[&arguments[..], &more].concat(), &[]);
    assert_eq!(output.status.code(), Some(104));
    for fault in [
        "--drop-rate -1",
        "--stall `many:10s`",
        "--late-connect `5..0`",
        "moon",
        "SPEC@TIME",
        "`soon` is no time",
        "--embedded",
    ] {
        assert!(stderr(&output).contains(fault), "{fault} is not in {}", stderr(&output));
    }
}

#[test]
fn the_old_name_is_warned_about_and_secrets_are_not_shown() {
    let output = client(&["--token", "hush"], &[("FASTAPI_URL", "http://127.0.0.1:1")]);
    assert_eq!(output.status.code(), Some(104));
    let text = stderr(&output);
    assert!(text.contains("API_URL") && text.contains("127.0.0.1:1"), "{text}");
    assert!(!text.contains("hush"));
    let help = client(&["--help"], &[("LOAD_TOKEN", "hush")]);
    assert!(!String::from_utf8(help.stdout).unwrap().contains("hush"));
}

#[test]
fn analysing_ignores_the_variables_of_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.csv");
    let header = "session_id,query_num,latency,tokens,create_time,connect_time,close_time,reconnect_attempts,successful_reconnects,error";
    std::fs::write(
        &file,
        format!("{header}\n0b8a1c52-3b0e-4f57-9d1f-5b7f8a2c9e11,1,0.9,18,0.1,0.1,0.1,0,0,\n"),
    )
    .unwrap();
    let output = client(&["analyze", file.to_str().unwrap()], &[("CLIENTS", "5"), ("LOAD_BURST", "true")]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!output.stdout.is_empty());
}
