//! Verdicts as a user sees them: the printed text and the exit code of the program.
//! A busy machine may make a run INVALID, so the tests of thresholds accept that verdict where it can occur.

mod fake;
#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "rig/programs.rs"]
mod programs;

use fake::{Action, Edit, Running, Script};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use programs::streamstress;
use std::{
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// A run of four clients against `server`.
fn client(server: &Running, results: &Path, arguments: &[&str]) -> Command {
    let mut command = streamstress(&["--api-url", &server.api, "--wsproxy-url", &server.ws]);
    command.args(["--clients", "4", "--ramp-up", "0.05", "--output-dir"]).arg(results).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn text(output: &Output) -> String {
    assert!(output.status.code().is_some(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_wrong_token_fails_the_run_and_the_text_says_which_threshold() {
    let edits: [(Edit, &str); 3] = [
        (|n| if n == 7 { Action::Drop } else { Action::Send }, "lost"),
        (|n| if n == 7 { Action::Double } else { Action::Send }, "duplicated"),
        (|n| if n == 7 { Action::Swap } else { Action::Send }, "reordered"),
    ];
    for (edit, what) in edits {
        let server = Running::start(Script { edit, ..Script::default() });
        let results = tempfile::tempdir().unwrap();
        let output = client(&server, results.path(), &["--queries", "2"]).output().unwrap();
        let text = text(&output);
        assert_eq!(output.status.code(), Some(99), "{text}");
        assert!(text.contains(&format!("FAIL  Integrity is broken: 1 token {what}")), "{text}");
        for kind in ["lost", "duplicated", "reordered"] {
            let mark = if kind == what { "✗" } else { "✓" };
            assert!(text.contains(&format!("{mark} tokens_{kind}==0")), "{what}: {text}");
        }
        assert!(!text.contains("PASS"), "{text}");
    }
}

#[test]
fn a_threshold_that_does_not_hold_is_named() {
    let server = Running::start(Script { itl: Duration::from_millis(5), ..Script::default() });
    let results = tempfile::tempdir().unwrap();
    let thresholds = ["--queries", "2", "--threshold", "e2el_ms:min<50", "error_rate<0.1"];
    let output = client(&server, results.path(), &thresholds).output().unwrap();
    let text = text(&output);
    assert!(text.contains("✗ e2el_ms min<50") && text.contains("✓ error_rate<0.1"), "{text}");
    assert!(!text.contains("PASS"), "{text}");
    match output.status.code() {
        Some(99) => assert!(text.contains("1 of 2 thresholds failed: e2el_ms min<50"), "{text}"),
        code => assert!(code == Some(98) && text.contains("INVALID"), "{code:?}: {text}"),
    }
}

/// The client is stopped for half a second of two, as on an overloaded machine.
#[test]
fn a_generator_that_was_stopped_knows_when_its_tokens_arrived() {
    let server = Running::start(Script { tokens: 100, itl: Duration::from_millis(15), ..Script::default() });
    let results = tempfile::tempdir().unwrap();
    let run = client(&server, results.path(), &["--queries", "1"]).spawn().unwrap();
    let process = Pid::from_raw(run.id().try_into().unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    while server.seen().tokens < 40 {
        assert!(Instant::now() < deadline, "the streams did not begin");
        std::thread::sleep(Duration::from_millis(2));
    }
    kill(process, Signal::SIGSTOP).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    kill(process, Signal::SIGCONT).unwrap();
    let output = run.wait_with_output().unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("PASS  All ") && text.contains("✓ tokens_lost==0"), "{text}");
    // Each token of one read may have arrived at any time since the previous read.
    assert!(text.lines().any(|line| line.contains("itl_ms") && line.contains('~')), "{text}");
}
