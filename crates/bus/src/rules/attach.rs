//! The steps of an attachment: a gateway attaches to a session, releases it, and restores both in a broker that lost
//! data.

use super::{Effect, EffectSink, Part, Record, Status};
use protocol::Position;

/// The inputs of an attachment.
#[derive(Clone, Copy, Debug)]
pub struct Attaching<'a> {
    /// The gateway that attaches.
    pub holder: &'a str,
    /// The broker's time, in milliseconds since the epoch.
    pub now_ms: u64,
    /// The broker's time after which the caller may have given up, in milliseconds since the epoch.
    pub deadline_ms: u64,
    /// The position that the client names; `None` if it names none.
    pub after: Option<Position>,
    /// Data that the broker lacks may still be restored, so a position above its log is not refused.
    pub young: bool,
}

/// The result of an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The attachment's epoch, higher than all epochs before.
    pub epoch: u64,
    /// The epoch of the attachment before it; 0 for none.
    pub before: u64,
    /// Number of gateways that were notified that they have been taken over.
    pub notified: u64,
    /// The session's cursor at this moment.
    pub cursor: Position,
    /// The generation of the session's last claim; 0 for none.
    pub generation: u64,
    /// The client names a position that the broker does not have. It may be restored.
    pub ahead: bool,
    /// The session exists and takes queries.
    pub active: bool,
}

/// The outcome of the call to attach. Only `Done` changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachOutcome {
    /// The caller has the session.
    Done(Attached),
    /// The broker executed the call after its deadline.
    Late,
    /// The client names a position that cannot exist.
    Beyond {
        /// The position of the log's last entry.
        top: Position,
    },
}

impl Record {
    /// Returns the highest position that a client can have received. Without a log only the generation is known. If the
    /// session has expired, only the broker's time is known, because generations do not exceed it.
    fn reach(&self, now_ms: u64) -> Position {
        let top = self.top();
        if self.generation > top.generation {
            Position::new(self.generation, u64::MAX)
        } else if self.status.is_none() && top == Position::ZERO {
            Position::new(now_ms, u64::MAX)
        } else {
            top
        }
    }

    /// Attaches a gateway. The gateway that had the session is notified.
    pub fn attach(&mut self, attaching: Attaching<'_>, out: EffectSink<'_>) -> AttachOutcome {
        let Attaching { holder, now_ms, deadline_ms, after, young } = attaching;
        if now_ms > deadline_ms {
            return AttachOutcome::Late;
        }
        let ahead = after.is_some_and(|after| after > self.reach(now_ms));
        if ahead && !young {
            return AttachOutcome::Beyond { top: self.top() };
        }
        let before = self.epoch;
        let epoch = (before + 1).max(now_ms);
        let former = self.holder.replace(holder.to_owned());
        self.epoch = epoch;
        self.renew_if_due();
        let notified = former.map_or(0, |holder| out(Effect::Takeover { holder: &holder, epoch }));
        AttachOutcome::Done(Attached {
            epoch,
            before,
            notified,
            cursor: self.cursor,
            generation: self.generation,
            ahead,
            active: self.status.map_or(self.held, |status| status == Status::Active),
        })
    }

    /// Ends an attachment, and stores its cursor if its socket ended cleanly. A gateway that took it over receives the
    /// cursor.
    pub fn release(&mut self, epoch: u64, cursor: Option<Position>, out: EffectSink<'_>) {
        if let Some(cursor) = cursor.filter(|_| epoch > self.cursor_epoch) {
            (self.cursor, self.cursor_epoch) = (cursor, epoch);
        }
        if self.epoch == epoch {
            self.holder = None;
            self.forget_if_over();
        } else if let Some(holder) = &self.holder {
            out(Effect::Released { holder, epoch, cursor: self.cursor });
        }
    }

    /// Restores that a gateway has the session. An earlier holder, which may have restored the same before, is
    /// notified. `active`: the session takes queries, which [`Record::adopt`] needs if no server remembers the session.
    /// Returns the newest epoch; if it is higher than `epoch`, nothing was changed.
    pub fn reattach(&mut self, holder: &str, epoch: u64, active: bool, out: EffectSink<'_>) -> u64 {
        if self.epoch <= epoch {
            self.held |= active && self.status.is_none();
            self.renew(&Part::ALL);
            let before = std::mem::replace(&mut self.epoch, epoch);
            let former = self.holder.replace(holder.to_owned());
            if let Some(holder) = former.filter(|_| before != epoch) {
                out(Effect::Takeover { holder: &holder, epoch });
            }
        }
        self.epoch
    }

    /// Restores the cursor that a gateway released. An earlier holder, which may have restored its attachment before,
    /// is notified, because the released attachment had taken it over.
    pub fn restore_cursor(&mut self, epoch: u64, cursor: Position, out: EffectSink<'_>) {
        self.renew(&[Part::Attachment]);
        if epoch > self.cursor_epoch {
            (self.cursor, self.cursor_epoch) = (cursor, epoch);
        }
        if epoch > self.epoch {
            self.epoch = epoch;
            if let Some(holder) = self.holder.take() {
                out(Effect::Takeover { holder: &holder, epoch });
            }
        }
        self.forget_if_over();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::LogEntry;
    use protocol::{Kind, Prefix};

    const NOW: u64 = 1_000;

    fn attach(record: &mut Record, after: Position, deadline_ms: u64, young: bool) -> AttachOutcome {
        let attaching = Attaching { holder: "gateway", now_ms: NOW, deadline_ms, after: Some(after), young };
        record.attach(attaching, &mut |_| 1)
    }

    fn with_log(generation: u64, top: u64) -> Record {
        let position = Position::new(generation, top);
        let entry = LogEntry::new(Prefix { position, kind: Kind::Token }, b"x");
        Record { status: Some(Status::Active), generation, log: [entry].into(), ..Record::default() }
    }

    #[test]
    fn a_late_attachment_changes_nothing() {
        let mut record = Record { holder: Some("other".to_owned()), epoch: 5, ..with_log(900, 3) };
        assert_eq!(attach(&mut record, Position::ZERO, NOW - 1, false), AttachOutcome::Late);
        assert_eq!((record.holder.as_deref(), record.epoch), (Some("other"), 5));
        assert!(matches!(attach(&mut record, Position::ZERO, NOW, false), AttachOutcome::Done(_)));
    }

    #[test]
    fn a_gateway_restores_an_active_session_and_reopens_no_closed_one() {
        for (before, active, epoch, after) in [
            (None, true, 5, Some(Status::Active)),
            (None, false, 5, None),
            (None, true, 4, None),
            (Some(Status::Closed), true, 5, Some(Status::Closed)),
        ] {
            let mut record = Record { status: before, epoch: 5, ..Record::default() };
            assert_eq!(record.reattach("gateway", epoch, active, &mut |_| 1), 5);
            assert_eq!(record.status, before, "a server may still restore it");
            record.adopt();
            assert_eq!(record.status, after, "{before:?}, {active}, epoch {epoch}");
        }
    }

    #[test]
    fn a_restored_cursor_ends_an_attachment_that_a_rollback_brought_back() {
        let mut notified = Vec::new();
        let mut record = Record { holder: Some("former".to_owned()), epoch: 5, ..with_log(900, 3) };
        for epoch in [5, 9, 9, 7] {
            record.restore_cursor(epoch, Position::new(900, 3), &mut |effect| {
                notified.push(format!("{effect:?}"));
                1
            });
        }
        assert_eq!(notified, [r#"Takeover { holder: "former", epoch: 9 }"#]);
        assert_eq!((record.holder.as_deref(), record.epoch), (None, 9));
    }

    #[test]
    fn a_position_that_cannot_exist_is_refused_and_takes_nothing_over() {
        let at = Position::new;
        let running = with_log(900, 3);
        let expired_log = Record { generation: 900, status: Some(Status::Active), ..Record::default() };
        let new = Record { status: Some(Status::Active), ..Record::default() };
        for (record, after, exists) in [
            (&running, at(900, 3), true),
            (&running, at(900, 4), false),
            (&running, at(901, 0), false),
            (&running, at(899, 70), true),
            (&expired_log, at(900, 70), true),
            (&expired_log, at(901, 1), false),
            (&new, Position::ZERO, true),
            (&new, at(1, 1), false),
            (&Record::default(), at(NOW, 9), true),
            (&Record::default(), at(NOW + 1, 1), false),
        ] {
            let mut record = Record { holder: Some("other".to_owned()), ..record.clone() };
            let outcome = attach(&mut record, after, NOW, false);
            assert_eq!(matches!(outcome, AttachOutcome::Done(_)), exists, "{after} of {record:?}");
            assert_eq!(record.holder.as_deref() == Some("other"), !exists);
            let AttachOutcome::Done(attached) = attach(&mut record, after, NOW, true) else {
                panic!("{after}")
            };
            assert_eq!(attached.ahead, !exists, "a young broker waits for {after}");
        }
    }
}
