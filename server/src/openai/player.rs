//! Plays an answer as the frames of a dialect, with the faults that its request asks for. It reads no clock and never waits: the caller
//! passes the time.

use crate::openai::{
    answer::{Answer, Step, Steps},
    compose::Composer,
    extension::Opening,
    faults::{Fault, Faults},
    problem::Problem,
};
use dialects::sse::write::{Frame, Marks};
use std::time::Duration;

/// A frame to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) frame: Frame,
    /// Its first character of several bytes is sent in two pieces.
    pub(super) is_split: bool,
    /// The token event that it is. `None` for all other frames.
    pub(super) step: Option<Step>,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// With its terminator.
    Whole,
    /// With an error that the request asked for.
    Failed,
    /// Without a terminator, because the request asked for that.
    Cut,
    /// The connection is to break, because the request asked for that.
    Abort,
}

/// What [`Player::play`] returns.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Played {
    pub(super) parts: Vec<Part>,
    /// The number of tokens that were due, also if a fault kept them back.
    pub(super) tokens: u64,
    /// When the event was due after the start. `None` for the start and for an event that a fault delays.
    pub(super) due: Option<Duration>,
    /// `None` while the stream continues.
    pub(super) ending: Option<Ending>,
}

/// How a stream is played.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// When the events before the first token are sent.
    pub(super) opening: Opening,
    /// Whether token events carry their times.
    pub(super) marks: bool,
    /// The start, in microseconds of wire time.
    pub(super) start_us: u64,
}

/// Plays one answer.
pub(super) struct Player {
    composer: Box<dyn Composer>,
    answer: Answer,
    steps: Steps,
    /// The next event. `None` before the start and after the end.
    next: Option<Step>,
    begun: bool,
    opened: bool,
    manner: Manner,
    faults: Faults,
    /// Events that are sent after the next one.
    held: Vec<Part>,
    /// No event is sent before this time, because an earlier one was delayed until then.
    not_before: Duration,
}

impl Player {
    /// Creates a player. `faults` are those of the connection and of the answer.
    pub(super) fn new(composer: Box<dyn Composer>, answer: Answer, manner: Manner, faults: Faults) -> Self {
        Self {
            composer,
            steps: answer.steps(),
            answer,
            next: None,
            begun: false,
            opened: manner.opening == Opening::Never,
            manner,
            faults,
            held: Vec::new(),
            not_before: Duration::ZERO,
        }
    }

    /// Returns when the next event is to be sent after the start, or `None` after the end.
    pub(super) fn due(&self) -> Option<Duration> {
        if !self.begun {
            return Some(Duration::ZERO);
        }
        let step = self.next.as_ref()?;
        Some(step.at.saturating_add(self.faults.delay(step.event)).max(self.not_before))
    }

    /// Returns the frames of the next event, which are sent at `now_us`.
    pub(super) fn play(&mut self, now_us: u64) -> Played {
        if !self.begun {
            return self.begin();
        }
        self.not_before = self.due().unwrap_or_default();
        let Some(step) = self.next.take() else { return Played::nothing(Some(Ending::Whole)) };
        let on_time = self.not_before == step.at;
        let mut played = self.event(&step, now_us);
        played.due = on_time.then_some(step.at);
        if played.ending.is_none() {
            self.next = self.steps.next();
        }
        played
    }

    /// Ends the stream with an error. Returns its frames.
    pub(super) fn interrupt(&mut self, problem: &Problem) -> Vec<Part> {
        (self.begun, self.next) = (true, None);
        self.composer.fail(problem).into_iter().map(Part::whole).collect()
    }

    fn begin(&mut self) -> Played {
        self.begun = true;
        self.next = self.steps.next();
        let mut parts: Vec<_> = self.composer.begin().into_iter().map(Part::whole).collect();
        if self.manner.opening == Opening::Early {
            parts.extend(self.open());
        }
        Played { parts, ..Played::nothing(None) }
    }

    fn open(&mut self) -> Vec<Part> {
        if std::mem::replace(&mut self.opened, true) {
            return Vec::new();
        }
        self.composer.open().into_iter().map(Part::whole).collect()
    }

    fn event(&mut self, step: &Step, now_us: u64) -> Played {
        let has = |fault| self.faults.has(step.event, fault);
        if has(Fault::Cut) || has(Fault::Abort) {
            let ending = if has(Fault::Abort) { Ending::Abort } else { Ending::Cut };
            return Played::nothing(Some(ending));
        }
        if self.answer.fails_at() == Some(step.event) {
            let mut parts = std::mem::take(&mut self.held);
            parts.extend(self.interrupt(&Problem::Injected));
            return Played { parts, ..Played::nothing(Some(Ending::Failed)) };
        }
        let (dropped, twice, swapped) = (has(Fault::Drop), has(Fault::Duplicate), has(Fault::Swap));
        let mut parts = if step.is_end() { Vec::new() } else { self.open() };
        let mut own = self.own(step, now_us);
        if dropped {
            own.clear();
        } else if twice {
            own.extend_from_within(..);
        }
        if swapped && !step.is_end() {
            self.held.append(&mut own);
        } else {
            parts.append(&mut own);
            parts.append(&mut self.held);
        }
        let ending = step.is_end().then_some(Ending::Whole);
        Played { parts, tokens: step.tokens, due: None, ending }
    }

    /// Returns the frames of the event itself.
    fn own(&mut self, step: &Step, now_us: u64) -> Vec<Part> {
        if step.is_end() {
            let frames = self.composer.end(&self.answer, step.at);
            return frames.into_iter().map(Part::whole).collect();
        }
        let due_us = u64::try_from(step.at.as_micros()).unwrap_or(u64::MAX);
        let due_us = self.manner.start_us.saturating_add(due_us);
        let marks = self.manner.marks.then_some(Marks { seq: step.event, due_us, sent_us: now_us });
        let content = self.answer.content(step);
        let is_last = step.before + step.tokens == self.answer.tokens();
        let frame = self.composer.token(&content, step.tokens, is_last, marks);
        vec![Part { frame, is_split: self.faults.splits(step.event), step: Some(*step) }]
    }
}

impl Part {
    const fn whole(frame: Frame) -> Self {
        Self { frame, is_split: false, step: None }
    }
}

impl Played {
    const fn nothing(ending: Option<Ending>) -> Self {
        Self { parts: Vec::new(), tokens: 0, due: None, ending }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::answer::tests::answer;
    use serde_json::{Value, json};

    /// Writes the calls as words, so that a test reads as what a client receives.
    struct Words;

    impl Composer for Words {
        fn begin(&mut self) -> Vec<Frame> {
            vec![Frame::unnamed("begin".into())]
        }

        fn open(&mut self) -> Vec<Frame> {
            vec![Frame::unnamed("open".into())]
        }

        fn token(&mut self, text: &str, tokens: u64, is_last: bool, marks: Option<Marks>) -> Frame {
            let marks = marks.map_or(String::new(), |marks| format!(" #{} {}", marks.seq, marks.due_us));
            let last = if is_last { " last" } else { "" };
            Frame::unnamed(format!("{}x{tokens}{marks}{last}", text.trim()))
        }

        fn end(&mut self, _: &Answer, at: Duration) -> Vec<Frame> {
            vec![Frame::unnamed(format!("end {}", at.as_millis()))]
        }

        fn fail(&mut self, problem: &Problem) -> Vec<Frame> {
            vec![Frame::unnamed(problem.code().unwrap().into())]
        }
    }

    /// Plays the answer `a b c` with one token every 10 ms from 5 ms on. Returns a line per time with its frames, and the ending.
    fn play(opening: Opening, extension: &Value) -> (Vec<String>, Ending) {
        let answer = answer(3, extension);
        let manner = Manner { opening, marks: false, start_us: 1_000 };
        let faults = answer.faults().clone();
        let mut player = Player::new(Box::new(Words), answer, manner, faults);
        let mut lines = Vec::new();
        while let Some(due) = player.due() {
            let played = player.play(0);
            let frames: Vec<_> = played.parts.into_iter().map(|part| part.frame.data).collect();
            lines.push(format!("{}: {}", due.as_millis(), frames.join(", ")));
            if let Some(ending) = played.ending {
                assert_eq!(player.due(), None);
                return (lines, ending);
            }
        }
        panic!("the answer has no end: {lines:?}")
    }

    fn check(faults: &Value, expected: &[&str], ending: Ending) {
        let (lines, ended) = play(Opening::WithFirst, &json!({ "faults": faults }));
        assert_eq!(lines[0], "0: begin");
        assert_eq!(lines[1..], *expected, "{faults}");
        assert_eq!(ended, ending, "{faults}");
    }

    #[test]
    fn without_faults_each_event_is_sent_when_it_is_due() {
        check(&json!([]), &["5: open, ax1", "15: bx1", "25: cx1 last", "35: end 35"], Ending::Whole);
    }

    #[test]
    fn the_opening_is_early_or_missing() {
        let (lines, _) = play(Opening::Early, &json!({}));
        assert_eq!(lines[..2], ["0: begin, open", "5: ax1"]);
        let (lines, _) = play(Opening::Never, &json!({}));
        assert_eq!(lines[..2], ["0: begin", "5: ax1"]);
    }

    #[test]
    fn faults_change_what_is_sent() {
        let fault = |kind: &str, at: u64| json!([{"kind": kind, "at": at, "ms": 12}]);
        let whole = Ending::Whole;
        check(&fault("drop", 1), &["5: open", "15: bx1", "25: cx1 last", "35: end 35"], whole);
        check(&fault("drop", 4), &["5: open, ax1", "15: bx1", "25: cx1 last", "35: "], whole);
        check(&fault("duplicate", 2), &["5: open, ax1", "15: bx1, bx1", "25: cx1 last", "35: end 35"], whole);
        check(&fault("swap", 2), &["5: open, ax1", "15: ", "25: cx1 last, bx1", "35: end 35"], whole);
        check(&fault("swap", 3), &["5: open, ax1", "15: bx1", "25: ", "35: end 35, cx1 last"], whole);
        check(&fault("delay", 2), &["5: open, ax1", "27: bx1", "27: cx1 last", "35: end 35"], whole);
        check(&fault("stall", 2), &["5: open, ax1", "27: bx1", "37: cx1 last", "47: end 47"], whole);
        check(&fault("cut", 2), &["5: open, ax1", "15: "], Ending::Cut);
        check(&fault("abort", 4), &["5: open, ax1", "15: bx1", "25: cx1 last", "35: "], Ending::Abort);
        check(&fault("error", 2), &["5: open, ax1", "15: server_error"], Ending::Failed);
        check(&fault("error", 9), &["5: open, ax1", "15: bx1", "25: cx1 last", "35: end 35"], whole);
        check(&fault("split", 2), &["5: open, ax1", "15: ébx1", "25: cx1 last", "35: end 35"], whole);
    }

    #[test]
    fn marks_have_the_planned_time_also_for_a_delayed_event() {
        let answer = answer(2, &json!({"faults": [{"kind": "delay", "at": 2, "ms": 50}]}));
        let manner = Manner { opening: Opening::Never, marks: true, start_us: 1_000 };
        let faults = answer.faults().clone();
        let mut player = Player::new(Box::new(Words), answer, manner, faults);
        let played: Vec<_> = (0..3).map(|_| player.play(7)).collect();
        assert_eq!(played[1].parts[0].frame.data, "ax1 #1 6000");
        assert_eq!((played[1].due, played[1].tokens), (Some(Duration::from_millis(5)), 1));
        assert_eq!(played[2].parts[0].frame.data, "bx1 #2 16000 last");
        assert_eq!(played[2].due, None);
        assert_eq!(player.interrupt(&Problem::Draining)[0].frame.data, "service_unavailable");
        assert_eq!(player.due(), None);
    }
}
