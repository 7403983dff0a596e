//! Gateways: one lane per session as in the bus's hub, releases, takeovers, and the restoration of what they hold.

mod reading;

use crate::{
    broker::Push,
    socket::{Down, SocketId},
    world::{LinkId, Pid, World, note, short},
};
use bus::rules::{AttachOutcome, Attached, Attaching};
use protocol::{Lane, Position, SessionId};
use std::collections::{BTreeMap, BTreeSet};

/// How long an attachment without a position waits for its predecessor's cursor, in ms.
const TAKEOVER_WAIT: u64 = 500;
const RETRY: u64 = 200;
/// How long the broker may take to execute an attachment, in ms, by the number of attempts that are left.
const ATTACH_PATIENCE: [u64; 2] = [1_000, 500];

pub(crate) type SlotId = usize;

pub(crate) struct Proxy {
    slot: usize,
    commands: LinkId,
    pubsub: LinkId,
    /// The incarnation of the broker in which this gateway has restored what it holds.
    restored: Option<u64>,
    /// The newest lane of each session.
    hub: BTreeMap<SessionId, SlotId>,
    /// Lanes that are attaching.
    attaching: BTreeSet<SlotId>,
    /// Cursors that were released here, with their epochs.
    released: BTreeMap<SessionId, (u64, Position)>,
}

impl Proxy {
    /// Returns the sessions that it holds.
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
    /// Set while it waits for the cursor of the attachment before it.
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
        let (hub, attaching, released) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        let proxy = Proxy { slot, commands, pubsub, restored: None, hub, attaching, released };
        self.proxies.insert(pid, proxy);
        self.within(pid, 20, move |world| world.renew(pid, commands));
    }

    /// Returns whether this attachment holds its session.
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

    /// Delays the gateway's calls on this connection by this many ms.
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
            let attaching: Vec<SlotId> = proxy.attaching.iter().copied().collect();
            let held: Vec<SessionId> = proxy.hub.keys().copied().collect();
            let attaching = attaching.into_iter().map(|id| self.slots[id].session);
            let sessions: Vec<_> = held.into_iter().chain(attaching).collect();
            let control = Some(self.name(pid).to_owned());
            let step = move |world: &mut World, from| world.subscribe(from, &sessions, control);
            self.call(link, step, move |world, subscribed| {
                if subscribed.is_some() {
                    world.resubscribed(pid);
                }
            });
        } else {
            self.report_holders(pid, true);
        }
    }

    fn resubscribed(&mut self, pid: Pid) {
        let slots: Vec<SlotId> = self.proxies[&pid].hub.values().copied().collect();
        for slot in slots {
            self.slots[slot].lane.interrupted();
            self.slots[slot].behind = true;
            self.read_page(slot);
        }
        // The message of a takeover may have been lost with the connection.
        self.report_holders(pid, false);
    }

    /// Reports to the broker which sessions this gateway holds, and restores its cursors.
    fn report_holders(&mut self, pid: Pid, cursors: bool) {
        let proxy = &self.proxies[&pid];
        let link = proxy.commands;
        let slots: Vec<SlotId> = proxy.hub.values().copied().collect();
        let released: Vec<_> = proxy.released.iter().map(|(&id, &kept)| (id, kept)).collect();
        for slot in slots {
            if self.slots[slot].epoch == 0 {
                continue;
            }
            self.report_holder(slot);
        }
        for (session, (epoch, cursor)) in released.into_iter().filter(|_| cursors) {
            let restore = move |world: &mut World, _| {
                world.step(session, |record, out| record.restore_cursor(epoch, cursor, out));
            };
            self.call(link, restore, |_, _| {});
        }
    }

    fn report_holder(&mut self, id: SlotId) {
        let Slot { session, epoch, active, ended, proxy: pid, .. } = self.slots[id];
        if ended {
            return;
        }
        let (link, holder) = (self.proxies[&pid].commands, self.name(pid).to_owned());
        let step = move |world: &mut World, _| {
            let newest = world.step(session, |record, out| record.reattach(&holder, epoch, active, out));
            note!(world, "{holder}: still has {} with epoch {epoch}; the newest is {newest}", short(session));
            newest
        };
        self.call(link, step, move |world, newest| match newest {
            Some(newest) => world.superseded(id, newest),
            None => world.within(pid, RETRY, move |world| world.report_holder(id)),
        });
    }

    /// Handles a client's new socket.
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
        self.proxy(pid).attaching.insert(slot);
        // The step that may fail without consequences comes first.
        let link = self.proxies[&pid].pubsub;
        let step = move |world: &mut World, from| world.subscribe(from, &[session], None);
        self.call(link, step, move |world, subscribed| {
            if subscribed.is_none() || world.slots[slot].ended {
                return world.refuse(slot);
            }
            world.take(slot, start, 2);
        });
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
        let sent = self.now;
        let attach = move |world: &mut World, _| {
            let (now_ms, deadline_ms) = (world.now, sent + patience);
            let attaching = Attaching { holder: &holder, now_ms, deadline_ms, after, young };
            world.broker_attach(session, attaching, sent)
        };
        self.call(link, attach, move |world, outcome| {
            let attached = match outcome {
                Some(AttachOutcome::Done(attached)) => attached,
                Some(AttachOutcome::Late) => return world.take(slot, start, attempts - 1),
                _ => return world.refuse(slot),
            };
            world.slots[slot].active = attached.active;
            world.attached(slot, attached.epoch);
            match start {
                Some(position) => world.begin(slot, position),
                None if attached.notified == 0 => world.begin(slot, attached.cursor),
                None => {
                    world.slots[slot].waits_for = Some(attached);
                    world.begin_if_released(slot);
                    world.within(pid, TAKEOVER_WAIT, move |world| {
                        if let Some(attached) = world.slots[slot].waits_for.take() {
                            // The former holder did not release in time, so some events come twice.
                            let client = world.sockets[world.slots[slot].socket].client;
                            world.clients[client].disturbed = true;
                            world.begin(slot, attached.cursor);
                        }
                    });
                }
            }
        });
    }

    /// Handles a successful attachment: of two attaching lanes the one with the higher epoch stays.
    fn attached(&mut self, id: SlotId, epoch: u64) {
        let Slot { proxy: pid, session, superseded_by, .. } = self.slots[id];
        self.slots[id].epoch = epoch;
        let holder = self.proxies[&pid].hub.get(&session).copied();
        let newest = holder.map_or(0, |holder| self.slots[holder].epoch);
        let proxy = self.proxy(pid);
        proxy.attaching.remove(&id);
        if newest <= epoch {
            proxy.hub.insert(session, id);
            if let Some(former) = holder {
                self.taken_over(former);
            }
        }
        self.slots[id].superseded_by = superseded_by.max(newest);
    }

    fn begin_if_released(&mut self, slot: SlotId) {
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
        self.read_page(id);
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

    /// Ends an attachment. It is forgotten when the broker has replied.
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
        let step = move |world: &mut World, _| {
            note!(world, "broker: {} epoch {epoch} is released, cursor {cursor:?}", short(session));
            world.step(session, |record, out| record.release(epoch, cursor, out));
        };
        self.call(link, step, move |world, _| world.forget(id));
    }

    fn forget(&mut self, id: SlotId) {
        let Slot { proxy: pid, session, .. } = self.slots[id];
        let proxy = self.proxy(pid);
        proxy.attaching.remove(&id);
        if proxy.hub.get(&session) == Some(&id) {
            proxy.hub.remove(&session);
        }
        if self.lanes(pid, session).is_empty() {
            let link = self.proxies[&pid].pubsub;
            let unsubscribe = move |world: &mut World, from| {
                world.broker.subscriptions.entry(session).or_default().remove(&from);
            };
            self.call(link, unsubscribe, |_, _| {});
        }
    }

    /// Returns every lane of the session, attaching ones included.
    fn lanes(&self, pid: Pid, session: SessionId) -> Vec<SlotId> {
        let proxy = &self.proxies[&pid];
        let attaching = proxy.attaching.iter().filter(|&&id| self.slots[id].session == session);
        attaching.chain(proxy.hub.get(&session)).copied().collect()
    }

    pub(crate) fn receive_push(&mut self, link: LinkId, push: Push) {
        let pid = self.links[link].of;
        if self.servers.contains_key(&pid) {
            return self.server_receives(pid, &push);
        }
        let hub = |session| self.proxies[&pid].hub.get(&session).copied();
        match push {
            Push::Event { session, prefix, frame } => {
                if let Some(slot) = hub(session) {
                    self.live(slot, prefix, &frame);
                }
            }
            Push::Takeover { session, epoch } => {
                for slot in self.lanes(pid, session) {
                    self.superseded(slot, epoch);
                }
            }
            Push::Released { session, epoch, cursor } => {
                for slot in self.lanes(pid, session) {
                    if epoch > self.slots[slot].released.0 {
                        self.slots[slot].released = (epoch, cursor);
                    }
                    self.begin_if_released(slot);
                }
            }
            Push::Cancel { .. } => {}
        }
    }
}
