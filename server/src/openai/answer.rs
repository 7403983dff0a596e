//! The answer of one request: its words, and when each is due. It is a pure function of the plan and of the request.

use crate::{
    openai::{extension::Extension, faults::Faults},
    plan::{Offsets, Plan},
    text::ResponseText,
};
use std::{borrow::Cow, fmt::Write as _, sync::Arc, time::Duration};

/// An answer. Clones are cheap, and equal in every word and time.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    text: Arc<ResponseText>,
    numbered: bool,
    plan: Plan,
    per_event: u64,
    faults: Arc<Faults>,
    limited: bool,
}

/// An event of an answer: some tokens, or its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The number of the event, from 1. The end follows the last token event.
    pub(super) event: u64,
    /// The number of the tokens before it.
    pub(super) before: u64,
    /// The number of its tokens; 0 for the end.
    pub(super) tokens: u64,
    /// When it is due after the start.
    pub(super) at: Duration,
}

impl Step {
    pub(super) const fn is_end(&self) -> bool {
        self.tokens == 0
    }
}

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// When it ends after the start.
    pub(super) at: Duration,
    /// The request asked for an error before its end.
    pub(super) failed: bool,
}

impl Answer {
    /// Creates an answer. `limited` tells that the request's limit of tokens ends it.
    pub(super) fn new(text: Arc<ResponseText>, plan: Plan, extension: &Extension, limited: bool) -> Self {
        Self {
            text,
            numbered: extension.numbered,
            plan,
            per_event: extension.tokens_per_event(),
            faults: Arc::new(extension.faults.clone()),
            limited,
        }
    }

    pub(super) const fn tokens(&self) -> u64 {
        self.plan.tokens()
    }

    pub(super) const fn is_limited(&self) -> bool {
        self.limited
    }

    /// Returns whether [`Answer::end`] is too slow for an event loop.
    pub(super) const fn is_costly(&self) -> bool {
        self.plan.is_costly()
    }

    pub(super) fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Returns the number of the end, which follows the last token event.
    pub(super) const fn last_event(&self) -> u64 {
        self.tokens().div_ceil(self.per_event) + 1
    }

    /// Returns the token events and the end, in order.
    pub(super) fn steps(&self) -> Steps {
        Steps {
            offsets: self.plan.offsets(),
            faults: self.faults.clone(),
            tokens: self.tokens(),
            per_event: self.per_event,
            event: 0,
            before: 0,
            stalled: Duration::ZERO,
        }
    }

    /// Returns the number of the event before which the answer fails.
    pub(super) fn fails_at(&self) -> Option<u64> {
        self.faults.error().filter(|&event| event <= self.last_event())
    }

    /// Returns how the answer ends. Unless the delay is fixed, this draws one sample per token.
    pub(super) fn end(&self) -> End {
        if let Some(event) = self.fails_at() {
            let at = self.steps().nth(usize::try_from(event - 1).unwrap_or(usize::MAX)).map(|step| step.at);
            return End { at: at.unwrap_or_default(), failed: true };
        }
        let stalls = self.faults.stalls_until(self.last_event());
        End { at: self.plan.ideal().e2el.saturating_add(stalls), failed: false }
    }

    /// Returns the text of an event.
    pub(super) fn content(&self, step: &Step) -> Cow<'_, str> {
        if step.tokens == 1 && !self.numbered && !self.faults.splits(step.event) {
            return Cow::Borrowed(self.text.content(step.before, self.tokens()));
        }
        let mut content = String::new();
        self.write(step, &mut content);
        Cow::Owned(content)
    }

    /// Returns the whole text.
    pub(super) fn whole(&self) -> String {
        let mut whole = String::new();
        self.steps().for_each(|step| self.write(&step, &mut whole));
        whole
    }

    fn write(&self, step: &Step, out: &mut String) {
        if self.faults.splits(step.event) && !step.is_end() {
            out.push('é');
        }
        for token in step.before..step.before + step.tokens {
            if self.numbered {
                // Writing to a string never fails.
                let _ = write!(out, "t{} ", token + 1);
            } else {
                out.push_str(self.text.content(token, self.tokens()));
            }
        }
    }
}

/// The steps of an answer.
#[derive(Clone, Debug)]
pub(super) struct Steps {
    offsets: Offsets,
    faults: Arc<Faults>,
    tokens: u64,
    per_event: u64,
    /// The number of the last event that was returned.
    event: u64,
    before: u64,
    stalled: Duration,
}

impl Iterator for Steps {
    type Item = Step;

    /// Returns the next event. It is due with its last token.
    fn next(&mut self) -> Option<Step> {
        if self.before > self.tokens {
            return None;
        }
        let tokens = self.per_event.min(self.tokens - self.before);
        let offset = self.offsets.nth(usize::try_from(tokens.max(1) - 1).unwrap_or(usize::MAX));
        self.event += 1;
        self.stalled = self.stalled.saturating_add(self.faults.stall(self.event));
        let at = offset.unwrap_or(Duration::MAX).saturating_add(self.stalled);
        let step = Step { event: self.event, before: self.before, tokens, at };
        // After the end, no more tokens are before the next event than there are.
        self.before += tokens.max(1);
        Some(step)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{openai::extension::KEY, plan::tests::timing};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// Returns the answer `a b c a b …` of so many tokens, one every 10 ms from 5 ms on.
    pub(crate) fn answer(tokens: u64, extension: &Value) -> Answer {
        let extension = Extension::read(json!({ KEY: extension }).as_object().unwrap()).unwrap().unwrap();
        let plan = Plan::draw(&timing("5", "10", &tokens.to_string()), 1, "q");
        Answer::new(Arc::new(ResponseText::new("a b c").unwrap()), plan, &extension, false)
    }

    fn times(answer: &Answer) -> Vec<(u64, u64, u64)> {
        answer.steps().map(|step| (step.event, step.tokens, step.at.as_millis() as u64)).collect()
    }

    #[test]
    fn an_event_per_token_and_the_end() {
        let answer = answer(3, &json!({}));
        assert_eq!(times(&answer), [(1, 1, 5), (2, 1, 15), (3, 1, 25), (4, 0, 35)]);
        assert_eq!(answer.whole(), "a b c");
        assert_eq!(answer.end(), End { at: Duration::from_millis(35), failed: false });
    }

    #[test]
    fn several_tokens_per_event_are_due_with_the_last() {
        let answer = answer(5, &json!({"tokens_per_event": 2, "text": "numbered"}));
        assert_eq!(times(&answer), [(1, 2, 15), (2, 2, 35), (3, 1, 45), (4, 0, 55)]);
        let contents: Vec<_> = answer.steps().map(|step| answer.content(&step).into_owned()).collect();
        assert_eq!(contents, ["t1 t2 ", "t3 t4 ", "t5 ", ""]);
    }

    #[test]
    fn a_stall_moves_later_events_and_an_error_ends_the_answer() {
        let stall = json!({"kind": "stall", "at": 2, "ms": 100});
        let stalled = answer(3, &json!({"faults": [stall]}));
        assert_eq!(times(&stalled), [(1, 1, 5), (2, 1, 115), (3, 1, 125), (4, 0, 135)]);
        assert_eq!(stalled.end().at, Duration::from_millis(135));
        let failed = answer(3, &json!({"faults": [stall, {"kind": "error", "at": 3}]}));
        assert_eq!(failed.end(), End { at: Duration::from_millis(125), failed: true });
        let too_late = answer(3, &json!({"faults": [{"kind": "error", "at": 5}]}));
        assert!(!too_late.end().failed);
    }

    proptest! {
        #[test]
        fn events_join_to_the_whole_text(tokens in 1u64..60, per_event in 1u64..70, numbered: bool, split in 1u64..9) {
            let text = if numbered { "numbered" } else { "words" };
            let answer = answer(tokens, &json!({"text": text, "tokens_per_event": per_event, "faults": [{"kind": "split", "at": split}]}));
            let steps: Vec<_> = answer.steps().collect();
            let joined: String = steps.iter().map(|step| answer.content(step).into_owned()).collect();
            prop_assert_eq!(&joined, &answer.whole());
            prop_assert_eq!(joined.split_whitespace().count() as u64, tokens);
            prop_assert_eq!(joined.contains('é'), split < answer.last_event());
            prop_assert_eq!(steps.iter().map(|step| step.tokens).sum::<u64>(), tokens);
            let last = steps.last().unwrap();
            prop_assert!(last.is_end() && last.event == answer.last_event());
            prop_assert_eq!(answer.end().at, last.at);
        }
    }
}
