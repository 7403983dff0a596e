//! What a run's options are when they come from several places: flag or environment, then scenario file, then `.env`.
//! It looks up files and puts layers together; whether a value is any good is for `Config`.

use crate::{
    cli::{self, Origins, RunArgs},
    environment,
};
use clap::{ArgMatches, FromArgMatches, parser::ValueSource};
use settings::dotenv::{self, Variables};
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};
use toml::{Table, Value};

/// Where scenarios are known by their name.
pub const DIRECTORY: &str = "scenarios";
/// What a `[[user]]` may say, and a flag says instead of all of them.
const OF_USERS: [&str; 6] = ["think_time", "queries", "answer_tokens", "ttft_ms", "itl_ms", "profile"];
/// Older keys and their present names.
const RENAMED: [(&str, &str); 5] = [
    ("token", "auth_token"),
    ("tokens", "answer_tokens"),
    ("stall", "pause_readers"),
    ("stall_ms", "stall_threshold"),
    ("drop_rate", "cut_rate"),
];
/// No scenario is longer.
const LONGEST: u64 = 1 << 20;

/// Puts the layers together: what `matches` was told by flag or environment outranks the scenario file, and that `dotenv`.
///
/// Returns also where the values came from that no flag gave.
///
/// # Errors
/// A file cannot be read, or says what no run understands; the message names the file.
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
            // A profile is a way to say these two.
            if overridden.contains(&"profile") {
                user.remove("ttft_ms");
                user.remove("itl_ms");
            }
        }
    }
    forget_other_models(&mut merged, &above);
    for (_, flag) in flags.iter().filter(|(key, _)| above.contains_key(key)) {
        origins.remove(flag);
    }
    origins.extend(cli::from_environment(matches));
    merged.extend(above);
    let mut resolved = RunArgs::deserialize_table(merged)?;
    resolved.scenario = name;
    Ok((resolved, origins))
}

/// A workload that a flag asks for takes the place of the one in the file; so do two words for one thing.
fn forget_other_models(merged: &mut Table, above: &Table) {
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

/// What was said by flag or environment, and not left to a default.
fn explicit(args: &RunArgs, matches: &ArgMatches) -> Result<Table, String> {
    let table = Table::try_from(args).map_err(|error| error.to_string())?;
    let said = |key: &str| {
        let known = matches.ids().any(|id| id.as_str() == key);
        let source = known.then(|| matches.value_source(key)).flatten();
        matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    };
    Ok(table.into_iter().filter(|(key, _)| said(key)).collect())
}

/// Reads the variables of a run from a `.env` file as those of the environment are read. Returns also where each one is.
fn from_dotenv(variables: &Variables) -> Result<(Table, Origins), String> {
    let options = cli::options();
    environment::check_dotenv(&options, variables)?;
    let command = options.clone().mut_args(|arg| cli::switch(arg.env(None::<&str>)));
    let (mut words, mut origins) = (Vec::new(), Origins::new());
    for arg in options.get_arguments() {
        let Some(flag) = cli::flag(arg) else { continue };
        // `check_dotenv` made sure that several names agree: the first one that has a value counts.
        for name in environment::names(arg) {
            let Some(entry) = variables.get(name) else { continue };
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

/// The variables in `path`; none where there is no such file.
///
/// # Errors
/// It is there and cannot be read.
pub fn dotenv(path: &Path) -> Result<Variables, String> {
    let named = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes)) {
        Ok(length) if length as u64 > LONGEST => Err(named(&"more than 1 MiB is too much for a .env file")),
        // What is not UTF-8 belongs to somebody else, or is refused as a value.
        Ok(_) => {
            let text = String::from_utf8_lossy(&bytes);
            Ok(dotenv::parse(&text, &|name: &str| std::env::var(name).ok()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Variables::new()),
        Err(error) => Err(named(&error)),
    }
}

/// The text of a scenario and where it comes from.
#[derive(Debug)]
struct Source {
    /// A path, or the name of a scenario that is part of this program.
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
    if length > LONGEST {
        return Err(named(&format!("{length} bytes are too many for a scenario")));
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
        return Err(named(&"`scenario` has no place in a scenario"));
    }
    rename_keys(&mut table);
    if let Some(Value::Array(users)) = table.get_mut("user") {
        users.iter_mut().filter_map(Value::as_table_mut).for_each(rename_keys);
    }
    Ok(table)
}

/// Gives older keys their present names, so that layers overwrite each other by one name.
fn rename_keys(table: &mut Table) {
    for (old, new) in RENAMED {
        if let Some(value) = table.remove(old) {
            table.insert(new.to_owned(), value);
        }
    }
}

/// The list of all keys helps nobody.
fn shortened(message: &str) -> String {
    message.split(", expected").next().unwrap_or(message).replace("unknown field", "unknown key")
}

/// Seeds beyond what TOML holds are written as text.
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
