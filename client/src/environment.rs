//! The environment variables of a run's options: `STREAMSTRESS_<FLAG>` and the names that it replaced.
//! The only place that knows older names. An empty variable counts as not set.

use clap::{Arg, Command};
use settings::dotenv::Variables;

/// Older variables by flag. They still work, and are not shown in the help.
const OLD_NAMES: [(&str, &[&str]); 57] = [
    ("abort-delay", &["LOAD_ABORT_DELAY"]),
    ("abort-on-fail", &["LOAD_ABORT_ON_FAIL"]),
    ("agent", &["LOAD_AGENT"]),
    ("answer-tokens", &["LOAD_TOKENS"]),
    ("api-url", &["API_URL", "FASTAPI_URL"]),
    ("arrival", &["LOAD_ARRIVAL"]),
    ("arrival-process", &["LOAD_ARRIVAL_PROCESS"]),
    ("arrival-rate", &["LOAD_ARRIVAL_RATE"]),
    ("auth-token", &["LOAD_TOKEN"]),
    ("burst", &["LOAD_BURST"]),
    ("ca-file", &["LOAD_CA_FILE"]),
    ("clients", &["CLIENTS"]),
    ("cut-rate", &["LOAD_DROP_RATE"]),
    ("dry-run", &["LOAD_DRY_RUN"]),
    ("duration", &["LOAD_DURATION"]),
    ("embedded", &["LOAD_EMBEDDED"]),
    ("fault", &["LOAD_FAULTS"]),
    ("fault-stack", &["LOAD_FAULT_STACK"]),
    ("goodput", &["LOAD_GOODPUT"]),
    ("grace", &["LOAD_GRACE"]),
    ("header", &["LOAD_HEADERS"]),
    ("http-connections", &["LOAD_HTTP_CONNECTIONS"]),
    ("i-am-allowed-to-load-test", &["I_AM_ALLOWED_TO_LOAD_TEST"]),
    ("itl-ms", &["LOAD_ITL_MS"]),
    ("late-connect", &["LOAD_LATE_CONNECT"]),
    ("local-ips", &["LOAD_LOCAL_IPS"]),
    ("max-clients", &["LOAD_MAX_CLIENTS"]),
    ("name", &["LOAD_NAME"]),
    ("no-resume", &["LOAD_NO_RESUME"]),
    ("out", &["LOAD_OUT"]),
    ("output-dir", &["OUTPUT_DIR"]),
    ("pause-readers", &["LOAD_STALL"]),
    ("ping-timeout", &["LOAD_PING_TIMEOUT"]),
    ("profile", &["LOAD_PROFILE"]),
    ("prompts", &["LOAD_PROMPTS"]),
    ("queries", &["QUERIES_PER_CLIENT"]),
    ("query-timeout", &["LOAD_QUERY_TIMEOUT"]),
    ("quiet", &["LOAD_QUIET"]),
    ("ramp-up", &["LOAD_RAMP_UP"]),
    ("scenario", &["LOAD_SCENARIO"]),
    ("seed", &["LOAD_SEED"]),
    ("spawn-rate", &["LOAD_SPAWN_RATE"]),
    ("stages", &["LOAD_STAGES"]),
    ("stall-threshold", &["LOAD_STALL_MS"]),
    ("think-time", &["LOAD_THINK_TIME"]),
    ("threshold", &["LOAD_THRESHOLDS"]),
    ("time-scale", &["LOAD_TIME_SCALE"]),
    ("trace", &["LOAD_TRACE"]),
    ("trace-from", &["LOAD_TRACE_FROM"]),
    ("trace-scale", &["LOAD_TRACE_SCALE"]),
    ("ttft-ms", &["LOAD_TTFT_MS"]),
    ("tui", &["LOAD_TUI"]),
    ("workers", &["LOAD_WORKERS"]),
    ("ws-initial-backoff-seconds", &["WS_INITIAL_BACKOFF_SECONDS"]),
    ("ws-max-backoff-seconds", &["WS_MAX_BACKOFF_SECONDS"]),
    ("ws-max-reconnect-attempts", &["WS_MAX_RECONNECT_ATTEMPTS"]),
    ("ws-path", &["LOAD_WS_PATH"]),
];

fn old_names(arg: &Arg) -> &'static [&'static str] {
    let row = OLD_NAMES.iter().find(|(flag, _)| arg.get_long() == Some(flag));
    row.map_or(&[], |(_, names)| names)
}

/// Returns the variables that set an option: `STREAMSTRESS_<FLAG>` first, then the old names.
pub(crate) fn names(arg: &Arg) -> impl Iterator<Item = String> {
    let current =
        arg.get_long().map(|flag| format!("STREAMSTRESS_{}", flag.to_ascii_uppercase().replace('-', "_")));
    current.into_iter().chain(old_names(arg).iter().map(ToString::to_string))
}

/// Lets an option read the first of its variables that is set.
pub(crate) fn bind(arg: Arg) -> Arg {
    let set = names(&arg).find(|name| is_set(name));
    match set {
        Some(name) => arg.env(name).hide_env(true),
        None => arg,
    }
}

/// Returns whether an environment variable has a value.
pub(crate) fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

/// Checks that no two environment variables set one option to different values.
///
/// # Errors
/// The message names both variables, and their values unless these may be secret.
pub(crate) fn check(options: &Command) -> Result<(), String> {
    let value = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    options.get_arguments().try_for_each(|arg| agree(arg, value, "environment variables"))
}

/// Checks that no two entries of a `.env` file set one option to different values.
///
/// # Errors
/// The message names both entries, and their values unless these may be secret.
pub(crate) fn check_dotenv(options: &Command, variables: &Variables) -> Result<(), String> {
    let value = |name: &str| variables.get(name)?.value.clone().ok();
    options.get_arguments().try_for_each(|arg| agree(arg, value, ".env variables"))
}

fn agree(arg: &Arg, value: impl Fn(&str) -> Option<String>, what: &str) -> Result<(), String> {
    let set = names(arg).filter_map(|name| {
        let value = value(&name).filter(|value| !value.is_empty())?;
        Some((name, value))
    });
    let set: Vec<_> = set.collect();
    let Some((first, others)) = set.split_first() else { return Ok(()) };
    let Some(other) = others.iter().find(|other| other.1 != first.1) else { return Ok(()) };
    let shown = |(name, value): &(String, String)| {
        if arg.is_hide_env_values_set() { name.clone() } else { format!("{name}={value:?}") }
    };
    Err(format!(
        "{what} {} and {} set --{} to different values: keep one of them",
        shown(first),
        shown(other),
        arg.get_long().unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::options;
    use settings::dotenv;

    #[test]
    fn each_older_name_belongs_to_one_option() {
        let options = options();
        let mut seen = std::collections::BTreeSet::new();
        for (flag, names) in OLD_NAMES {
            assert!(
                options.get_arguments().any(|arg| arg.get_long() == Some(flag)),
                "--{flag} does not exist"
            );
            assert!(names.iter().all(|name| seen.insert(*name)), "{names:?}");
        }
    }

    #[test]
    fn two_names_must_agree_and_secrets_are_not_shown() {
        let check = |text: &str| check_dotenv(&options(), &dotenv::parse(text, &|_| None));
        assert_eq!(
            check("CLIENTS=5\nSTREAMSTRESS_CLIENTS=5\nQUERIES_PER_CLIENT=\nSTREAMSTRESS_QUERIES=1"),
            Ok(())
        );
        assert_eq!(
            check("CLIENTS=5\nSTREAMSTRESS_CLIENTS=7").unwrap_err(),
            ".env variables STREAMSTRESS_CLIENTS=\"7\" and CLIENTS=\"5\" set --clients to different values: keep one of them"
        );
        let secret = check("API_URL=http://u:hush@a\nFASTAPI_URL=http://u:hash@a").unwrap_err();
        assert!(secret.contains("API_URL and FASTAPI_URL") && !secret.contains("hush"), "{secret}");
    }
}
