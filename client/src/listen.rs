//! What a session makes of what its link says: frames become events of a query, losses become reconnects.
//! It waits for nothing; it is called with one thing at a time.

use crate::{
    link::{LinkEvent, Loss},
    live::Shard,
    query::{Arrived, Query},
    record::{Failure, FailureKind, Sample},
    session::Session,
    socket::Arrival,
};
use protocol::{ClientAction, CloseReason, Event, Frame, Position};
use std::time::{Duration, Instant};

/// Times kept until it is known whose clock they are of; more are not sampled.
const MOST_UNDATED: usize = 256;

/// What a resumed socket sends again, from its opening until its `resumed` frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replay {
    /// Asked for after this position.
    after: Position,
}

impl Session {
    /// Takes in what the link said.
    pub(crate) fn take(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Frame(text, arrival) => self.frame(&text, arrival),
            LinkEvent::Lost(loss) => self.lost(&loss),
            LinkEvent::Back => {
                self.reconnect_gaps.extend(self.downtime.end(Instant::now()));
                self.replay = Some(Replay { after: self.resume_after() });
            }
            LinkEvent::Failed(failure) if !self.closing => self.fail(failure),
            LinkEvent::Failed(_) => {}
        }
    }

    fn frame(&mut self, text: &str, arrival: Arrival) {
        match Frame::parse(text) {
            Ok(Frame::Event(event)) if event.kind.is_for_client() => self.event(&event, arrival),
            Ok(Frame::Resumed { .. }) => self.replay = None,
            Ok(Frame::Gap { from, to }) => {
                if let Some(query) = &mut self.current {
                    query.announce_gap(from, to);
                }
            }
            Ok(Frame::Event(_) | Frame::Other) => {}
            Err(error) => {
                if let Some(query) = &mut self.current {
                    query.fail(FailureKind::Stream, None, error.to_string());
                }
            }
        }
    }

    fn event(&mut self, event: &Event<'_>, arrival: Arrival) {
        self.losses_in_a_row = 0;
        if self.asked_for_again(event.position) {
            return;
        }
        let stall = self.worker.config.load.stall;
        let Some(query) = &mut self.current else { return };
        match query.arrive(event, arrival, stall) {
            Arrived::Ours(gaps) => {
                if !event.kind.is_terminator() {
                    Shard::add(&self.worker.live.tokens, 1);
                }
                let gap = |sample, gap: Option<Duration>| {
                    if let Some(gap) = gap {
                        self.worker.sample(sample, nanos(gap), arrival.at);
                    }
                };
                gap(Sample::Itl, gaps.itl);
                gap(Sample::FrameGap, gaps.frame_gap);
                self.sample_times(event, arrival.at);
            }
            Arrived::Again | Arrived::Foreign => {}
            Arrived::Earlier => self.earlier(event),
            Arrived::EndedByPeer => self.last = self.last.max(event.position.unwrap_or_default()),
        }
    }

    /// A hole made the socket resume before events that had come: their second coming is our own doing.
    fn asked_for_again(&self, position: Option<Position>) -> bool {
        let (Some(replay), Some(position), Some(query)) = (self.replay, position, &self.current) else {
            return false;
        };
        position > replay.after && query.has(position)
    }

    /// An event of an earlier query: where it came before, it came twice.
    fn earlier(&mut self, event: &Event<'_>) {
        let (Some(position), Some(query)) = (event.position, &mut self.current) else { return };
        let remembered = self.previous.as_ref().filter(|previous| previous.ceiling() == position.generation);
        if remembered.is_none_or(|previous| previous.has(position)) {
            query.repeated.events_duplicated += 1;
            query.repeated.tokens_duplicated += u64::from(!event.kind.is_terminator());
        }
    }

    fn sample_times(&mut self, event: &Event<'_>, at: Instant) {
        let Some(sent_us) = event.sent_us else { return };
        if let Some(due_us) = event.due_us {
            let late_us =
                i64::try_from(sent_us).unwrap_or(i64::MAX) - i64::try_from(due_us).unwrap_or(i64::MAX);
            self.worker.sample(Sample::PaceLag, late_us.saturating_mul(1000), at);
        }
        let replayed = self.replay.is_some();
        match self.shared_clock {
            Some(true) => self.sample_delivery(at, sent_us, replayed),
            Some(false) => {}
            None if self.undated.len() < MOST_UNDATED => self.undated.push((at, sent_us, replayed)),
            None => {}
        }
    }

    fn sample_delivery(&self, at: Instant, sent_us: u64, replayed: bool) {
        let Some(sent) = self.worker.clock.instant(sent_us) else { return };
        let ns = match at.checked_duration_since(sent) {
            Some(took) => nanos(took),
            None => -nanos(sent - at),
        };
        let sample = if replayed { Sample::ReplayDelivery } else { Sample::Delivery };
        self.worker.sample(sample, ns, at);
    }

    /// `/run` named its clock: it is ours, or it is not, and without a name it is not.
    pub(crate) fn compare_clocks(&mut self, boot_id: Option<&str>) {
        let shared = boot_id.is_some() && boot_id == self.worker.boot_id.as_deref();
        self.shared_clock = Some(shared);
        self.worker.shared_clock.set(Some(shared));
        for (at, sent_us, replayed) in std::mem::take(&mut self.undated) {
            if shared {
                self.sample_delivery(at, sent_us, replayed);
            }
        }
    }

    fn lost(&mut self, loss: &Loss) {
        self.replay = None;
        self.close_codes.extend(loss.code);
        if self.closing {
            return;
        }
        let action = CloseReason::action_for(loss.code);
        let mut wait = None;
        let mut backoff = self.backoff().after(self.losses_in_a_row);
        match (action, loss.code) {
            (ClientAction::Stop | ClientAction::StopAndReport, code) => {
                let kind = code.map_or(FailureKind::Stream, FailureKind::Closed);
                let message = format!("the gateway closed the socket: {}", loss.text);
                self.fail(Failure { kind, code, message });
                return;
            }
            (ClientAction::ReconnectWhenTold, _) => {
                wait = CloseReason::reconnect_after_ms(&loss.text)
                    .map(|ms| Duration::from_millis(ms.min(300_000)));
            }
            (ClientAction::ReconnectLater, _) => backoff.lengthen(),
            (ClientAction::Reconnect, _) => {}
        }
        self.losses_in_a_row += 1;
        self.downtime.begin(loss.at);
        let position = self.resume_after();
        if let Some(link) = &mut self.link {
            link.reconnect(position, wait, backoff);
        }
    }

    fn resume_after(&self) -> Position {
        let current = self.current.as_ref().and_then(Query::resume_after);
        current.unwrap_or_default().max(self.last)
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
