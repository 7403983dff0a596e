//! The program as a user calls it: flags, the environment variables for them, and the exit codes that scripts read.
//! The only stack that these tests use is the embedded one.

#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "rig/programs.rs"]
mod programs;

use nix::pty::{OpenptyResult, openpty};
use std::{
    fs::File,
    io::Read,
    process::{Command, Output, Stdio},
};

/// What the program printed, and its exit code.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        Self { code: output.status.code(), stdout, stderr }
    }
}

fn client(arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
    programs::streamstress(arguments).envs(environment.iter().copied()).output().unwrap().into()
}

/// Calls the program, which must print these words to stderr and end with exit code 104. Returns the text.
#[track_caller]
fn refused(arguments: &[&str], environment: &[(&str, &str)], words: &[&str]) -> String {
    let Ended { code, stderr, .. } = client(arguments, environment);
    assert_eq!(code, Some(104), "{arguments:?} {environment:?}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{word} is not in {stderr}");
    }
    stderr
}

/// Calls the program, which must print these words to stdout and end with exit code 0. Returns both texts.
#[track_caller]
fn accepted(arguments: &[&str], environment: &[(&str, &str)], words: &[&str]) -> Ended {
    let ended = client(arguments, environment);
    let Ended { code, stdout, stderr } = &ended;
    assert_eq!(*code, Some(0), "{arguments:?} {environment:?}: {stdout}{stderr}");
    for word in words {
        assert!(stdout.contains(word), "{word} is not in {stdout}; stderr: {stderr}");
    }
    ended
}

#[test]
fn the_help_is_reviewed() {
    let help = |arguments: &[&str]| {
        accepted(arguments, &[("COLUMNS", "100"), ("STREAMSTRESS_CLIENTS", "7")], &[]).stdout
    };
    let short = help(&["-h"]);
    assert!(short.lines().count() <= 45, "-h fits on one screen:\n{short}");
    insta::assert_snapshot!("help_short", short);
    insta::assert_snapshot!("help_run", help(&["run", "--help"]));
}

#[test]
fn all_config_errors_are_reported_together_with_exit_code_104() {
    let arguments = ["--clients", "0", "--queries", "-1", "--ramp-up", "nan", "--duration", "5x"];
    let words = [
        "--clients 0",
        "--queries -1",
        "invalid duration \"nan\" for --ramp-up",
        "invalid duration \"5x\" for --duration: expected for example 30s, 5m or 1h30m",
        "gopher://x",
    ];
    refused(&arguments, &[("API_URL", "gopher://x")], &words);
}

#[test]
fn what_clap_refuses_has_the_same_code() {
    for arguments in
        [&["--no-such-flag"][..], &["--clients", "many"], &["analyze"], &["analyze", "/no/such.csv"]]
    {
        refused(arguments, &[], &[]);
    }
    for part in [&["server"][..], &["wsproxy"], &["stack"], &[]] {
        for request in ["--help", "--version"] {
            accepted(&[part, &[request]].concat(), &[], &[]);
        }
    }
}

#[test]
fn server_and_gateway_refuse_a_wrong_configuration_with_the_same_code() {
    let key = ("JWT_SECRET", "a key of thirty-two bytes or more");
    for part in ["server", "wsproxy"] {
        refused(&[part, "--no-such-flag"], &[key], &["--no-such-flag"]);
        refused(&[part, "--port", "many"], &[key], &["--port"]);
        refused(&[part, "--host", "127.0.0.1"], &[], &["JWT_SECRET"]);
        // 192.0.2.1 is an address for documentation, which no machine has.
        let elsewhere = client(&[part, "--host", "192.0.2.1", "--redis-url", "memory://"], &[key]);
        assert_eq!(elsewhere.code, Some(1), "{part}: {}", elsewhere.stderr);
        assert!(elsewhere.stderr.contains("cannot listen on 192.0.2.1"), "{part}: {}", elsewhere.stderr);
    }
}

#[test]
fn a_flag_has_a_variable_and_takes_precedence_over_it() {
    refused(&[], &[("CLIENTS", "0")], &["--clients 0"]);
    refused(&["--clients", "-7"], &[("CLIENTS", "0")], &["--clients -7"]);
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
        refused(&["--dry-run"], &[(name, value)], &[words]);
    }
    let flag = refused(&["--clients", "many"], &[("CLIENTS", "many")], &[]);
    assert!(!flag.contains("environment"), "{flag}");
}

#[test]
fn switches_take_the_usual_words_and_the_last_value_counts() {
    for value in ["1", "yes", "on", "TRUE", "0", "no", "off", "false"] {
        accepted(&["--dry-run", "--burst=no"], &[("LOAD_BURST", value), ("LOAD_QUIET", value)], &[]);
    }
    let last = ["--dry-run", "--clients", "0", "--clients=7", "--seed", "1", "--seed", "2"];
    accepted(&last, &[], &["sessions       7", "seed 2"]);
    // The values of a list must be combined.
    let both = ["--dry-run", "--threshold", "e2el_ms:p0.95<1", "--threshold", "e2el_ms:max<-1"];
    refused(&both, &[], &["did you mean p95?", "never hold"]);
}

#[test]
fn a_dotenv_file_is_read_as_compose_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let plan = |dotenv: &str, environment: &[(&str, &str)]| -> Ended {
        std::fs::write(dir.path().join(".env"), dotenv).unwrap();
        let mut command = programs::streamstress(&["--dry-run"]);
        command.current_dir(dir.path()).envs(environment.iter().copied()).output().unwrap().into()
    };
    for (dotenv, environment, sessions) in [
        (include_str!("cases/dotenv_default.env"), &[][..], 4),
        (include_str!("cases/dotenv_default.env"), &[("N", "6")], 6),
        (include_str!("cases/dotenv_spaces.env"), &[], 4),
        ("\u{feff}CLIENTS=4\r\nnonsense of others\r\n", &[], 4),
        ("export CLIENTS='4' # four\n", &[], 4),
    ] {
        let Ended { stdout, stderr, .. } = plan(dotenv, environment);
        assert!(stdout.contains(&format!("sessions       {sessions}\n")), "{dotenv}: {stdout}{stderr}");
    }
    for (dotenv, words) in [
        ("\n\nCLIENTS=many\n", ".env line 3: CLIENTS"),
        (
            "A=1\nCLIENTS=0\n",
            "--clients 0 is out of range: expected a number from 1 to 1000000 (the value comes from .env line 2)",
        ),
        ("CLIENTS=\"4\n", ".env line 1: CLIENTS"),
    ] {
        let Ended { code, stderr, .. } = plan(dotenv, &[]);
        assert!(code == Some(104) && stderr.contains(words), "{dotenv}: {stderr}");
    }
}

#[test]
fn traces_in_foreign_formats_are_replayed_from_a_given_time() {
    let case = |name: &str| format!("{}/../crates/plan/tests/cases/{name}", env!("CARGO_MANIFEST_DIR"));
    for name in ["t_dst.csv", "t_azure_quoted_ts.csv"] {
        accepted(&["--dry-run", "--trace", &case(name)], &[], &["queries        about 2"]);
    }
    let azure = case("t_azure_quoted_ts.csv");
    for from in ["2s", "2", "2023-11-16 18:15:48", "2023-11-16T19:15:48+01:00"] {
        let arguments = ["--dry-run", "--trace", &azure, "--trace-from", from];
        accepted(&arguments, &[], &["queries        about 1"]);
    }
    for (arguments, words) in [
        (&["--trace", azure.as_str(), "--trace-from", "1h"][..], "no request is left after --trace-from"),
        (&["--trace", &azure, "--trace-from", "soon"], "invalid time \"soon\" for --trace-from"),
        (&["--trace-from", "1s"], "--trace-from needs --trace FILE"),
    ] {
        refused(&[&["--dry-run"], arguments].concat(), &[], &[words]);
    }
}

#[test]
fn a_percentile_of_too_few_queries_is_warned_about() {
    let arguments = ["--dry-run", "--clients", "5", "--queries", "10", "--threshold", "e2el_ms:p99.99<3000"];
    let warned = accepted(&arguments, &[], &["about 50"]).stderr;
    for words in ["warning: ", "p(99.99) needs 10000 samples", "about 50 queries"] {
        assert!(warned.contains(words), "{words} is not in {warned}");
    }
}

#[test]
fn a_tolerance_is_not_guessed() {
    for flag in ["--tolerance", "--failure-tolerance", "--assumed-noise"] {
        refused(&["compare", "a.csv", "b.csv", flag, "5"], &[], &["did you mean 5%?"]);
    }
}

#[test]
fn what_a_run_cannot_do_is_reported_before_it() {
    let plan = ["--dry-run", "--duration", "20s"];
    let embedded = client(&[&plan[..], &["--embedded", "--threshold", "rss_mb{redis}<50"]].concat(), &[]);
    let warning = "warning: --threshold `rss_mb{redis}<50` makes this run INVALID";
    assert!(embedded.code == Some(0) && embedded.stderr.starts_with(warning), "{}", embedded.stderr);
    let late = client(&[&plan[..], &["--fault", "redis:kill@30s"]].concat(), &[]).stderr;
    assert!(late.starts_with("warning: --fault `redis:kill` at 30 s comes too late"), "{late}");
}

#[test]
fn an_empty_variable_is_none() {
    let empty =
        ["CLIENTS", "LOAD_RAMP_UP", "LOAD_BURST", "API_URL", "LOAD_TOKEN", "LOAD_FAULTS", "LOAD_STALL"];
    let text = refused(&["--queries", "0"], &empty.map(|name| (name, "")), &[]);
    assert!(text.starts_with("error: --queries 0"), "{text}");
}

#[test]
fn habits_and_faults_are_checked_with_all_the_rest() {
    let habits = ["--cut-rate", "-1", "--pause-readers", "many:10s", "--late-connect", "5..0"];
    let faults = ["moon:kill@3s", "redis:restart", "redis:restart@soon"].map(|fault| ["--fault", fault]);
    let words = [
        "--cut-rate -1",
        "invalid value \"many:10s\" for --pause-readers",
        "invalid range \"5..0\" for --late-connect",
        "moon",
        "SPEC@TIME",
        "invalid duration \"soon\"",
        "--embedded",
    ];
    refused(&[&habits[..], faults.as_flattened(), &["--embedded"]].concat(), &[], &words);
}

#[test]
fn an_embedded_run_uses_no_url() {
    let directory = tempfile::tempdir().unwrap();
    let output_dir = directory.path().to_str().unwrap();
    let urls = [
        "--api-url",
        "http://127.0.0.1:1,http://127.0.0.1:2",
        "--wsproxy-url",
        "ws://127.0.0.1:1,ws://127.0.0.1:2",
    ];
    let run = ["--embedded", "--clients", "4", "--queries", "1", "--quiet", "--output-dir", output_dir];
    let Ended { code, stderr, .. } = client(&[&urls[..], &run].concat(), &[]);
    // 98 on a machine that is too busy.
    assert!(matches!(code, Some(0 | 98)), "{stderr}");
    assert!(stderr.contains("--api-url and --wsproxy-url are ignored"), "{stderr}");
}

#[test]
fn rolled_frames_lose_nothing_when_sockets_are_cut() {
    let directory = tempfile::tempdir().unwrap();
    let output_dir = directory.path().to_str().unwrap();
    let run = ["--embedded", "--clients", "8", "--queries", "2", "--answer-tokens", "200", "--itl-ms", "5"];
    let rollup = ["--cut-rate", "1", "--quiet", "--name", "rolled", "--output-dir", output_dir];
    let variables = [("STREAMSTRESS_ROLLUP_MS", "40")];
    let Ended { code, stderr, .. } = client(&[&run[..], &rollup].concat(), &variables);
    // 98 on a machine that is too busy.
    assert!(matches!(code, Some(0 | 98)), "{stderr}");
    let files = std::fs::read_dir(directory.path()).unwrap();
    let mut paths = files.map(|file| file.unwrap().path());
    let path = paths.find(|path| path.to_string_lossy().ends_with("_summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let count = |name: &str| summary[name].as_u64().unwrap();
    assert_eq!((count("queries_ok"), count("tokens_received")), (16, 3200), "{summary:#}");
    assert_eq!((count("tokens_duplicated"), count("tokens_reordered"), count("queries_corrupt")), (0, 0, 0));
    assert_eq!(count("contents_unverified"), 0);
    let (frames, tokens) = (count("frames_rolled"), count("tokens_rolled"));
    assert!(count("sockets_cut") > 0 && tokens > 2 * frames && frames > 100, "{summary:#}");
}

#[test]
fn secrets_of_the_environment_are_not_shown() {
    let old_name = "warning: FASTAPI_URL is an old name: use STREAMSTRESS_API_URL";
    let environment = [("FASTAPI_URL", "http://127.0.0.1:1")];
    let text = refused(&["--token", "hush"], &environment, &["127.0.0.1:1", old_name]);
    assert!(!text.contains("hush"), "{text}");
    for name in ["LOAD_TOKEN", "STREAMSTRESS_AUTH_TOKEN"] {
        let Ended { stdout, stderr, .. } = accepted(&["--help"], &[(name, "hush")], &[]);
        assert!(!stdout.contains("hush") && !stderr.contains("hush"), "{stdout}{stderr}");
    }
}

#[test]
fn two_names_of_one_setting_must_agree() {
    accepted(&["--dry-run"], &[("CLIENTS", "7"), ("STREAMSTRESS_CLIENTS", "7")], &[]);
    let empty = [("CLIENTS", "7"), ("STREAMSTRESS_CLIENTS", "")];
    accepted(&["--dry-run"], &empty, &["sessions       7\n"]);
    let differ = [("CLIENTS", "7"), ("STREAMSTRESS_CLIENTS", "8")];
    for arguments in [&["--dry-run"][..], &["run", "--dry-run"]] {
        refused(arguments, &differ, &["STREAMSTRESS_CLIENTS=\"8\" and CLIENTS=\"7\" set --clients"]);
    }
    let secrets = [("LOAD_TOKEN", "hush"), ("STREAMSTRESS_AUTH_TOKEN", "hash")];
    let text = refused(&["--dry-run"], &secrets, &["STREAMSTRESS_AUTH_TOKEN and LOAD_TOKEN set"]);
    assert!(!text.contains("hush"), "{text}");
    let analyzed = client(&["analyze", "/no/such.csv"], &differ).stderr;
    assert!(!analyzed.contains("CLIENTS"), "{analyzed}");
}

#[test]
fn run_reads_the_environment_as_the_short_form_does() {
    let environment = [("LOAD_BURST", ""), ("STREAMSTRESS_CLIENTS", "7"), ("QUERIES_PER_CLIENT", "3")];
    for arguments in [&["--dry-run"][..], &["run", "--dry-run", "--burst=no"]] {
        accepted(arguments, &environment, &["sessions       7\n"]);
    }
}

#[test]
fn analysing_ignores_the_variables_of_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let file = programs::rows(dir.path());
    let output = client(&["analyze", &file], &[("CLIENTS", "5"), ("LOAD_BURST", "true")]);
    assert!(output.code == Some(0) && !output.stdout.is_empty(), "{}", output.stderr);
}

#[test]
fn a_wrong_threshold_is_reported_before_anything_runs() {
    let arguments =
        ["--threshold", "e2e_ms:p95<3", "error_rate<1", "--goodput", "itl:3", "--abort-delay", "30s"];
    let words = [
        "`e2e_ms:p95<3`: unknown figure",
        "did you mean `e2el_ms`?",
        "\"itl:3\" for --goodput",
        "--abort-on-fail",
    ];
    let text = refused(&arguments, &[], &words);
    assert!(!text.contains("`error_rate<1`"), "{text}");
}

#[test]
fn what_cannot_be_shown_or_streamed_is_refused() {
    for (arguments, words) in [
        (&["--out", "csv=x"][..], "invalid output \"csv=x\" for --out: expected json, json=FILE or json=-"),
        (&["--tui", "--quiet"], "--tui and --quiet exclude each other"),
        (&["--tui", "--embedded"], "--tui needs a terminal, but stderr is not one: omit --tui"),
    ] {
        refused(arguments, &[], &[words]);
    }
}

#[test]
fn a_view_without_keys_is_refused_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let results = dir.path().join("results");
    let OpenptyResult { master, slave } = openpty(None, None).unwrap();
    // Stderr is a terminal. `setsid` starts a session without a controlling terminal, so /dev/tty cannot be opened.
    let ended = Command::new("setsid")
        .arg(programs::STREAMSTRESS)
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

#[test]
fn a_terminal_that_is_closed_does_not_keep_the_run_from_ending() {
    let dir = tempfile::tempdir().unwrap();
    let OpenptyResult { master, slave } = openpty(None, None).unwrap();
    let mut client = Command::new("timeout")
        .args(["--kill-after=1", "60", programs::STREAMSTRESS])
        .args(["--tui", "--embedded", "--clients", "2", "--queries", "2", "--output-dir"])
        .arg(dir.path())
        .stdin(slave.try_clone().unwrap())
        .stdout(Stdio::null())
        .stderr(slave)
        .spawn()
        .unwrap();
    let mut master = File::from(master);
    assert!(master.read(&mut [0; 64]).unwrap() > 0, "the view is drawn");
    drop(master);
    assert_eq!(client.wait().unwrap().code(), Some(0));
    let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().any(|name| name.to_string_lossy().ends_with("_summary.json")));
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
                .args(["--kill-after=1", "30", programs::STREAMSTRESS])
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
            let said = Ended::from(self.client.wait_with_output().unwrap()).stderr;
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
        client(&arguments, &[]).code
    };
    assert_eq!(compared(&before, &[]), Some(0));
    assert_eq!(compared(&side("slow", [990.0, 992.0, 989.0, 991.0]), &[]), Some(99));
    assert_eq!(compared(&side("slower", [990.0, 992.0, 989.0, 991.0]), &["--tolerance", "15%"]), Some(0));
    assert_eq!(compared(&side("wild", [500.0, 1500.0, 900.0, 1000.0]), &[]), Some(98));
    assert_eq!(compared(&before, &["--tolerance", "much"]), Some(104));
    let one_run_per_side = client(&["compare", &before[0], &before[1]], &[]);
    assert_eq!(one_run_per_side.code, Some(98), "the sides have no rows");
    for arguments in [&["compare", &before[0]][..], &["compare"], &["compare", "--baseline", &before[0]]] {
        refused(arguments, &[], &[]);
    }
}

#[test]
fn a_guide_is_printed_or_written() {
    let dir = tempfile::tempdir().unwrap();
    let results = dir.path().display().to_string();
    let write = |users: u32| {
        let text = format!(
            r#"{{"verdict":"PASS","output_throughput":{},"concurrency":{{"sessions_mean":{users}}},"config":{{}},
                "health":{{"cpu_share{{redis}}":{},"rss_mb{{redis}}":20}}}}"#,
            users * 20,
            f64::from(users) / 1000.0
        );
        std::fs::write(dir.path().join(format!("run{users}_summary.json")), text).unwrap();
    };
    (1..=6).for_each(|step| write(step * 50));
    refused(&["sizing", &results], &[], &["5 points at 5 different loads", "streamstress sweep"]);
    write(400);
    accepted(&["sizing", &results, "--users", "900"], &[], &["# Sizing guide", "extrapolated 2.2×"]);
    accepted(&["sizing", &results, "--out", "json"], &[], &["\"law\": \"usl\""]);
    let page = dir.path().join("sizing.md").display().to_string();
    accepted(&["sizing", &results, "--out", &page], &[], &[&page]);
    assert!(std::fs::read_to_string(&page).unwrap().starts_with("# Sizing guide"));
    let nowhere = format!("{results}/none/sizing.md");
    refused(&["sizing", &results, "--out", &nowhere], &[], &["cannot write", &nowhere]);
    refused(&["sizing", &results, "--headroom", "30"], &[], &["did you mean 30%?"]);
    refused(&["sizing"], &[], &["<DIR|FILE>"]);
}

#[test]
fn a_plan_is_printed_and_nothing_is_started() {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), "stages = \"1m:50,1m:0\"\nseed = 9").unwrap();
    let path = file.path().to_str().unwrap();
    let arguments = ["--scenario", path, "--dry-run", "--api-url", "http://127.0.0.1:1"];
    accepted(&arguments, &[], &["workload staged, seed 9", "0 → 50"]);
    refused(&["--clients", "900000", "--dry-run"], &[], &["run at most"]);
}

#[test]
fn two_workloads_at_once_are_refused_with_all_the_rest() {
    let arguments = ["--stages", "1m:5", "--arrival-rate", "5", "--time-scale", "0", "--trace-scale", "2"];
    let words = [
        "--stages and --arrival-rate are different workloads",
        "--time-scale 0",
        "unknown profile \"huge\"",
        "--answer-tokens 0",
    ];
    refused(&[&arguments[..], &["--profile", "huge", "--answer-tokens", "0"]].concat(), &[], &words);
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
    assert!(run("2").code.is_some_and(|code| [0, 98].contains(&code)));
    assert!(results.join("loadtest_20200101_000000.csv").exists());
    assert!(run("1").code.is_some_and(|code| [0, 98].contains(&code)));
    let rows = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.ends_with("_summary.json").then_some(name)
    };
    assert_eq!(std::fs::read_dir(&results).unwrap().filter_map(rows).count(), 1);
    assert!(
        !results.join("loadtest_20200101_000000_stats.csv").exists() && results.join("mine.csv").exists()
    );
    assert_eq!(run("0").code, Some(104));
}
