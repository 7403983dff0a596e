//! The form of a run as arguments of `streamstress run`. Only the options below can be given: none reads a file of the user's choice,
//! carries a secret, or moves the results. Each value is one argument `--flag=value`, so that no value can become an option.

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

/// Returns the arguments of a run. Empty values are left out. `scenarios` are the names that may be used.
///
/// # Errors
/// The first option that is unknown or has a wrong type.
pub(crate) fn arguments(form: &Map<String, Value>, scenarios: &[String]) -> Result<Vec<String>, String> {
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
    if !value.is_empty() {
        arguments.push(format!("--{name}={value}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(form: &Value) -> Result<Vec<String>, String> {
        arguments(form.as_object().unwrap(), &["smoke".to_owned()])
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
        ] {
            assert!(of(&form).is_err(), "{form}");
        }
    }
}
