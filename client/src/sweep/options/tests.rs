//! Command lines of sweeps: what they play, and what is refused.

use super::*;
use report::sweep::SweepEnd;

fn options(line: &str) -> Result<Options, String> {
    let words: Vec<OsString> =
        ["streamstress", "sweep"].into_iter().chain(line.split_whitespace()).map(OsString::from).collect();
    let matches = Cli::command_line().try_get_matches_from(&words).map_err(|error| error.to_string())?;
    let cli = Cli::from_arg_matches(&matches).map_err(|error| error.to_string())?;
    let Some(Command::Sweep(args)) = cli.command else { panic!("{line} is not a sweep") };
    let matches = matches.subcommand_matches("sweep").unwrap();
    let dotenv = Variables::new();
    let line = Line { words: &words, dotenv: &dotenv };
    Options::new(&args, matches, line, 2, 7).map_err(|errors| errors.0.join("\n"))
}

#[test]
fn settings_of_stack_and_run_are_combined() {
    let options =
        options("--vary wsproxy=1,2 --vary clients=5,6 --vary delivery=log,pubsub --queries 3").unwrap();
    assert_eq!((options.planned.len(), options.sweep.repeat, options.sweep.seed), (8, 2, 7));
    let played = |index: usize| {
        let Planned { run, stack } = &options.planned[index];
        let stack = stack.as_ref().unwrap();
        (run.clients, run.queries, run.seed, stack.proxies.unwrap(), stack.environment[0].1.as_str())
    };
    assert_eq!(played(0), (Some(5), Some(3), Some(7), 1, "log"));
    assert_eq!(played(7), (Some(6), Some(3), Some(7), 2, "pubsub"));
    assert_eq!(
        (options.name.as_str(), options.sweep.target.as_str()),
        ("sweep", "a native stack for each run")
    );
    assert!(options.sweep.options.contains("queries = 3") && !options.sweep.options.contains("clients"));
}

#[test]
fn a_given_target_is_used_as_it_is() {
    let one = options("--vary rollup-ms=10,40 --api-url http://127.0.0.1:9").unwrap();
    assert!(one.planned.iter().all(|planned| planned.stack.is_none()));
    assert_eq!(one.sweep.target, "http://127.0.0.1:9/");
    let embedded = options("--vary burst=yes,no --embedded").unwrap();
    assert_eq!((embedded.sweep.target.as_str(), embedded.planned[0].run.burst), ("embedded", true));
    let gateways = options(
        "--vary api-url+wsproxy-url=http://127.0.0.1:9+ws://127.0.0.1:9,http://127.0.0.1:8+ws://127.0.0.1:8",
    )
    .unwrap();
    assert_eq!(gateways.planned[1].run.wsproxy_url, ["ws://127.0.0.1:8"]);
    assert!(gateways.planned.iter().all(|planned| planned.stack.is_none()));
}

#[test]
fn a_compose_stack_is_changed_for_each_run() {
    let options = options("--compose=load --vary wsproxy=1,2 --vary MAX_STREAMS=5 --clients 3").unwrap();
    assert_eq!(
        (options.compose.as_deref(), options.sweep.target.as_str()),
        (Some("load"), "a Compose stack")
    );
    let stack = options.planned[1].stack.as_ref().unwrap();
    assert_eq!((stack.servers, stack.proxies), (None, Some(2)), "the number of servers stays");
    assert_eq!(stack.environment, [("MAX_STREAMS".to_owned(), "5".to_owned())]);
    let only = super::tests::options("--compose --vary clients=1,2").unwrap();
    assert!(only.compose.as_deref() == Some("") && only.planned[0].stack.is_some());
}

#[test]
fn all_wrong_settings_are_listed_at_once() {
    let errors = options("--vary wsproxi=1,2 --vary clients=1,2 --clients 3 --vary delivery=log --vary DELIVERY=log,pubsub --vary x --repeat 0")
        .unwrap_err();
    for part in [
        "--vary wsproxi: unknown setting: did you mean `wsproxy`",
        "--clients is given and varied: remove --clients, or --vary clients",
        "--vary DELIVERY and --vary delivery are the same setting: name it once",
        "--vary \"x\": expected NAME=VALUE,VALUE",
        "--repeat 0 is out of range: expected 1 to 20",
    ] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
}

#[test]
fn what_a_sweep_cannot_do_is_refused() {
    for (line, why) in [
        ("--vary clients=5", "nothing varies: give a --vary at least two values"),
        ("--vary wsproxy=1,2 --api-url http://127.0.0.1:9", "remove --api-url, or --vary wsproxy"),
        ("--vary wsproxy=1,2 --target centrifugo", "remove --target, or --vary wsproxy"),
        ("--vary delivery=log,pubsub --embedded", "remove --embedded, or --vary delivery"),
        ("--vary wsproxy=1,2 --fault-stack x", "remove --fault-stack"),
        ("--compose --vary clients=1,2 --api-url http://127.0.0.1:9", "remove --api-url, or --compose"),
        (
            "--compose --vary relays=yes,no",
            "--vary relays is a setting of native stacks: remove it, or --compose",
        ),
        ("--vary wsproxy=1,99", "--vary wsproxy: invalid number \"99\": expected 1 to 64"),
        ("--vary delivery=log,pigeon", "--vary delivery: invalid value \"pigeon\""),
        ("--vary clients=5,0 --embedded", "clients=0: --clients 0"),
        ("--vary clients=5,many --embedded", "invalid value 'many' for '--clients"),
        ("--vary clients=1,2 --tui --embedded", "remove --tui, --out and --web"),
        ("--vary clients=1,2 --keep-results 5 --embedded", "remove --keep-results"),
        ("--vary clients=1,2 --shard 1/2 --embedded", "remove --control, --shard and --on"),
        (
            "--vary seed=1,2 --resume /nowhere.json",
            "--resume: cannot read /nowhere.json as the result of a sweep",
        ),
    ] {
        let error = options(line).unwrap_err();
        assert!(error.contains(why), "{line}: {error}");
    }
    let many = (1..=15).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let error = options(&format!("--vary clients={many} --vary queries={many}")).unwrap_err();
    assert!(error.contains("225 variants: expected at most 200"), "{error}");
}

/// Writes the result of a sweep that was interrupted after its first run.
fn interrupted(directory: &Path, line: &str) -> PathBuf {
    let options = options(line).unwrap();
    let mut points: Vec<Point> =
        measure::sweep::order(2, 1).map(|turn| Point::without_result(turn, "why".into())).collect();
    points[0].verdict = measure::sweep::Outcome::Pass;
    let result = SweepResult::new(&options.sweep, points, SweepEnd::Interrupted);
    let path = directory.join("a_sweep.json");
    std::fs::write(&path, serde_json::to_string(&result).unwrap()).unwrap();
    path
}

#[test]
fn a_sweep_continues_with_the_same_options_only() {
    let directory = tempfile::tempdir().unwrap();
    let line = "--vary clients=1,2 --embedded --queries 2";
    let path = interrupted(directory.path(), line);
    let resume = |line: &str| options(&format!("{line} --resume {}", path.display()));
    let again = resume(line).unwrap();
    assert_eq!(again.earlier.len(), 1, "a run without a result is played again");
    assert_eq!(resume(&format!("{line} --repeat 4 --quiet --name other")).unwrap().earlier.len(), 1);
    for (line, why) in [
        (
            "--vary clients=1,3 --embedded --queries 2",
            "that sweep had --vary clients=1,2, this one has clients=1,3",
        ),
        ("--vary clients=1,2 --embedded --queries 3", "that sweep had `queries = 2`, this one has not"),
        ("--vary clients=1,2 --embedded", "that sweep had `queries = 2`"),
        ("--vary clients=1,2 --embedded --queries 2 --burst", "`burst = false`"),
        ("--vary clients=1,2 --embedded --queries 2 --seed 8", "that sweep had --seed 7, this one has 8"),
        ("--vary clients=1,2 --api-url http://127.0.0.1:9 --queries 2", "that sweep had the target embedded"),
        (
            "--vary clients=1,2 --embedded --queries 2 --repeat 1",
            "that sweep had --repeat 2, this one has 1: use 2 or more",
        ),
    ] {
        let error = resume(line).unwrap_err();
        assert!(error.starts_with("--resume: ") && error.contains(why), "{line}: {error}");
    }
}
