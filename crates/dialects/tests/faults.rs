//! One event in a thousand is dropped, repeated or swapped with the next one. The state machine and the ledger must find each of them.

use dialects::{Answer, Dialect, message::End, target::TargetFile};
use protocol::{EventCounts, ExpectedRange, Kind, Ledger};
use std::sync::Arc;

const EVENTS: usize = 1_000;
const SEEDS: u64 = 1_000;

/// What a client knows at the end of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    counts: EventCounts,
    is_good: bool,
    faults: usize,
}

impl Found {
    /// Returns whether the answer is taken for complete.
    fn is_fine(&self) -> bool {
        let EventCounts { tokens_lost, events_lost, events_duplicated, events_reordered, .. } = self.counts;
        self.is_good
            && self.faults == 0
            && [tokens_lost, events_lost, events_duplicated, events_reordered] == [0; 4]
    }
}

fn read<'a>(dialect: &Dialect, events: impl Iterator<Item = &'a String>) -> Found {
    let (mut answer, mut ledger): (Answer, _) = (dialect.answer(), Ledger::default());
    let (mut is_good, mut faults) = (false, 0);
    for event in events {
        let meaning = answer.message(event);
        faults += usize::from(meaning.fault.is_some());
        let Some(seq) = meaning.seq else { continue };
        match meaning.end {
            Some(end) => {
                is_good = end == End::Good;
                ledger.observe(seq, Kind::Done, None);
            }
            None if meaning.text.is_empty() => drop(ledger.observe_other(seq, None)),
            None => drop(ledger.observe(seq, Kind::Token, None)),
        }
    }
    is_good &= answer.missing_end().is_none();
    Found { counts: ledger.counts(ledger.last_token(), ExpectedRange::Announced), is_good, faults }
}

/// Checks each seed: one event of the stream in `from..to` is dropped, repeated or swapped with the next one.
fn check(dialect: &Dialect, events: &[String], from: usize, to: usize) {
    assert!(read(dialect, events.iter()).is_fine());
    for seed in 0..SEEDS {
        let random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        let at = from + random as usize % (to - from);
        let mut changed: Vec<_> = events.iter().collect();
        match seed % 3 {
            0 => drop(changed.remove(at)),
            1 => changed.insert(at, changed[at]),
            _ if at + 1 < to => changed.swap(at, at + 1),
            _ => changed.swap(at, at - 1),
        }
        let found = read(dialect, changed.into_iter());
        assert!(!found.is_fine(), "seed {seed}: event {at} of {dialect}: {found:?}");
    }
}

#[test]
fn every_fault_in_a_response_is_found() {
    let mut events = vec![
        r#"{"type":"response.created","sequence_number":0,"response":{"id":"r"}}"#.to_owned(),
        r#"{"type":"response.in_progress","sequence_number":1,"response":{"id":"r"}}"#.to_owned(),
    ];
    while events.len() < EVENTS - 1 {
        let number = events.len();
        events.push(format!(
            r#"{{"type":"response.output_text.delta","sequence_number":{number},"delta":"t{number} "}}"#
        ));
    }
    let number = events.len();
    events.push(format!(
        r#"{{"type":"response.completed","sequence_number":{number},"response":{{"id":"r"}}}}"#
    ));
    check(&Dialect::Responses, &events, 0, events.len());
    check(&Dialect::ResponsesWs, &events, 0, events.len());
}

#[test]
fn every_fault_in_the_numbered_tokens_of_a_chat_is_found() {
    let mut events: Vec<_> = (1..=EVENTS)
        .map(|seq| format!(r#"{{"choices":[{{"index":0,"delta":{{"content":"t{seq} "}}}}],"x_seq":{seq}}}"#))
        .collect();
    let tokens = events.len();
    events.push(r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#.into());
    events.push(format!(r#"{{"choices":[],"usage":{{"completion_tokens":{tokens}}}}}"#));
    events.push("[DONE]".into());
    check(&Dialect::Chat, &events, 0, tokens);
}

/// A target file whose messages are numbered. `numbering` is the rest of that table.
fn numbered_file(numbering: &str) -> Dialect {
    let text = format!(
        r#"
name = "numbered"
transport = "websocket"
[connect]
path = "/ws"
[submit]
message = "{{{{prompt}}}}"
[read]
type = "/type"
text = "/text"
[[rules]]
is = "token"
type = "token"
[[rules]]
is = "end"
type = "done"
[[rules]]
is = "ignore"
type = "note"
[numbering]
number = "/n"
{numbering}
"#
    );
    Dialect::File(Arc::new(TargetFile::parse(&text, &|_| None).unwrap()))
}

#[test]
fn every_fault_in_the_numbered_messages_of_a_target_file_is_found() {
    let token = |number: usize| format!(r#"{{"type":"token","n":{number},"text":"t{number} "}}"#);
    let mut events: Vec<_> = (1..EVENTS).map(token).collect();
    events.push(format!(r#"{{"type":"done","n":{EVENTS}}}"#));
    check(&numbered_file("counts = \"tokens\""), &events, 0, events.len());
    // Messages of other types are numbered as well, and numbers begin at 0.
    let mut events: Vec<_> = (0..EVENTS - 1)
        .map(
            |number| {
                if number % 7 == 3 { format!(r#"{{"type":"note","n":{number}}}"#) } else { token(number) }
            },
        )
        .collect();
    events.push(format!(r#"{{"type":"done","n":{}}}"#, EVENTS - 1));
    check(&numbered_file("counts = \"messages\"\nfirst = 0"), &events, 0, events.len());
    // The end has no number, and tells how many tokens there are.
    let mut events: Vec<_> = (1..=EVENTS).map(token).collect();
    events.push(format!(r#"{{"type":"done","tokens":{EVENTS}}}"#));
    check(&numbered_file("total = \"/tokens\""), &events, 0, EVENTS);
}
