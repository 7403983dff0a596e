//! The state machine that reads one answer of a target file.

use super::{
    file::{Numbers, TargetFile},
    pointer::{Pointer, first_text, split_number},
    rule::{Is, Seen},
};
use crate::{
    exchange::Delivery,
    message::{End, Failed, Fault, Meaning, Numbering, Usage},
};
use serde_json::Value;
use std::{borrow::Cow, ops::Range, sync::Arc};

/// Upper limit in characters of a code and of a message of the server.
const LONGEST: usize = 400;

/// What arrived: a WebSocket message, a server-sent event, or a line.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// The message.
    pub data: &'a str,
    /// The `event` line of a server-sent event. Empty if there is none.
    pub event: &'a str,
    /// The `id` line of a server-sent event. Empty if there is none.
    pub id: &'a str,
}

impl<'a> Incoming<'a> {
    /// Returns a message without the lines of a server-sent event.
    #[must_use]
    pub const fn text(data: &'a str) -> Self {
        Self { data, event: "", id: "" }
    }
}

/// One message, as the file reads it.
#[derive(Clone, Debug)]
pub struct Read {
    /// What it means.
    pub meaning: Meaning<'static>,
    /// The number of the rule that it matched, from 0. `None` if it matched none.
    pub rule: Option<usize>,
    /// What that rule says.
    pub is: Option<Is>,
    /// The message, or the item inside it. Null if it is not JSON.
    pub value: Value,
}

impl Read {
    /// Returns whether the server asks for a reply.
    #[must_use]
    pub fn is_ping(&self) -> bool {
        self.is == Some(Is::Ping)
    }

    /// Returns whether the message is a part of the answer. Pings, and messages of no interest or of another answer, are none.
    #[must_use]
    pub fn is_of_answer(&self) -> bool {
        let Meaning { seq, text, end, has_reasoning, fault, .. } = &self.meaning;
        let is_part = seq.is_some() || !text.is_empty() || end.is_some() || *has_reasoning;
        is_part && fault.is_none() && !matches!(self.is, None | Some(Is::Ping | Is::Ignore))
    }
}

impl Read {
    /// Returns the same with changed texts, for outputs that must not contain secrets.
    #[must_use]
    pub fn with_texts(&self, change: &dyn Fn(&str) -> String) -> Self {
        let mut read = self.clone();
        change_texts(&mut read.value, change);
        read.meaning.text = Cow::Owned(change(&read.meaning.text));
        if let Some(End::Failed(failed)) = &mut read.meaning.end {
            failed.code = change(&failed.code);
            failed.message = change(&failed.message);
        }
        read
    }
}

fn change_texts(value: &mut Value, change: &dyn Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = change(text),
        Value::Array(items) => items.iter_mut().for_each(|item| change_texts(item, change)),
        Value::Object(members) => members.values_mut().for_each(|member| change_texts(member, change)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// From where an answer is read on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResumePoint {
    /// The number of the last event before which nothing is missing. One below the first number if there is none.
    pub last: Option<i64>,
    /// The id of that event.
    pub last_id: Option<String>,
}

/// A question that was asked before the present one.
#[derive(Clone, Debug)]
pub(super) struct Earlier {
    /// Its id in messages.
    id: String,
    /// Whether its answer has ended, so that no further part of it may come.
    is_complete: bool,
}

/// One answer as it arrives.
#[derive(Clone, Debug)]
pub struct FileAnswer {
    file: Arc<TargetFile>,
    /// The id of the question in messages. `None` until the server has named it.
    query: Option<String>,
    /// The question before it.
    earlier: Option<Earlier>,
    /// The number at position 1. `None` until the first number has arrived.
    base: Option<u64>,
    /// The highest position that arrived, from 1.
    highest: u64,
    /// The highest number that arrived.
    last_number: Option<u64>,
    /// The text before the digits of an event's id.
    id_prefix: String,
    /// The number of those digits, if they begin with zeros.
    id_width: usize,
    /// The last id of an event.
    last_id: Option<String>,
    /// The opening of the connection after which the answer began.
    opening: u64,
    is_ended: bool,
    /// The server cannot send the rest.
    is_lost: bool,
    /// Without an answer: numbers of events before the reconnect, which the server may send again, each once.
    repeats: Range<u64>,
}

impl FileAnswer {
    pub(super) const fn new(
        file: Arc<TargetFile>,
        query: Option<String>,
        earlier: Option<Earlier>,
        base: Option<u64>,
        opening: u64,
    ) -> Self {
        Self {
            file,
            query,
            earlier,
            base,
            highest: 0,
            last_number: None,
            id_prefix: String::new(),
            id_width: 0,
            last_id: None,
            opening,
            is_ended: false,
            is_lost: false,
            repeats: 0..0,
        }
    }

    /// Returns the question as the one before the next. `None` if its id is not known.
    pub(super) fn as_earlier(&self) -> Option<Earlier> {
        Some(Earlier { id: self.query.clone()?, is_complete: self.is_ended && !self.is_lost })
    }

    /// Returns a reader of messages that belong to no answer. `earlier` is the question before them.
    pub(super) const fn idle(
        file: Arc<TargetFile>,
        earlier: Option<Earlier>,
        base: Option<u64>,
        opening: u64,
    ) -> Self {
        let mut answer = Self::new(file, None, earlier, base, opening);
        answer.is_ended = true;
        answer
    }

    /// Permits the events that `before` read once more, if the server may repeat them on a new connection.
    pub(super) fn permit_repeats(&mut self, before: &Self) {
        if self.file.delivery == Delivery::AtLeastOnce {
            let last = before.last_number.map_or(0, |last| last.saturating_add(1));
            self.repeats = 0..last.max(before.repeats.end);
        }
    }

    /// Returns what arrived means, in order: a frame may have several messages, and a message several parts.
    pub fn read(&mut self, incoming: Incoming<'_>) -> Vec<Read> {
        let mut reads = Vec::with_capacity(1);
        if self.file.read.lines {
            for line in incoming.data.split('\n').map(str::trim).filter(|line| !line.is_empty()) {
                self.message(Incoming { data: line, ..incoming }, &mut reads);
            }
        } else {
            self.message(incoming, &mut reads);
        }
        reads
    }

    fn message(&mut self, incoming: Incoming<'_>, reads: &mut Vec<Read>) {
        if !incoming.id.is_empty() {
            self.last_id = Some(incoming.id.to_owned());
        }
        let value: Option<Value> = serde_json::from_str(incoming.data).ok();
        // Only its name and id say what a server-sent event without data is.
        let is_event = incoming.data.is_empty() && !(incoming.event.is_empty() && incoming.id.is_empty());
        let is_json = value.is_some() || is_event;
        for item in self.file.items(value.unwrap_or_default()) {
            self.item(item, incoming, is_json, reads);
        }
    }

    fn item(&mut self, value: Value, incoming: Incoming<'_>, is_json: bool, reads: &mut Vec<Read>) {
        let seen = Seen { value: &value, data: incoming.data, event: incoming.event };
        let rule = self.file.rules.iter().position(|rule| rule.matcher.matches(seen));
        let is = rule.map(|index| self.file.rules[index].is);
        let number = self.number(&value, incoming.id);
        let meaning = match is {
            None if is_json => Meaning { fault: Some(Fault::Unknown), ..self.passing(number) },
            None => Meaning::fault(Fault::Unreadable),
            Some(Is::Ignore | Is::Ping) => self.passing(number),
            Some(_) if self.is_repeat(number) => Meaning::default(),
            Some(is) => match self.belongs(&value) {
                Belongs::Here if self.is_ended && !self.is_lost => self.after_end(number),
                Belongs::Earlier if self.earlier.as_ref().is_some_and(|earlier| earlier.is_complete) => {
                    self.after_end(number)
                }
                Belongs::Here if !self.is_ended => self.part(is, &value, number),
                Belongs::Here | Belongs::Earlier if self.is_ended => {
                    // A late part of an answer that failed.
                    let _ = self.place(number, false);
                    Meaning::default()
                }
                Belongs::Here | Belongs::Earlier => self.passing(number),
                Belongs::Elsewhere => Meaning::fault(Fault::Foreign),
            },
        };
        let ends = is == Some(Is::Last) && meaning.fault.is_none() && !self.is_ended;
        let end = ends.then(|| self.end_behind_token(&value));
        reads.push(Read { meaning, rule, is, value });
        reads.extend(end.map(|meaning| Read { meaning, rule, is: Some(Is::End), value: Value::Null }));
    }

    /// Returns the meaning of a message that is a part of this answer.
    fn part(&mut self, is: Is, value: &Value, number: Option<u64>) -> Meaning<'static> {
        let file = Arc::clone(&self.file);
        let read = &file.read;
        let failed = |code: &str, message: &str| {
            let text = |pointers: &[Pointer], otherwise: &str| {
                let found = first_text(pointers, value);
                found.map_or_else(|| otherwise.to_owned(), |text| text.chars().take(LONGEST).collect())
            };
            End::Failed(Failed { code: text(&read.code, code), message: text(&read.message, message) })
        };
        match is {
            Is::Token | Is::Last => self.token(value, number),
            Is::Reasoning => Meaning { has_reasoning: true, ..self.passing(number) },
            Is::End => self.end(number, value, End::Good),
            Is::Error => self.end(number, value, failed("error", "")),
            Is::Stopped => self.end(number, value, failed("stopped", "the answer was stopped")),
            Is::Lost => self.lost(number, value, failed("not_resumable", "the server cannot send the rest")),
            Is::Ping | Is::Ignore => self.passing(number),
        }
    }

    fn token(&mut self, value: &Value, number: Option<u64>) -> Meaning<'static> {
        let text = self.file.read.text.as_ref().and_then(|pointer| pointer.of(value)?.as_str());
        let Some(text) = text else { return Meaning::fault(Fault::Unreadable) };
        match self.place(number, true) {
            Ok(seq) => Meaning {
                seq,
                text: Cow::Owned(text.to_owned()),
                usage: self.usage(value),
                ..Meaning::default()
            },
            Err(fault) => Meaning::fault(fault),
        }
    }

    /// Returns the meaning of a message that is nothing of interest, and may be numbered.
    fn passing(&mut self, number: Option<u64>) -> Meaning<'static> {
        let counts = self.file.numbers.as_ref().is_some_and(|numbers| numbers.counts_messages);
        match self.place(number.filter(|_| counts), false) {
            // Behind the end, a number only tells where the next answer begins.
            Ok(_) if self.is_ended => Meaning::default(),
            Ok(seq) => Meaning { seq, ..Meaning::default() },
            Err(fault) => Meaning::fault(fault),
        }
    }

    /// Returns whether the server sends an event from before the reconnect again, which it may do once.
    fn is_repeat(&mut self, number: Option<u64>) -> bool {
        let Some(number) = number.filter(|number| self.repeats.contains(number)) else { return false };
        self.repeats.start = number.saturating_add(1);
        true
    }

    fn after_end(&mut self, number: Option<u64>) -> Meaning<'static> {
        // Numbers that continue must not seem to have a gap before the next answer.
        let _ = self.place(number, false);
        Meaning::fault(Fault::AfterEnd)
    }

    fn end(&mut self, number: Option<u64>, value: &Value, end: End) -> Meaning<'static> {
        let total = self.file.numbers.as_ref().and_then(|numbers| numbers.total.as_ref());
        let total = total.and_then(|pointer| pointer.number(value));
        let is_good = end == End::Good;
        match self.place_of_end(number, total, is_good) {
            Ok(seq) => {
                self.is_ended = true;
                Meaning { seq, end: Some(end), usage: self.usage(value), ..Meaning::default() }
            }
            Err(fault) => Meaning::fault(fault),
        }
    }

    /// Ends the answer because its rest is lost. Numbers from now on only tell where the next answer begins, and may be lower.
    fn lost(&mut self, number: Option<u64>, value: &Value, end: End) -> Meaning<'static> {
        let meaning = self.end(number, value, end);
        (self.is_lost, self.base, self.last_number) = (true, Some(0), None);
        meaning
    }

    /// Returns the end that a last token brings. The token's number tells that nothing follows.
    fn end_behind_token(&mut self, value: &Value) -> Meaning<'static> {
        self.is_ended = true;
        let seq = self.file.numbers.is_some().then(|| {
            self.highest = self.highest.saturating_add(1);
            self.highest
        });
        Meaning { seq, end: Some(End::Good), usage: self.usage(value), ..Meaning::default() }
    }

    fn usage(&self, value: &Value) -> Option<Usage> {
        let output = self.file.read.usage.as_ref()?.number(value)?;
        Some(Usage { output, reasoning: 0 })
    }

    /// Returns whether the message belongs to this question, and learns the question's id if the server chooses it.
    fn belongs(&mut self, value: &Value) -> Belongs {
        let Some(id) = self.file.read.query.as_ref().and_then(|pointer| pointer.text(value)) else {
            return Belongs::Here;
        };
        if self.query.as_ref() == Some(&id) {
            Belongs::Here
        } else if self.earlier.as_ref().is_some_and(|earlier| earlier.id == id) {
            Belongs::Earlier
        } else if self.query.is_none() && !self.is_ended {
            self.query = Some(id);
            Belongs::Here
        } else {
            Belongs::Elsewhere
        }
    }

    /// Returns the number of a message, if it has one.
    fn number(&mut self, value: &Value, id: &str) -> Option<u64> {
        match &self.file.numbers.as_ref()?.number {
            Some(pointer) => pointer.number(value),
            None => {
                let (prefix, number) = split_number(id)?;
                if self.id_prefix != prefix {
                    prefix.clone_into(&mut self.id_prefix);
                }
                let digits = &id[prefix.len()..];
                if digits.starts_with('0') {
                    self.id_width = digits.len();
                }
                Some(number)
            }
        }
    }

    /// Returns the position of a message with this number, from 1. `None` if it has none and need not have one.
    fn place(&mut self, number: Option<u64>, must: bool) -> Result<Option<u64>, Fault> {
        let Some(numbers) = &self.file.numbers else { return Ok(None) };
        let Some(number) = number else {
            return if must { Err(Fault::Unreadable) } else { Ok(None) };
        };
        let base = *self.base.get_or_insert(if numbers.is_per_session { number } else { numbers.first });
        let Some(position) = number.checked_sub(base).and_then(|before| before.checked_add(1)) else {
            return match (numbers.is_per_session, self.file.delivery) {
                (true, Delivery::AtLeastOnce) => Ok(None),
                // It belongs to the answer before, which is over.
                (true, Delivery::Once) => Err(Fault::AfterEnd),
                (false, _) => Err(Fault::Unreadable),
            };
        };
        self.highest = self.highest.max(position);
        self.last_number = self.last_number.max(Some(number));
        Ok(Some(position))
    }

    fn place_of_end(
        &mut self,
        number: Option<u64>,
        total: Option<u64>,
        is_good: bool,
    ) -> Result<Option<u64>, Fault> {
        let Some(Numbers { counts_messages, unnumbered_end, .. }) = &self.file.numbers else {
            return Ok(None);
        };
        let may_lack = *unnumbered_end || total.is_some() || !is_good;
        if number.is_some() && (*counts_messages || total.is_none()) {
            return self.place(number, true);
        }
        if !may_lack {
            // Without a number, the loss of the last tokens could not be seen.
            return Err(Fault::Unreadable);
        }
        self.highest = self.highest.max(total.unwrap_or_default()).saturating_add(1);
        Ok(Some(self.highest))
    }

    /// Returns what the numbers count.
    #[must_use]
    pub fn numbering(&self) -> Numbering {
        match &self.file.numbers {
            None => Numbering::None,
            Some(numbers) if numbers.counts_messages => Numbering::Messages,
            Some(_) => Numbering::Tokens,
        }
    }

    /// Returns what is missing at the end of a stream. `None` if the answer ended.
    #[must_use]
    pub const fn missing_end(&self) -> Option<&'static str> {
        if self.is_ended { None } else { Some("a message that ends the answer") }
    }

    /// Sets the id of the question in messages, which the server has named.
    pub fn set_query(&mut self, id: Option<String>) {
        self.query = id.or(self.query.take());
    }

    /// Returns the id of the question in messages, once it is known.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// Returns from where the answer is read on, if everything up to `position` arrived.
    #[must_use]
    pub fn resume_point(&self, position: u64) -> ResumePoint {
        let Some(numbers) = &self.file.numbers else {
            return ResumePoint { last: None, last_id: self.last_id.clone() };
        };
        let base = self.base.or((!numbers.is_per_session).then_some(numbers.first));
        let last = base.and_then(|base| i64::try_from(base.checked_add(position)?).ok()).map(|next| next - 1);
        let is_known = position > 0 && numbers.number.is_none();
        let width = self.id_width;
        let last_id = last.filter(|_| is_known).map(|last| format!("{}{last:0width$}", self.id_prefix));
        ResumePoint { last, last_id: if numbers.number.is_none() { last_id } else { self.last_id.clone() } }
    }

    /// Returns whether the server could not send the rest.
    pub(super) const fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Returns the last number before this answer, if a message has a number that is not above it.
    pub(super) fn not_above(&self, value: &Value, id: &str) -> Option<(u64, u64)> {
        let numbers = self.file.numbers.as_ref()?;
        let number = match &numbers.number {
            Some(pointer) => pointer.number(value)?,
            None => split_number(id)?.1,
        };
        let last = self.base?.checked_sub(1)?;
        (numbers.is_per_session && number <= last).then_some((number, last))
    }

    /// Returns the file.
    pub(super) const fn file(&self) -> &Arc<TargetFile> {
        &self.file
    }

    /// Returns the highest number that arrived, and the opening of the connection that it belongs to.
    pub(super) fn highest(&self) -> Option<(u64, u64)> {
        Some((self.opening, self.last_number?))
    }
}

enum Belongs {
    Here,
    Earlier,
    Elsewhere,
}

impl TargetFile {
    /// Returns the messages inside what was received, or the whole if there are none.
    pub(super) fn items(&self, mut value: Value) -> Vec<Value> {
        for pointer in &self.read.inside {
            match value.pointer_mut(&pointer.to_string()) {
                Some(Value::Array(items)) if !items.is_empty() => return std::mem::take(items),
                Some(item @ Value::Object(_)) => return vec![item.take()],
                _ => {}
            }
        }
        vec![value]
    }

    /// Returns whether a message has messages inside.
    pub(super) fn has_items(&self, value: &Value) -> bool {
        self.read.inside.iter().any(|pointer| match pointer.of(value) {
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(_)) => true,
            _ => false,
        })
    }
}
