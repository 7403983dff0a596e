//! Merges a run's options from their sources: flag and environment take precedence over the scenario file, and that over `.env`.
//! Values are validated later, by `Config`.

use crate::{
    cli::{self, Origins, RunArgs},
    environment,
};
use clap::{ArgMatches, FromArgMatches, parser::ValueSource};
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};
use settings::dotenv::{self, Variables};
use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::Path,
};
use toml::{Table, Value};

/// Directory in which a scenario is looked up by its name.
pub const DIRECTORY: &str = "scenarios";
/// Keys of a `[[user]]` that a flag overrides for all kinds of users.
const OF_USERS: [&str; 6] = ["think_time", "queries", "answer_tokens", "ttft_ms", "itl_ms", "profile"];
/// Old keys and their current names.
const RENAMED: [(&str, &str); 5] = [
    ("token", "auth_token"),
    ("tokens", "answer_tokens"),
    ("stall", "pause_readers"),
    ("stall_ms", "stall_threshold"),
    ("drop_rate", "cut_rate"),
];
/// Largest size of a scenario or `.env` file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Merges flags and environment (`matches`) with the scenario file and `dotenv`. Also returns the origin of each value that no flag
/// set.
///
/// # Errors
/// A file cannot be read, or has an unknown key or an invalid value. The message names the file.
pub fn resolve(
    args: RunArgs,
    matches: &ArgMatches,
    dotenv: &Variables,
) -> Result<(RunArgs, Origins), String> {
    let (below, mut origins) = from_dotenv(dotenv)?;
    let name = args.scenario.clone().or_else(|| below.get("scenario")?.as_str().map(ToOwned::to_owned));
    if name.is_none() && below.is_empty() {
        return Ok((args, cli::from_environment(matches)));
    }
    let above = explicit(&args, matches)?;
    let flags: Vec<_> = cli::options()
        .get_arguments()
        .filter_map(|arg| Some((arg.get_id().to_string(), cli::flag(arg)?)))
        .collect();
    let mut merged = below;
    if let Some(name) = &name {
        let source = find(name)?;
        let scenario = read(&source)?;
        let said = flags.iter().filter(|(key, _)| scenario.contains_key(key));
        origins.extend(said.map(|(_, flag)| (flag.clone(), source.origin.clone())));
        merged.extend(scenario);
    }
    let override_users = OF_USERS.iter().copied().filter(|key| above.contains_key(*key));
    let overridden: Vec<&str> = override_users.collect();
    if let Some(Value::Array(users)) = merged.get_mut("user") {
        for user in users.iter_mut().filter_map(Value::as_table_mut) {
            for key in &overridden {
                user.remove(*key);
            }
            // A profile sets these two.
            if overridden.contains(&"profile") {
                user.remove("ttft_ms");
                user.remove("itl_ms");
            }
        }
    }
    remove_replaced(&mut merged, &above);
    for (_, flag) in flags.iter().filter(|(key, _)| above.contains_key(key)) {
        origins.remove(flag);
    }
    origins.extend(cli::from_environment(matches));
    merged.extend(above);
    let mut resolved = RunArgs::deserialize_table(merged)?;
    resolved.scenario = name;
    Ok((resolved, origins))
}

/// Removes the keys of the file that a flag replaces under another name: another workload model, another form of the ramp-up.
fn remove_replaced(merged: &mut Table, above: &Table) {
    const MODELS: [&str; 3] = ["stages", "arrival_rate", "trace"];
    if MODELS.iter().any(|key| above.contains_key(*key)) {
        for key in MODELS.into_iter().chain(["trace_from", "trace_scale"]) {
            merged.remove(key);
        }
        if above.contains_key("stages") {
            merged.remove("duration");
        }
    }
    for (one, other) in [("spawn_rate", "ramp_up"), ("ramp_up", "spawn_rate")] {
        if above.contains_key(one) {
            merged.remove(other);
        }
    }
}

impl RunArgs {
    fn deserialize_table(table: Table) -> Result<Self, String> {
        table.try_into().map_err(|error: toml::de::Error| shortened(error.message()))
    }
}

/// Returns the options that were set by flag or environment.
fn explicit(args: &RunArgs, matches: &ArgMatches) -> Result<Table, String> {
    let table = Table::try_from(args).map_err(|error| error.to_string())?;
    let said = |key: &str| {
        let known = matches.ids().any(|id| id.as_str() == key);
        let source = known.then(|| matches.value_source(key)).flatten();
        matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    };
    Ok(table.into_iter().filter(|(key, _)| said(key)).collect())
}

/// Reads the options of a run from the variables of a `.env` file. Also returns the file and line of each.
fn from_dotenv(variables: &Variables) -> Result<(Table, Origins), String> {
    let options = cli::options();
    environment::check_dotenv(&options, variables)?;
    let command = options.clone().mut_args(cli::switch);
    let (mut words, mut origins) = (Vec::new(), Origins::new());
    for arg in options.get_arguments() {
        let Some(flag) = cli::flag(arg) else { continue };
        // `check_dotenv` made sure that several names agree: the first one that has a value counts.
        for name in environment::names(arg) {
            let Some(entry) = variables.get(&name) else { continue };
            let value = entry.value.as_ref().map_err(|why| format!("{entry}: {name}: {why}"))?;
            if value.is_empty() {
                continue;
            }
            let word = format!("{flag}={value}");
            if let Err(error) = command.clone().try_get_matches_from([&word]) {
                let error = error.to_string();
                let first = error.lines().next().unwrap_or_default();
                return Err(format!("{entry}: {name}: {}", first.strip_prefix("error: ").unwrap_or(first)));
            }
            words.push(word);
            origins.insert(flag, entry.to_string());
            break;
        }
    }
    let matches = command.try_get_matches_from(words).map_err(|error| format!(".env: {error}"))?;
    let args = RunArgs::from_arg_matches(&matches).map_err(|error| format!(".env: {error}"))?;
    Ok((explicit(&args, &matches)?, origins))
}

/// Reads the variables of a `.env` file. A missing file has none.
///
/// # Errors
/// The file exists and cannot be read, or is larger than 1 MiB.
pub fn dotenv(path: &Path) -> Result<Variables, String> {
    let named = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)) {
        Ok(length) if length as u64 > MAX_BYTES => {
            Err(named(&"the file is larger than 1 MiB: expected a .env file"))
        }
        // Invalid UTF-8 may belong to a variable of another program. In a variable of ours, the value is refused later.
        Ok(_) => {
            let text = String::from_utf8_lossy(&bytes);
            Ok(dotenv::parse(&text, &|name: &str| std::env::var(name).ok()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Variables::new()),
        Err(error) => Err(named(&error)),
    }
}

/// The text of a scenario and its origin.
#[derive(Debug)]
struct Source {
    /// A path, or the name of a built-in scenario.
    origin: String,
    text: String,
}

/// Scenarios that are part of this program, by name.
const BUILT_IN: [(&str, &str); 8] = [
    ("burst-gamma", include_str!("../../scenarios/burst-gamma.toml")),
    ("burst-poisson", include_str!("../../scenarios/burst-poisson.toml")),
    ("load", include_str!("../../scenarios/load.toml")),
    ("smoke", include_str!("../../scenarios/smoke.toml")),
    ("soak", include_str!("../../scenarios/soak.toml")),
    ("spike", include_str!("../../scenarios/spike.toml")),
    ("staged", include_str!("../../scenarios/staged.toml")),
    ("stress", include_str!("../../scenarios/stress.toml")),
];

/// Finds a scenario: a path is read; a name is looked up in `scenarios/` of the working directory, then among the built-in ones.
fn find(name: &str) -> Result<Source, String> {
    if name.contains('/') || Path::new(name).extension().is_some_and(|extension| extension == "toml") {
        return file(Path::new(name));
    }
    let path = Path::new(DIRECTORY).join(format!("{name}.toml"));
    if path.exists() {
        return file(&path);
    }
    let built_in = BUILT_IN.iter().find(|(known, _)| *known == name);
    built_in
        .map(|(_, text)| Source { origin: format!("scenario {name}"), text: (*text).to_owned() })
        .ok_or_else(|| {
            format!(
                "unknown scenario `{name}` for --scenario: expected {}, or a path to a file",
                BUILT_IN.map(|(known, _)| known).join(", ")
            )
        })
}

fn file(path: &Path) -> Result<Source, String> {
    let named = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let length = std::fs::metadata(path).map_err(|error| named(&error))?.len();
    if length > MAX_BYTES {
        return Err(named(&format!("the file has {length} bytes: expected a scenario of at most 1 MiB")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| named(&error))?;
    Ok(Source { origin: path.display().to_string(), text })
}

fn read(source: &Source) -> Result<Table, String> {
    let Source { origin, text } = source;
    let named = |why: &dyn std::fmt::Display| format!("{origin}: {why}");
    let at = |error: &toml::de::Error| {
        let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        named(&match line {
            Some(line) => format!("line {line}: {}", shortened(error.message())),
            None => shortened(error.message()),
        })
    };
    let mut table: Table = toml::from_str(text).map_err(|error| at(&error))?;
    let _: RunArgs = toml::from_str(text).map_err(|error| at(&error))?;
    if table.contains_key("scenario") {
        return Err(named(&"unexpected key `scenario`: a scenario cannot include another one"));
    }
    rename_keys(&mut table);
    if let Some(Value::Array(users)) = table.get_mut("user") {
        users.iter_mut().filter_map(Value::as_table_mut).for_each(rename_keys);
    }
    Ok(table)
}

/// Renames old keys, so that each option has one key in all sources.
fn rename_keys(table: &mut Table) {
    for (old, new) in RENAMED {
        if let Some(value) = table.remove(old) {
            table.insert(new.to_owned(), value);
        }
    }
}

/// Shortens the parser's message: it would list all known keys.
fn shortened(message: &str) -> String {
    message.split(", expected").next().unwrap_or(message).replace("unknown field", "unknown key")
}

/// Reads a text or a list of texts, so that a scenario file needs no brackets around a single URL.
pub(crate) fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct OneOrMany;
    impl<'de> Visitor<'de> for OneOrMany {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text or a list of texts")
        }

        fn visit_str<E>(self, text: &str) -> Result<Vec<String>, E> {
            Ok(vec![text.to_owned()])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Vec<String>, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(list))
        }
    }
    deserializer.deserialize_any(OneOrMany)
}

/// Serializes seeds as text, because TOML integers end at 2^63 - 1.
pub(crate) mod seed {
    use serde::{Deserialize, Deserializer, Serializer, de};

    #[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde's shape")]
    pub(crate) fn serialize<S: Serializer>(seed: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match seed {
            Some(seed) => serializer.collect_str(seed),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(seed) => Ok(Some(seed)),
            Written::Text(text) => text.parse().map(Some).map_err(de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests;
