//! Time to live. A broker forgets each part of a session's record unless the part is renewed in time. Steps record
//! which parts they renew; the broker keeps the times.

use super::{Record, Status};
use protocol::{Kind, Position};
use std::time::Duration;

/// The full time to live of a part, as a ratio to the configured one. The renewal of all parts is due when only the configured time
/// remains to [`Part::Meta`], or when the record does not have it. A session therefore lives for at least the configured time after
/// its last query, and a broker does not renew every part at every step.
pub const FULL: (u64, u64) = (5, 4);

/// How long a broker keeps a session that is over: see [`Record::is_over`]. Its log can be large, and is no longer needed.
pub const OVER: Duration = Duration::from_secs(60);

/// A part of a session's record that expires separately. Redis stores each part in one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Status, claims and query ids.
    Meta,
    /// The log.
    Log,
    /// Holder, epoch and cursor.
    Attachment,
}

impl Part {
    /// All parts.
    pub const ALL: [Self; 3] = [Self::Meta, Self::Log, Self::Attachment];
}

/// The parts that were renewed since the broker took them last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    parts: [bool; Part::ALL.len()],
    /// All parts, if their renewal is due.
    all_if_due: bool,
    /// All parts expire soon: see [`OVER`].
    is_over: bool,
}

impl Record {
    /// Returns whether the record has this part.
    #[must_use]
    pub fn has(&self, part: Part) -> bool {
        match part {
            Part::Meta => self.status.is_some() || self.held,
            Part::Log => !self.log.is_empty(),
            Part::Attachment => self.epoch > 0 || self.cursor_epoch > 0,
        }
    }

    /// Records that these parts get their full time to live. Whoever renews [`Part::Meta`] renews all parts, so that none of
    /// them expires before it.
    pub fn renew(&mut self, parts: &[Part]) {
        for &part in parts {
            self.renewed.parts[part as usize] = true;
        }
    }

    /// Records that all parts get their full time to live if their renewal is due: see [`FULL`].
    pub fn renew_if_due(&mut self) {
        self.renewed.all_if_due = true;
    }

    /// Returns whether the session is closed and its client has everything: its last socket ended cleanly, after it had received all before the
    /// `closed` entry.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let is_idle = self.running.is_none() && self.end_owner.is_none();
        if self.status != Some(Status::Closed) || !is_idle || self.holder.is_some() {
            return false;
        }
        let mut last = self.log.iter().rev().map(|entry| entry.prefix.kind);
        match (last.next(), last.next()) {
            (None, _) => true,
            // A fence behind position 0 although there were queries: the log was lost.
            (Some(Kind::Closed), Some(Kind::Fence { prev: Some(prev) })) => {
                self.cursor_epoch == self.epoch
                    && self.cursor >= prev
                    && (prev != Position::ZERO || self.generation == 0)
            }
            _ => false,
        }
    }

    /// Lets all parts expire soon if the session is over: see [`OVER`].
    pub(super) fn forget_if_over(&mut self) {
        self.renewed.is_over = self.is_over();
    }

    /// Returns whether a step since the last call lets all parts expire soon. Call it before [`Self::take_renewed`], which clears it.
    pub const fn take_over(&mut self) -> bool {
        std::mem::replace(&mut self.renewed.is_over, false)
    }

    /// Returns the parts that the record has and that were renewed since the last call. A part that the record did not have at
    /// the last call gets its full time to live too; the broker knows which ones these are. `due`: the renewal is due.
    pub fn take_renewed(&mut self, due: bool) -> impl Iterator<Item = Part> + use<> {
        let Renewed { parts, all_if_due, is_over: _ } = std::mem::take(&mut self.renewed);
        let has = Part::ALL.map(|part| self.has(part));
        Part::ALL
            .into_iter()
            .filter(move |&part| (parts[part as usize] || all_if_due && due) && has[part as usize])
    }

    /// Removes a part whose time to live is over.
    pub fn expire(&mut self, part: Part) {
        let Self { epoch, holder, cursor, cursor_epoch, log, .. } = std::mem::take(match part {
            Part::Meta => self,
            Part::Log => return self.log.clear(),
            Part::Attachment => {
                (self.epoch, self.holder) = (0, None);
                (self.cursor, self.cursor_epoch) = (Position::ZERO, 0);
                return;
            }
        });
        *self = Self { epoch, holder, cursor, cursor_epoch, log, ..Self::default() };
    }
}
