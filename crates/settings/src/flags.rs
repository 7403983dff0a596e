//! Reads a program's flags and environment variables into a struct that derives [`clap::Parser`].
//!
//! The struct's fields have their final types, and the parsers of [`crate::value`] check ranges. [`read`] checks each value by itself, so
//! that all errors are reported together. The program adds the errors of settings that depend on each other.

use crate::value::Invalid;
use clap::{
    Arg, ArgMatches, Command, Parser,
    builder::{OsStringValueParser, Resettable},
    parser::ValueSource,
};
use std::{
    error::Error,
    ffi::{OsStr, OsString},
    fmt,
    path::PathBuf,
    process::ExitCode,
};

/// Exit code of a program whose arguments or configuration are invalid.
pub const REFUSED: u8 = 104;

/// All errors of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<String>);

impl ConfigErrors {
    /// Adds an error.
    pub fn push(&mut self, error: impl Into<String>) {
        self.0.push(error.into());
    }

    /// Returns the value, or adds the error.
    pub fn take<T>(&mut self, result: Result<T, impl fmt::Display>) -> Option<T> {
        result.map_err(|error| self.push(error.to_string())).ok()
    }

    /// Returns `value` if there are no errors.
    ///
    /// # Errors
    /// All errors, if there is one.
    pub fn check<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [one] = self.0.as_slice() {
            return f.write_str(one);
        }
        f.write_str("invalid configuration:")?;
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

impl Error for ConfigErrors {}

/// What a program was given.
pub struct Read<T> {
    /// The values. An invalid one is replaced by its default.
    pub args: T,
    /// The errors of the invalid values.
    pub errors: ConfigErrors,
    /// Warnings to log: the old names of variables that were used.
    pub warnings: Vec<String>,
    /// The values that differ from their defaults, by the names of their flags. Values that may be secret are left out.
    pub changed: Vec<(String, String)>,
}

/// Reads arguments, the program's name first, and an environment. A flag takes precedence over its variable. A blank value counts as
/// unset, because Compose files pass unset variables as empty ones. `old_names` has pairs of a variable and its old name, which is read
/// if the variable is unset.
///
/// # Errors
/// An unknown argument, or a request for help or the version: print it and end the program.
pub fn read<T: Parser>(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl Fn(&str) -> Option<OsString>,
    old_names: &[(&str, &str)],
) -> Result<Read<T>, clap::Error> {
    let as_text = |arg: Arg| {
        if arg.get_action().takes_values() { arg.value_parser(OsStringValueParser::new()) } else { arg }
    };
    let given = T::command().mut_args(as_text).try_get_matches_from(arguments)?;
    let command = T::command().mut_args(|arg| arg.env(Resettable::Reset));
    let (mut errors, mut warnings, mut changed) = (ConfigErrors::default(), Vec::new(), Vec::new());
    let program = OsString::from(command.get_name());
    let mut words = vec![program.clone()];
    let variable =
        |name: &str| environment(name).filter(|value| !is_blank(value)).map(|value| (value, name.to_owned()));
    for arg in T::command().get_arguments() {
        let flag = format!("--{}", arg.get_long().unwrap_or_default());
        if !arg.get_action().takes_values() {
            words.extend(given.get_flag(arg.get_id().as_str()).then(|| flag.into()));
            continue;
        }
        let name = arg.get_env().and_then(OsStr::to_str).unwrap_or_default();
        let found = match on_the_line(&given, arg.get_id().as_str()) {
            Some(value) => (!is_blank(value)).then(|| (value.to_owned(), flag.clone())),
            None => variable(name).or_else(|| {
                let (_, old) = old_names.iter().find(|(new, _)| *new == name)?;
                let found = variable(old)?;
                warnings.push(format!("{old} is an old name: use {name}"));
                Some(found)
            }),
        };
        let Some((value, origin)) = found else { continue };
        let mut word = OsString::from(flag + "=");
        word.push(&value);
        match command.clone().try_get_matches_from([&program, &word]) {
            Ok(_) => {
                changed.extend(differs(arg, &value));
                words.push(word);
            }
            Err(error) => errors.push(invalid(arg, &value, &origin, &error)),
        }
    }
    let args = T::from_arg_matches(&command.try_get_matches_from(words)?)?;
    Ok(Read { args, errors, warnings, changed })
}

/// Prints why the arguments were refused, or the help or version that they requested. Returns the exit code.
pub fn refuse(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.exit_code() == 0 { ExitCode::SUCCESS } else { REFUSED.into() }
}

/// Returns a group of flags with their defaults. Reads no environment.
///
/// # Panics
/// A flag of the group has no default, or its default is invalid.
#[must_use]
pub fn defaults<T: clap::Args>() -> T {
    let command = T::augment_args(Command::new("defaults")).mut_args(|arg| arg.env(Resettable::Reset));
    let matches = command.try_get_matches_from(["defaults"]);
    matches.and_then(|matches| T::from_arg_matches(&matches)).expect("every flag has a valid default")
}

/// Returns the last value that the arguments give, and not the environment.
fn on_the_line<'a>(given: &'a ArgMatches, id: &str) -> Option<&'a OsStr> {
    given.value_source(id).filter(|source| *source == ValueSource::CommandLine)?;
    given.get_raw(id)?.next_back()
}

/// Returns the name of the flag and its value, if it is not the default and cannot be a secret.
fn differs(arg: &Arg, value: &OsStr) -> Option<(String, String)> {
    let is_default = arg.get_default_values().iter().any(|default| default.as_os_str() == value);
    let name = arg.get_long().filter(|_| !is_default && !arg.is_hide_env_values_set())?;
    Some((name.to_owned(), value.to_string_lossy().into_owned()))
}

fn is_blank(value: &OsStr) -> bool {
    value.to_str().is_some_and(|text| text.trim().is_empty())
}

/// Returns the message for a value that `arg` refused. Values that may be secret are not shown.
fn invalid(arg: &Arg, value: &OsStr, origin: &str, error: &clap::Error) -> String {
    let (kind, why) = match error.source() {
        Some(source) => match source.downcast_ref::<Invalid>() {
            Some(invalid) => (invalid.kind, invalid.to_string()),
            None => ("value", source.to_string()),
        },
        None => ("value", error.kind().to_string()),
    };
    let shown =
        if arg.is_hide_env_values_set() { String::new() } else { format!(" {:?}", value.to_string_lossy()) };
    format!("invalid {kind}{shown} for {origin}: {why}")
}

/// The flags of the key that signs session tokens.
#[derive(Clone, clap::Args)]
pub struct JwtFlags {
    /// Key that signs session tokens, at least 32 bytes
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    pub jwt_secret: Option<String>,
    /// File that holds the key
    #[arg(long, env = "JWT_SECRET_FILE")]
    pub jwt_secret_file: Option<PathBuf>,
    /// Signature algorithm of session tokens: only HS256 is supported
    #[arg(long, env = "JWT_ALGORITHM", default_value = "HS256", value_parser = algorithm)]
    pub jwt_algorithm: String,
}

impl JwtFlags {
    /// Returns the key, which is given by value or by file.
    ///
    /// # Errors
    /// Both are given or none, or the file cannot be read.
    pub fn key(self) -> Result<String, String> {
        match (self.jwt_secret, self.jwt_secret_file) {
            (Some(_), Some(_)) => Err("both JWT_SECRET and JWT_SECRET_FILE are set: unset one".into()),
            (Some(key), None) => Ok(key),
            (None, Some(path)) => std::fs::read_to_string(&path)
                .map_err(|error| format!("JWT_SECRET_FILE: cannot read `{}`: {error}", path.display())),
            (None, None) => {
                Err("JWT_SECRET or JWT_SECRET_FILE is required: make a key with `openssl rand -hex 32`"
                    .into())
            }
        }
    }
}

fn algorithm(name: &str) -> Result<String, Invalid> {
    let supported = (name == "HS256").then(|| name.to_owned());
    supported.ok_or_else(|| Invalid { kind: "algorithm", expected: "HS256".into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{milliseconds, number, seconds};
    use std::time::Duration;

    #[derive(Parser)]
    #[command(name = "example", args_override_self = true)]
    struct Example {
        #[arg(long)]
        switch: bool,
        #[arg(long, env = "COUNT", default_value = "3", value_parser = number::<u8>(1..=4))]
        count: u8,
        #[arg(long, env = "TIME", default_value = "15", value_parser = seconds(0..=3600))]
        time: Duration,
        #[arg(long, env = "HIDDEN", hide_env_values = true, value_parser = milliseconds(1..=9))]
        hidden: Option<Duration>,
    }

    fn example(flags: &[&str], environment: &[(&str, &str)]) -> Read<Example> {
        let arguments = ["example"].iter().chain(flags).map(OsString::from);
        let variable = |name: &str| Some(environment.iter().find(|(known, _)| *known == name)?.1.into());
        read(arguments, variable, &[("COUNT", "NUMBER")]).unwrap()
    }

    #[test]
    fn flags_take_precedence_and_blank_values_count_as_unset() {
        let Read { args, errors, .. } = example(
            &["--switch", "--hidden", " ", "--count=9", "--count=2"],
            &[("COUNT", "x"), ("TIME", ""), ("HIDDEN", "0")],
        );
        assert_eq!(
            (args.switch, args.count, args.time, args.hidden),
            (true, 2, Duration::from_secs(15), None)
        );
        assert_eq!(errors.check(7), Ok(7));
        let changed = example(&["--count=2", "--hidden=3"], &[("TIME", "15")]).changed;
        assert_eq!(changed, [("count".to_owned(), "2".to_owned())], "neither defaults nor secrets");
        assert_eq!(example(&["--time=1m30s"], &[]).args.time, Duration::from_secs(90));
    }

    #[test]
    fn all_invalid_values_are_reported_with_their_origin_and_without_secrets() {
        let Read { args, errors, .. } = example(&["--count=5", "--hidden=10"], &[("TIME", "5x")]);
        assert_eq!((args.count, args.time, args.hidden), (3, Duration::from_secs(15), None));
        assert_eq!(
            errors.to_string(),
            "invalid configuration:\n  \
             invalid number \"5\" for --count: expected 1 to 4\n  \
             invalid duration \"5x\" for TIME: expected 0s to 3600s, for example 250ms, 30s or 1h30m\n  \
             invalid duration for --hidden: expected 1ms to 9ms, for example 250ms, 30s or 1h30m"
        );
    }

    #[test]
    fn an_old_name_is_read_with_a_warning_if_the_new_one_is_unset() {
        let Read { args, warnings, .. } = example(&[], &[("NUMBER", "1"), ("COUNT", "")]);
        assert_eq!((args.count, warnings), (1, vec!["NUMBER is an old name: use COUNT".to_owned()]));
        let both = example(&[], &[("NUMBER", "1"), ("COUNT", "2")]);
        assert_eq!((both.args.count, both.warnings), (2, Vec::new()));
        let errors = example(&[], &[("NUMBER", "0")]).errors;
        assert_eq!(errors.to_string(), "invalid number \"0\" for NUMBER: expected 1 to 4");
    }

    #[test]
    fn the_secret_has_exactly_one_source() {
        const KEY: &str = "0123456789abcdef0123456789abcdef";
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{KEY}\n")).unwrap();
        let key = |value: Option<&str>, file: Option<&std::path::Path>| {
            let (jwt_secret, jwt_secret_file) = (value.map(Into::into), file.map(Into::into));
            JwtFlags { jwt_secret, jwt_secret_file, jwt_algorithm: "HS256".into() }.key()
        };
        assert_eq!(key(Some(KEY), None), Ok(KEY.into()));
        assert_eq!(key(None, Some(file.path())), Ok(format!("{KEY}\n")));
        for (value, file, error) in [
            (Some(KEY), Some(file.path()), "both JWT_SECRET and JWT_SECRET_FILE"),
            (None, Some("/nowhere/at/all".as_ref()), "JWT_SECRET_FILE: cannot read `/nowhere/at/all`"),
            (None, None, "JWT_SECRET or JWT_SECRET_FILE is required"),
        ] {
            let found = key(value, file).unwrap_err();
            assert!(found.contains(error), "{found}");
        }
    }

    #[test]
    fn unknown_flags_are_refused() {
        let unknown = read::<Example>(["example", "--colour"].map(OsString::from), |_| None, &[]);
        assert!(unknown.is_err_and(|error| error.to_string().contains("--colour")));
    }
}
