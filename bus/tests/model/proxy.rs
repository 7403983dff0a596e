//! A gateway as the model has it: a lane a session as the bus's hub holds it, pages of the log, releases, takeovers, and
//! what it says again to a broker that forgot.

use crate::{
    broker::{Answer, Request, Said},
    socket::{Down, SocketId},
    world::{LinkId, Pid, World, note, short},
};
use bus::rules::Attached;
use protocol::{Gaps, Kind, Lane, LogEnd, Logged, Mark, Position, Prefix, SessionId, Step};
use std::collections::BTreeMap;

/// So long after the broker forgot, what is missing may still be restored.
const MAYBE_RESTORED: u64 = 10_000;
/// So long a newcomer without a position waits for its predecessor's cursor.
const TAKEOVER_WAIT: u64 = 500;
const RETRY: u64 = 200;
const PAGE: usize = 5;

pub(crate) type SlotId = usize;

pub(crate) struct Proxy {
    slot: usize,
    commands: LinkId,
    pubsub: LinkId,
    /// The broker's life that it knows, and when it noticed that this one forgot.
    incarnation: Option<u64>,
    forgot_at: Option<u64>,
    /// One lane a session, the newest.
    hub: BTreeMap<SessionId, SlotId>,
    /// Cursors that were released here.
    released: BTreeMap<SessionId, (u64, Position)>,
}

/// One attachment.
pub(crate) struct Slot {
    pub(crate) proxy: Pid,
    pub(crate) session: SessionId,
    socket: SocketId,
    lane: Lane,
    epoch: u64,
    superseded_by: u64,
    released: (u64, Position),
    /// Waits for the cursor of the attachment with this epoch; then begins.
    waits_for: Option<Attached>,
    pub(crate) ended: bool,
    pub(crate) open: bool,
    behind: bool,
    reading: bool,
    resumes: bool,
    pub(crate) handed_over: Position,
    release_sent: bool,
}

impl World {
    pub(crate) fn start_proxy(&mut self, slot: usize) {
        let life = self.proxies.values().filter(|proxy| proxy.slot == slot).count();
        let pid = self.start_process(format!("wsproxy-{}{}", slot + 1, "'".repeat(life)));
        note!(self, "{} starts", self.name(pid));
        self.proxy_slots[slot] = pid;
        let (commands, pubsub) = (self.open_link(pid), self.open_link(pid));
        let (hub, released) = (BTreeMap::new(), BTreeMap::new());
        let proxy = Proxy { slot, commands, pubsub, incarnation: None, forgot_at: None, hub, released };
        self.proxies.insert(pid, proxy);
    }

    fn proxy(&mut self, pid: Pid) -> &mut Proxy {
        self.proxies.get_mut(&pid).expect("a gateway has this number")
    }

    pub(crate) fn cut_proxy(&mut self, slot: usize, pubsub: bool) {
        let proxy = &self.proxies[&self.proxy_slots[slot]];
        let link = if pubsub { proxy.pubsub } else { proxy.commands };
        self.cut(link);
    }

    pub(crate) fn lose_proxy(&mut self, pid: Pid) {
        self.kill(pid);
        for socket in 0..self.sockets.len() {
            if self.sockets[socket].proxy == pid {
                self.cut_socket(socket);
            }
        }
        for slot in &mut self.slots {
            slot.ended |= slot.proxy == pid;
        }
    }

    pub(crate) fn proxy_connected(&mut self, pid: Pid, link: LinkId) {
        let (incarnation, up_since, now) = (self.broker.incarnation, self.broker.up_since, self.now);
        let proxy = self.proxy(pid);
        let known = proxy.incarnation.replace(incarnation);
        let forgot = match known {
            Some(known) => known != incarnation,
            None => incarnation > 0 && now < up_since + MAYBE_RESTORED,
        };
        if forgot {
            proxy.forgot_at = Some(now);
        }
        let pubsub = link == proxy.pubsub;
        if pubsub {
            let (sessions, control) = (proxy.hub.keys().copied().collect(), Some(self.name(pid).to_owned()));
            self.call(link, Request::Subscribe { sessions, control }, move |world, answer| {
                if answer.is_some() {
                    world.resubscribed(pid);
                }
            });
        } else {
            self.say_again(pid, true);
        }
    }

    fn resubscribed(&mut self, pid: Pid) {
        let slots: Vec<SlotId> = self.proxies[&pid].hub.values().copied().collect();
        for slot in slots {
            self.slots[slot].lane.interrupted();
            self.slots[slot].behind = true;
            self.feed(slot);
        }
        // A word of a takeover may have been lost with the connection.
        self.say_again(pid, false);
    }

    /// Tells the broker again which sessions are here, and which cursors were kept.
    fn say_again(&mut self, pid: Pid, cursors: bool) {
        let proxy = &self.proxies[&pid];
        let link = proxy.commands;
        let slots: Vec<SlotId> = proxy.hub.values().copied().collect();
        let released: Vec<_> = proxy.released.iter().map(|(&id, &kept)| (id, kept)).collect();
        for slot in slots {
            if self.slots[slot].epoch == 0 {
                continue;
            }
            self.say_one_again(slot);
        }
        for (session, (epoch, cursor)) in released.into_iter().filter(|_| cursors) {
            self.call(link, Request::RestoreCursor { session, epoch, cursor }, |_, _| {});
        }
    }

    fn say_one_again(&mut self, id: SlotId) {
        let Slot { session, epoch, ended, proxy: pid, .. } = self.slots[id];
        if ended {
            return;
        }
        let (link, holder) = (self.proxies[&pid].commands, self.name(pid).to_owned());
        self.call(link, Request::Reattach { session, holder, epoch }, move |world, answer| match answer {
            Some(Answer::Epoch(newest)) => world.superseded(id, newest),
            _ => world.within(pid, RETRY, move |world| world.say_one_again(id)),
        });
    }

    fn gaps(&self, pid: Pid) -> Gaps {
        let waits = self.proxies[&pid].forgot_at.is_some_and(|at| self.now < at + MAYBE_RESTORED);
        if waits { Gaps::Await } else { Gaps::Announce }
    }

    /// A client's socket has arrived.
    pub(crate) fn attach(&mut self, pid: Pid, session: SessionId, socket: SocketId, start: Option<Position>) {
        let slot = self.slots.len();
        self.slots.push(Slot {
            proxy: pid,
            session,
            socket,
            lane: Lane::after(Position::ZERO),
            epoch: 0,
            superseded_by: 0,
            released: (0, Position::ZERO),
            waits_for: None,
            ended: false,
            open: false,
            behind: false,
            reading: false,
            resumes: start.is_some(),
            handed_over: Position::ZERO,
            release_sent: false,
        });
        self.sockets[socket].slot = Some(slot);
        if let Some(before) = self.proxy(pid).hub.insert(session, slot) {
            self.taken_over(before);
        }
        let (link, holder) = (self.proxies[&pid].commands, self.name(pid).to_owned());
        self.call(link, Request::Attach { session, holder }, move |world, answer| {
            let Some(Answer::Attached(attached)) = answer else { return world.refuse(slot) };
            match start {
                Some(position) => world.begin(slot, attached.epoch, position),
                None if attached.told == 0 => world.begin(slot, attached.epoch, attached.cursor),
                None => {
                    world.slots[slot].waits_for = Some(attached);
                    world.look_for_cursor(slot);
                    world.within(pid, TAKEOVER_WAIT, move |world| {
                        if let Some(attached) = world.slots[slot].waits_for.take() {
                            world.begin(slot, attached.epoch, attached.cursor);
                        }
                    });
                }
            }
        });
    }

    fn look_for_cursor(&mut self, slot: SlotId) {
        let Slot { waits_for, released: (epoch, cursor), .. } = self.slots[slot];
        if let Some(attached) = waits_for
            && epoch >= attached.before
        {
            self.slots[slot].waits_for = None;
            self.begin(slot, attached.epoch, cursor);
        }
    }

    fn refuse(&mut self, slot: SlotId) {
        self.slots[slot].ended = true;
        self.down(self.slots[slot].socket, Down::Refused);
        self.forget(slot);
    }

    fn begin(&mut self, id: SlotId, epoch: u64, start: Position) {
        let slot = &mut self.slots[id];
        (slot.epoch, slot.handed_over) = (epoch, start);
        slot.lane = Lane::after(start);
        let (pid, session) = (slot.proxy, slot.session);
        if slot.superseded_by > epoch {
            self.taken_over(id);
        }
        let link = self.proxies[&pid].pubsub;
        self.call(
            link,
            Request::Subscribe { sessions: vec![session], control: None },
            move |world, answer| {
                if answer.is_none() {
                    return world.refuse(id);
                }
                let slot = &mut world.slots[id];
                if slot.ended {
                    return world.release(id, None);
                }
                slot.open = true;
                slot.behind = true;
                note!(world, "{}: {} begins after {start}", world.name(pid), short(session));
                world.down(world.slots[id].socket, Down::Open);
                world.feed(id);
            },
        );
    }

    /// Reads the next page of the log, if the lane is behind.
    fn feed(&mut self, id: SlotId) {
        let slot = &mut self.slots[id];
        if slot.ended || !slot.open || slot.reading || !slot.behind {
            return;
        }
        (slot.behind, slot.reading) = (false, true);
        let (pid, session, after, mark) = (slot.proxy, slot.session, slot.lane.last(), slot.lane.mark());
        let link = self.proxies[&pid].commands;
        self.call(link, Request::Read { session, after, limit: PAGE }, move |world, answer| {
            world.slots[id].reading = false;
            let Some(Answer::Page(page)) = answer else { return world.read_again(id, RETRY) };
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
            world.feed(id);
        });
    }

    fn logged(&mut self, id: SlotId, prefix: Prefix, frame: &[u8]) -> bool {
        let gaps = self.gaps(self.slots[id].proxy);
        if self.slots[id].ended {
            return false;
        }
        match self.slots[id].lane.logged(prefix, gaps) {
            Logged::Forward => self.forward(id, prefix, frame),
            Logged::Note => self.note_kind(id, prefix.kind),
            Logged::Seen => {}
            Logged::Gap { from, to, forward } => {
                self.gap(id, from, to);
                if forward { self.forward(id, prefix, frame) } else { self.note_kind(id, prefix.kind) }
            }
            Logged::Await => {
                self.covered.insert("waited for what may be restored");
                return false;
            }
        }
        true
    }

    fn log_end(&mut self, id: SlotId, mark: Mark) {
        let gaps = self.gaps(self.slots[id].proxy);
        if self.slots[id].ended {
            return;
        }
        match self.slots[id].lane.log_end(mark, gaps) {
            LogEnd::CaughtUp => {
                self.feed(id);
                if std::mem::take(&mut self.slots[id].resumes) {
                    self.down(self.slots[id].socket, Down::Resumed);
                }
            }
            LogEnd::Again => self.read_again(id, 0),
            LogEnd::Missing { from, to } => {
                self.gap(id, from, to);
                self.read_again(id, 0);
            }
            LogEnd::Await => {
                self.covered.insert("waited for what may be restored");
                self.read_again(id, RETRY);
            }
        }
    }

    fn live(&mut self, id: SlotId, prefix: Prefix, frame: &[u8]) {
        if self.slots[id].ended {
            return;
        }
        match self.slots[id].lane.live(prefix) {
            Step::Forward => self.forward(id, prefix, frame),
            Step::Note => self.note_kind(id, prefix.kind),
            Step::Seen => {}
            Step::Behind => {
                self.slots[id].behind = true;
                self.feed(id);
            }
        }
    }

    fn forward(&mut self, id: SlotId, prefix: Prefix, frame: &[u8]) {
        self.slots[id].handed_over = prefix.position;
        self.down(self.slots[id].socket, Down::Event { prefix, frame: frame.into() });
    }

    fn gap(&mut self, id: SlotId, from: Position, to: Position) {
        self.slots[id].handed_over = to;
        note!(
            self,
            "{}: {} has a gap after {from} up to {to}",
            self.name(self.slots[id].proxy),
            short(self.slots[id].session)
        );
        self.covered.insert("gap announced");
        if !self.plan.forgets() {
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
            // Released once the client has answered, or with its socket.
            self.down(self.slots[id].socket, Down::Close { taken_over: false });
        }
    }

    fn superseded(&mut self, id: SlotId, by: u64) {
        let slot = &mut self.slots[id];
        slot.superseded_by = slot.superseded_by.max(by);
        if slot.epoch != 0 && slot.epoch < by {
            self.taken_over(id);
        }
    }

    fn taken_over(&mut self, id: SlotId) {
        if std::mem::replace(&mut self.slots[id].ended, true) {
            return;
        }
        self.down(self.slots[id].socket, Down::Close { taken_over: true });
        let cursor = self.slots[id].handed_over;
        self.release(id, Some(cursor));
    }

    /// Ends an attachment; it is forgotten when the broker knows.
    pub(crate) fn release(&mut self, id: SlotId, cursor: Option<Position>) {
        let Slot { proxy: pid, session, epoch, release_sent, .. } = self.slots[id];
        if epoch == 0 || release_sent {
            return;
        }
        self.slots[id].release_sent = true;
        self.slots[id].ended = true;
        let proxy = self.proxy(pid);
        if let Some(cursor) = cursor {
            proxy.released.insert(session, (epoch, cursor));
        }
        let link = proxy.commands;
        self.call(link, Request::Release { session, epoch, cursor }, move |world, _| world.forget(id));
    }

    fn forget(&mut self, id: SlotId) {
        let Slot { proxy: pid, session, .. } = self.slots[id];
        let proxy = self.proxy(pid);
        if proxy.hub.get(&session) == Some(&id) {
            proxy.hub.remove(&session);
            let link = proxy.pubsub;
            self.call(link, Request::Unsubscribe { session }, |_, _| {});
        }
    }

    pub(crate) fn hear(&mut self, link: LinkId, said: Said) {
        let pid = self.links[link].of;
        if self.servers.contains_key(&pid) {
            return self.server_hears(pid, &said);
        }
        let hub = |session| self.proxies[&pid].hub.get(&session).copied();
        match said {
            Said::Event { session, prefix, frame } => {
                if let Some(slot) = hub(session) {
                    self.live(slot, prefix, &frame);
                }
            }
            Said::Takeover { session, epoch } => {
                if let Some(slot) = hub(session) {
                    self.superseded(slot, epoch);
                }
            }
            Said::Released { session, epoch, cursor } => {
                if let Some(slot) = hub(session) {
                    if epoch > self.slots[slot].released.0 {
                        self.slots[slot].released = (epoch, cursor);
                    }
                    self.look_for_cursor(slot);
                }
            }
            Said::Cancel { .. } => {}
        }
    }
}
