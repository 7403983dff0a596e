//! What each command of the program does: an order over the control socket, or holding a stack. It decides nothing about
//! processes; that is the library's part.

mod args;
mod fault;
mod logs;
mod up;

pub(crate) use args::Args;

use args::{Command, Place};
use stack::{
    control::{Request, Response, call},
    native::{Role, Status},
};
use std::{
    collections::BTreeMap,
    io::{self, Write as _},
};

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let place = args.place;
    match args.command {
        Command::Up(up) => up::run(&place, up),
        Command::Down => {
            call(&place.directory(), &Request::Down)?;
            show_end(&place);
            Ok(())
        }
        Command::Status { json } => show_answer(&place, &Request::Status, json),
        Command::Fault(wanted) => fault::run(&place, wanted),
        Command::Logs(logs) => logs::run(&place.directory(), &logs),
        Command::Scale { to } => {
            let to: BTreeMap<Role, u16> = to.into_iter().collect();
            show_answer(&place, &Request::Scale { to }, false)
        }
    }
}

fn show_answer(place: &Place, request: &Request, json: bool) -> anyhow::Result<()> {
    match call(&place.directory(), request)? {
        Response::Status(status) if json => print_line(serde_json::to_string_pretty(&status)?),
        Response::Status(status) => show(&status),
        Response::Fault(injected) => print_line(format_args!("{}: {}", injected.fault, injected.detail)),
        Response::Ended => show_end(place),
        Response::Error(why) => anyhow::bail!(why),
    }
    Ok(())
}

/// What is left of a stack. Its terminal may be gone, and that is no fault of the stack's end.
fn show_end(place: &Place) {
    let logs = place.directory().join("logs");
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
