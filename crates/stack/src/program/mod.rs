//! What each command of the program does: an order over the control socket, or holding a stack. It decides nothing about
//! processes; that is the library's part.

mod args;
mod fault;
mod logs;
mod up;

use crate::{
    control::{Request, Response, call},
    native::{Programs, Role, Status},
};
pub use args::Args;
use args::{Command, Selection};
use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    process::ExitCode,
};

/// Runs `streamstress stack`. `programs` starts servers and gateways, unless `--bin-dir` names a directory with other ones.
pub fn run(args: Args, programs: Programs) -> ExitCode {
    match execute(args, programs) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "stack: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(args: Args, programs: Programs) -> anyhow::Result<()> {
    let selection = args.selection;
    match args.command {
        Command::Up(up) => up::run(&selection, &up, programs),
        Command::Down => {
            call(&selection.directory(), &Request::Down)?;
            show_end(&selection);
            Ok(())
        }
        Command::Status { json } => show_answer(&selection, &Request::Status, json),
        Command::Fault(wanted) => fault::run(&selection, wanted),
        Command::Logs(logs) => logs::run(&selection.directory(), &logs),
        Command::Scale { to } => {
            let to: BTreeMap<Role, u16> = to.into_iter().collect();
            show_answer(&selection, &Request::Scale { to }, false)
        }
    }
}

fn show_answer(selection: &Selection, request: &Request, json: bool) -> anyhow::Result<()> {
    match call(&selection.directory(), request)? {
        Response::Status(status) if json => print_line(serde_json::to_string_pretty(&status)?),
        Response::Status(status) => show(&status),
        Response::Fault(injected) => print_line(format_args!("{}: {}", injected.fault, injected.detail)),
        Response::Ended => show_end(selection),
        Response::Error(why) => anyhow::bail!(why),
    }
    Ok(())
}

/// What is left of a stack. Its terminal may be gone, and that is no fault of the stack's end.
fn show_end(selection: &Selection) {
    let logs = selection.directory().join("logs");
    let _ = writeln!(io::stdout(), "the stack has ended; its logs are in {}", logs.display());
}

/// Prints a line. What reads it may have ended, or its disk may be full: that is no reason to end a stack.
fn print_line(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A stack for a person: where it is, and what runs.
fn show(status: &Status) {
    print_line(format_args!(
        "API    {}\nWS     {}\nstats  {}\n",
        status.api_url, status.ws_url, status.stats_url
    ));
    let width = status.processes.iter().map(|process| process.name.len()).max().unwrap_or(0);
    for process in &status.processes {
        let port = process.port.map_or_else(|| "-".to_owned(), |port| port.to_string());
        print_line(format_args!(
            "{:width$}  pid {:<8} port {port:<6} {}",
            process.name, process.pid, process.state
        ));
    }
    if let Some(socket) = status.processes.iter().find_map(|process| process.socket.as_ref()) {
        print_line(format_args!("redis listens at {}", socket.display()));
    }
    for link in &status.links {
        print_line(format_args!(
            "{}  {}, {} open, {} broken, {} refused",
            link.name, link.state, link.open, link.broken, link.refused
        ));
    }
}
