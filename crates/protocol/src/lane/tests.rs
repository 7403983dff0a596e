//! Named cases and properties of the lane.

use super::*;
use proptest::prelude::*;

/// Returns a session's log: generations of `lengths` tokens and a terminator each, then the end marker.
fn history(lengths: &[u64]) -> Vec<Prefix> {
    let mut events = Vec::new();
    let mut prev = Position::ZERO;
    for (n, &length) in lengths.iter().enumerate() {
        let generation = 100 + 7 * n as u64;
        events
            .push(Prefix { position: Position::new(generation, 0), kind: Kind::Fence { prev: Some(prev) } });
        for seq in 1..=length {
            events.push(Prefix { position: Position::new(generation, seq), kind: Kind::Token });
        }
        prev = Position::new(generation, length + 1);
        events.push(Prefix { position: prev, kind: Kind::Done });
    }
    events.push(Prefix { position: prev.next(), kind: Kind::Closed });
    events
}

fn for_client(events: &[Prefix]) -> Vec<Position> {
    events.iter().filter(|e| e.kind.is_for_client()).map(|e| e.position).collect()
}

/// Reads the whole log once, as a gateway does, and appends what it forwards to `out`.
fn read(lane: &mut Lane, log: &[Prefix], out: &mut Vec<Position>) -> ReadEnd {
    let start = lane.read_start();
    for &event in log.iter().filter(|e| e.position > lane.last()).copied().collect::<Vec<_>>().iter() {
        match lane.logged(event, GapPolicy::Announce) {
            LoggedAction::Forward => out.push(event.position),
            LoggedAction::Note | LoggedAction::Ignore => {}
            LoggedAction::Gap { from, to, .. } => panic!("a gap after {from} up to {to} in a whole log"),
            LoggedAction::Wait => panic!("{event:?} was not the next one in a whole log"),
        }
    }
    lane.log_end(start, GapPolicy::Announce)
}

#[derive(Clone, Debug)]
enum Action {
    /// The next event is written to the log and published.
    Publish,
    /// The next event is written and published twice, as after a lost acknowledgement.
    PublishAgain,
    /// The next event is written and not delivered, and the lane learns of the interruption.
    Interrupt,
    /// The next event is written and not delivered, without a sign.
    Lose,
    /// The gateway reads the log.
    Read,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => Just(Action::Publish),
        1 => Just(Action::PublishAgain),
        1 => Just(Action::Interrupt),
        1 => Just(Action::Lose),
        2 => Just(Action::Read),
    ]
}

proptest! {
    /// With a complete log, the client gets each event once and in order, whatever is repeated, lost or interrupted.
    #[test]
    fn every_event_once_and_in_order(
        lengths in proptest::collection::vec(0u64..6, 1..5),
        actions in proptest::collection::vec(action(), 0..80),
    ) {
        let events = history(&lengths);
        let mut lane = Lane::after(Position::ZERO);
        let mut written = 0;
        let mut out = Vec::new();
        for action in actions {
            if matches!(action, Action::Read) {
                if !lane.is_live() {
                    let end = read(&mut lane, &events[..written], &mut out);
                    prop_assert!(!matches!(end, ReadEnd::Missing { .. }), "a whole log lacks something");
                }
                continue;
            }
            let Some(&event) = events.get(written) else { continue };
            written += 1;
            let copies = match action {
                Action::Publish => 1,
                Action::PublishAgain => 2,
                Action::Interrupt => { lane.interrupted(); 0 }
                _ => 0,
            };
            for _ in 0..copies {
                if lane.live(event) == LiveAction::Forward {
                    out.push(event.position);
                }
            }
            prop_assert_eq!(&out[..], &for_client(&events)[..out.len()]);
        }
        lane.interrupted();
        while read(&mut lane, &events[..written], &mut out) != ReadEnd::CaughtUp {}
        prop_assert_eq!(out, for_client(&events[..written]));
    }

    /// Every event of a trimmed log is either forwarded or announced as part of a gap, and never both.
    #[test]
    fn events_trimmed_from_the_log_are_announced(lengths in proptest::collection::vec(0u64..6, 1..5), trimmed in 0usize..30, start in 0usize..30) {
        let events = history(&lengths);
        let log = &events[trimmed.min(events.len() - 1)..];
        let from = start.min(events.len() - 1);
        let last = if from == 0 { Position::ZERO } else { events[from - 1].position };
        let mut lane = Lane::after(last);
        let (mut out, mut gaps) = (Vec::new(), Vec::new());
        for &event in log {
            match lane.logged(event, GapPolicy::Announce) {
                LoggedAction::Forward => out.push(event.position),
                LoggedAction::Gap { from, to, forward } => {
                    gaps.push((from, to));
                    if forward { out.push(event.position); }
                }
                LoggedAction::Note | LoggedAction::Ignore | LoggedAction::Wait => {}
            }
        }
        for position in for_client(&events[from..]) {
            let announced = gaps.iter().any(|&(from, to)| from < position && position <= to);
            prop_assert!(out.contains(&position) != announced, "{position} handed on and announced, or neither");
        }
    }
}

#[test]
fn events_of_a_fenced_off_writer_are_ignored() {
    let mut lane = Lane::after(Position::ZERO);
    assert_eq!(
        {
            let start = lane.read_start();
            lane.log_end(start, GapPolicy::Announce)
        },
        ReadEnd::CaughtUp
    );
    let token = |generation, seq| Prefix { position: Position::new(generation, seq), kind: Kind::Token };
    let fence = |generation, prev| Prefix {
        position: Position::new(generation, 0),
        kind: Kind::Fence { prev: Some(prev) },
    };
    assert_eq!(lane.live(fence(5, Position::ZERO)), LiveAction::Note);
    assert_eq!(lane.live(token(5, 1)), LiveAction::Forward);
    assert_eq!(lane.live(fence(9, Position::new(5, 1))), LiveAction::Note);
    assert_eq!(lane.live(token(5, 2)), LiveAction::Ignore);
    assert_eq!(lane.live(token(9, 1)), LiveAction::Forward);
}

#[test]
fn events_before_a_fence_without_predecessor_are_awaited_then_announced() {
    let token = |generation, seq| Prefix { position: Position::new(generation, seq), kind: Kind::Token };
    let fence = Prefix { position: Position::new(9, 0), kind: Kind::Fence { prev: None } };
    let mut lane = Lane::after(Position::new(5, 3));
    let start = lane.read_start();
    assert_eq!(lane.log_end(start, GapPolicy::Wait), ReadEnd::CaughtUp);
    assert_eq!(lane.live(fence), LiveAction::ReadLog);
    assert_eq!(lane.logged(fence, GapPolicy::Wait), LoggedAction::Wait);
    // An event that was restored meanwhile is forwarded.
    assert_eq!(lane.logged(token(5, 4), GapPolicy::Wait), LoggedAction::Forward);
    assert_eq!(
        lane.logged(fence, GapPolicy::Announce),
        LoggedAction::Gap { from: Position::new(5, 4), to: fence.position, forward: false }
    );
    assert_eq!(lane.logged(token(9, 1), GapPolicy::Announce), LoggedAction::Forward);
}

#[test]
fn a_gap_entry_is_announced_ahead_of_and_behind_the_lane() {
    let at = |seq| Position::new(5, seq);
    let gap = Prefix { position: at(8), kind: Kind::Gap { from: at(3) } };
    let mut behind = Lane::after(at(3));
    assert_eq!(
        behind.logged(gap, GapPolicy::Wait),
        LoggedAction::Gap { from: at(3), to: at(8), forward: false }
    );
    let mut incomplete = Lane::after(at(2));
    assert_eq!(incomplete.logged(gap, GapPolicy::Wait), LoggedAction::Wait);
    let mut live = Lane::after(at(3));
    let start = live.read_start();
    assert_eq!(live.log_end(start, GapPolicy::Announce), ReadEnd::CaughtUp);
    assert_eq!(live.live(gap), LiveAction::ReadLog);
    let mut beyond = Lane::after(Position::new(9, 1));
    assert_eq!(beyond.live(gap), LiveAction::Gap { from: at(3), to: at(8) });
    assert_eq!(beyond.last(), Position::new(9, 1));
}

#[test]
fn a_read_across_an_interruption_proves_nothing() {
    let mut lane = Lane::after(Position::ZERO);
    let before = lane.read_start();
    lane.interrupted();
    assert_eq!(lane.log_end(before, GapPolicy::Announce), ReadEnd::ReadAgain);
    assert!(!lane.is_live());
}

#[test]
fn events_that_may_be_restored_are_awaited() {
    let token = |generation, seq| Prefix { position: Position::new(generation, seq), kind: Kind::Token };
    let mut lane = Lane::after(Position::new(5, 3));
    let restored = lane.clone();
    assert_eq!(lane.logged(token(5, 5), GapPolicy::Wait), LoggedAction::Wait);
    assert_eq!(lane.last(), restored.last());
    assert_eq!(lane.live(token(5, 9)), LiveAction::Ignore);
    let start = lane.read_start();
    assert_eq!(lane.log_end(start, GapPolicy::Wait), ReadEnd::Wait);
    assert!(!lane.is_live());
    for seq in 4..=9 {
        assert_eq!(lane.logged(token(5, seq), GapPolicy::Wait), LoggedAction::Forward);
    }
    assert_eq!(lane.log_end(start, GapPolicy::Wait), ReadEnd::CaughtUp);
}

#[test]
fn missing_events_are_announced_only_after_a_read_that_began_later() {
    let mut lane = Lane::after(Position::new(5, 3));
    let lost = Prefix { position: Position::new(5, 9), kind: Kind::Token };
    assert_eq!(
        {
            let start = lane.read_start();
            lane.log_end(start, GapPolicy::Announce)
        },
        ReadEnd::CaughtUp
    );
    let before = lane.read_start();
    assert_eq!(lane.live(lost), LiveAction::ReadLog);
    assert_eq!(lane.log_end(before, GapPolicy::Announce), ReadEnd::ReadAgain);
    assert_eq!(
        {
            let start = lane.read_start();
            lane.log_end(start, GapPolicy::Announce)
        },
        ReadEnd::Missing { from: Position::new(5, 3), to: lost.position }
    );
    assert_eq!(
        {
            let start = lane.read_start();
            lane.log_end(start, GapPolicy::Announce)
        },
        ReadEnd::CaughtUp
    );
}

#[test]
fn an_end_marker_at_a_position_announced_as_a_gap_is_noted() {
    let at = |seq| Position::new(5, seq);
    let closed = Prefix { position: at(4), kind: Kind::Closed };
    let mut lane = Lane::after(at(3));
    assert_eq!(lane.live(closed), LiveAction::Ignore, "it is behind: the log will bring it");
    let start = lane.read_start();
    assert_eq!(lane.log_end(start, GapPolicy::Announce), ReadEnd::Missing { from: at(3), to: at(4) });
    assert_eq!(lane.live(closed), LiveAction::Note);
    assert_eq!(lane.live(Prefix { position: at(3), kind: Kind::Closed }), LiveAction::Ignore);
}
