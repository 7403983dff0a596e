//! Time to live. A broker forgets each part of a session's record unless the part is renewed in time. Steps record
//! which parts they renew; the broker keeps the times.

use super::Record;
use protocol::Position;

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
pub struct Renewed([bool; Part::ALL.len()]);

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

    /// Records that these parts get their full time to live.
    pub fn renew(&mut self, parts: &[Part]) {
        for &part in parts {
            self.renewed.0[part as usize] = true;
        }
    }

    /// Returns the parts that were renewed since the last call and that the record has.
    pub fn take_renewed(&mut self) -> impl Iterator<Item = Part> + use<> {
        let Renewed(renewed) = std::mem::take(&mut self.renewed);
        let has = Part::ALL.map(|part| self.has(part));
        Part::ALL.into_iter().filter(move |&part| renewed[part as usize] && has[part as usize])
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
