//! Turns the messages of a foreign dialect into events of the present query.

use super::{described::Described, receive::Receiver};
use crate::{http_stream::StreamPart, socket::Arrival};
use dialects::{
    Answer, Dialect,
    message::{Contents, End, Fault, Meaning},
    target::Incoming,
};
use measure::defects::Defect;
use protocol::{DigestField, Event, Kind, Position};
use std::borrow::Cow;

impl Receiver<'_> {
    /// Handles a part of an HTTP response.
    pub(super) fn part(&mut self, part: StreamPart<'_>, arrival: Arrival) {
        if let Some(event) = self.turn.as_deref_mut().and_then(|turn| turn.part(part)) {
            // In the protocols of OpenAI, an event without data is a keep-alive, whatever its name is.
            if self.described.is_some() || !event.data.is_empty() {
                self.answer(Incoming { data: event.data, event: event.name, id: event.id }, arrival);
            }
        }
    }

    /// Handles a message, or the data of an event.
    pub(super) fn answer(&mut self, incoming: Incoming<'_>, arrival: Arrival) {
        if self.described.is_some() {
            return self.described(incoming, arrival);
        }
        let data = incoming.data;
        self.last_event = Some(arrival.at);
        let Some(turn) = self.turn.as_deref_mut() else {
            return self.defect(Defect::Foreign, data.as_bytes());
        };
        let meaning = turn.answer.message(data);
        if let Some(End::Failed(failed)) = &meaning.end
            && turn.dialect.is_connection_limit(&failed.code)
        {
            turn.is_too_old = true;
            return;
        }
        let generation = u64::from(turn.num);
        let tokens = turn.tokens.filter(|_| turn.dialect == Dialect::Chat);
        if let (Some(tokens), Some(query)) = (tokens, self.queries.current_mut()) {
            query.announce(u64::from(tokens));
        }
        self.meaning(meaning, generation, data, arrival);
    }

    /// Handles a message that a target file describes. It may have several parts.
    fn described(&mut self, incoming: Incoming<'_>, arrival: Arrival) {
        let generation = self.turn.as_deref().map_or(0, |turn| u64::from(turn.num));
        let answer = match self.turn.as_deref_mut().map(|turn| &mut turn.answer) {
            Some(Answer::File(answer)) => Some(&mut **answer),
            Some(_) => None,
            None => self.described.as_deref_mut().map(Described::idle_reader),
        };
        let reads = answer.map(|answer| answer.read(incoming)).unwrap_or_default();
        for read in reads {
            self.pings += usize::from(read.is_ping());
            if read.is_of_answer() {
                self.last_event = Some(arrival.at);
            } else if !read.is_ping() {
                self.last_other = Some(arrival.at);
            }
            self.meaning(read.meaning, generation, incoming.data, arrival);
        }
    }

    fn meaning(&mut self, meaning: Meaning<'_>, generation: u64, frame: &str, arrival: Arrival) {
        if let Some(fault) = meaning.fault {
            let defect = match fault {
                Fault::Unreadable => Defect::Unreadable,
                Fault::AfterEnd => Defect::AfterTerminator,
                Fault::Foreign => Defect::Foreign,
                Fault::Unknown => Defect::UnknownType,
            };
            self.defect(defect, frame.as_bytes());
            if fault != Fault::Unknown {
                return;
            }
        }
        let position = meaning.seq.map(|seq| Position::new(generation, seq));
        if let Some(query) = self.queries.current_mut() {
            if meaning.has_reasoning {
                query.stated.reasoning += 1;
                query.stated.first_reasoning.get_or_insert(arrival.at);
            }
            if let Some(usage) = meaning.usage {
                query.stated.tokens = Some(usage.output.saturating_sub(usage.reasoning));
            }
        }
        let event = |kind, content, code, message| Event {
            position,
            kind,
            content,
            query_id: None,
            due_us: meaning.times.due_us,
            sent_us: meaning.times.sent_us,
            code,
            message,
            digest: DigestField::Absent,
            stamps: None,
        };
        match meaning.end {
            Some(End::Good) => self.event(&event(Kind::Done, Cow::Borrowed(""), None, None), frame, arrival),
            Some(End::Failed(failed)) => {
                let message = (!failed.message.is_empty()).then_some(Cow::Owned(failed.message));
                let event = event(Kind::Error, Cow::Borrowed(""), Some(Cow::Owned(failed.code)), message);
                self.event(&event, frame, arrival);
            }
            None if !meaning.text.is_empty() => {
                self.event(&event(Kind::Token, meaning.text, None, None), frame, arrival);
            }
            None => self.other(position, frame, arrival),
        }
        if let (Some(contents), Some(query)) = (meaning.contents, self.queries.current_mut()) {
            query.compared(contents == Contents::Verified, frame);
        }
    }

    /// Handles an event that is neither text nor an end. It counts only if the server numbers it.
    fn other(&mut self, position: Option<Position>, frame: &str, arrival: Arrival) {
        let Some(position) = position else { return };
        if self.replay.permits(Some(position), |position| self.queries.has(position)) {
            self.log.event_replayed(self.worker.moment(arrival.at), position.seq);
        } else if let Some(query) = self.queries.current_mut() {
            query.other(position, frame, arrival);
        }
    }
}
