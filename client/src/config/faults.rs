//! Reads the faults to inject: `SPEC@TIME`. Whether a stack can inject them is checked before the run.

use super::check::Check;
use crate::{cli::RunArgs, stack_faults};
use plan::{PlannedFault, PlannedFaults};
use settings::duration;

/// Largest number of faults. Each has a thread.
const MAX_FAULTS: usize = 100;

pub(super) fn planned(check: &mut Check, args: &RunArgs) -> PlannedFaults {
    let asked: Vec<&str> =
        args.faults.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).collect();
    if args.embedded && !asked.is_empty() {
        check.error(
            "--fault needs a stack of separate processes, which --embedded does not have: start one with \
             `streamstress stack up --detach`"
                .into(),
        );
    }
    if asked.len() > MAX_FAULTS {
        check.error(format!("--fault was given {} times: use it at most {MAX_FAULTS} times", asked.len()));
    }
    let planned = asked.iter().take(MAX_FAULTS).filter_map(|text| match parse(text) {
        Ok(fault) => Some(fault),
        Err(error) => {
            check.error(format!("--fault `{text}`: {error}"));
            None
        }
    });
    PlannedFaults { planned: planned.collect(), stack: args.fault_stack.clone() }
}

fn parse(text: &str) -> Result<PlannedFault, String> {
    let no_time = || {
        "expected SPEC@TIME, with the time after the first query, for example wsproxy-1:kill@30s".to_owned()
    };
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
