//! How a lane gets its events: live events, pages of the log when it is behind, and gaps.

use super::{RETRY, SlotId};
use crate::{
    broker::UNSURE_CLAIM,
    socket::Down,
    world::{Pid, World, note, short},
};
use protocol::{GapPolicy, Kind, LiveAction, LoggedAction, Position, Prefix, ReadEnd, ReadStart};

const PAGE: usize = 5;

impl World {
    pub(super) fn gaps(&self, pid: Pid) -> GapPolicy {
        let restored = self.proxies[&pid].restored == Some(self.broker.incarnation);
        if restored && self.is_old() { GapPolicy::Announce } else { GapPolicy::Wait }
    }

    /// Reads the next page of the log, if the lane is behind.
    pub(super) fn read_page(&mut self, id: SlotId) {
        let slot = &mut self.slots[id];
        if slot.ended || !slot.open || slot.reading || !slot.behind {
            return;
        }
        (slot.behind, slot.reading) = (false, true);
        let (pid, session, after, mark) =
            (slot.proxy, slot.session, slot.lane.last(), slot.lane.read_start());
        let link = self.proxies[&pid].commands;
        let read = move |world: &mut World, _| {
            let log = world.broker.memory.records.get(&session).map(|record| &record.log);
            let page = log.into_iter().flatten().filter(|entry| entry.prefix.position > after);
            page.take(PAGE).cloned().collect::<Vec<_>>()
        };
        self.call(link, read, move |world, page| {
            world.slots[id].reading = false;
            let Some(page) = page else { return world.read_again(id, RETRY) };
            let full = page.len() == PAGE;
            for entry in page {
                if !world.logged(id, entry.prefix, &entry.frame) {
                    return world.read_again(id, RETRY);
                }
            }
            if full { world.read_again(id, 0) } else { world.log_end(id, mark) }
        });
    }

    fn read_again(&mut self, id: SlotId, delay: u64) {
        self.within(self.slots[id].proxy, delay, move |world| {
            world.slots[id].behind = true;
            world.read_page(id);
        });
    }

    fn logged(&mut self, id: SlotId, prefix: Prefix, frame: &[u8]) -> bool {
        let gaps = self.gaps(self.slots[id].proxy);
        if self.slots[id].ended {
            return false;
        }
        match self.slots[id].lane.logged(prefix, gaps) {
            LoggedAction::Forward => self.forward(id, prefix, frame),
            LoggedAction::Note => self.note_kind(id, prefix.kind),
            LoggedAction::Ignore => {}
            LoggedAction::Gap { from, to, forward } => {
                self.gap(id, from, to);
                if forward { self.forward(id, prefix, frame) } else { self.note_kind(id, prefix.kind) }
            }
            LoggedAction::Wait => {
                self.covered.insert("waited for events that may be restored");
                return false;
            }
        }
        true
    }

    fn log_end(&mut self, id: SlotId, mark: ReadStart) {
        let gaps = self.gaps(self.slots[id].proxy);
        if self.slots[id].ended {
            return;
        }
        match self.slots[id].lane.log_end(mark, gaps) {
            ReadEnd::CaughtUp => {
                self.read_page(id);
                if std::mem::take(&mut self.slots[id].resumes) {
                    self.down(self.slots[id].socket, Down::Resumed);
                }
            }
            ReadEnd::ReadAgain => self.read_again(id, 0),
            ReadEnd::Missing { from, to } => {
                self.gap(id, from, to);
                self.read_again(id, 0);
            }
            ReadEnd::Wait => {
                self.covered.insert("waited for events that may be restored");
                self.read_again(id, RETRY);
            }
        }
    }

    pub(super) fn live(&mut self, id: SlotId, prefix: Prefix, frame: &[u8]) {
        if self.slots[id].ended {
            return;
        }
        match self.slots[id].lane.live(prefix) {
            LiveAction::Forward => self.forward(id, prefix, frame),
            LiveAction::Note => self.note_kind(id, prefix.kind),
            LiveAction::Ignore => {}
            LiveAction::ReadLog => {
                self.slots[id].behind = true;
                self.read_page(id);
            }
            LiveAction::Gap { from, to } => {
                self.covered.insert("late gap announced");
                self.gap(id, from, to);
            }
        }
    }

    fn forward(&mut self, id: SlotId, prefix: Prefix, frame: &[u8]) {
        self.slots[id].handed_over = prefix.position;
        self.down(self.slots[id].socket, Down::Event { prefix, frame: frame.into() });
    }

    fn gap(&mut self, id: SlotId, from: Position, to: Position) {
        self.slots[id].handed_over = self.slots[id].handed_over.max(to);
        note!(
            self,
            "{}: {} has a gap after {from} up to {to}",
            self.name(self.slots[id].proxy),
            short(self.slots[id].session)
        );
        self.covered.insert("gap announced");
        if !self.plan.forgets() && !self.covered.contains(UNSURE_CLAIM) {
            crate::world::violated!(
                self,
                "a gap after {from} up to {to} was announced, and no log lacks anything"
            );
        }
        self.down(self.slots[id].socket, Down::Gap { from, to });
    }

    fn note_kind(&mut self, id: SlotId, kind: Kind) {
        if kind == Kind::Closed && !self.slots[id].ended {
            self.slots[id].ended = true;
            // Released when the client has replied, or with its socket.
            self.down(self.slots[id].socket, Down::Close { taken_over: false });
        }
    }
}
