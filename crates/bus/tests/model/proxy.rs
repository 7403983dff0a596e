//! A gateway as the model has it: a lane a session as the bus's hub holds it, releases, takeovers, and what it says again to a
//! broker that forgot.

mod reading;

use crate::{
    broker::{Answer, Request, Said},
    socket::{Down, SocketId},
    world::{LinkId, Pid, World, note, short},
};
use bus::rules::{Attach, Attached};
use protocol::{Lane, Position, SessionId};
use std::collections::{BTreeMap, BTreeSet};

/// So long a newcomer without a position waits for its predecessor's cursor.
const TAKEOVER_WAIT: u64 = 500;
const RETRY: u64 = 200;
/// How long the broker may take to execute an attachment, by how many attempts are left.
const ATTACH_PATIENCE: [u64; 2] = [1_000, 500];

pub(crate) type SlotId = usize;

pub(crate) struct Proxy {
    slot: usize,
    commands: LinkId,
    pubsub: LinkId,
    /// The broker's life to which it has said again what it holds.
    restored: Option<u64>,
    /// One lane a session, the newest.
    hub: BTreeMap<SessionId, SlotId>,
    /// Lanes that are being attached.
    newcomers: BTreeSet<SlotId>,
    /// Cursors that were released here.
    released: BTreeMap<SessionId, (u64, Position)>,
}

impl Proxy {
    /// The sessions that it holds.
    pub(crate) fn held(&self) -> impl Iterator<Item = SessionId> {
        self.hub.keys().copied()
    }
}

/// One attachment.
pub(crate) struct Slot {
    pub(crate) proxy: Pid,
    pub(crate) session: SessionId,
    socket: SocketId,
    lane: Lane,
    epoch: u64,
    /// The session took queries when it was attached.
    active: bool,
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
        let (hub, newcomers, released) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        let proxy = Proxy { slot, commands, pubsub, restored: None, hub, newcomers, released };
        self.proxies.insert(pid, proxy);
        self.within(pid, 20, move |world| world.renew(pid, commands));
    }

    /// Whether the session is in this lane's hands.
    pub(crate) fn holds(&self, slot: &Slot) -> bool {
        slot.open && !slot.ended && self.is_alive(slot.proxy)
    }

    fn proxy(&mut self, pid: Pid) -> &mut Proxy {
        self.proxies.get_mut(&pid).expect("a gateway has this number")
    }

    pub(crate) fn cut_proxy(&mut self, slot: usize, pubsub: bool) {
        let proxy = &self.proxies[&self.proxy_slots[slot]];
        let link = if pubsub { proxy.pubsub } else { proxy.commands };
        self.cut(link);
    }

    /// What the gateway asks from now on arrives later by so much, on this connection.
    pub(crate) fn delay_proxy(&mut self, slot: usize, by: u64) {
        let link = self.proxies[&self.proxy_slots[slot]].commands;
        self.delay(link, by);
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
        let incarnation = self.broker.incarnation;
        let proxy = self.proxy(pid);
        proxy.restored = Some(incarnation);
        let pubsub = link == proxy.pubsub;
        if pubsub {
            let newcomers: Vec<SlotId> = proxy.newcomers.iter().copied().collect();
            let held: Vec<SessionId> = proxy.hub.keys().copied().collect();
            let sessions =
                held.into_iter().chain(newcomers.into_iter().map(|id| self.slots[id].session)).collect();
            let control = Some(self.name(pid).to_owned());
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
        let Slot { session, epoch, active, ended, proxy: pid, .. } = self.slots[id];
        if ended {
            return;
        }
        let (link, holder) = (self.proxies[&pid].commands, self.name(pid).to_owned());
        self.call(link, Request::Reattach { session, holder, epoch, active }, move |world, answer| {
            match answer {
                Some(Answer::Epoch(newest)) => world.superseded(id, newest),
                _ => world.within(pid, RETRY, move |world| world.say_one_again(id)),
            }
        });
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
            active: false,
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
        self.proxy(pid).newcomers.insert(slot);
        // What can fail without a trace comes first.
        let link = self.proxies[&pid].pubsub;
        self.call(
            link,
            Request::Subscribe { sessions: vec![session], control: None },
            move |world, answer| {
                if answer.is_none() || world.slots[slot].ended {
                    return world.refuse(slot);
                }
                world.take(slot, start, 2);
            },
        );
    }

    /// Takes the session over, unless the broker executes that too late.
    fn take(&mut self, slot: SlotId, start: Option<Position>, attempts: u32) {
        let Slot { proxy: pid, session, ended, .. } = self.slots[slot];
        if ended || attempts == 0 {
            return self.refuse(slot);
        }
        let (link, holder) = (self.proxies[&pid].commands, self.name(pid).to_owned());
        let young = self.gaps(pid) == protocol::GapPolicy::Wait;
        let after = start.filter(|&position| position != Position::ZERO);
        let patience = ATTACH_PATIENCE[attempts as usize - 1];
        let attach = Request::Attach { session, holder, sent: self.now, patience, after, young };
        self.call(link, attach, move |world, answer| {
            let attached = match answer {
                Some(Answer::Attached(Attach::Done(attached))) => attached,
                Some(Answer::Attached(Attach::Late)) => return world.take(slot, start, attempts - 1),
                _ => return world.refuse(slot),
            };
            world.slots[slot].active = attached.active;
            world.stays(slot, attached.epoch);
            match start {
                Some(position) => world.begin(slot, position),
                None if attached.told == 0 => world.begin(slot, attached.cursor),
                None => {
                    world.slots[slot].waits_for = Some(attached);
                    world.look_for_cursor(slot);
                    world.within(pid, TAKEOVER_WAIT, move |world| {
                        if let Some(attached) = world.slots[slot].waits_for.take() {
                            // The former holder did not say in time how far it came: some events come twice.
                            let client = world.sockets[world.slots[slot].socket].client;
                            world.clients[client].disturbed = true;
                            world.begin(slot, attached.cursor);
                        }
                    });
                }
            }
        });
    }

    /// The broker has given it the session: of two newcomers the one with the higher epoch stays.
    fn stays(&mut self, id: SlotId, epoch: u64) {
        let Slot { proxy: pid, session, superseded_by, .. } = self.slots[id];
        self.slots[id].epoch = epoch;
        let holder = self.proxies[&pid].hub.get(&session).copied();
        let newest = holder.map_or(0, |holder| self.slots[holder].epoch);
        let proxy = self.proxy(pid);
        proxy.newcomers.remove(&id);
        if newest <= epoch {
            proxy.hub.insert(session, id);
            if let Some(former) = holder {
                self.taken_over(former);
            }
        }
        self.slots[id].superseded_by = superseded_by.max(newest);
    }

    fn look_for_cursor(&mut self, slot: SlotId) {
        let Slot { waits_for, released: (epoch, cursor), .. } = self.slots[slot];
        if let Some(attached) = waits_for
            && epoch >= attached.before
        {
            self.slots[slot].waits_for = None;
            self.begin(slot, cursor);
        }
    }

    fn refuse(&mut self, slot: SlotId) {
        self.slots[slot].ended = true;
        self.down(self.slots[slot].socket, Down::Refused);
        self.forget(slot);
    }

    fn begin(&mut self, id: SlotId, start: Position) {
        let slot = &mut self.slots[id];
        slot.handed_over = start;
        slot.lane = Lane::after(start);
        if slot.superseded_by > slot.epoch {
            self.taken_over(id);
        }
        if self.slots[id].ended {
            return self.release(id, None);
        }
        let slot = &mut self.slots[id];
        slot.open = true;
        slot.behind = true;
        let (pid, session) = (slot.proxy, slot.session);
        note!(self, "{}: {} begins after {start}", self.name(pid), short(session));
        self.down(self.slots[id].socket, Down::Open);
        self.feed(id);
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
        proxy.newcomers.remove(&id);
        if proxy.hub.get(&session) == Some(&id) {
            proxy.hub.remove(&session);
        }
        if self.lanes(pid, session).is_empty() {
            let link = self.proxies[&pid].pubsub;
            self.call(link, Request::Unsubscribe { session }, |_, _| {});
        }
    }

    /// Every lane of the session, those that are being attached included.
    fn lanes(&self, pid: Pid, session: SessionId) -> Vec<SlotId> {
        let proxy = &self.proxies[&pid];
        let newcomers = proxy.newcomers.iter().filter(|&&id| self.slots[id].session == session);
        newcomers.chain(proxy.hub.get(&session)).copied().collect()
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
                for slot in self.lanes(pid, session) {
                    self.superseded(slot, epoch);
                }
            }
            Said::Released { session, epoch, cursor } => {
                for slot in self.lanes(pid, session) {
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
