//! The commands of `streamstress stack`. Most send a request over the control socket; `up` starts a supervisor.

mod args;
mod fault;
mod logs;
mod scale;
mod up;

use crate::{
    control::{Request, Response, call},
    native::{HaproxyStatus, Programs, Status},
};
pub use args::Args;
use args::{Command, Selection};
use std::{
    io::{self, Write as _},
    process::ExitCode,
};

/// Runs `streamstress stack`. `programs` starts servers and gateways, unless `--bin-dir` names a directory with other ones.
pub fn run(args: Args, programs: Programs) -> ExitCode {
    match execute(args, programs) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(args: Args, programs: Programs) -> anyhow::Result<()> {
    let selection = args.selection;
    match args.command {
        Command::Up(up) => up::run(&selection, &up, programs),
        Command::Down => send(&selection, &Request::Down, false),
        Command::Status { json } => send(&selection, &Request::Status, json),
        Command::Fault(wanted) => fault::run(&selection, &wanted),
        Command::Logs(logs) => logs::run(&selection.directory(), &logs),
        Command::Scale(wanted) => scale::run(&selection, wanted),
    }
}

/// Sends a request and prints the response.
fn send(selection: &Selection, request: &Request, json: bool) -> anyhow::Result<()> {
    match call(&selection.directory(), request)? {
        Response::Status(status) if json => print_line(serde_json::to_string_pretty(&status)?),
        Response::Status(status) => print_status(&status),
        Response::Fault(injected) => print_line(format_args!("{}: {}", injected.fault, injected.detail)),
        Response::Scaled(changes) => changes.iter().for_each(print_line),
        Response::Ended => print_end(selection),
        Response::Error(why) => anyhow::bail!(why),
    }
    Ok(())
}

/// Prints that the stack has ended and where its logs are.
fn print_end(selection: &Selection) {
    let logs = selection.directory().join("logs");
    print_line(format_args!("the stack has ended; its logs are in {}", logs.display()));
}

/// Prints a line. Ignores errors: a closed terminal or a full disk must not end a stack.
fn print_line(line: impl std::fmt::Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Prints the URLs, processes and links of a stack.
fn print_status(status: &Status) {
    for haproxy in &status.haproxies {
        let HaproxyStatus { name, api_url, ws_url, stats_url } = haproxy;
        if status.haproxies.len() > 1 {
            print_line(format_args!("{name}"));
        }
        print_line(format_args!("API    {api_url}\nWS     {ws_url}\nstats  {stats_url}\n"));
    }
    let width = status.processes.iter().map(|process| process.name.len()).max().unwrap_or(0);
    for process in &status.processes {
        let port = process.port.map_or_else(|| "-".to_owned(), |port| port.to_string());
        print_line(format_args!(
            "{:width$}  pid {:<8} port {port:<6} {}",
            process.name, process.pid, process.state
        ));
        if let Some(start) = &process.cold_start {
            print_line(format_args!("{:width$}  {start}", ""));
        }
    }
    if let Some(socket) = status.processes.iter().find_map(|process| process.socket.as_ref()) {
        print_line(format_args!("redis listens on {}", socket.display()));
    }
    if let Some(autoscale) = &status.autoscale {
        print_line(format_args!("autoscaling  {autoscale}"));
    }
    for link in &status.links {
        print_line(format_args!(
            "{}  {}, {} open, {} broken, {} refused",
            link.name, link.state, link.open, link.broken, link.refused
        ));
    }
}
