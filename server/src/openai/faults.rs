//! The errors that a request asks for. They are values: what is sent instead is decided by [`super::player`].

use crate::{
    openai::{
        fields::{Fields, invalid},
        problem::Problem,
    },
    plan::DELAY_MS,
    request::shown,
};
use serde_json::Value;
use std::time::Duration;

/// The largest number of faults of one request.
const MOST: usize = 64;

/// An error in a stream. It concerns one event: a token event by its number from 1, or the end, which follows the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The event is not sent.
    Drop,
    /// The event is sent twice.
    Duplicate,
    /// The event is sent after the next one.
    Swap,
    /// The event is sent late, and the later ones behind it. Due times stay the same.
    Delay(Duration),
    /// The event's text begins with `é`, and the two bytes of this character are sent apart.
    Split,
    /// The stream ends before the event, without a terminator. The connection ends in order.
    Cut,
    /// The connection breaks before the event.
    Abort,
    /// The stream ends before the event, with an error.
    Error,
    /// The schedule has a pause before the event. All later due times move.
    Stall(Duration),
}

/// A fault, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Placed {
    /// The number of its event, from 1.
    at: u64,
    /// Only every so many answers of the server have it.
    every: u64,
    fault: Fault,
}

/// The faults of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Faults(Vec<Placed>);

impl Faults {
    /// Reads a list of `{"kind": "drop", "at": 5}`. `delay` and `stall` have `ms`, and each may have `every`.
    ///
    /// # Errors
    /// The fault that is wrong, and what is expected.
    pub(super) fn read(value: Option<&Value>) -> Result<Self, Problem> {
        let Some(value) = value else { return Ok(Self::default()) };
        let list = value.as_array().filter(|list| list.len() <= MOST).ok_or_else(|| {
            wrong(format!("`faults` must be a list of at most {MOST} objects, not {}", shown(value)))
        })?;
        list.iter().map(one).collect::<Result<_, _>>().map(Self)
    }

    /// Returns whether the event has this fault.
    pub(super) fn has(&self, event: u64, fault: Fault) -> bool {
        self.of(event).any(|found| found == fault)
    }

    /// Returns how long the schedule pauses before the event.
    pub(super) fn stall(&self, event: u64) -> Duration {
        self.of(event).map(|fault| if let Fault::Stall(pause) = fault { pause } else { Duration::ZERO }).sum()
    }

    /// Returns how long the schedule pauses in all before the event `last` is over.
    pub(super) fn stalls_until(&self, last: u64) -> Duration {
        let before = self.0.iter().filter(|placed| placed.at <= last).map(|placed| placed.fault);
        before.map(|fault| if let Fault::Stall(pause) = fault { pause } else { Duration::ZERO }).sum()
    }

    /// Returns whether the event's text begins with a character that is sent in two pieces.
    pub(super) fn splits(&self, event: u64) -> bool {
        self.has(event, Fault::Split)
    }

    /// Returns how late the event is sent.
    pub(super) fn delay(&self, event: u64) -> Duration {
        self.of(event).map(|fault| if let Fault::Delay(delay) = fault { delay } else { Duration::ZERO }).sum()
    }

    /// Returns the first event before which the answer fails.
    pub(super) fn error(&self) -> Option<u64> {
        self.0.iter().filter(|placed| placed.fault == Fault::Error).map(|placed| placed.at).min()
    }

    /// Returns the faults without those of a connection, for a stream that is read again.
    pub(super) fn of_the_answer(&self) -> Self {
        let stays = |fault| matches!(fault, Fault::Error | Fault::Stall(_) | Fault::Split);
        Self(self.0.iter().copied().filter(|placed| stays(placed.fault)).collect())
    }

    /// Returns the faults of the answer with this number, from 1.
    pub(super) fn for_answer(&self, number: u64) -> Self {
        Self(self.0.iter().copied().filter(|placed| number.is_multiple_of(placed.every)).collect())
    }

    fn of(&self, event: u64) -> impl Iterator<Item = Fault> + '_ {
        self.0.iter().filter(move |placed| placed.at == event).map(|placed| placed.fault)
    }
}

fn one(value: &Value) -> Result<Placed, Problem> {
    let fields = value.as_object().map(Fields).ok_or_else(|| {
        wrong(format!(
            "a fault must be an object such as {{\"kind\": \"drop\", \"at\": 5}}, not {}",
            shown(value)
        ))
    })?;
    let at =
        fields.tokens("at")?.ok_or_else(|| wrong("`at` is missing in a fault: name an event, from 1"))?;
    let every = fields.tokens("every")?.unwrap_or(1);
    let kind = fields.string("kind")?.unwrap_or_default();
    let pause = || {
        let ms = fields.number("ms")?.filter(|ms| DELAY_MS.contains(ms)).ok_or_else(|| {
            wrong(format!(
                "`ms` of the fault \"{kind}\" must be a number from {} to {}",
                DELAY_MS.start(),
                DELAY_MS.end()
            ))
        })?;
        Ok::<_, Problem>(Duration::from_secs_f64(ms / 1e3))
    };
    let fault = match kind {
        "drop" => Fault::Drop,
        "duplicate" => Fault::Duplicate,
        "swap" => Fault::Swap,
        "delay" => Fault::Delay(pause()?),
        "split" => Fault::Split,
        "cut" => Fault::Cut,
        "abort" => Fault::Abort,
        "error" => Fault::Error,
        "stall" => Fault::Stall(pause()?),
        _ => {
            return Err(wrong(format!(
                "unknown fault {}: expected drop, duplicate, swap, delay, split, cut, abort, error or stall",
                shown(&Value::from(kind))
            )));
        }
    };
    Ok(Placed { at, every, fault })
}

fn wrong(message: impl Into<String>) -> Problem {
    invalid("streamstress", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn faults_are_read_by_event() {
        let ms = Duration::from_millis;
        let faults = json!([
            {"kind": "drop", "at": 2}, {"kind": "stall", "at": 3, "ms": 500}, {"kind": "stall", "at": 3, "ms": 1},
            {"kind": "delay", "at": 4, "ms": 0.5}, {"kind": "error", "at": 9}, {"kind": "error", "at": 7},
        ]);
        let faults = Faults::read(Some(&faults)).unwrap();
        assert!(faults.has(2, Fault::Drop) && !faults.has(3, Fault::Drop));
        assert_eq!((faults.stall(3), faults.stall(4)), (ms(501), ms(0)));
        assert_eq!(faults.delay(4), Duration::from_micros(500));
        assert_eq!(faults.error(), Some(7));
        let rest = faults.of_the_answer();
        assert!(!rest.has(2, Fault::Drop) && rest.stall(3) == ms(501) && rest.delay(4) == ms(0));
        assert_eq!(Faults::read(None).unwrap(), Faults::default());
    }

    #[test]
    fn a_fault_can_concern_some_answers_only() {
        let faults = json!([{"kind": "cut", "at": 2, "every": 3}, {"kind": "error", "at": 5}]);
        let faults = Faults::read(Some(&faults)).unwrap();
        let cut: Vec<_> = (1..=6).filter(|&number| faults.for_answer(number).has(2, Fault::Cut)).collect();
        assert_eq!(cut, [3, 6]);
        assert!((1..=6).all(|number| faults.for_answer(number).error() == Some(5)));
    }

    #[test]
    fn a_wrong_fault_is_named() {
        let check = |faults: Value, expected: &str| {
            let error = Faults::read(Some(&faults)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error} does not contain {expected}");
        };
        check(json!("drop"), "`faults` must be a list of at most 64 objects, not \"drop\"");
        check(json!(vec![json!({"kind": "drop", "at": 1}); 65]), "at most 64");
        check(json!([5]), "a fault must be an object");
        check(json!([{"kind": "drop"}]), "`at` is missing");
        check(json!([{"kind": "drop", "at": 0}]), "`at` must be a whole number from 1");
        check(
            json!([{"kind": "drop", "at": 1, "every": 0}]),
            "`every` must be a whole number from 1 to 1000000, not 0",
        );
        check(json!([{"kind": "lose", "at": 1}]), "unknown fault \"lose\": expected drop,");
        check(
            json!([{"kind": "stall", "at": 1}]),
            "`ms` of the fault \"stall\" must be a number from 0 to 3600000",
        );
        check(json!([{"kind": "delay", "at": 1, "ms": -1}]), "`ms` of the fault \"delay\"");
    }
}
