//! Layers over each other, and what a file may not say.

use super::*;
use settings::distribution::Distribution;
use settings::dotenv::Entry;

fn variables(variables: &[(&str, &str)]) -> Variables {
    let entry = |(line, &(name, value)): (usize, &(&str, &str))| {
        (name.to_owned(), Entry { line: line + 1, value: Ok(value.to_owned()) })
    };
    variables.iter().enumerate().map(entry).collect()
}

fn resolved(words: &[&str], scenario: &str, dotenv: &[(&str, &str)]) -> Result<RunArgs, String> {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), scenario).unwrap();
    let path = file.path().display().to_string();
    let command = cli::options().args_override_self(true).mut_args(cli::switch);
    let words = words.iter().copied().chain(["--scenario", &path]);
    let matches = command.try_get_matches_from(words).unwrap();
    let run = RunArgs::from_arg_matches(&matches).unwrap();
    resolve(run, &matches, &variables(dotenv)).map(|(args, _)| args)
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
    assert_eq!(args.think_time, Some(Distribution::Exponential(2.0)));
    assert_eq!((args.thresholds.len(), args.agent), (1, None));
    assert_eq!(resolved(&[], "clients = 20", &dotenv).unwrap().clients, Some(20));
    assert_eq!(resolved(&[], "", &dotenv).unwrap().clients, Some(7));
}

#[test]
fn a_flag_counts_for_every_kind_of_user() {
    let file = "[[user]]\nname = \"a\"\ntokens = 5\nthink_time = 2.5\n[[user]]\nname = \"b\"\nweight = 2\ntokens = \"1..9\"";
    let args = resolved(&["--answer-tokens", "40"], file, &[]).unwrap();
    assert_eq!(args.answer_tokens, Some(Distribution::Fixed(40.0)));
    assert!(args.user.iter().all(|user| user.answer_tokens.is_none()) && args.user[0].think_time.is_some());
}

#[test]
fn older_names_of_flags_and_keys_are_understood() {
    for (old, new) in RENAMED {
        let flag = format!("--{}=5", old.replace('_', "-"));
        let by_flag = Table::try_from(resolved(&[&flag], "", &[]).unwrap()).unwrap();
        let text = if matches!(old, "token" | "stall") { "\"5\"" } else { "5" };
        let by_key = Table::try_from(resolved(&[], &format!("{old} = {text}"), &[]).unwrap()).unwrap();
        let by_new_key = Table::try_from(resolved(&[], &format!("{new} = {text}"), &[]).unwrap()).unwrap();
        assert!(by_flag[new] == by_key[new] && by_key[new] == by_new_key[new], "{old}");
        let flag = format!("--{}=7", new.replace('_', "-"));
        let flag_first =
            Table::try_from(resolved(&[&flag], &format!("{old} = {text}"), &[]).unwrap()).unwrap();
        assert_ne!(flag_first[new], by_key[new], "{old}");
    }
    let both = resolved(&[], "tokens = 5\nanswer_tokens = 5", &[]).unwrap_err();
    assert!(both.contains("duplicate field"), "{both}");
}

#[test]
fn a_duration_of_a_scenario_is_a_text_or_a_number() {
    let args = resolved(&[], "grace = 2\nramp_up = 0.5\nduration = 60\nping_timeout = \"1m\"", &[]).unwrap();
    let texts =
        [args.grace, args.ramp_up, args.duration, args.ping_timeout].map(|text| text.unwrap().to_string());
    assert_eq!(texts, ["2", "0.5", "60", "1m"]);
}

#[test]
fn urls_of_a_scenario_are_a_text_or_a_list() {
    let args = resolved(&[], "api_url = \"http://a\"\nwsproxy_url = [\"ws://a\", \"ws://b\"]", &[]).unwrap();
    assert_eq!(
        (args.api_url, args.wsproxy_url),
        (vec!["http://a".to_owned()], vec!["ws://a".into(), "ws://b".into()])
    );
    let both = [("API_URL", "http://a,http://b")];
    assert_eq!(resolved(&[], "", &both).unwrap().api_url, ["http://a", "http://b"]);
    assert_eq!(
        resolved(&["--api-url", "http://c"], "api_url = \"http://a\"", &both).unwrap().api_url,
        ["http://c"]
    );
    let error = resolved(&[], "api_url = 5", &[]).unwrap_err();
    assert!(
        error.contains("expected a text or a list of texts") || error.contains("invalid type"),
        "{error}"
    );
}

#[test]
fn a_workload_from_a_flag_replaces_the_one_of_the_file() {
    let file = "arrival_rate = 5.0\nduration = \"1m\"";
    let args = resolved(&["--stages", "1s:5"], file, &[]).unwrap();
    assert_eq!((args.arrival_rate, args.duration, args.stages.as_deref()), (None, None, Some("1s:5")));
    let args = resolved(&["--ramp-up", "3"], "spawn_rate = 5.0", &[]).unwrap();
    assert_eq!((args.ramp_up, args.spawn_rate), (Some("3".into()), None));
}

#[test]
fn an_invalid_scenario_names_file_line_and_key() {
    for (file, words) in [
        ("clients = 5\nclinets = 5", "line 2: unknown key `clinets`"),
        ("[[user]]\nnmae = \"x\"", "unknown key `nmae`"),
        ("clients = \"many\"", "line 1: invalid type"),
        ("think_time = \"often\"", "line 1"),
        ("clients 5", "line 1"),
        ("scenario = \"smoke\"", "unexpected key `scenario`"),
    ] {
        let error = resolved(&[], file, &[]).unwrap_err();
        assert!(
            error.contains(words) && error.contains(".toml: ") && !error.contains("expected one of"),
            "{error}"
        );
    }
    let error = find("no-such").unwrap_err();
    assert!(error.contains("`no-such`") && error.contains("smoke"), "{error}");
}

#[test]
fn what_is_wrong_with_a_dotenv_file_names_line_and_variable() {
    let check = |text: &str, words: &[&str]| {
        let error = from_dotenv(&dotenv::parse(text, &|_| None)).unwrap_err();
        assert!(error.starts_with(".env line ") && !error.contains("hush"), "{error}");
        for word in words {
            assert!(error.contains(word), "{word}: {error}");
        }
    };
    check("# mine\nQUERIES_PER_CLIENT=3\nCLIENTS=many\n", &["line 3: CLIENTS", "'many'"]);
    check("# mine\nCLIENTS 4\n", &["line 2: CLIENTS: there is no `=`"]);
    check("LOAD_BURST=maybe", &["line 1: LOAD_BURST", "expected yes or no"]);
    check("\nLOAD_TOKEN=\"hush", &["line 2: LOAD_TOKEN", "without a closing one"]);
    check("CLIENTS=${N:?set N first}", &["line 1: CLIENTS", "N has no value: set N first"]);
    let foreign = "IF=${BROKEN\nOTHER=\"open\nwhatever this is\nCLIENTS=4 # of mine\nexport LOAD_QUIET=on\n";
    let (table, origins) = from_dotenv(&dotenv::parse(foreign, &|_| None)).unwrap();
    assert_eq!((table["clients"].as_integer(), table["quiet"].as_bool()), (Some(4), Some(true)));
    assert_eq!(origins["--clients"], ".env line 4");
}

#[test]
fn the_files_that_failed_elsewhere_are_read() {
    for name in ["dotenv_default.env", "dotenv_spaces.env"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(name);
        let (table, _) = from_dotenv(&dotenv(&path).unwrap()).unwrap();
        assert_eq!(table["clients"].as_integer(), Some(4), "{name}");
    }
    assert_eq!(dotenv(Path::new("/nowhere/.env")), Ok(Variables::new()));
}

#[test]
fn a_switch_takes_a_value_and_the_last_one_counts() {
    for (words, expected) in [
        (&["--burst"][..], true),
        (&["--burst=no"], false),
        (&["--burst=ON"], true),
        (&["--burst", "--burst=0"], false),
        (&["--burst=false", "--burst"], true),
        (&[], true),
    ] {
        assert_eq!(resolved(words, "burst = true", &[]).unwrap().burst, expected, "{words:?}");
    }
    for value in ["1", "yes", "TRUE", "on"] {
        assert!(resolved(&[], "", &[("LOAD_BURST", value)]).unwrap().burst, "{value}");
    }
    for value in ["0", "No", "false", "off"] {
        assert!(!resolved(&[], "", &[("LOAD_BURST", value)]).unwrap().burst, "{value}");
    }
}

#[test]
fn a_bad_value_is_said_to_come_from_its_place() {
    let origins = Origins::from([("--clients".to_owned(), ".env line 3".to_owned())]);
    let named = cli::with_origin("--clients 0 is out of range", &origins);
    assert_eq!(named, "--clients 0 is out of range (the value comes from .env line 3)");
    for other in ["--clients-x 0 is bad", "--queries 0 is bad", "the rest"] {
        assert_eq!(cli::with_origin(other, &origins), other);
    }
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
            let source = file(&path).unwrap();
            let name = path.file_stem().unwrap().to_str().unwrap();
            assert_eq!(find(name).unwrap().text, source.text, "{name} is not built in");
            let args = RunArgs::deserialize_table(read(&source).unwrap()).unwrap();
            crate::config::Config::new(args, 2, 1)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            seen += 1;
        }
    }
    assert!(seen >= 8, "{seen}");
}
