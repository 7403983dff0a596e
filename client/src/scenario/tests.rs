//! Layers over each other, and what a file may not say.

use super::*;
use crate::schedule::Spread;

fn resolved(words: &[&str], scenario: &str, dotenv: &[(&str, &str)]) -> Result<RunArgs, String> {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), scenario).unwrap();
    let path = file.path().display().to_string();
    let command = RunArgs::augment_args(Command::new("client").no_binary_name(true))
        .mut_args(|arg| arg.env(None::<&str>));
    let words = words.iter().copied().chain(["--scenario", &path]);
    let matches = command.try_get_matches_from(words).unwrap();
    let dotenv = dotenv.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    resolve(RunArgs::from_arg_matches(&matches).unwrap(), &matches, &dotenv)
}

#[test]
fn a_flag_outranks_the_file_and_the_file_outranks_dotenv() {
    let file =
        "clients = 20\nthink_time = \"exp:2\"\nthresholds = [\"error_rate<0.01\"]\nseed = 5\nburst = true";
    let dotenv = [
        ("CLIENTS", "7"),
        ("LOAD_NAME", "mine"),
        ("LOAD_QUIET", "true"),
        ("API_PORT", "1"),
        ("LOAD_AGENT", ""),
    ];
    let args = resolved(&["--queries", "3", "--clients", "30"], file, &dotenv).unwrap();
    assert_eq!((args.clients, args.queries, args.seed), (Some(30), Some(3), Some(5)));
    assert_eq!((args.name.as_deref(), args.quiet, args.burst), (Some("mine"), true, true));
    assert_eq!(args.think_time, Some(Spread::Exponential(2.0)));
    assert_eq!((args.thresholds.len(), args.agent), (1, None));
    assert_eq!(resolved(&[], "clients = 20", &dotenv).unwrap().clients, Some(20));
    assert_eq!(resolved(&[], "", &dotenv).unwrap().clients, Some(7));
}

#[test]
fn a_flag_counts_for_every_kind_of_user() {
    let file = "[[user]]\nname = \"a\"\ntokens = 5\nthink_time = 2.5\n[[user]]\nname = \"b\"\nweight = 2\ntokens = \"1..9\"";
    let args = resolved(&["--tokens", "40"], file, &[]).unwrap();
    assert_eq!(args.tokens, Some(Spread::Fixed(40.0)));
    assert!(args.user.iter().all(|user| user.tokens.is_none()) && args.user[0].think_time.is_some());
}

#[test]
fn another_workload_takes_the_files_place() {
    let file = "arrival_rate = 5.0\nduration = \"1m\"";
    let args = resolved(&["--stages", "1s:5"], file, &[]).unwrap();
    assert_eq!((args.arrival_rate, args.duration, args.stages.as_deref()), (None, None, Some("1s:5")));
    let args = resolved(&["--ramp-up", "3"], "spawn_rate = 5.0", &[]).unwrap();
    assert_eq!((args.ramp_up, args.spawn_rate), (Some(3.0), None));
}

#[test]
fn what_no_run_understands_names_key_line_and_file() {
    for (file, words) in [
        ("clients = 5\nclinets = 5", "line 2: unknown key `clinets`"),
        ("[[user]]\nnmae = \"x\"", "unknown key `nmae`"),
        ("clients = \"many\"", "line 1: invalid type"),
        ("think_time = \"often\"", "line 1"),
        ("clients 5", "line 1"),
        ("scenario = \"smoke\"", "`scenario` has no place"),
    ] {
        let error = resolved(&[], file, &[]).unwrap_err();
        assert!(
            error.contains(words) && error.contains(".toml: ") && !error.contains("expected one of"),
            "{error}"
        );
    }
    assert!(find("no-such").unwrap_err().contains("scenarios/"));
    assert!(
        from_dotenv(&[("CLIENTS".to_owned(), "many".to_owned())].into()).unwrap_err().starts_with(".env: ")
    );
}

#[test]
fn the_seed_may_be_any() {
    let args = resolved(&["--seed", "18446744073709551615"], "clients = 1", &[]).unwrap();
    assert_eq!(args.seed, Some(u64::MAX));
}

#[test]
fn every_scenario_that_comes_with_the_program_can_be_run() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let mut seen = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let args = RunArgs::deserialize_table(read(&path).unwrap()).unwrap();
            crate::config::Config::new(args, 2, 1)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            seen += 1;
        }
    }
    assert!(seen >= 8, "{seen}");
}
