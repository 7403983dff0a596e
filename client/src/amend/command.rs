//! `streamstress amend`: finds the run and asks the process that leads it for the change.

use super::{Request, Response, service};
use crate::{
    cli::AmendArgs,
    run_error::{RunError, refused},
};
use anyhow::anyhow;
use coordination::{
    Timing,
    redis::{AskError, Control},
};
use plan::schedule::{Change, SHORTEST_TRANSITION};
use report::messages;
use settings::duration;
use std::{path::PathBuf, time::Duration};

/// Time in which the leader of a run with a control Redis must answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Changes a run, and prints what was changed.
///
/// # Errors
/// No run with this id goes on, or the change is not possible.
pub(crate) fn amend(args: &AmendArgs) -> Result<(), RunError> {
    let (request, wanted) = match args.fault.clone() {
        Some(fault) => (Request::Inject { fault }, Wanted::Any),
        None => (Request::Amend { change: change(args), ramp_up: ramp_up(args)? }, Wanted::Amendable),
    };
    let response = match (&args.control, &args.run_id) {
        (Some(url), Some(id)) => ask_leader(url, id, &request)?,
        _ => {
            let (socket, _) = find(args.run.as_deref(), wanted)?;
            service::ask(&socket, &request).map_err(|error| {
                anyhow!("the run gave no answer ({error}): its results say whether it was changed")
            })?
        }
    };
    match response {
        Response::Amended { amendment, begins_in } => {
            let number = amendment.number;
            let seconds = begins_in.as_secs_f64();
            messages::print_stdout(&format!("amendment {number}: {amendment} (in {seconds:.1} s)\n"));
            Ok(())
        }
        Response::Refused(why) => Err(refused(&why)),
        Response::Injecting => {
            messages::print_stdout(&format!("injecting {}\n", args.fault.as_deref().unwrap_or_default()));
            Ok(())
        }
        Response::Run { .. } => {
            Err(refused("the run gave no answer to this request: it is of another version"))
        }
    }
}

fn change(args: &AmendArgs) -> Change {
    args.clients.map_or_else(|| Change::ArrivalRate(args.arrival_rate.unwrap_or_default()), Change::Clients)
}

fn ramp_up(args: &AmendArgs) -> Result<Duration, RunError> {
    let Some(text) = &args.ramp_up else { return Ok(SHORTEST_TRANSITION) };
    duration::parse(text).filter(|&ramp_up| ramp_up >= SHORTEST_TRANSITION).ok_or_else(|| {
        refused(&format!("invalid duration \"{text}\" for --ramp-up: expected at least 1 s, for example 10s"))
    })
}

/// The runs among which one is looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Runs whose load can be changed.
    Amendable,
    /// All runs.
    Any,
}

/// Finds the socket of the run with this id, or of the only run.
fn find(id: Option<&str>, wanted: Wanted) -> Result<(PathBuf, String), RunError> {
    let sockets = service::sockets().map_err(|error| refused(&format!("cannot look for runs: {error}")))?;
    let describe = |socket: PathBuf| match service::ask(&socket, &Request::Describe) {
        Ok(Response::Run { id, amendable, .. }) if amendable || wanted == Wanted::Any => Some((socket, id)),
        _ => None,
    };
    let mut runs: Vec<_> = sockets.into_iter().filter_map(describe).collect();
    if let Some(id) = id {
        runs.retain(|(_, of)| of == id);
    }
    if runs.len() == 1 {
        return Ok(runs.remove(0));
    }
    let ids: Vec<_> = runs.iter().map(|(_, id)| id.as_str()).collect();
    Err(refused(&match (id, ids.is_empty()) {
        (Some(id), true) if wanted == Wanted::Any => format!("no run {id} is going on on this machine"),
        (Some(id), true) => format!("no run {id} that can be amended is going on on this machine"),
        (None, true) if wanted == Wanted::Any => "no run is going on on this machine: start one first".to_owned(),
        (None, true) => "no run that can be amended is going on on this machine: start one with --duration, --stages or --arrival-rate; \
             a run with --control needs --control and --run-id here too"
            .to_owned(),
        _ => format!("several runs are going on: choose one with --run ({})", ids.join(", ")),
    }))
}

/// Asks the leader of a run whose generators meet at a control Redis.
fn ask_leader(url: &str, id: &str, request: &Request) -> Result<Response, RunError> {
    let control =
        Control::new(url, Timing::default()).map_err(|error| refused(&format!("--control: {error}")))?;
    let bytes = serde_json::to_vec(request).map_err(|error| RunError::Broken(error.into()))?;
    let answer = control.ask(id, &bytes, ANSWER).map_err(|error| match error {
        AskError::NoAnswer { .. } => RunError::Broken(error.into()),
        error => refused(&error.to_string()),
    })?;
    serde_json::from_slice(&answer).map_err(|error| {
        refused(&format!("the run's answer cannot be read ({error}): it is of another version"))
    })
}
