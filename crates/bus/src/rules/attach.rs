//! The steps of an attachment: a gateway takes a session, releases it, and reports what it has to a broker that lost data.

use super::{Audience, Effect, Part, Record, Status};
use protocol::Position;

/// What an attachment needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Attaching<'a> {
    /// The gateway that attaches.
    pub holder: &'a str,
    /// The broker's own time, in milliseconds.
    pub now_ms: u64,
    /// The broker's time after which the caller may have given up.
    pub deadline_ms: u64,
    /// The position that the client names; `None` if it names none.
    pub after: Option<Position>,
    /// The broker may lack data that others are still restoring, so a position above its log is not refused.
    pub young: bool,
}

/// What an attachment finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The attachment's epoch, above all before.
    pub epoch: u64,
    /// The epoch before it.
    pub before: u64,
    /// How many were told that they have been taken over.
    pub told: u64,
    /// The cursor at this moment.
    pub cursor: Position,
    /// The generation of the session's last claim; 0 for none.
    pub generation: u64,
    /// The client names a position that the broker does not have (yet).
    pub ahead: bool,
    /// The session exists and takes queries.
    pub active: bool,
}

/// What the call to attach came to. Only the first outcome changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// The session is the caller's.
    Done(Attached),
    /// The broker executed the call after its deadline.
    Late,
    /// The session has no such position.
    Beyond {
        /// The last position in its log.
        top: Position,
    },
}

impl Record {
    /// The highest position that a client can have received. Without a log only the generation is known, and of a session
    /// that expired only that its generations did not exceed the broker's time.
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

    /// A gateway attaches: whoever had the session is told.
    pub fn attach(&mut self, attaching: Attaching<'_>, out: Audience<'_>) -> Attach {
        let Attaching { holder, now_ms, deadline_ms, after, young } = attaching;
        if now_ms > deadline_ms {
            return Attach::Late;
        }
        let ahead = after.is_some_and(|after| after > self.reach(now_ms));
        if ahead && !young {
            return Attach::Beyond { top: self.top() };
        }
        let before = self.epoch;
        let epoch = (before + 1).max(now_ms);
        let former = self.holder.replace(holder.to_owned());
        self.epoch = epoch;
        self.renew(&Part::ALL);
        let told = former.map_or(0, |holder| out(Effect::Takeover { holder: &holder, epoch }));
        Attach::Done(Attached {
            epoch,
            before,
            told,
            cursor: self.cursor,
            generation: self.generation,
            ahead,
            active: self.status.map_or(self.held, |status| status == Status::Active),
        })
    }

    /// An attachment ends; `cursor` where its socket ended cleanly. The one that took it over hears the cursor.
    pub fn release(&mut self, epoch: u64, cursor: Option<Position>, out: Audience<'_>) {
        if let Some(cursor) = cursor.filter(|_| epoch > self.cursor_epoch) {
            (self.cursor, self.cursor_epoch) = (cursor, epoch);
        }
        self.renew(&[Part::Attachment]);
        if self.epoch == epoch {
            self.holder = None;
        } else if let Some(holder) = &self.holder {
            out(Effect::Released { holder, epoch, cursor: self.cursor });
        }
    }

    /// A gateway says again that it has the session, to a broker that may have forgotten. An earlier holder, which may have
    /// said the same before, is told. `active`: the session took queries, which [`Record::adopt`] needs should no server
    /// remember it. Returns the newest epoch.
    pub fn reattach(&mut self, holder: &str, epoch: u64, active: bool, out: Audience<'_>) -> u64 {
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

    /// A gateway says again which cursor it released, to a broker that may have forgotten. An earlier holder, which may have
    /// said before that it has the session, is told: the attachment that was released had taken it over.
    pub fn restore_cursor(&mut self, epoch: u64, cursor: Position, out: Audience<'_>) {
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::LogEntry;
    use protocol::{Kind, Prefix};

    const NOW: u64 = 1_000;

    fn attach(record: &mut Record, after: Position, deadline_ms: u64, young: bool) -> Attach {
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
        assert_eq!(attach(&mut record, Position::ZERO, NOW - 1, false), Attach::Late);
        assert_eq!((record.holder.as_deref(), record.epoch), (Some("other"), 5));
        assert!(matches!(attach(&mut record, Position::ZERO, NOW, false), Attach::Done(_)));
    }

    #[test]
    fn a_gateway_restores_that_a_session_takes_queries_and_opens_none_that_is_closed() {
        for (before, active, epoch, after) in [
            (None, true, 5, Some(Status::Active)),
            (None, false, 5, None),
            (None, true, 4, None),
            (Some(Status::Closed), true, 5, Some(Status::Closed)),
        ] {
            let mut record = Record { status: before, epoch: 5, ..Record::default() };
            assert_eq!(record.reattach("gateway", epoch, active, &mut |_| 1), 5);
            assert_eq!(record.status, before, "a server may still say what it knows");
            record.adopt();
            assert_eq!(record.status, after, "{before:?}, {active}, epoch {epoch}");
        }
    }

    #[test]
    fn a_restored_cursor_ends_an_attachment_that_a_rollback_brought_back() {
        let mut told = Vec::new();
        let mut record = Record { holder: Some("former".to_owned()), epoch: 5, ..with_log(900, 3) };
        for epoch in [5, 9, 9, 7] {
            record.restore_cursor(epoch, Position::new(900, 3), &mut |effect| {
                told.push(format!("{effect:?}"));
                1
            });
        }
        assert_eq!(told, [r#"Takeover { holder: "former", epoch: 9 }"#]);
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
            assert_eq!(matches!(outcome, Attach::Done(_)), exists, "{after} of {record:?}");
            assert_eq!(record.holder.as_deref() == Some("other"), !exists);
            let Attach::Done(attached) = attach(&mut record, after, NOW, true) else { panic!("{after}") };
            assert_eq!(attached.ahead, !exists, "a young broker waits for {after}");
        }
    }
}
