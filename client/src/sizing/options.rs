//! The options of a guide, checked.

use crate::{cli::SizingArgs, config::ConfigErrors};
use measure::sizing::{
    choice::Choice,
    guide::{Machine, Options},
    point::GENERATOR,
    selection::HoldOut,
};
use report::sizing::Found;
use std::{collections::BTreeMap, path::PathBuf};

/// Largest number of users to plan for.
const MOST_USERS: f64 = 1e9;
/// Largest number of threads of a process.
const MOST_THREADS: f64 = 1_024.0;
/// Largest headroom, as a share.
const MOST_HEADROOM: f64 = 0.9;
/// Threads of one process that do its work, as the stack starts it.
const THREADS: [(&str, f64); 3] = [("haproxy", 2.0), ("redis", 1.0), ("wsproxy", 1.0)];

/// Where a guide goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Markdown on stdout.
    Stdout,
    /// JSON on stdout.
    JsonStdout,
    /// Markdown in a file.
    File(PathBuf),
    /// JSON in a file.
    JsonFile(PathBuf),
}

/// A checked command line.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    users: Vec<f64>,
    headroom: f64,
    hold_out: HoldOut,
    machine: Option<String>,
    threads: BTreeMap<String, f64>,
    choices: Vec<Choice>,
    pub(super) destination: Destination,
}

impl Checked {
    /// Checks the options. `headroom` is a share.
    ///
    /// # Errors
    /// Lists every wrong option.
    pub(super) fn new(args: &SizingArgs, headroom: Result<f64, String>) -> Result<Self, ConfigErrors> {
        let mut errors = Vec::new();
        for users in args.users.iter().filter(|users| !(1.0..=MOST_USERS).contains(*users)) {
            errors.push(format!("--users {users} is out of range: expected 1 to {MOST_USERS}"));
        }
        let headroom = headroom.unwrap_or_else(|error| {
            errors.push(error);
            0.0
        });
        if headroom > MOST_HEADROOM {
            errors.push(format!("--headroom {} is out of range: expected 0% to 90%", args.headroom));
        }
        let mut note = |error| errors.push(error);
        let hold_out = hold_out(&args.hold_out).map_err(&mut note).unwrap_or_default();
        let threads = args.threads.iter().filter_map(|text| threads(text).map_err(&mut note).ok()).collect();
        let choice = |text: &String| {
            text.parse::<Choice>()
                .map_err(|why| note(format!("invalid value \"{text}\" for --where: {why}")))
                .ok()
        };
        let choices = args.choices.iter().filter_map(choice).collect();
        let destination = destination(args.out.as_deref()).map_err(note);
        match destination {
            Ok(destination) if errors.is_empty() => Ok(Self {
                users: args.users.clone(),
                headroom,
                hold_out,
                machine: args.machine.clone(),
                threads,
                choices,
                destination,
            }),
            _ => Err(ConfigErrors(errors)),
        }
    }

    /// Completes the options with what the results state.
    pub(super) fn with(self, found: &Found) -> Options {
        let cores = found.machine.cores;
        let mut threads: BTreeMap<String, f64> =
            THREADS.map(|(role, threads)| (role.to_owned(), threads)).into();
        if let Some(cores) = cores {
            // The default of the servers. An embedded stack uses every core.
            threads.insert("server".to_owned(), (cores / 2.0).floor().clamp(1.0, 4.0));
            threads.insert(GENERATOR.to_owned(), cores);
        }
        threads.extend(self.threads);
        Options {
            users: self.users,
            headroom: self.headroom,
            hold_out: self.hold_out,
            machine: Machine {
                name: self.machine.unwrap_or_else(|| found.machine.name.clone()),
                ..found.machine.clone()
            },
            threads,
            ceilings: found.ceilings.clone(),
            choices: self.choices,
        }
    }
}

fn hold_out(text: &str) -> Result<HoldOut, String> {
    if text == "latest" {
        return Ok(HoldOut::Latest);
    }
    let number = text.parse().ok().filter(|number| (1..=100).contains(number));
    number.map(HoldOut::Highest).ok_or_else(|| {
        format!(
            "invalid value \"{text}\" for --hold-out: expected latest, or a number of points from 1 to 100"
        )
    })
}

fn threads(text: &str) -> Result<(String, f64), String> {
    let parsed = text.split_once('=').and_then(|(role, number)| {
        let number = number.parse::<f64>().ok().filter(|number| (1.0..=MOST_THREADS).contains(number));
        Some((role.trim().to_owned(), number?)).filter(|(role, _)| !role.is_empty())
    });
    parsed.ok_or_else(|| {
        format!("invalid value \"{text}\" for --threads: expected ROLE=NUMBER with 1 to 1024 threads, for example wsproxy=2")
    })
}

fn destination(text: Option<&str>) -> Result<Destination, String> {
    match text {
        None => Ok(Destination::Stdout),
        Some("json" | "json=-") => Ok(Destination::JsonStdout),
        Some("" | "json=") => {
            Err("--out needs a value: expected json, json=FILE, or the name of a Markdown file".to_owned())
        }
        Some(text) => Ok(match text.strip_prefix("json=") {
            Some(file) => Destination::JsonFile(file.into()),
            None if text.ends_with(".json") => Destination::JsonFile(text.into()),
            None => Destination::File(text.into()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn checked(line: &str) -> Result<Checked, String> {
        let words = ["streamstress", "sizing", "results"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Some(Command::Sizing(args)) => Checked::new(&args, Ok(0.3)).map_err(|errors| errors.0.join("\n")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_wrong_options_are_listed_at_once() {
        let errors =
            checked("--users 0 --hold-out first --threads wsproxy --threads =2 --where log --out json=")
                .unwrap_err();
        for part in [
            "--users 0 is out of range: expected 1 to 1000000000",
            "invalid value \"first\" for --hold-out: expected latest",
            "invalid value \"wsproxy\" for --threads: expected ROLE=NUMBER",
            "invalid value \"=2\" for --threads",
            "invalid value \"log\" for --where: expected NAME=VALUE",
            "--out needs a value",
        ] {
            assert!(errors.contains(part), "{part}: {errors}");
        }
        assert!(checked("--users nan").unwrap_err().contains("--users NaN is out of range"));
    }

    #[test]
    fn a_destination_is_a_file_or_stdout() {
        for (out, expected) in [
            (None, Destination::Stdout),
            (Some("json"), Destination::JsonStdout),
            (Some("json=a.txt"), Destination::JsonFile("a.txt".into())),
            (Some("a.json"), Destination::JsonFile("a.json".into())),
            (Some("docs/sizing.md"), Destination::File("docs/sizing.md".into())),
        ] {
            assert_eq!(destination(out), Ok(expected), "{out:?}");
        }
    }

    #[test]
    fn threads_are_those_of_the_stack_unless_given() {
        let found = Found {
            machine: Machine { name: "x".into(), cores: Some(8.0), memory_mb: None },
            ..Found::default()
        };
        let options = checked("--users 100,2000 --threads wsproxy=2 --machine big").unwrap().with(&found);
        let threads = |role: &str| options.threads[role];
        assert_eq!(
            ["wsproxy", "haproxy", "server", "redis", "client"].map(threads),
            [2.0, 2.0, 4.0, 1.0, 8.0]
        );
        assert_eq!((options.users, options.machine.name.as_str()), (vec![100.0, 2_000.0], "big"));
        assert_eq!(options.machine.cores, Some(8.0));
    }
}
