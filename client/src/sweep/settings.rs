//! What a sweep can vary: options of a run, settings of the native stack, and variables of its servers and gateways.

use crate::cli;
use clap::{Arg, Command, CommandFactory, ValueEnum};
use measure::sweep::nearest;
use settings::flags;
use stack::native::Persistence;
use std::{ffi::OsString, path::PathBuf};

/// Options of a run that a sweep determines, with what to do instead.
const NOT_VARIED: [&str; 18] = [
    "always-exit-0",
    // Results would show them.
    "auth-token",
    "header",
    "control",
    "control-force",
    "dry-run",
    "fault-stack",
    "keep-results",
    "name",
    "on",
    "out",
    "output-dir",
    "quiet",
    "run-id",
    "shard",
    "tui",
    "wait-for-generators",
    "web",
];
/// Variables that the stack sets for each process, by the flags of the programs.
const SET_BY_STACK: [&str; 10] = [
    "bus-name-prefix",
    "health-check",
    "host",
    "instance",
    "jwt-secret",
    "jwt-secret-file",
    "port",
    "redis-url",
    "server-workers",
    "unix-socket",
];
/// Settings of the stack: the name in `--vary`, then the flag of `stack up` if it has another name.
const STACK: [(&str, Option<&str>, StackSetting); 7] = [
    ("server", Some("servers"), StackSetting::Servers),
    ("wsproxy", Some("proxies"), StackSetting::Gateways),
    ("haproxy-instances", None, StackSetting::Haproxies),
    ("server-workers", None, StackSetting::ServerWorkers),
    ("redis-persistence", None, StackSetting::Persistence),
    ("relays", None, StackSetting::Relays),
    ("bin-dir", None, StackSetting::BinDir),
];
/// Key for checking values of variables. It signs nothing.
const ANY_KEY: &str = "--jwt-secret=0123456789abcdef0123456789abcdef";

/// A setting that a sweep can vary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    /// An option of the run.
    Run {
        /// Its flag without dashes.
        flag: String,
        /// Its key in scenario files.
        key: String,
    },
    /// A setting of the native stack.
    Stack(StackSetting),
    /// An environment variable of servers or gateways.
    Variable {
        /// Its name.
        name: String,
        /// The flag of the programs that it belongs to.
        flag: String,
    },
}

/// A setting of the native stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StackSetting {
    Servers,
    Gateways,
    Haproxies,
    ServerWorkers,
    Persistence,
    Relays,
    BinDir,
}

/// The stack of a variant, without ports and directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StackSetup {
    /// Number of servers, if it varies.
    pub(super) servers: Option<u16>,
    /// Number of gateways, if it varies.
    pub(super) proxies: Option<u16>,
    /// Number of HAProxies.
    pub(super) haproxies: u16,
    /// Worker threads of each server.
    pub(super) server_workers: Option<usize>,
    /// Writes that Redis stores on disk.
    pub(super) persistence: Persistence,
    /// Whether every link has a relay.
    pub(super) relays: bool,
    /// Directory with other programs.
    pub(super) bin_dir: Option<PathBuf>,
    /// Variables of servers and gateways.
    pub(super) environment: Vec<(String, String)>,
}

impl Default for StackSetup {
    /// Returns the stack that `stack up` starts.
    fn default() -> Self {
        Self {
            servers: None,
            proxies: None,
            haproxies: 1,
            server_workers: None,
            persistence: Persistence::default(),
            relays: false,
            bin_dir: None,
            environment: Vec::new(),
        }
    }
}

impl Setting {
    /// Finds a setting by its name. Stack settings come first, then options of a run, then those of servers and gateways.
    ///
    /// # Errors
    /// The name is unknown, or the sweep determines this setting.
    pub(super) fn find(name: &str) -> Result<Self, String> {
        if let Some((_, _, setting)) = STACK.iter().find(|row| row.0 == name || row.1 == Some(name)) {
            return Ok(Self::Stack(*setting));
        }
        if NOT_VARIED.contains(&name) {
            return Err(format!("--vary {name}: a sweep cannot vary this option: remove it"));
        }
        let run = cli::options();
        if let Some(arg) = run.get_arguments().find(|arg| has_flag(arg, name)) {
            let flag = arg.get_long().unwrap_or_default().to_owned();
            return Ok(Self::Run { flag, key: arg.get_id().to_string() });
        }
        let variables = variables();
        let found = variables.iter().find(|(flag, variable)| flag == name || variable == name);
        if let Some((flag, variable)) = found {
            return Ok(Self::Variable { name: variable.clone(), flag: flag.clone() });
        }
        if let Some(flag) =
            SET_BY_STACK.iter().find(|flag| **flag == name.to_ascii_lowercase().replace('_', "-"))
        {
            let instead = if *flag == "server-workers" { "use server-workers" } else { "remove it" };
            return Err(format!("--vary {name}: the stack sets this for each process: {instead}"));
        }
        Err(unknown(name, &run, &variables))
    }

    /// Returns whether the setting belongs to a stack that the sweep starts.
    pub(super) const fn is_of_stack(&self) -> bool {
        matches!(self, Self::Stack(_) | Self::Variable { .. })
    }

    /// Returns whether only a native stack has the setting.
    pub(super) const fn is_native(&self) -> bool {
        matches!(self, Self::Stack(setting) if !matches!(setting, StackSetting::Servers | StackSetting::Gateways))
    }
}

impl StackSetup {
    /// Applies a value to the stack. Options of the run change nothing here.
    ///
    /// # Errors
    /// The value is invalid. The message names it and what is expected.
    pub(super) fn apply(&mut self, setting: &Setting, value: &str) -> Result<(), String> {
        let setting = match setting {
            Setting::Run { .. } => return Ok(()),
            Setting::Variable { name, flag } => {
                check_variable(flag, value)?;
                self.environment.push((name.clone(), value.to_owned()));
                return Ok(());
            }
            Setting::Stack(setting) => *setting,
        };
        let count = |most: u16| {
            let parsed = value.parse().ok().filter(|count| (1..=most).contains(count));
            parsed.ok_or_else(|| format!("invalid number \"{value}\": expected 1 to {most}"))
        };
        match setting {
            StackSetting::Servers => self.servers = Some(count(64)?),
            StackSetting::Gateways => self.proxies = Some(count(64)?),
            StackSetting::Haproxies => self.haproxies = count(16)?,
            StackSetting::ServerWorkers => self.server_workers = Some(count(256)?.into()),
            StackSetting::Persistence => {
                self.persistence = Persistence::from_str(value, false).map_err(|_| {
                    let known: Vec<_> = Persistence::value_variants()
                        .iter()
                        .filter_map(|mode| Some(mode.to_possible_value()?.get_name().to_owned()))
                        .collect();
                    format!("invalid mode \"{value}\": expected {}", known.join(", "))
                })?;
            }
            StackSetting::Relays => self.relays = cli::yes_or_no(value)?,
            StackSetting::BinDir => self.bin_dir = Some(PathBuf::from(value)),
        }
        Ok(())
    }
}

fn has_flag(arg: &Arg, name: &str) -> bool {
    arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
}

/// Returns flag and variable of each option of servers and gateways that a sweep can vary.
fn variables() -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for command in [server::Args::command(), wsproxy::Args::command()] {
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            let (Some(flag), Some(variable)) = (arg.get_long(), arg.get_env().and_then(|name| name.to_str()))
            else {
                continue;
            };
            let pair = (flag.to_owned(), variable.to_owned());
            if !SET_BY_STACK.contains(&flag) && !all.contains(&pair) {
                all.push(pair);
            }
        }
    }
    all
}

/// Checks the value of a variable as the programs that know it do.
fn check_variable(flag: &str, value: &str) -> Result<(), String> {
    fn errors<T: clap::Parser>(program: &str, flag: &str, value: &str) -> Vec<String> {
        let knows = |command: Command| command.get_arguments().any(|arg| arg.get_long() == Some(flag));
        if !knows(T::command()) {
            return Vec::new();
        }
        let words = [program.to_owned(), ANY_KEY.to_owned(), format!("--{flag}={value}")].map(OsString::from);
        match flags::read::<T>(words, |_| None, &[]) {
            Ok(read) => read.errors.0,
            Err(error) => vec![error.to_string().lines().next().unwrap_or_default().to_owned()],
        }
    }
    let mut errors =
        [errors::<server::Args>("server", flag, value), errors::<wsproxy::Args>("wsproxy", flag, value)]
            .concat();
    match errors.is_empty() {
        true => Ok(()),
        false => Err(errors.swap_remove(0)),
    }
}

/// Returns the message for an unknown name, with the names that are most similar.
fn unknown(name: &str, run: &Command, variables: &[(String, String)]) -> String {
    let of_run = run.get_arguments().filter_map(Arg::get_long).filter(|flag| !NOT_VARIED.contains(flag));
    // Each variable is known by two names. The one that looks like `name` is shown.
    let is_upper = name.chars().any(|c| c.is_ascii_uppercase());
    let of_variables =
        variables.iter().map(|(flag, variable)| if is_upper { variable } else { flag }.as_str());
    let known: Vec<&str> = STACK.iter().map(|row| row.0).chain(of_run).chain(of_variables).collect();
    let near: Vec<String> = nearest(name, known).iter().map(|name| format!("`{name}`")).collect();
    let hint = if near.is_empty() {
        "expected an option of `streamstress run`, a setting of the stack such as `wsproxy`, or a variable of `server` or `wsproxy`"
            .to_owned()
    } else {
        format!("did you mean {}?", near.join(" or "))
    };
    format!("--vary {name}: unknown setting: {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_kinds_are_found() {
        for (name, setting) in [
            ("wsproxy", Setting::Stack(StackSetting::Gateways)),
            ("proxies", Setting::Stack(StackSetting::Gateways)),
            ("servers", Setting::Stack(StackSetting::Servers)),
            ("clients", Setting::Run { flag: "clients".into(), key: "clients".into() }),
            ("fault", Setting::Run { flag: "fault".into(), key: "faults".into() }),
            ("tokens", Setting::Run { flag: "answer-tokens".into(), key: "answer_tokens".into() }),
            ("ttft-ms", Setting::Run { flag: "ttft-ms".into(), key: "ttft_ms".into() }),
            ("delivery", Setting::Variable { name: "DELIVERY".into(), flag: "delivery".into() }),
            ("DELIVERY", Setting::Variable { name: "DELIVERY".into(), flag: "delivery".into() }),
            ("MAX_STREAMS", Setting::Variable { name: "MAX_STREAMS".into(), flag: "max-streams".into() }),
            ("TTFT_MS", Setting::Variable { name: "TTFT_MS".into(), flag: "ttft-ms".into() }),
        ] {
            assert_eq!(Setting::find(name), Ok(setting), "{name}");
        }
    }

    #[test]
    fn every_option_of_a_run_can_be_varied_or_is_refused_with_a_reason() {
        for arg in cli::options().get_arguments() {
            let Some(flag) = arg.get_long() else { continue };
            match Setting::find(flag) {
                Ok(_) => assert!(!NOT_VARIED.contains(&flag), "{flag}"),
                Err(error) => assert!(NOT_VARIED.contains(&flag), "{flag}: {error}"),
            }
        }
        let options = cli::options();
        for flag in NOT_VARIED {
            assert!(
                options.get_arguments().any(|arg| arg.get_long() == Some(flag)),
                "--{flag} does not exist"
            );
        }
    }

    #[test]
    fn unknown_names_get_the_nearest_ones() {
        for (name, part) in [
            ("wsproxi", "did you mean `wsproxy`"),
            ("client", "`clients`"),
            ("MAX_STREAM", "`MAX_STREAMS`"),
            ("zzzz", "expected an option of `streamstress run`"),
            ("output-dir", "a sweep cannot vary this option"),
            ("REDIS_URL", "the stack sets this for each process"),
            ("SERVER_WORKERS", "use server-workers"),
        ] {
            let error = Setting::find(name).unwrap_err();
            assert!(error.starts_with(&format!("--vary {name}: ")) && error.contains(part), "{error}");
        }
    }

    #[test]
    fn values_of_the_stack_are_checked() {
        let mut setup = StackSetup::default();
        let mut apply = |name: &str, value: &str| setup.apply(&Setting::find(name).unwrap(), value);
        for (name, value) in [
            ("server", "1"),
            ("wsproxy", "64"),
            ("haproxy-instances", "2"),
            ("server-workers", "3"),
            ("redis-persistence", "everysec"),
            ("relays", "yes"),
            ("bin-dir", "/x"),
            ("delivery", "pubsub"),
            ("clients", "whatever"),
        ] {
            assert_eq!(apply(name, value), Ok(()), "{name}={value}");
        }
        for (name, value, why) in [
            ("wsproxy", "0", "invalid number \"0\": expected 1 to 64"),
            ("wsproxy", "many", "invalid number \"many\""),
            ("haproxy-instances", "17", "expected 1 to 16"),
            ("redis-persistence", "sometimes", "invalid mode \"sometimes\": expected none"),
            ("relays", "perhaps", "expected yes or no"),
            ("delivery", "pigeon", "invalid value \"pigeon\" for --delivery: expected log or pubsub"),
            ("MAX_STREAMS", "0", "invalid number \"0\" for --max-streams"),
        ] {
            let error = apply(name, value).unwrap_err();
            assert!(error.contains(why), "{name}={value}: {error}");
        }
        assert_eq!(
            (setup.servers, setup.proxies, setup.haproxies, setup.relays),
            (Some(1), Some(64), 2, true)
        );
        assert_eq!(setup.environment, [("DELIVERY".to_owned(), "pubsub".to_owned())]);
    }
}
