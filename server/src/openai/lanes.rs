//! The lanes of a WebSocket: each plays one response at a time, in order, and remembers the latest one. It opens no socket.

use crate::openai::{problem::Problem, responses_request::ResponsesRequest};
use std::collections::{HashMap, VecDeque};

/// The largest number of named lanes.
const NAMED: usize = 32;

/// The largest number of responses that run at once.
const RUNNING: usize = 16;

/// The largest number of requests that wait, and of bytes that their messages had.
const WAITING: usize = 64;
const WAITING_BYTES: usize = 4 << 20;

/// The name of a lane. The default lane has none.
pub(super) type Name = Option<String>;

/// A request in the queue of its lane.
#[derive(Debug, PartialEq)]
pub(super) struct Waiting {
    pub(super) request: Result<ResponsesRequest, Problem>,
    /// The id of the response that it continues.
    pub(super) previous: Option<String>,
    /// The length of its message, in bytes.
    pub(super) bytes: usize,
}

/// The latest response of a lane: its id, and its tokens as the context of a response that continues it.
type Latest = (String, u64);

#[derive(Debug, Default)]
struct Lane {
    is_busy: bool,
    latest: Option<Latest>,
}

/// All lanes of a socket.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: HashMap<Name, Lane>,
    waiting: VecDeque<(Name, Waiting)>,
    running: usize,
}

impl Lanes {
    /// Adds a request to the queue of its lane, which is made if it is new.
    ///
    /// # Errors
    /// There are too many lanes, or too many requests wait.
    pub(super) fn push(&mut self, name: Name, waiting: Waiting) -> Result<(), Problem> {
        let named = self.lanes.keys().filter(|name| name.is_some()).count();
        if name.is_some() && !self.lanes.contains_key(&name) && named >= NAMED {
            return Err(Problem::TooManyLanes(NAMED));
        }
        let bytes: usize = self.waiting.iter().map(|(_, waiting)| waiting.bytes).sum();
        if self.waiting.len() >= WAITING || bytes + waiting.bytes > WAITING_BYTES {
            return Err(Problem::TooManyTurns);
        }
        self.lanes.entry(name.clone()).or_default();
        self.waiting.push_back((name, waiting));
        Ok(())
    }

    /// Returns the next request whose lane is idle, unless too many responses run. Its lane is busy from now on.
    pub(super) fn next(&mut self) -> Option<(Name, Waiting)> {
        if self.running >= RUNNING {
            return None;
        }
        let is_idle = |name: &Name| self.lanes.get(name).is_some_and(|lane| !lane.is_busy);
        let place = self.waiting.iter().position(|(name, _)| is_idle(name))?;
        let next = self.waiting.remove(place)?;
        self.lanes.entry(next.0.clone()).or_default().is_busy = true;
        self.running += 1;
        Some(next)
    }

    /// Returns the context of a response that is the latest one of a lane.
    pub(super) fn context(&self, id: &str) -> Option<u64> {
        let latest = self.lanes.values().filter_map(|lane| lane.latest.as_ref());
        latest.filter(|(known, _)| known == id).map(|&(_, context)| context).next()
    }

    /// Ends the request of a lane with a response, which is its latest one.
    pub(super) fn succeed(&mut self, name: &Name, latest: Latest) {
        self.free(name).latest = Some(latest);
    }

    /// Ends the request of a lane without a response. The lane forgets the response that the request was to continue. Other lanes keep
    /// theirs.
    pub(super) fn fail(&mut self, name: &Name, previous: Option<&str>) {
        let lane = self.free(name);
        if lane.latest.as_ref().is_some_and(|(id, _)| Some(id.as_str()) == previous) {
            lane.latest = None;
        }
    }

    fn free(&mut self, name: &Name) -> &mut Lane {
        self.running -= 1;
        let lane = self.lanes.entry(name.clone()).or_default();
        lane.is_busy = false;
        lane
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Name {
        (!name.is_empty()).then(|| name.to_owned())
    }

    fn waiting(tag: &str) -> Waiting {
        Waiting { request: Err(Problem::Internal), previous: Some(tag.to_owned()), bytes: 10 }
    }

    fn next(lanes: &mut Lanes) -> Option<String> {
        lanes.next().map(|(_, waiting)| waiting.previous.unwrap())
    }

    #[test]
    fn a_lane_is_in_order_and_lanes_run_side_by_side() {
        let mut lanes = Lanes::default();
        for (lane, tag) in [("", "1"), ("", "2"), ("a", "3"), ("a", "4")] {
            lanes.push(name(lane), waiting(tag)).unwrap();
        }
        assert_eq!(
            (next(&mut lanes), next(&mut lanes), next(&mut lanes)),
            (Some("1".into()), Some("3".into()), None)
        );
        lanes.succeed(&name("a"), ("r".to_owned(), 5));
        assert_eq!((next(&mut lanes), next(&mut lanes)), (Some("4".into()), None));
        lanes.fail(&name(""), None);
        assert_eq!(next(&mut lanes), Some("2".into()));
    }

    #[test]
    fn a_failed_continuation_is_forgotten_in_its_own_lane_only() {
        let mut lanes = Lanes::default();
        let turn = |lanes: &mut Lanes, lane: &str| {
            lanes.push(name(lane), waiting("")).unwrap();
            lanes.next().unwrap();
        };
        turn(&mut lanes, "");
        lanes.succeed(&name(""), ("r1".to_owned(), 5));
        assert_eq!((lanes.context("r1"), lanes.context("r2")), (Some(5), None));
        turn(&mut lanes, "fork");
        lanes.fail(&name("fork"), Some("r1"));
        assert_eq!(lanes.context("r1"), Some(5));
        turn(&mut lanes, "");
        lanes.fail(&name(""), Some("other"));
        assert_eq!(lanes.context("r1"), Some(5));
        turn(&mut lanes, "");
        lanes.fail(&name(""), Some("r1"));
        assert_eq!(lanes.context("r1"), None);
    }

    #[test]
    fn lanes_responses_and_requests_are_limited() {
        let mut lanes = Lanes::default();
        for n in 0..NAMED {
            lanes.push(name(&n.to_string()), waiting("")).unwrap();
        }
        assert_eq!(lanes.push(name("more"), waiting("")), Err(Problem::TooManyLanes(32)));
        assert_eq!((0..NAMED).filter_map(|_| lanes.next()).count(), RUNNING);
        lanes.fail(&name("0"), None);
        assert!(lanes.next().is_some() && lanes.next().is_none());
        for _ in NAMED - RUNNING - 1..WAITING {
            lanes.push(name(""), waiting("")).unwrap();
        }
        assert_eq!(lanes.push(name(""), waiting("")), Err(Problem::TooManyTurns));
        let mut lanes = Lanes::default();
        let large = || Waiting { bytes: 3 << 20, ..waiting("") };
        lanes.push(None, large()).unwrap();
        assert_eq!(lanes.push(None, large()), Err(Problem::TooManyTurns));
    }
}
