//! The form of a run as arguments of `streamstress run`. Only the options below can be given: none reads a file of the user's choice,
//! carries a secret, or moves the results. Each value is one argument `--flag=value`, so that no value can become an option. A stack for
//! faults has a name: as a directory, its files would say which processes get signals.

use serde_json::{Map, Value};

/// Most values of one option, and longest value in bytes.
const MOST_VALUES: usize = 32;
const LONGEST: usize = 2_000;

/// Options with one value.
const ONE: [&str; 21] = [
    "answer-tokens",
    "arrival",
    "arrival-rate",
    "clients",
    "cut-rate",
    "duration",
    "fault-stack",
    "generators",
    "grace",
    "itl-ms",
    "max-clients",
    "name",
    "pause-readers",
    "profile",
    "queries",
    "query-timeout",
    "ramp-up",
    "seed",
    "stages",
    "think-time",
    "ttft-ms",
];
/// Options with several values.
const MANY: [&str; 5] = ["api-url", "fault", "goodput", "i-am-allowed-to-load-test", "threshold"];
/// Switches.
const SWITCHES: [&str; 4] = ["abort-on-fail", "burst", "embedded", "no-resume"];

/// The option that confirms that a host may be load-tested.
const CONFIRM: &str = "i-am-allowed-to-load-test";

/// What a form may contain.
#[derive(Clone, Debug, Default)]
pub(crate) struct Allowed {
    /// Names of the scenarios that may be used.
    pub(crate) scenarios: Vec<String>,
    /// Whether the form may confirm hosts. If other machines can use the page, only its command line may: the runs carry its user's
    /// tokens and keys.
    pub(crate) hosts: bool,
}

/// Returns the arguments of a run. Empty values are left out.
///
/// # Errors
/// The first option that is unknown, has a wrong type, or is not allowed.
pub(crate) fn arguments(form: &Map<String, Value>, allowed: &Allowed) -> Result<Vec<String>, String> {
    let scenarios = &allowed.scenarios;
    let mut arguments = Vec::new();
    for (name, value) in form {
        match (name.as_str(), value) {
            (_, Value::Null) => {}
            ("scenario", Value::String(text)) if text.is_empty() => {}
            ("scenario", Value::String(text)) => {
                if !scenarios.contains(text) {
                    return Err(format!(
                        "unknown scenario \"{text}\": expected one of {}",
                        scenarios.join(", ")
                    ));
                }
                arguments.push(format!("--scenario={text}"));
            }
            (name, Value::Bool(on)) if SWITCHES.contains(&name) => {
                if *on {
                    arguments.push(format!("--{name}"));
                }
            }
            (CONFIRM, Value::Array(values)) if !values.is_empty() && !allowed.hosts => {
                return Err(format!(
                    "other machines can use this page, so its form cannot confirm hosts: start streamstress web with --{CONFIRM}"
                ));
            }
            (name, Value::Array(values)) if MANY.contains(&name) || name == "wsproxy-url" => {
                if values.len() > MOST_VALUES {
                    return Err(format!("too many values for {name}: expected at most {MOST_VALUES}"));
                }
                for value in values {
                    let value =
                        value.as_str().ok_or_else(|| format!("invalid value for {name}: expected texts"))?;
                    add(&mut arguments, name, value)?;
                }
            }
            (name, Value::String(text)) if ONE.contains(&name) => add(&mut arguments, name, text)?,
            (name, Value::Number(number)) if ONE.contains(&name) => {
                add(&mut arguments, name, &number.to_string())?;
            }
            (name, _) => return Err(format!("the page cannot set \"{name}\" to this value")),
        }
    }
    Ok(arguments)
}

fn add(arguments: &mut Vec<String>, name: &str, value: &str) -> Result<(), String> {
    let value = value.trim();
    if value.len() > LONGEST || value.contains('\0') {
        return Err(format!("the value for {name} is longer than {LONGEST} bytes, or is not a text"));
    }
    match name {
        "api-url" | "wsproxy-url" if value.split(',').any(has_password) => Err(format!(
            "the URL for {name} has a password, which other users of this machine would see: give it to streamstress web as a variable"
        )),
        "fault-stack" if !is_name(value) => Err(format!(
            "invalid stack \"{value}\" for faults: expected a name; start streamstress web with --fault-stack for a directory"
        )),
        _ if value.is_empty() => Ok(()),
        _ => {
            arguments.push(format!("--{name}={value}"));
            Ok(())
        }
    }
}

/// Returns whether a URL has a user or a password before its host.
fn has_password(url: &str) -> bool {
    let rest = url.split_once(':').map_or(url, |(_, rest)| rest).trim_start_matches(['/', '\\']);
    rest.split(['/', '?', '#', '\\']).next().is_some_and(|authority| authority.contains('@'))
}

/// Returns whether a text names a stack, and no directory elsewhere.
fn is_name(text: &str) -> bool {
    !text.starts_with('.')
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(form: &Value) -> Result<Vec<String>, String> {
        let allowed = Allowed { scenarios: vec!["smoke".to_owned()], hosts: true };
        arguments(form.as_object().unwrap(), &allowed)
    }

    #[test]
    fn a_form_becomes_arguments() {
        let form = json!({
            "clients": 5, "duration": " 10s ", "stages": "", "embedded": true, "burst": false, "scenario": "smoke",
            "threshold": ["e2el_ms:p95<3000", ""], "seed": null,
        });
        let expected = [
            "--clients=5",
            "--duration=10s",
            "--embedded",
            "--scenario=smoke",
            "--threshold=e2el_ms:p95<3000",
        ];
        assert_eq!(of(&form).unwrap(), expected);
    }

    #[test]
    fn no_value_becomes_an_option_and_no_other_option_can_be_given() {
        assert_eq!(of(&json!({ "clients": "--tui" })).unwrap(), ["--clients=--tui"]);
        for form in [
            json!({ "output-dir": "/tmp" }),
            json!({ "out": "json=/etc/passwd" }),
            json!({ "prompts": "/etc/passwd" }),
            json!({ "header": ["a: b"] }),
            json!({ "auth-token": "x" }),
            json!({ "scenario": "../../etc/passwd" }),
            json!({ "clients": ["1"] }),
            json!({ "embedded": "yes" }),
            json!({ "fault": [1] }),
            json!({ "fault": vec!["redis:kill@1s"; 33] }),
            json!({ "name": "x".repeat(2_001) }),
            json!({ "fault-stack": "/tmp/stack" }),
            json!({ "fault-stack": "../stack" }),
            json!({ "fault-stack": ".." }),
            json!({ "api-url": ["http://me:hush@127.0.0.1"] }),
            json!({ "api-url": ["http://a,http:me:hush@127.0.0.1"] }),
            json!({ "wsproxy-url": ["ws://hush@127.0.0.1/x"] }),
        ] {
            assert!(of(&form).is_err(), "{form}");
        }
    }

    #[test]
    fn stacks_have_names_and_an_at_sign_in_a_path_is_no_password() {
        assert_eq!(of(&json!({ "fault-stack": "compose" })).unwrap(), ["--fault-stack=compose"]);
        assert_eq!(of(&json!({ "fault-stack": "" })).unwrap(), Vec::<String>::new());
        assert_eq!(of(&json!({ "api-url": ["http://a/x@y"] })).unwrap(), ["--api-url=http://a/x@y"]);
    }

    #[test]
    fn a_page_for_others_confirms_no_hosts() {
        let form = json!({ "i-am-allowed-to-load-test": ["load.example"] });
        assert!(of(&form).is_ok());
        let refused = arguments(form.as_object().unwrap(), &Allowed::default()).unwrap_err();
        assert!(refused.contains("--i-am-allowed-to-load-test"), "{refused}");
    }
}
