//! The hub: the lanes that are open in this process. All brokers share it. It knows neither how events arrive nor where a log is
//! stored.

use crate::{LaneEnd, open_lane::OpenLane};
use parking_lot::Mutex;
use protocol::SessionId;
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

/// A lane that is subscribed and does not have its session yet. An earlier lane continues until the broker has decided.
/// If this is dropped before, because the call failed or was cancelled, nothing has changed.
pub(crate) struct AttachingLane {
    hub: Arc<Hub>,
    session: SessionId,
    lane: Arc<OpenLane>,
}

impl AttachingLane {
    /// Takes the place of the session's earlier lane here, after the broker has assigned this epoch. Of two attaching
    /// lanes the one with the higher epoch stays, in whatever order they call this.
    pub(crate) fn attached(self, epoch: u64) {
        self.lane.set_epoch(epoch);
        let mut sessions = self.hub.sessions.lock();
        let former = match sessions.holders.entry(self.session) {
            Entry::Occupied(mut held) if held.get().epoch() <= epoch => Some(held.insert(self.lane.clone())),
            Entry::Occupied(held) => {
                let newest = held.get().epoch();
                drop(sessions);
                return self.lane.superseded(newest);
            }
            Entry::Vacant(place) => {
                place.insert(self.lane.clone());
                None
            }
        };
        drop(sessions);
        if let Some(former) = former {
            former.end(LaneEnd::TakenOver);
        }
    }
}

impl Drop for AttachingLane {
    fn drop(&mut self) {
        self.hub.sessions.lock().remove_attaching(self.session, &self.lane);
    }
}

/// The open lanes of this process.
#[derive(Default)]
pub(crate) struct Hub {
    sessions: Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    /// The newest lane of each session. It receives the events.
    holders: HashMap<SessionId, Arc<OpenLane>>,
    /// Lanes that are attaching. They are notified of other holders and receive no events.
    attaching: HashMap<SessionId, Vec<Arc<OpenLane>>>,
}

impl Sessions {
    fn remove_attaching(&mut self, session: SessionId, lane: &Arc<OpenLane>) {
        if let Entry::Occupied(mut waiting) = self.attaching.entry(session) {
            waiting.get_mut().retain(|attaching| !Arc::ptr_eq(attaching, lane));
            if waiting.get().is_empty() {
                waiting.remove();
            }
        }
    }

    fn contains(&self, session: SessionId) -> bool {
        self.holders.contains_key(&session) || self.attaching.contains_key(&session)
    }
}

impl Hub {
    /// Registers a lane that is about to attach.
    pub(crate) fn begin_attach(self: &Arc<Self>, session: SessionId, lane: Arc<OpenLane>) -> AttachingLane {
        self.sessions.lock().attaching.entry(session).or_default().push(lane.clone());
        AttachingLane { hub: self.clone(), session, lane }
    }

    /// Returns the lane that has the session.
    pub(crate) fn get(&self, session: SessionId) -> Option<Arc<OpenLane>> {
        self.sessions.lock().holders.get(&session).cloned()
    }

    /// Returns all lanes of the session, attaching ones included.
    pub(crate) fn all(&self, session: SessionId) -> Vec<Arc<OpenLane>> {
        let sessions = self.sessions.lock();
        let attaching = sessions.attaching.get(&session).into_iter().flatten();
        attaching.chain(sessions.holders.get(&session)).cloned().collect()
    }

    pub(crate) fn contains(&self, session: SessionId) -> bool {
        self.sessions.lock().contains(session)
    }

    /// Removes this lane. Returns whether the session has no lane here any more.
    pub(crate) fn remove(&self, session: SessionId, lane: &Arc<OpenLane>) -> bool {
        let mut sessions = self.sessions.lock();
        sessions.remove_attaching(session, lane);
        if sessions.holders.get(&session).is_some_and(|current| Arc::ptr_eq(current, lane)) {
            sessions.holders.remove(&session);
        }
        !sessions.contains(session)
    }

    /// Returns the sessions that have a lane, attaching ones included.
    pub(crate) fn sessions(&self) -> Vec<SessionId> {
        let sessions = self.sessions.lock();
        let attaching = sessions.attaching.keys().filter(|session| !sessions.holders.contains_key(session));
        sessions.holders.keys().chain(attaching).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open_lane::tests::lane;
    use uuid::Uuid;

    #[test]
    fn a_holder_survives_attaching_lanes_that_are_dropped() {
        let hub = Arc::new(Hub::default());
        let session = SessionId::new(Uuid::from_u128(1));
        let (ended, holder) = lane();
        hub.begin_attach(session, holder.clone()).attached(5);
        let attaching: Vec<_> = (0..3).map(|_| hub.begin_attach(session, lane().1)).collect();
        assert_eq!(hub.all(session).len(), 4);
        assert!(hub.get(session).is_some_and(|current| Arc::ptr_eq(&current, &holder)));
        drop(attaching);
        assert_eq!((hub.all(session).len(), ended.ends()), (1, 0));
        assert!(hub.remove(session, &holder));
        assert!(!hub.contains(session) && hub.sessions().is_empty());
    }

    #[test]
    fn of_two_attaching_lanes_the_higher_epoch_stays_in_either_order() {
        for first in [0, 1] {
            let hub = Arc::new(Hub::default());
            let session = SessionId::new(Uuid::from_u128(1));
            let (former_ended, former) = lane();
            hub.begin_attach(session, former).attached(5);
            let (ended, lanes): (Vec<_>, Vec<_>) = (0..2).map(|_| lane()).unzip();
            let mut attaching: Vec<_> =
                lanes.iter().map(|lane| Some(hub.begin_attach(session, lane.clone()))).collect();
            for nth in [first, 1 - first] {
                attaching[nth].take().expect("attaches once").attached(6 + nth as u64);
            }
            assert!(hub.get(session).is_some_and(|current| Arc::ptr_eq(&current, &lanes[1])));
            let ended = [&former_ended, &ended[0], &ended[1]].map(|outlet| outlet.ends());
            assert_eq!(ended, [1, 1, 0]);
        }
    }
}
