//! The append of one event.

use super::{Effect, EffectSink, Ending, LogEntry, Record};
use protocol::{Position, Prefix, with_position};

/// The outcome of the append of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// The event is in the log and was published.
    Taken {
        /// Number of subscribers that received it.
        receivers: u64,
    },
    /// The log had the event already.
    Repeated,
    /// Another event had the terminator's position, so the terminator was moved behind it.
    Moved {
        /// The terminator's new position.
        position: Position,
    },
    /// The log holds later events of the query and lacks this one, so it can never be added.
    Hole,
    /// A later generation exists. The writer must stop.
    Stale,
}

impl Record {
    /// Appends an event and publishes it. A terminator releases its claim in the same step.
    pub fn append(
        &mut self,
        prefix: Prefix,
        frame: &[u8],
        ending: Ending,
        logged: bool,
        out: EffectSink<'_>,
    ) -> AppendOutcome {
        let generation = prefix.position.generation;
        let terminator = prefix.kind.is_terminator();
        if terminator && self.generation != 0 && self.generation != generation {
            return self.superseded(prefix, frame);
        }
        if terminator {
            self.renew_if_due();
        }
        let top = self.top();
        let outcome = if !logged || prefix.position > top {
            if logged {
                self.log.push_back(LogEntry::new(prefix, frame));
            }
            AppendOutcome::Taken { receivers: out(Effect::Publish { prefix, frame }) }
        } else if top.generation > generation {
            return self.superseded(prefix, frame);
        } else if self.holds(prefix.position, terminator.then_some(frame)) {
            out(Effect::Publish { prefix, frame });
            AppendOutcome::Repeated
        } else if !terminator {
            return AppendOutcome::Hole;
        } else if self.running.is_none() {
            return AppendOutcome::Repeated;
        } else {
            let position = top.next();
            let frame = with_position(frame, prefix.position, position);
            self.write(Prefix { position, ..prefix }, &frame, logged, out);
            AppendOutcome::Moved { position }
        };
        if terminator {
            let owner = self.running.take();
            let ran = owner.is_some();
            let responsible = owner.or_else(|| self.end_owner.take());
            self.end_log(responsible, ran, ending, logged, out);
        }
        outcome
    }

    /// Returns the outcome for an event of an earlier generation. The event may be in the log although its writer did
    /// not receive the reply.
    fn superseded(&self, prefix: Prefix, frame: &[u8]) -> AppendOutcome {
        if self.holds(prefix.position, Some(frame)) { AppendOutcome::Repeated } else { AppendOutcome::Stale }
    }
}
