//! The program as a user calls it: flags, the environment variables for them, and the exit codes that scripts read.
//! The only stack that these tests use is the embedded one.

use nix::pty::{OpenptyResult, openpty};
use std::{
    fs::File,
    io::Read,
    process::{Command, Output, Stdio},
};

fn client(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamstress"));
    let of_a_run = |name: &str| {
        name.starts_with("STREAMSTRESS_")
            || name.starts_with("LOAD_")
            || ["CLIENTS", "API_URL", "WSPROXY_URL", "FASTAPI_URL", "OUTPUT_DIR"].contains(&name)
    };
    for (name, _) in std::env::vars().filter(|(name, _)| of_a_run(name)) {
        command.env_remove(name);
    }
    command.args(arguments).envs(environment.iter().copied()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_help_is_reviewed() {
    let help = |arguments: &[&str]| {
        let output = client(arguments, &[("COLUMNS", "100"), ("STREAMSTRESS_CLIENTS", "7")]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let short = help(&["-h"]);
    assert!(short.lines().count() <= 45, "-h fits on one screen:\n{short}");
    insta::assert_snapshot!("help_short", short);
    insta::assert_snapshot!("help_run", help(&["run", "--help"]));
}

#[test]
fn all_config_errors_are_reported_together_with_exit_code_104() {
    let output = client(
        &["--clients", "0", "--queries", "-1", "--ramp-up", "nan", "--duration", "5x"],
        &[("API_URL", "gopher://x")],
    );
    assert_eq!(output.status.code(), Some(104));
    for fault in [
        "--clients 0",
        "--queries -1",
        "invalid duration \"nan\" for --ramp-up",
        "invalid duration \"5x\" for --duration: expected for example 30s, 5m or 1h30m",
        "gopher://x",
    ] {
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
fn a_flag_has_a_variable_and_takes_precedence_over_it() {
    let twin = client(&[], &[("CLIENTS", "0")]);
    assert!(stderr(&twin).contains("--clients 0"), "{}", stderr(&twin));
    let both = client(&["--clients", "-7"], &[("CLIENTS", "0")]);
    assert!(stderr(&both).contains("--clients -7"), "{}", stderr(&both));
}

#[test]
fn a_bad_value_of_a_variable_names_the_variable() {
    for (name, value, words) in [
        ("CLIENTS", "many", "note: the value comes from the environment variable CLIENTS"),
        (
            "CLIENTS",
            "0",
            "--clients 0 is out of range: expected a number from 1 to 1000000 (the value comes from the environment",
        ),
        ("LOAD_BURST", "maybe", "environment variable LOAD_BURST"),
        ("LOAD_THRESHOLDS", "e2el_ms:max<-1", "environment variable LOAD_THRESHOLDS"),
        ("LOAD_DURATION", "5x", "environment variable LOAD_DURATION"),
        ("STREAMSTRESS_GRACE", "5x", "environment variable STREAMSTRESS_GRACE"),
        ("STREAMSTRESS_CLIENTS", "many", "environment variable STREAMSTRESS_CLIENTS"),
    ] {
        let output = client(&["--dry-run"], &[(name, value)]);
        assert_eq!(output.status.code(), Some(104), "{name}={value}");
        assert!(stderr(&output).contains(words), "{name}={value}: {}", stderr(&output));
    }
    let flag = client(&["--clients", "many"], &[("CLIENTS", "many")]);
    assert!(!stderr(&flag).contains("environment"), "{}", stderr(&flag));
}

#[test]
fn switches_take_the_usual_words_and_the_last_value_counts() {
    for value in ["1", "yes", "on", "TRUE", "0", "no", "off", "false"] {
        let output = client(&["--dry-run", "--burst=no"], &[("LOAD_BURST", value), ("LOAD_QUIET", value)]);
        assert_eq!(output.status.code(), Some(0), "{value}: {}", stderr(&output));
    }
    let last = client(&["--dry-run", "--clients", "0", "--clients=7", "--seed", "1", "--seed", "2"], &[]);
    let plan = String::from_utf8(last.stdout.clone()).unwrap();
    assert!(plan.contains("sessions       7") && plan.contains("seed 2"), "{plan}{}", stderr(&last));
    let both = client(&["--dry-run", "--threshold", "e2el_ms:p0.95<1", "--threshold", "e2el_ms:max<-1"], &[]);
    assert!(
        stderr(&both).contains("did you mean p95?") && stderr(&both).contains("never hold"),
        "the values of a list must be combined"
    );
}

#[test]
fn a_dotenv_file_is_read_as_compose_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let plan = |dotenv: &str, environment: &[(&str, &str)]| {
        std::fs::write(dir.path().join(".env"), dotenv).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamstress"));
        command.current_dir(dir.path()).env_remove("CLIENTS").arg("--dry-run");
        command.envs(environment.iter().copied()).output().unwrap()
    };
    for (dotenv, environment, sessions) in [
        (include_str!("cases/dotenv_default.env"), &[][..], 4),
        (include_str!("cases/dotenv_default.env"), &[("N", "6")], 6),
        (include_str!("cases/dotenv_spaces.env"), &[], 4),
        ("\u{feff}CLIENTS=4\r\nnonsense of others\r\n", &[], 4),
        ("export CLIENTS='4' # four\n", &[], 4),
    ] {
        let output = plan(dotenv, environment);
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        assert!(
            text.contains(&format!("sessions       {sessions}\n")),
            "{dotenv}: {text}{}",
            stderr(&output)
        );
    }
    for (dotenv, words) in [
        ("\n\nCLIENTS=many\n", ".env line 3: CLIENTS"),
        (
            "A=1\nCLIENTS=0\n",
            "--clients 0 is out of range: expected a number from 1 to 1000000 (the value comes from .env line 2)",
        ),
        ("CLIENTS=\"4\n", ".env line 1: CLIENTS"),
    ] {
        let output = plan(dotenv, &[]);
        assert_eq!(output.status.code(), Some(104));
        assert!(stderr(&output).contains(words), "{dotenv}: {}", stderr(&output));
    }
}

#[test]
fn traces_in_foreign_formats_are_replayed_from_a_given_time() {
    let case = |name: &str| format!("{}/../crates/plan/tests/cases/{name}", env!("CARGO_MANIFEST_DIR"));
    let plan = |arguments: &[&str]| {
        let output = client(&[&["--dry-run"], arguments].concat(), &[]);
        (output.status.code(), String::from_utf8(output.stdout.clone()).unwrap(), stderr(&output))
    };
    for name in ["t_dst.csv", "t_azure_quoted_ts.csv"] {
        let (code, text, error) = plan(&["--trace", &case(name)]);
        assert!(code == Some(0) && text.contains("queries        about 2"), "{name}: {text}{error}");
    }
    let azure = case("t_azure_quoted_ts.csv");
    for from in ["2s", "2", "2023-11-16 18:15:48", "2023-11-16T19:15:48+01:00"] {
        let (code, text, error) = plan(&["--trace", &azure, "--trace-from", from]);
        assert!(code == Some(0) && text.contains("queries        about 1"), "{from}: {text}{error}");
    }
    for (arguments, words) in [
        (&["--trace", azure.as_str(), "--trace-from", "1h"][..], "no request is left after --trace-from"),
        (&["--trace", &azure, "--trace-from", "soon"], "invalid time \"soon\" for --trace-from"),
        (&["--trace-from", "1s"], "--trace-from needs --trace FILE"),
    ] {
        let (code, _, error) = plan(arguments);
        assert!(code == Some(104) && error.contains(words), "{words}: {error}");
    }
}

#[test]
fn a_percentile_of_too_few_queries_is_warned_about() {
    let arguments = ["--dry-run", "--clients", "5", "--queries", "10", "--threshold", "e2el_ms:p99.99<3000"];
    let output = client(&arguments, &[]);
    assert_eq!(output.status.code(), Some(0));
    let text = stderr(&output);
    assert!(text.contains("p(99.99) needs 10000 samples") && text.contains("about 50 queries"), "{text}");
}

#[test]
fn a_tolerance_is_not_guessed() {
    for flag in ["--tolerance", "--failure-tolerance", "--assumed-noise"] {
        let output = client(&["compare", "a.csv", "b.csv", flag, "5"], &[]);
        assert_eq!(output.status.code(), Some(104));
        assert!(stderr(&output).contains("did you mean 5%?"), "{}", stderr(&output));
    }
}

#[test]
fn what_a_run_cannot_do_is_reported_before_it() {
    let plan = ["--dry-run", "--duration", "20s"];
    let embedded = client(&[&plan[..], &["--embedded", "--threshold", "rss_mb{redis}<50"]].concat(), &[]);
    assert_eq!(embedded.status.code(), Some(0));
    let told = stderr(&embedded);
    assert!(told.starts_with("warning: --threshold `rss_mb{redis}<50` makes this run INVALID"), "{told}");
    let late = client(&[&plan[..], &["--fault", "redis:kill@30s"]].concat(), &[]);
    assert!(
        stderr(&late).starts_with("warning: --fault `redis:kill` at 30 s comes too late"),
        "{}",
        stderr(&late)
    );
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
    let arguments = [
        "--cut-rate",
        "-1",
        "--pause-readers",
        "many:10s",
        "--late-connect",
        "5..0",
        "--fault",
        "moon:kill@3s",
    ];
    let more = ["--fault", "redis:restart", "--fault", "redis:restart@soon", "--embedded"];
    let output = client(&[&arguments[..], &more].concat(), &[]);
    assert_eq!(output.status.code(), Some(104));
    for fault in [
        "--cut-rate -1",
        "invalid value \"many:10s\" for --pause-readers",
        "invalid range \"5..0\" for --late-connect",
        "moon",
        "SPEC@TIME",
        "invalid duration \"soon\"",
        "--embedded",
    ] {
        assert!(stderr(&output).contains(fault), "{fault} is not in {}", stderr(&output));
    }
}

#[test]
fn secrets_of_the_environment_are_not_shown() {
    let output = client(&["--token", "hush"], &[("FASTAPI_URL", "http://127.0.0.1:1")]);
    assert_eq!(output.status.code(), Some(104));
    let text = stderr(&output);
    assert!(text.contains("127.0.0.1:1") && !text.contains("hush"), "{text}");
    assert!(text.contains("warning: FASTAPI_URL is an old name: use STREAMSTRESS_API_URL"), "{text}");
    for name in ["LOAD_TOKEN", "STREAMSTRESS_AUTH_TOKEN"] {
        let help = client(&["--help"], &[(name, "hush")]);
        assert!(!String::from_utf8(help.stdout).unwrap().contains("hush"));
    }
}

#[test]
fn two_names_of_one_setting_must_agree() {
    let same = client(&["--dry-run"], &[("CLIENTS", "7"), ("STREAMSTRESS_CLIENTS", "7")]);
    assert_eq!(same.status.code(), Some(0), "{}", stderr(&same));
    let empty = client(&["--dry-run"], &[("CLIENTS", "7"), ("STREAMSTRESS_CLIENTS", "")]);
    assert!(
        String::from_utf8(empty.stdout.clone()).unwrap().contains("sessions       7\n"),
        "{}",
        stderr(&empty)
    );
    for arguments in [&["--dry-run"][..], &["run", "--dry-run"]] {
        let other = client(arguments, &[("CLIENTS", "7"), ("STREAMSTRESS_CLIENTS", "8")]);
        assert_eq!(other.status.code(), Some(104));
        let text = stderr(&other);
        assert!(text.contains("STREAMSTRESS_CLIENTS=\"8\" and CLIENTS=\"7\" set --clients"), "{text}");
    }
    let secret = client(&["--dry-run"], &[("LOAD_TOKEN", "hush"), ("STREAMSTRESS_AUTH_TOKEN", "hash")]);
    assert_eq!(secret.status.code(), Some(104));
    let text = stderr(&secret);
    assert!(text.contains("STREAMSTRESS_AUTH_TOKEN and LOAD_TOKEN set") && !text.contains("hush"), "{text}");
    let analyzed = client(&["analyze", "/no/such.csv"], &[("CLIENTS", "7"), ("STREAMSTRESS_CLIENTS", "8")]);
    assert!(!stderr(&analyzed).contains("CLIENTS"), "{}", stderr(&analyzed));
}

#[test]
fn run_reads_the_environment_as_the_short_form_does() {
    for arguments in [&["--dry-run"][..], &["run", "--dry-run", "--burst=no"]] {
        let output = client(
            arguments,
            &[("LOAD_BURST", ""), ("STREAMSTRESS_CLIENTS", "7"), ("QUERIES_PER_CLIENT", "3")],
        );
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        assert!(text.contains("sessions       7\n"), "{arguments:?}: {text}{}", stderr(&output));
    }
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

#[test]
fn a_wrong_threshold_is_reported_before_anything_runs() {
    let arguments =
        ["--threshold", "e2e_ms:p95<3", "error_rate<1", "--goodput", "itl:3", "--abort-delay", "30s"];
    let output = client(&arguments, &[]);
    assert_eq!(output.status.code(), Some(104));
    for fault in
        ["`e2e_ms:p95<3`: unknown figure", "queue_ms, ttft_ms", "\"itl:3\" for --goodput", "--abort-on-fail"]
    {
        assert!(stderr(&output).contains(fault), "{fault}: {}", stderr(&output));
    }
    assert!(!stderr(&output).contains("`error_rate<1`"), "{}", stderr(&output));
}

#[test]
fn what_cannot_be_shown_or_streamed_is_refused() {
    for (arguments, words) in [
        (&["--out", "csv=x"][..], "invalid output \"csv=x\" for --out: expected json, json=FILE or json=-"),
        (&["--tui", "--quiet"], "--tui and --quiet exclude each other"),
        (&["--tui", "--embedded"], "--tui needs a terminal, but stderr is not one: omit --tui"),
    ] {
        let output = client(arguments, &[]);
        assert_eq!(output.status.code(), Some(104), "{arguments:?}");
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
}

#[test]
fn a_view_without_keys_is_refused_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let results = dir.path().join("results");
    let OpenptyResult { master, slave } = openpty(None, None).unwrap();
    // Stderr is a terminal. `setsid` starts a session without a controlling terminal, so /dev/tty cannot be opened.
    let ended = Command::new("setsid")
        .arg(env!("CARGO_BIN_EXE_streamstress"))
        .args(["--tui", "--embedded", "--clients", "1", "--queries", "1", "--output-dir"])
        .arg(&results)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(slave)
        .status()
        .unwrap();
    let mut said = Vec::new();
    // The read fails when the program has closed the other end of the terminal.
    let _ = File::from(master).read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said);
    assert_eq!(ended.code(), Some(104), "{said}");
    assert!(said.contains("neither stdin nor /dev/tty is a terminal"), "{said}");
    assert!(!results.exists());
}

mod unread {
    use super::*;
    use std::{fs, io, process::Child};
    use tempfile::TempDir;

    /// A run that writes its events to a stdout from which no process reads.
    struct Run {
        client: Child,
        results: TempDir,
    }

    impl Run {
        fn start(stdout: Stdio) -> Self {
            let results = tempfile::tempdir().unwrap();
            let load = ["--clients", "200", "--queries", "1", "--ramp-up", "0.2", "--answer-tokens", "2"];
            let client = Command::new("timeout")
                .args(["--kill-after=1", "30", env!("CARGO_BIN_EXE_streamstress")])
                .args(["--embedded", "--quiet", "--out", "json=-"])
                .args(load)
                .arg("--output-dir")
                .arg(results.path())
                .stdin(Stdio::null())
                .stdout(stdout)
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            Self { client, results }
        }

        fn ends_and_counts_what_it_dropped(self) {
            let said = stderr(&self.client.wait_with_output().unwrap());
            let mut files = fs::read_dir(&self.results).unwrap().map(|entry| entry.unwrap().path());
            let summary = files.find(|path| path.to_string_lossy().ends_with("_summary.json"));
            let summary = fs::read(summary.unwrap_or_else(|| panic!("no summary: {said}"))).unwrap();
            let events = &serde_json::from_slice::<serde_json::Value>(&summary).unwrap()["events"];
            for count in ["dropped", "written"] {
                assert!(events[count].as_u64() > Some(0), "{events}");
            }
            assert_eq!(events["destination"], "stdout");
            assert_eq!(events["error"], "its reader is too slow");
        }
    }

    #[test]
    fn a_stdout_without_a_reader_drops_events_and_does_not_stop_the_run() {
        let OpenptyResult { master, slave } = openpty(None, None).unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let runs = [Stdio::from(slave), Stdio::from(writer)].map(Run::start);
        runs.into_iter().for_each(Run::ends_and_counts_what_it_dropped);
        drop((master, reader));
    }
}

#[test]
fn a_comparison_answers_with_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let side = |name: &str, figures: [f64; 4]| -> Vec<String> {
        let run = |(index, p95): (usize, f64)| {
            let path = dir.path().join(format!("{name}{index}_summary.json"));
            let text =
                format!(r#"{{"queries_total":9,"queries_ok":9,"metrics":{{"e2el_ms":{{"p95":{p95}}}}}}}"#);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        figures.into_iter().enumerate().map(run).collect()
    };
    let before = side("before", [900.0, 902.0, 899.0, 901.0]);
    let compared = |after: &[String], more: &[&str]| {
        let before = before.iter().map(String::as_str);
        let after = after.iter().map(String::as_str);
        let head = ["compare", "--metric", "e2el_ms:p95", "--baseline"].into_iter();
        let arguments: Vec<_> =
            head.chain(before).chain(["--candidate"]).chain(after).chain(more.iter().copied()).collect();
        client(&arguments, &[]).status.code()
    };
    assert_eq!(compared(&before, &[]), Some(0));
    assert_eq!(compared(&side("slow", [990.0, 992.0, 989.0, 991.0]), &[]), Some(99));
    assert_eq!(compared(&side("slower", [990.0, 992.0, 989.0, 991.0]), &["--tolerance", "15%"]), Some(0));
    assert_eq!(compared(&side("wild", [500.0, 1500.0, 900.0, 1000.0]), &[]), Some(98));
    assert_eq!(compared(&before, &["--tolerance", "much"]), Some(104));
    assert_eq!(
        client(&["compare", &before[0], &before[1]], &[]).status.code(),
        Some(98),
        "one run per side, without rows"
    );
    assert_eq!(client(&["compare", &before[0]], &[]).status.code(), Some(104));
    assert_eq!(client(&["compare"], &[]).status.code(), Some(104));
    assert_eq!(client(&["compare", "--baseline", &before[0]], &[]).status.code(), Some(104));
}

#[test]
fn a_plan_is_printed_and_nothing_is_started() {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), "stages = \"1m:50,1m:0\"\nseed = 9").unwrap();
    let path = file.path().to_str().unwrap();
    let planned = client(&["--scenario", path, "--dry-run", "--api-url", "http://127.0.0.1:1"], &[]);
    assert_eq!(planned.status.code(), Some(0), "{}", stderr(&planned));
    let text = String::from_utf8(planned.stdout).unwrap();
    assert!(text.contains("workload staged, seed 9") && text.contains("0 → 50"), "{text}");
    let too_much = client(&["--clients", "900000", "--dry-run"], &[]);
    assert_eq!(too_much.status.code(), Some(104));
    assert!(stderr(&too_much).contains("run at most"), "{}", stderr(&too_much));
}

#[test]
fn two_workloads_at_once_are_refused_with_all_the_rest() {
    let arguments = ["--stages", "1m:5", "--arrival-rate", "5", "--time-scale", "0", "--trace-scale", "2"];
    let output = client(&[&arguments[..], &["--profile", "huge", "--answer-tokens", "0"]].concat(), &[]);
    assert_eq!(output.status.code(), Some(104));
    for fault in [
        "--stages and --arrival-rate are different workloads",
        "--time-scale 0",
        "unknown profile \"huge\"",
        "--answer-tokens 0",
    ] {
        assert!(stderr(&output).contains(fault), "{fault} is not in {}", stderr(&output));
    }
}

#[test]
fn only_the_newest_results_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let results = directory.path().join("results");
    std::fs::create_dir(&results).unwrap();
    for old in ["loadtest_20200101_000000.csv", "loadtest_20200101_000000_stats.csv", "mine.csv"] {
        std::fs::write(results.join(old), "x").unwrap();
    }
    let run = |keep: &str| {
        let arguments =
            ["--embedded", "--clients", "1", "--queries", "1", "--keep-results", keep, "--output-dir"];
        client(&[&arguments[..], &[results.to_str().unwrap()]].concat(), &[])
    };
    assert!(run("2").status.code().is_some_and(|code| [0, 98].contains(&code)));
    assert!(results.join("loadtest_20200101_000000.csv").exists());
    assert!(run("1").status.code().is_some_and(|code| [0, 98].contains(&code)));
    let rows = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.ends_with("_summary.json").then_some(name)
    };
    assert_eq!(std::fs::read_dir(&results).unwrap().filter_map(rows).count(), 1);
    assert!(
        !results.join("loadtest_20200101_000000_stats.csv").exists() && results.join("mine.csv").exists()
    );
    assert_eq!(run("0").status.code(), Some(104));
}
