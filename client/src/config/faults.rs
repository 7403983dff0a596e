//! The faults that a run is to inject, as they were asked for: `SPEC@TIME`.
//! It breaks nothing and asks no stack.

use super::check::Check;
use crate::{cli::RunArgs, stack_faults};
use plan::{PlannedFault, PlannedFaults};
use settings::duration;

/// More than a person plans; each has a thread.
const MOST: usize = 100;

pub(super) fn planned(check: &mut Check, args: &RunArgs) -> PlannedFaults {
    let asked: Vec<&str> =
        args.faults.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).collect();
    if args.embedded && !asked.is_empty() {
        check.error(
            "--fault needs a stack in processes of its own, and --embedded has none: start one with \
             `streamstress stack up --detach`"
                .into(),
        );
    }
    if asked.len() > MOST {
        check.error(format!("--fault was given {} times: give at most {MOST}", asked.len()));
    }
    let planned = asked.iter().take(MOST).filter_map(|text| match parse(text) {
        Ok(fault) => Some(fault),
        Err(error) => {
            check.error(format!("--fault `{text}`: {error}"));
            None
        }
    });
    PlannedFaults { planned: planned.collect(), stack: args.fault_stack.clone() }
}

fn parse(text: &str) -> Result<PlannedFault, String> {
    let no_time =
        || "lacks its time: give SPEC@TIME, counted from the first send, as wsproxy-1:kill@30s".to_owned();
    let (spec, time) = text.rsplit_once('@').ok_or_else(no_time)?;
    let spec = spec.trim();
    let at = duration::parse(time).ok_or_else(|| {
        format!("invalid duration \"{time}\": expected for example {}", super::check::EXAMPLES)
    })?;
    stack_faults::parse(spec)?;
    Ok(PlannedFault { spec: spec.to_owned(), at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_fault_has_a_time() {
        let fault = parse("wsproxy-1:kill@1m30s").unwrap();
        assert_eq!((fault.spec.as_str(), fault.at), ("wsproxy-1:kill", Duration::from_secs(90)));
        assert!(parse("wsproxy-1:kill").unwrap_err().contains("SPEC@TIME"));
        assert!(parse("wsproxy-1:kill@soon").unwrap_err().contains("invalid duration \"soon\""));
        assert!(parse("moon:kill@3s").is_err());
    }
}
