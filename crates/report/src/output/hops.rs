//! Where a token's time went: the sampled tokens by hop, over the steady state if there is one.

use super::RunInfo;
use crate::{
    text_builder::{Column, TextBuilder},
    values::short,
};
use measure::{CLOCK_ERROR_US, Distribution, Hop, HopFigures, Interval, RunData};
use serde_json::{Value, json};
use settings::plural::counted;

const COLUMNS: [Column; 5] = [
    Column::left("hop, ms", 18),
    Column::right("avg", 8, 3),
    Column::right("med", 8, 5),
    Column::right("p(99)", 9, 4),
    Column::right("samples", 10, 2),
];

/// What is known about the hops of a run.
enum State<'a> {
    /// The gateway was not asked.
    Off,
    /// No token of a complete query carried the gateway's times.
    NotReported,
    /// The hops over a stretch of the run.
    Measured(Stretch<'a>),
}

/// The hops over a stretch of the run.
struct Stretch<'a> {
    interval: &'a Interval,
    figures: HopFigures,
    /// First second, and first second after it. `None`: the whole run.
    steady_s: Option<(u64, u64)>,
}

impl<'a> State<'a> {
    fn of(run: &'a RunData, info: &RunInfo) -> Self {
        if info.hops.is_none() {
            return Self::Off;
        }
        let steady = run.steady.as_ref().and_then(|steady| {
            let steady_s = Some((steady.from_s, steady.to_s));
            Some(Stretch { interval: &steady.metrics, figures: HopFigures::of(&steady.metrics)?, steady_s })
        });
        let whole = || {
            let figures = HopFigures::of(&run.metrics)?;
            Some(Stretch { interval: &run.metrics, figures, steady_s: None })
        };
        steady.or_else(whole).map_or(Self::NotReported, Self::Measured)
    }
}

impl Stretch<'_> {
    /// Returns the distribution of a hop that every sample has.
    fn distribution(&self, hop: Hop) -> Option<&Distribution> {
        Some(self.interval.get(hop.metric()))
            .filter(|found| found.count() > 0 && self.figures.is_complete(hop))
    }

    /// Returns why a hop has no figures: it lies between two clocks.
    fn unmeasured(&self, hop: Hop) -> Option<&'static str> {
        let is_missing = self.figures.samples > 0 && !self.figures.is_complete(hop);
        is_missing.then_some(match hop {
            Hop::Network => "gateway and client use different clocks, whose offset is unknown",
            _ => "simulator and gateway use different clocks, whose offset is unknown",
        })
    }

    /// Returns why the split cannot be trusted, or `None` if it can.
    fn unreliable(&self) -> Option<String> {
        let HopFigures { samples, impossible, .. } = self.figures;
        (!self.figures.is_reliable()).then(|| {
            format!(
                "The split is unreliable: {} of {} contradict each other by more than the error of the clock, {} ms. Either a clock was set, or simulator and gateway name a clock that they do not use.",
                impossible,
                counted(samples + impossible, "samples"),
                clock_error_ms()
            )
        })
    }
}

/// Returns the error of two times of one clock, in milliseconds.
fn clock_error_ms() -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a small constant")]
    let us = CLOCK_ERROR_US as f64;
    us / 1e3
}

/// Writes the section of the text summary. Nothing if the gateway was not asked, or no query was complete.
pub(super) fn text(out: &mut TextBuilder, run: &RunData, info: &RunInfo) {
    let stretch = match State::of(run, info) {
        State::Measured(stretch) => stretch,
        State::NotReported if run.queries.ok > 0 => {
            out.entry("time by hop", "not reported: no token carried the gateway's times");
            return out.gap();
        }
        State::Off | State::NotReported => return,
    };
    let scope = stretch.steady_s.map_or_else(
        || "the whole run".to_owned(),
        |(from, to)| format!("the steady state, {from} s to {to} s"),
    );
    out.sentence("", &format!("Where a token's time went: {scope}"));
    out.table(&COLUMNS, Hop::ALL.iter().filter_map(|&hop| row(&stretch, hop)));
    if let Some(why) = stretch.unreliable() {
        out.sentence("", &why);
    }
    for hop in Hop::ALL {
        if let Some(why) = stretch.unmeasured(hop) {
            out.sentence("", &format!("{}: not measured, because {why}", hop.place()));
        }
    }
    let moved = match stretch.figures.clamped {
        0 => String::new(),
        clamped => {
            format!("; {} with a hop below 0 by no more than that set to 0", counted(clamped, "samples"))
        }
    };
    out.sentence("", &format!("clock error of measured hops: {} ms (one clock){moved}", clock_error_ms()));
    out.gap();
}

fn row(stretch: &Stretch<'_>, hop: Hop) -> Option<Vec<String>> {
    let figures = stretch.distribution(hop)?.summary()?;
    let cells = [figures.mean, figures.p50, figures.p99].map(short);
    let count = figures.count.to_string();
    Some(std::iter::once(hop.place().to_owned()).chain(cells).chain([count]).collect())
}

/// Returns the value of the key `hops` of the summary.
pub(super) fn json(run: &RunData, info: &RunInfo) -> Value {
    let stretch = match State::of(run, info) {
        State::Off => return json!({ "state": "off" }),
        State::NotReported => return json!({ "state": "not reported", "every": info.hops }),
        State::Measured(stretch) => stretch,
    };
    let hop = |hop: Hop| {
        let figures = stretch.distribution(hop).and_then(Distribution::summary);
        json!({
            "hop": hop.place(),
            "metric": hop.metric().name_ms(),
            "what": hop.limits(),
            "samples": figures.map(|figures| figures.count),
            "mean": figures.map(|figures| figures.mean),
            "p50": figures.map(|figures| figures.p50),
            "p99": figures.map(|figures| figures.p99),
            // Null if the hop lies between two clocks.
            "clock_error_ms": stretch.unmeasured(hop).is_none().then(clock_error_ms),
            "unmeasured": stretch.unmeasured(hop),
        })
    };
    json!({
        "state": "measured",
        "every": info.hops,
        "steady_s": stretch.steady_s.map(|(from, to)| [from, to]),
        "samples": stretch.figures.samples,
        "clamped": stretch.figures.clamped,
        "contradictory": stretch.figures.impossible,
        "reliable": stretch.figures.is_reliable(),
        "unreliable_because": stretch.unreliable(),
        "hops": Hop::ALL.map(hop),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use measure::{HopSplit, ImpossibleTimes, Steady};
    use std::time::Duration;

    fn asked() -> RunInfo {
        RunInfo { hops: Some(16), ..RunInfo::default() }
    }

    /// Returns a run with a sampled token per entry, by hop in milliseconds.
    fn run(tokens: &[[Option<u64>; 4]]) -> RunData {
        let mut run = RunData::default();
        run.queries.ok = 1;
        for &ms in tokens {
            let us = ms.map(|ms| ms.map(|ms| ms * 1_000));
            run.metrics.record_hops(Ok(HopSplit { us, clamped: false }));
        }
        run
    }

    fn rendered(run: &RunData, info: &RunInfo) -> String {
        let mut out = TextBuilder::new(80);
        text(&mut out, run, info);
        out.finish()
    }

    const TOKEN: [Option<u64>; 4] = [Some(1), Some(2), Some(3), Some(4)];

    #[test]
    fn the_section_has_a_row_per_hop() {
        insta::assert_snapshot!("hops_measured", rendered(&run(&[TOKEN; 40]), &asked()));
        let json = json(&run(&[TOKEN; 40]), &asked());
        assert_eq!(
            (&json["state"], &json["samples"], &json["reliable"]),
            (&"measured".into(), &40.into(), &true.into())
        );
        assert_eq!(
            (&json["hops"][3]["mean"], &json["hops"][3]["clock_error_ms"]),
            (&4.0.into(), &0.05.into())
        );
    }

    #[test]
    fn a_gateway_that_adds_no_times_is_named_and_has_no_zeros() {
        assert!(rendered(&run(&[]), &asked()).contains("not reported"));
        assert_eq!(json(&run(&[]), &asked()), json!({ "state": "not reported", "every": 16 }));
        assert_eq!(rendered(&run(&[]), &RunInfo::default()), "");
        assert_eq!(json(&run(&[]), &RunInfo::default())["state"], "off");
    }

    #[test]
    fn hops_between_two_clocks_are_left_out_with_the_reason() {
        let run = run(&[[Some(1), None, Some(3), None], TOKEN]);
        let text = rendered(&run, &asked());
        insta::assert_snapshot!("hops_two_clocks", text);
        let json = json(&run, &asked());
        assert_eq!(
            (&json["hops"][1]["mean"], &json["hops"][1]["clock_error_ms"]),
            (&Value::Null, &Value::Null)
        );
    }

    #[test]
    fn contradictions_and_clamped_samples_are_told() {
        let mut run = run(&[TOKEN; 9]);
        run.metrics.record_hops(Ok(HopSplit { us: TOKEN, clamped: true }));
        run.metrics.record_hops(Err(ImpossibleTimes));
        insta::assert_snapshot!("hops_unreliable", rendered(&run, &asked()));
        let json = json(&run, &asked());
        assert_eq!(
            (&json["reliable"], &json["contradictory"], &json["clamped"]),
            (&false.into(), &1.into(), &1.into())
        );
    }

    #[test]
    fn the_steady_state_alone_counts_if_it_has_samples() {
        let mut run = run(&[TOKEN; 9]);
        let mut steady = Steady::of((Duration::from_secs(2), Duration::from_secs(20))).unwrap();
        run.steady = Some(steady.clone());
        assert_eq!(json(&run, &asked())["steady_s"], Value::Null);
        steady.metrics.record_hops(Ok(HopSplit { us: TOKEN, clamped: false }));
        run.steady = Some(steady);
        let json = json(&run, &asked());
        assert_eq!((&json["steady_s"], &json["samples"]), (&json!([2, 20]), &1.into()));
    }
}
