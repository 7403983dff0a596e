//! `--on swarm` and `--on kubernetes`: prints the manifest of a job of generators with the plan of this run. The templates are the files
//! in `deploy/`: in each line `KEY: VALUE # set: NAME`, the value is replaced.

use crate::{
    cli::{self, Engine, RunArgs},
    config::Config,
};
use serde_json::{Value, json};
use time::OffsetDateTime;
use toml::Table;

const SWARM: &str = include_str!("../../../deploy/swarm/generators.yaml");
const KUBERNETES: &str = include_str!("../../../deploy/kubernetes/generators/job.yaml");
/// Mark before the name of a placeholder.
const MARK: &str = " # set: ";
/// Longest name of a Kubernetes object that is also a label.
const LONGEST_NAME: usize = 63;

/// Returns the manifest of a job that plays the plan of this run. A run without `--run-id` is named after its time.
///
/// # Errors
/// An option cannot be part of a manifest.
pub(crate) fn manifest(config: &Config, engine: Engine, now: OffsetDateTime) -> Result<String, String> {
    let given = &config.given;
    refuse_what_stays_here(given)?;
    let run_id = given.run_id.clone().unwrap_or_else(|| report::output::run_id("run", now).replace('_', "-"));
    let generators = config.division.generators();
    let (template, escape): (&str, fn(&str) -> String) = match engine {
        Engine::Swarm => (SWARM, |text| text.replace('$', "$$")),
        Engine::Kubernetes => (KUBERNETES, |text| text.replace("$(", "$$(")),
    };
    let value = |name: &str| match name {
        "job" => Some(json!(job_name(&run_id))),
        "generators" => Some(json!(generators)),
        "generators-text" => Some(json!(generators.to_string())),
        "plan" => Some(Value::from_iter(flags(config).iter().map(|flag| escape(flag)))),
        "run-id" => Some(json!(escape(&run_id))),
        _ => None,
    };
    // The comment at the top describes the template.
    let lines = template.lines().skip_while(|line| line.starts_with('#'));
    Ok(lines.map(|line| filled_in(line, &value) + "\n").collect())
}

/// Returns a line with its value replaced, if it has the mark of a placeholder.
fn filled_in(line: &str, value: &dyn Fn(&str) -> Option<Value>) -> String {
    let Some((line, name)) = line.rsplit_once(MARK) else { return line.to_owned() };
    match (value(name), line.split_once(": ")) {
        (Some(value), Some((key, _))) => format!("{key}: {value}"),
        _ => line.to_owned(),
    }
}

/// Refuses options that a manifest cannot contain.
fn refuse_what_stays_here(given: &RunArgs) -> Result<(), String> {
    let secrets = [
        ("--auth-token", given.auth_token.is_some()),
        ("--api-key", given.api_key.is_some()),
        ("--token-command", given.token_command.is_some()),
        ("--header", !given.headers.is_empty()),
    ];
    if let Some((flag, _)) = secrets.iter().find(|(_, is_given)| *is_given) {
        return Err(format!(
            "{flag} cannot be printed into a manifest, because it may be secret: leave it out, and add a secret to the manifest"
        ));
    }
    let files = [
        ("--trace", given.trace.is_some()),
        ("--prompts", given.prompts.is_some()),
        ("--ca-file", given.ca_file.is_some()),
        (
            "--target",
            given.target.as_deref().is_some_and(|target| dialects::target::builtin(target).is_none()),
        ),
        ("[[user]] in a scenario", !given.user.is_empty()),
    ];
    match files.iter().find(|(_, is_given)| *is_given) {
        Some((what, _)) => Err(format!(
            "{what} needs a file, which the containers do not have: make an image with it, and name it in deploy/"
        )),
        None => Ok(()),
    }
}

/// Returns the flags of the plan: every option that was given, except those that the manifest sets.
fn flags(config: &Config) -> Vec<String> {
    const SET_BY_THE_MANIFEST: [&str; 7] =
        ["on", "generators", "run_id", "scenario", "output_dir", "wait_for_generators", "always_exit_0"];
    let options = RunArgs { seed: Some(config.plan.load.seed), ..config.given.clone() };
    let table = Table::try_from(options).unwrap_or_default();
    let mut flags = Vec::new();
    for arg in cli::options().get_arguments() {
        let (id, Some(flag)) = (arg.get_id().as_str(), cli::flag(arg)) else { continue };
        let given = table.get(id).filter(|_| !SET_BY_THE_MANIFEST.contains(&id));
        match given {
            Some(toml::Value::Boolean(true)) => flags.push(flag),
            None | Some(toml::Value::Boolean(false)) => {}
            Some(toml::Value::Array(values)) => {
                flags.extend(values.iter().map(|value| format!("{flag}={}", text(value))));
            }
            Some(value) => flags.push(format!("{flag}={}", text(value))),
        }
    }
    flags
}

fn text(value: &toml::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

/// Returns a name for the job of a run that Kubernetes accepts.
fn job_name(run_id: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = format!("generators-{run_id}").chars().map(allowed).take(LONGEST_NAME).collect();
    name.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-11-21 00:45:09 UTC);

    fn config(arguments: &[&str]) -> Config {
        let all = ["--generators", "3"].iter().chain(arguments);
        let args = RunArgs::from_arg_matches(&cli::options().get_matches_from(all)).unwrap();
        Config::new(args, 2, 5).unwrap()
    }

    const PLAN: [&str; 13] = [
        "--on=swarm",
        "--clients=30",
        "--think-time=uniform:1s,2s",
        "--ttft-ms=250",
        "--answer-tokens=lognormal:20,0.5",
        "--threshold=e2el_ms:p95<3000",
        "--threshold=error_rate<0.5",
        "--no-resume",
        "--fault=wsproxy-1:kill@30s",
        "--ws-path=/{agent}/ws/{session}?price=$5&sum=$(x)",
        "--run-id=Nightly_7",
        "--cut-rate=0.25",
        "--stages=10s:20,5s:0",
    ];

    #[test]
    fn every_placeholder_is_filled_in() {
        for (engine, generators) in [(Engine::Swarm, 2), (Engine::Kubernetes, 3)] {
            let manifest = manifest(&config(&PLAN), engine, NOW).unwrap();
            assert!(!manifest.contains(MARK) && !manifest.starts_with('#'), "{manifest}");
            assert!(manifest.contains("\"Nightly_7\""), "{manifest}");
            let counts = manifest.lines().filter(|line| line.ends_with(": 3") || line.ends_with(": \"3\""));
            assert_eq!(counts.count(), generators, "{manifest}");
            assert!(!manifest.contains("output-dir"), "{manifest}");
        }
        let job = manifest(&config(&PLAN), Engine::Kubernetes, NOW).unwrap();
        assert!(job.contains("name: \"generators-nightly-7\"\n"), "{job}");
        let unnamed = manifest(&config(&[]), Engine::Kubernetes, NOW).unwrap();
        assert!(unnamed.contains("value: \"run-20261121-004509\"\n"), "{unnamed}");
    }

    #[test]
    fn the_flags_of_the_manifest_make_the_same_plan() {
        let original = config(&PLAN);
        for (engine, unescape) in [(Engine::Swarm, ("$$", "$")), (Engine::Kubernetes, ("$$(", "$("))] {
            let manifest = manifest(&original, engine, NOW).unwrap();
            let line = manifest.lines().find_map(|line| line.split_once(": [\"--")).unwrap().1;
            let flags: Vec<String> = serde_json::from_str(&format!("[\"--{line}")).unwrap();
            let flags: Vec<_> = flags.iter().map(|flag| flag.replace(unescape.0, unescape.1)).collect();
            let again = config(&flags.iter().map(String::as_str).collect::<Vec<_>>());
            let fingerprint = super::super::fingerprint;
            assert_eq!(fingerprint(&again), fingerprint(&original), "{flags:?}");
            assert_eq!(again.plan.target.ws_path, original.plan.target.ws_path);
        }
    }

    #[test]
    fn secrets_and_files_are_refused() {
        for (option, why) in [
            ("--auth-token=hush", "--auth-token cannot be printed"),
            ("--header=x-key: hush", "--header cannot be printed"),
            ("--ca-file=/etc/ca.pem", "--ca-file needs a file"),
        ] {
            let mut config = config(&[]);
            let extended = ["--generators", "3", option];
            config.given = RunArgs::from_arg_matches(&cli::options().get_matches_from(extended)).unwrap();
            let error = manifest(&config, Engine::Swarm, NOW).unwrap_err();
            assert!(error.contains(why) && !error.contains("hush"), "{error}");
        }
    }
}
