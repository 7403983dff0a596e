//! Handles what arrives on a session's socket: messages become events of a query, replays or defects.

use super::{
    behaviour::Behaviour, delivery::DeliveryTimes, described::Described, hops::Hops, log::SessionLog,
    queries::Queries, replay::ReplayWindow, turn::Turn,
};
use crate::{
    context::WorkerContext,
    query::{EventOutcome, millis},
    socket::{Arrival, DataMessage},
};
use dialects::target::Incoming;
use measure::{defects::Defect, record::LagKind, timeline::NoteEvent};
use protocol::{Event, Frame};
use std::time::{Duration, Instant};

/// The parts of a session that a message may change.
pub(super) struct Receiver<'a> {
    pub(super) worker: &'a WorkerContext,
    pub(super) queries: &'a mut Queries,
    pub(super) replay: &'a mut ReplayWindow,
    pub(super) delivery: &'a mut DeliveryTimes,
    pub(super) hops: &'a mut Hops,
    pub(super) log: &'a mut SessionLog,
    pub(super) behaviour: &'a Behaviour,
    /// The present question, if the target speaks a foreign dialect.
    pub(super) turn: Option<&'a mut Turn>,
    /// What a target file tells the session, if the target has one.
    pub(super) described: Option<&'a mut Described>,
    /// Number of messages that ask for a reply.
    pub(super) pings: usize,
    /// Arrival of the last event.
    pub(super) last_event: Option<Instant>,
    /// Arrival of the last message that is no event of an answer and no ping.
    pub(super) last_other: Option<Instant>,
}

impl Receiver<'_> {
    /// Handles one message.
    pub(super) fn message(&mut self, message: DataMessage<'_>, arrival: Arrival) {
        match message {
            DataMessage::Http(part) => self.part(part, arrival),
            DataMessage::Text(text) if self.worker.plan().target.foreign.is_some() => {
                self.answer(Incoming::text(text), arrival);
            }
            DataMessage::Text(text) => self.frame(text, arrival),
            DataMessage::Binary(bytes) => self.defect(Defect::Binary, bytes),
        }
    }

    /// Notes a defect of the query that runs or ran last. Before the first query it belongs to the session.
    pub(super) fn defect(&mut self, defect: Defect, frame: &[u8]) {
        // A foreign server may repeat the key.
        let hidden = self.worker.plan().target.foreign.as_ref().map(|_| {
            let text = String::from_utf8_lossy(frame);
            let text = self.worker.run().connector.hide(&text);
            self.described.as_ref().map_or_else(|| text.clone(), |described| described.hide(&text))
        });
        let frame = hidden.as_deref().map_or(frame, str::as_bytes);
        match self.queries.defects() {
            Some(defects) => defects.note(defect, frame),
            None => self.log.defect(defect, frame),
        }
    }

    fn frame(&mut self, text: &str, arrival: Arrival) {
        match Frame::parse(text) {
            Ok(Frame::Event(event)) if event.kind.is_for_client() => self.event(&event, text, arrival),
            Ok(Frame::Tokens(tokens)) if self.worker.plan().target.rollup_ms.is_some() => {
                self.log.frame_rolled(tokens.events().len());
                tokens.events().for_each(|event| self.event(&event, text, arrival));
            }
            Ok(Frame::Resumed { .. }) => self.replay.close(),
            Ok(Frame::Gap { from, to }) => {
                self.log.gap_announced(self.worker.moment(arrival.at), from, to);
                if let Some(query) = self.queries.current_mut() {
                    query.announce_gap(from, to);
                }
            }
            // A gateway rolls tokens up only if the client asked for that.
            Ok(Frame::Event(_) | Frame::Tokens(_) | Frame::Other) => {
                self.defect(Defect::UnknownType, text.as_bytes());
            }
            Err(_) => self.defect(Defect::Unreadable, text.as_bytes()),
        }
    }

    pub(super) fn event(&mut self, event: &Event<'_>, frame: &str, arrival: Arrival) {
        self.last_event = Some(arrival.at);
        if self.replay.permits(event.position, |position| self.queries.has(position)) {
            let seq = event.position.map_or(0, |position| position.seq);
            self.log.event_replayed(self.worker.moment(arrival.at), seq);
            return;
        }
        let excused = self.excused(event);
        let Some(query) = self.queries.current_mut() else {
            self.log.defect(Defect::Foreign, frame.as_bytes());
            return;
        };
        // While the client itself pauses, gaps say nothing about the system under test.
        let has_paused = !query.paused.is_zero();
        let stall = if has_paused { Duration::MAX } else { self.worker.plan().load.stall_limit };
        match query.arrive(event, frame, arrival, stall, excused) {
            EventOutcome::Ours(intervals) => {
                if !event.kind.is_terminator() {
                    self.worker.token(arrival.at);
                    let seq = event.position.map(|position| position.seq);
                    query.samples.token(seq, || arrival.at.saturating_duration_since(query.scheduled));
                }
                if has_paused {
                    if let Some(gap) = intervals.itl {
                        query.samples.unsampled_gap(gap.value);
                    }
                    return;
                }
                if let Some(itl) = intervals.itl {
                    query.samples.itl(itl, intervals.is_frame_gap);
                }
                if intervals.silence.is_none_or(|silence| silence > stall) {
                    self.silence_ended(intervals.silence, arrival.at);
                }
                self.sample_times(event, arrival.at);
            }
            EventOutcome::Duplicate => {
                let seq = event.position.map_or(0, |position| position.seq);
                let at = self.worker.moment(arrival.at);
                self.log.note(at, NoteEvent::Duplicates(seq, seq, 1));
            }
            EventOutcome::Foreign => {}
            EventOutcome::Earlier => self.queries.earlier_event(event, frame),
            EventOutcome::EndedByPeer => {
                let last_event = query.own_stream().and_then(|stream| stream.last_event);
                let silence = last_event.map(|last| arrival.at.saturating_duration_since(last));
                self.silence_ended(silence, arrival.at);
                self.queries.ended_by_peer(event.position);
            }
        }
    }

    /// Returns whether a planned fault of the query's server made this event late. `None` if no such fault is planned.
    fn excused(&self, event: &Event<'_>) -> Option<bool> {
        let faults = &self.worker.run().faults;
        if !faults.affects_servers() {
            return None;
        }
        let due = event.due_us.filter(|&due| event.sent_us.is_some_and(|sent| sent > due));
        let due = due.filter(|_| self.delivery.is_clock_shared());
        let due = due.and_then(|due| self.worker.clock().instant(due));
        let server = self.queries.response().and_then(|response| response.server.as_deref());
        Some(due.is_some_and(|due| faults.excuse(server, self.worker.moment(due))))
    }

    /// Reports an outage that ended at `at`: the stream was silent for longer than the stall threshold, or its first event came
    /// late. `silence` is `None` for the first event.
    fn silence_ended(&self, silence: Option<Duration>, at: Instant) {
        let worker = self.worker;
        let from = match silence {
            Some(silence) => at.checked_sub(silence),
            // The late socket of the session itself delays its first event.
            None if self.behaviour.connects_late() => None,
            None => {
                let ideal = self.queries.response().and_then(|response| millis(response.ideal_ttft_ms));
                let limit = ideal.unwrap_or_default() + worker.plan().load.stall_limit;
                self.queries.sent().filter(|&sent| at.saturating_duration_since(sent) > limit)
            }
        };
        if let Some(from) = from.filter(|&from| !self.behaviour.has_cut_since(from)) {
            worker.run().faults.outage(worker.moment(from), worker.moment(at));
        }
    }

    /// Samples how late the simulator was, the delivery time, and the hops of a token with the gateway's times.
    fn sample_times(&mut self, event: &Event<'_>, at: Instant) {
        let Some(sent_us) = event.sent_us else { return };
        if let Some(due_us) = event.due_us {
            let late_us =
                i64::try_from(sent_us).unwrap_or(i64::MAX) - i64::try_from(due_us).unwrap_or(i64::MAX);
            self.worker.sample(LagKind::PaceLag, late_us.saturating_mul(1000), at);
        }
        if let Some(query) = self.queries.current_mut() {
            self.delivery.token(at, sent_us, self.worker.clock(), &mut query.samples);
            if event.stamps.is_some() && self.worker.plan().target.hops.is_some() {
                self.hops.token(event, at, self.delivery.opened(), self.worker.clock(), &mut query.samples);
            }
        }
    }
}
