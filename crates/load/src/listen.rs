//! What a session makes of what its link says: frames become events of a query, losses become reconnects.
//! It waits for nothing; it is called with one thing at a time.

use crate::{
    link::{LinkEvent, Loss, Took},
    query::{Arrived, Query, millis},
    session::Session,
    socket::{Arrival, Heard},
};
use measure::{
    defects::Defect,
    live::LiveCounters,
    record::{Failure, FailureKind, LagKind, LossCause, Reconnect},
};
use protocol::{ClientAction, CloseReason, Event, Frame, Position};
use std::time::{Duration, Instant};

/// Times kept until it is known whose clock they are of; more are not sampled.
const MOST_UNDATED: usize = 256;

/// What a socket may send again: what it was asked for, or what nobody can know that the client has. Each event once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replay {
    /// Up to here nothing may come again (any more).
    after: Position,
    /// The last event that had come when the socket was opened.
    until: Position,
    /// A `resumed` frame is still to come.
    pub(crate) goes_on: bool,
}

impl Session {
    /// Takes in what the link said.
    pub(crate) fn take(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Read(chunk) => {
                let Some(mut link) = self.link.take() else { return };
                let ended = link.hear(&chunk, |heard, arrival| self.heard(heard, arrival));
                self.link = Some(link);
                if let Some(ended) = ended {
                    self.take(ended);
                }
            }
            LinkEvent::Lost(loss) => self.lost(&loss),
            LinkEvent::Back { took } => self.back(took),
            LinkEvent::Failed(failure) if !self.closing => self.fail(failure),
            LinkEvent::Failed(_) => {}
        }
    }

    /// A new socket is open: the session's first one, a query's own, or the one after a loss.
    fn back(&mut self, took: Took) {
        let now = Instant::now();
        let gap = self.downtime.end(now);
        if let Some(cause) = self.lost_by.take() {
            let gap = gap.unwrap_or_default();
            let reconnect = Reconnect { cause, gap };
            self.reconnects.push(reconnect);
            let worker = &self.worker;
            worker.recorder.borrow_mut().reconnected(worker.moment(now), self.index, reconnect);
            if cause != LossCause::Cut {
                worker.faults.outage(worker.moment(now.checked_sub(gap).unwrap_or(now)), worker.moment(now));
            }
        } else {
            self.connect.get_or_insert(took);
        }
        LiveCounters::add(&self.worker.live.connects, 1);
        self.opened = now;
        let had = self.current.as_ref().and_then(Query::last_position).unwrap_or_default().max(self.last);
        self.replay = match (self.habits.resumes(), self.unclean) {
            (true, _) => Some(Replay { after: self.resume_after(), until: had, goes_on: true }),
            (false, true) => Some(Replay { after: Position::ZERO, until: had, goes_on: false }),
            (false, false) => None,
        };
    }

    fn heard(&mut self, heard: Heard<'_>, arrival: Arrival) {
        match heard {
            Heard::Text(text) => self.frame(text, arrival),
            Heard::Binary(bytes) => self.defect(Defect::Binary, bytes),
        }
    }

    /// Notes a defect of the query that runs or ran last; before the first one, of the session.
    fn defect(&mut self, defect: Defect, frame: &[u8]) {
        let query = self.current.as_mut().map(|query| &mut query.defects);
        query.unwrap_or(&mut self.defects).note(defect, frame);
    }

    fn frame(&mut self, text: &str, arrival: Arrival) {
        match Frame::parse(text) {
            Ok(Frame::Event(event)) if event.kind.is_for_client() => self.event(&event, text, arrival),
            Ok(Frame::Resumed { .. }) => self.replay = None,
            Ok(Frame::Gap { from, to }) => {
                self.announced_gaps += 1;
                let before = if from.generation == to.generation { from.seq } else { 0 };
                self.announced_gap_positions =
                    self.announced_gap_positions.saturating_add(to.seq.saturating_sub(before));
                if let Some(query) = &mut self.current {
                    query.announce_gap(from, to);
                }
            }
            Ok(Frame::Event(_) | Frame::Other) => self.defect(Defect::UnknownType, text.as_bytes()),
            Err(_) => self.defect(Defect::Unreadable, text.as_bytes()),
        }
    }

    fn event(&mut self, event: &Event<'_>, frame: &str, arrival: Arrival) {
        self.losses_in_a_row = 0;
        if self.may_come_again(event.position) {
            self.events_replayed += 1;
            return;
        }
        let excused = self.excused(event);
        let Some(query) = &mut self.current else {
            self.defects.note(Defect::Foreign, frame.as_bytes());
            return;
        };
        let held_back = !query.paused.is_zero();
        let stall = if held_back { Duration::MAX } else { self.worker.plan.load.stall_limit };
        match query.arrive(event, frame, arrival, stall, excused) {
            Arrived::Ours(gaps) => {
                if !event.kind.is_terminator() {
                    self.worker.token(arrival.at);
                }
                if held_back {
                    return;
                }
                if let Some(itl) = gaps.itl {
                    query.samples.itl(itl, gaps.is_frame_gap);
                }
                if gaps.silence.is_none_or(|silence| silence > stall) {
                    self.silence_ended(gaps.silence, arrival.at);
                }
                self.sample_times(event, arrival.at);
            }
            Arrived::Again | Arrived::Foreign => {}
            Arrived::Earlier => self.earlier(event, frame),
            Arrived::EndedByPeer => {
                let heard = query.own_stream().and_then(|stream| stream.last_event);
                self.silence_ended(
                    heard.map(|heard| arrival.at.saturating_duration_since(heard)),
                    arrival.at,
                );
                self.last = self.last.max(event.position.unwrap_or_default());
            }
        }
    }

    /// Whether a planned fault of the query's own server made this event late; `None` where no such fault is planned.
    fn excused(&self, event: &Event<'_>) -> Option<bool> {
        let faults = &self.worker.faults;
        if !faults.affects_servers() {
            return None;
        }
        let due = event.due_us.filter(|&due| event.sent_us.is_some_and(|sent| sent > due));
        let due =
            due.filter(|_| self.shared_clock == Some(true)).and_then(|due| self.worker.clock.instant(due));
        let answer = self.current.as_ref().and_then(|query| query.answer.as_ref());
        let server = answer.and_then(|answer| answer.server.as_deref());
        Some(due.is_some_and(|due| faults.excuse(server, self.worker.moment(due))))
    }

    /// The stream was silent for longer than the stall limit, or the first event came: late, or not.
    fn silence_ended(&self, silence: Option<Duration>, at: Instant) {
        let worker = &self.worker;
        let from = match silence {
            Some(silence) => at.checked_sub(silence),
            // Who comes late hears nothing before, and that is nobody's fault.
            None if self.habits.connects_late() => None,
            None => {
                let answer = self.current.as_ref().and_then(|query| query.answer.as_ref());
                let ideal = answer.and_then(|answer| millis(answer.ideal_ttft_ms)).unwrap_or_default();
                self.sent
                    .get()
                    .filter(|&sent| at.saturating_duration_since(sent) > ideal + worker.plan.load.stall_limit)
            }
        };
        let own_doing = |from| self.last_cut.is_some_and(|cut| cut >= from);
        if let Some(from) = from.filter(|&from| !own_doing(from)) {
            worker.faults.outage(worker.moment(from), worker.moment(at));
        }
    }

    /// A hole made the socket resume before events that had come, or the client did not say what it has and its last
    /// socket broke: what comes for a second time is allowed to, once.
    fn may_come_again(&mut self, position: Option<Position>) -> bool {
        let (Some(replay), Some(position)) = (&mut self.replay, position) else { return false };
        if position <= replay.after || position > replay.until {
            return false;
        }
        let came = position.generation <= self.last.generation
            || self.current.as_ref().is_some_and(|query| query.has(position));
        if came {
            replay.after = position;
        }
        came
    }

    /// An event of an earlier query: where it came before, it came twice.
    fn earlier(&mut self, event: &Event<'_>, frame: &str) {
        let (Some(position), Some(query)) = (event.position, &mut self.current) else { return };
        if self.previous.as_ref().is_some_and(|previous| previous.is_behind_terminator(position)) {
            query.defects.note(Defect::AfterTerminator, frame.as_bytes());
            return;
        }
        let remembered = self.previous.as_ref().filter(|previous| previous.ceiling() == position.generation);
        if remembered.is_none_or(|previous| previous.has(position)) {
            query.defects.note(Defect::Duplicated, frame.as_bytes());
            query.tokens_repeated += u64::from(!event.kind.is_terminator());
        }
    }

    fn sample_times(&mut self, event: &Event<'_>, at: Instant) {
        let Some(sent_us) = event.sent_us else { return };
        if let Some(due_us) = event.due_us {
            let late_us =
                i64::try_from(sent_us).unwrap_or(i64::MAX) - i64::try_from(due_us).unwrap_or(i64::MAX);
            self.worker.sample(LagKind::PaceLag, late_us.saturating_mul(1000), at);
        }
        match self.shared_clock {
            Some(true) => self.sample_delivery(at, sent_us, self.opened),
            Some(false) => {}
            None if self.undated.len() < MOST_UNDATED => self.undated.push((at, sent_us, self.opened)),
            None => {}
        }
    }

    /// What was sent before its socket was `opened` waited for that, and is a replay.
    fn sample_delivery(&mut self, at: Instant, sent_us: u64, opened: Instant) {
        let Some(sent) = self.worker.clock.instant(sent_us) else { return };
        let Some(query) = &mut self.current else { return };
        let ns = match at.checked_duration_since(sent) {
            Some(took) => nanos(took),
            None => -nanos(sent - at),
        };
        query.samples.delivery(ns, sent < opened);
    }

    /// `/run` named its clock: it is ours, or it is not, and without a name it is not.
    pub(crate) fn compare_clocks(&mut self, boot_id: Option<&str>) {
        let shared = boot_id.is_some() && boot_id == self.worker.boot_id.as_deref();
        self.shared_clock = Some(shared);
        self.worker.shared_clock.set(Some(shared));
        for (at, sent_us, opened) in std::mem::take(&mut self.undated) {
            if shared {
                self.sample_delivery(at, sent_us, opened);
            }
        }
    }

    fn lost(&mut self, loss: &Loss) {
        self.replay = None;
        let code = loss.code();
        if self.leaving {
            return;
        }
        self.close_codes.extend(code);
        if self.closing {
            return;
        }
        if let Some(query) = self.current.as_mut().filter(|_| loss.cause != LossCause::Cut) {
            query.last_loss = Some(loss.describe());
        }
        let action = CloseReason::action_for(code);
        let taken_over = code == Some(CloseReason::TakenOver.code());
        let is_after_answer = code.is_some() && !taken_over && self.is_between_answers();
        if is_after_answer && !self.needs_socket() {
            return;
        }
        let mut wait = None;
        let mut backoff = self.backoff().after(self.losses_in_a_row);
        match (action, code) {
            // Many servers end the socket of each answer: the next query has a new one, without a delay the first time.
            (ClientAction::Stop | ClientAction::StopAndReport, _) if is_after_answer => {
                wait = (self.losses_in_a_row == 0).then_some(Duration::ZERO);
            }
            (ClientAction::Stop | ClientAction::StopAndReport, code) => {
                let kind = code.map_or(FailureKind::Stream, FailureKind::Closed);
                let message = format!("the gateway closed the socket: {}", loss.text);
                let reason = CloseReason::SessionClosed;
                self.already_closed = code == Some(reason.code()) && loss.text == reason.text();
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
        // What the client does itself must not use its attempts up.
        self.losses_in_a_row += u32::from(loss.cause != LossCause::Cut);
        if loss.cause == LossCause::Cut {
            self.sockets_cut += 1;
            self.last_cut = Some(loss.at);
        }
        self.lost_by = Some(loss.cause);
        self.unclean = true;
        self.downtime.begin(loss.at);
        let limit = self.limit();
        let position = self.habits.resumes().then(|| self.resume_after());
        if let Some(link) = &mut self.link {
            link.reconnect(loss, position, wait, backoff, limit);
        }
    }

    /// Returns whether the last answer is whole and nothing of another one came: the current query may have begun before the
    /// close frame behind the last one was read. It may do so once, on the socket of that answer.
    fn is_between_answers(&self) -> bool {
        let is_whole = |query: Option<&Query>| query.is_some_and(Query::is_whole);
        let has_begun = self.current.as_ref().is_some_and(|query| query.own_stream().is_some());
        is_whole(self.current.as_ref())
            || (!has_begun && self.losses_in_a_row == 0 && is_whole(self.previous.as_deref()))
    }

    fn resume_after(&self) -> Position {
        let current = self.current.as_ref().and_then(Query::resume_after);
        current.unwrap_or_default().max(self.last)
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
