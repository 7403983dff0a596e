//! Renders `docs/cli.md` from the command line, and checks that the file is current.
//! To write the file: `UPDATE_DOCS=1 cargo test -p client --lib cli::reference`.

use super::Cli;
use crate::environment;
use clap::{Arg, ArgAction, Command, CommandFactory};
use std::{fmt::Write as _, path::Path};

const INTRODUCTION: &str = "\
# Command line of `streamstress`

This file is generated: `UPDATE_DOCS=1 cargo test -p client --lib cli::reference` writes it after a change of the options.

Without a command, the arguments are those of `streamstress run`.

- Durations are written as `250ms`, `30s` or `1h30m`. A bare number is seconds unless stated otherwise.
- Every option of `run` can be set by an environment variable, which the tables show, or in a scenario file by its name with `_` for `-`.
  A flag takes precedence over the environment, then the scenario file, then the file `.env`.
- Two variables that set one option to different values are refused with exit code 104.
- A switch takes a value as well: `--burst=no`. If an option that takes one value is given twice, the last value counts.
";

fn reference() -> String {
    let mut command = Cli::documented();
    command.build();
    let mut text = INTRODUCTION.to_owned();
    text.push_str("\n## Commands\n");
    commands(&mut text, &command);
    for command in subcommands(&command)
        .filter(|command| command.get_arguments().any(is_documented) || subcommands(command).next().is_some())
    {
        let _ = write!(text, "\n## `streamstress {}`\n", command.get_name());
        if command.get_name() == "run" {
            run_options(&mut text, command);
            continue;
        }
        if command.get_arguments().any(is_documented) {
            options(&mut text, command.get_arguments().filter(|arg| is_documented(arg)));
        }
        if subcommands(command).next().is_none() {
            continue;
        }
        commands(&mut text, command);
        for inner in subcommands(command).filter(|command| command.get_arguments().any(is_own)) {
            let _ = write!(text, "\n### `streamstress {} {}`\n", command.get_name(), inner.get_name());
            options(&mut text, inner.get_arguments().filter(|arg| is_own(arg)));
            if let Some(details) = inner.get_after_long_help().or_else(|| inner.get_after_help()) {
                let _ = write!(text, "\n```text\n{details}\n```\n");
            }
        }
    }
    text
}

/// Returns the subcommands in the order in which they are declared. A modified one is the last of its command.
fn subcommands(command: &Command) -> impl Iterator<Item = &Command> {
    let declared: Vec<_> =
        Cli::command().get_subcommands().map(|known| known.get_name().to_owned()).collect();
    let mut commands: Vec<_> =
        command.get_subcommands().filter(|command| command.get_name() != "help").collect();
    commands.sort_by_key(|command| declared.iter().position(|name| name == command.get_name()));
    commands.into_iter()
}

/// Appends a table of the subcommands.
fn commands(text: &mut String, command: &Command) {
    text.push_str("\n| command | what it does |\n|---|---|\n");
    for command in subcommands(command) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(text, "| `{}` | {} |", command.get_name(), cell(&about));
    }
}

/// Appends a table of options and arguments.
fn options<'a>(text: &mut String, args: impl Iterator<Item = &'a Arg>) {
    text.push_str("\n| argument | what it does |\n|---|---|\n");
    for arg in args {
        let variable = arg.get_env().map(|name| format!(" [env: `{}`]", name.display())).unwrap_or_default();
        let _ = writeln!(text, "| {} | {}{variable} |", name(arg), help(arg));
    }
}

fn run_options(text: &mut String, command: &Command) {
    let mut headings: Vec<&str> = Vec::new();
    for heading in command.get_arguments().filter_map(Arg::get_help_heading) {
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    let declared = super::options();
    for heading in headings {
        let _ = write!(text, "\n### {heading}\n\n| option | what it does | variable |\n|---|---|---|\n");
        for arg in declared.get_arguments().filter(|arg| arg.get_help_heading() == Some(heading)) {
            let mut names = environment::names(arg);
            let present = names.next().unwrap_or_default();
            let older: Vec<_> = names.map(|name| format!("`{name}`")).collect();
            let older =
                if older.is_empty() { String::new() } else { format!(" (older: {})", older.join(", ")) };
            let _ = writeln!(text, "| {} | {} | `{present}`{older} |", name(arg), help(arg));
        }
    }
}

/// Help, version and hidden options are not documented, and neither are arguments that another parser reads.
fn is_documented(arg: &Arg) -> bool {
    let action = arg.get_action();
    !matches!(action, ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version)
        && !arg.is_trailing_var_arg_set()
        && !arg.is_hide_set()
}

/// Whether an argument of an inner command is documented there. The options that all of them share are documented once.
fn is_own(arg: &Arg) -> bool {
    is_documented(arg) && !arg.is_global_set()
}

fn name(arg: &Arg) -> String {
    let value = arg.get_value_names().unwrap_or_default().join(" ").replace('|', "\\|");
    let short = arg.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    match arg.get_long() {
        Some(long) if arg.get_action().takes_values() => format!("{short}`--{long} {value}`"),
        Some(long) => format!("{short}`--{long}`"),
        None => format!("`{value}`"),
    }
}

/// Returns the long help of an option with its default, as a cell of a table.
fn help(arg: &Arg) -> String {
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let takes_default =
        arg.get_action().takes_values() && !defaults.is_empty() && !arg.is_hide_default_value_set();
    let default = if takes_default { format!(" [default: {}]", defaults.join(" ")) } else { String::new() };
    // The first sentence of a long help is a paragraph without a full stop.
    cell(&(help.replace("\n\n", ". ").replace(".. ", ". ") + &default))
}

fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|").replace('<', "&lt;")
}

#[test]
fn the_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let expected = reference();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/cli.md is not current: run `UPDATE_DOCS=1 cargo test -p client --lib cli::reference`"
    );
}

#[test]
fn every_option_of_a_run_has_a_topic_and_a_help_text() {
    for arg in super::options().get_arguments() {
        assert!(arg.get_help_heading().is_some() && arg.get_help().is_some(), "{}", arg.get_id());
    }
}
