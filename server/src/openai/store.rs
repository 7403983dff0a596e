//! The responses that are kept for later calls, limited in number, bytes and age. A kept response has no events and no text: both can be
//! made again from its schedule.

use crate::{
    config::StoreLimits,
    openai::{
        answer::{Answer, End},
        cancelling::Cancelling,
        compose,
        player::Manner,
        problem::Problem,
    },
};
use dialects::responses::write::{Head, Output, Status, Writer};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};
use tokio::time::Instant;

/// A response that can be read again.
pub(super) struct Kept {
    pub(super) head: Head,
    /// What it says, and how it ends. `None` for a warm-up, which says nothing.
    pub(super) answer: Option<(Answer, End)>,
    pub(super) start: Instant,
    pub(super) manner: Manner,
    pub(super) cancelling: Cancelling,
}

impl Kept {
    /// Returns the number of tokens that a response has as context if it continues this one.
    pub(super) fn context(&self) -> u64 {
        let output = self.answer.as_ref().map_or(0, |(answer, _)| answer.tokens());
        self.head.input_tokens + output
    }

    /// Returns whether the response has ended at this time.
    pub(super) fn has_ended(&self, now: Instant) -> bool {
        self.cancelling.is_cancelled()
            || self.answer.as_ref().is_none_or(|(_, end)| now >= self.start + end.at)
    }

    /// Returns the response as an object, at this time.
    pub(super) fn object(&self, now: Instant) -> String {
        let writer = Writer::new(self.head.clone());
        if self.cancelling.is_cancelled() {
            return writer.object(Status::Cancelled);
        }
        let Some((answer, end)) = &self.answer else {
            let nothing = Output { text: None, tokens: 0, ended_at: self.head.created_at };
            return writer.object(Status::Completed(nothing));
        };
        if !self.has_ended(now) {
            return writer.object(Status::InProgress);
        }
        if end.failed {
            let problem = Problem::Injected;
            return writer.object(Status::Failed(problem.code().unwrap_or_default(), &problem.to_string()));
        }
        let text = answer.whole();
        writer.object(compose::ended(answer, &text, self.head.created_at + end.at.as_secs()))
    }

    /// Returns an estimate of the bytes that it holds.
    fn bytes(&self) -> usize {
        let head = &self.head;
        let metadata: usize =
            head.metadata.iter().map(|(key, value)| key.len() + value.to_string().len()).sum();
        // Ids, schedule and the entries of the store itself.
        1024 + head.model.len() + head.instructions.as_str().map_or(0, str::len) + metadata
    }
}

/// The kept responses.
pub(super) struct Store {
    limits: StoreLimits,
    kept: Mutex<State>,
}

#[derive(Default)]
struct State {
    by_id: HashMap<String, Arc<Kept>>,
    /// In the order in which they were kept.
    order: VecDeque<(Instant, String)>,
    bytes: usize,
}

impl Store {
    pub(super) fn new(limits: StoreLimits) -> Self {
        Self { limits, kept: Mutex::default() }
    }

    /// Keeps a response. The oldest ones make room for it, also if they run: then they run on and are not found again.
    pub(super) fn keep(&self, kept: Arc<Kept>, now: Instant) {
        let (id, bytes) = (kept.head.id.clone(), kept.bytes());
        let mut state = self.kept.lock();
        state.expire(self.limits, now);
        state.bytes += bytes;
        state.order.push_back((now, id.clone()));
        state.by_id.insert(id, kept);
        while state.by_id.len() > self.limits.number || state.bytes > self.limits.bytes {
            state.remove_oldest();
        }
    }

    /// Returns a response that is kept and not too old.
    pub(super) fn get(&self, id: &str, now: Instant) -> Option<Arc<Kept>> {
        let mut state = self.kept.lock();
        state.expire(self.limits, now);
        state.by_id.get(id).cloned()
    }

    /// Removes a response. Returns whether it was kept.
    pub(super) fn remove(&self, id: &str, now: Instant) -> bool {
        let mut state = self.kept.lock();
        state.expire(self.limits, now);
        state.remove(id)
    }
}

impl State {
    fn expire(&mut self, limits: StoreLimits, now: Instant) {
        while self.order.front().is_some_and(|(since, _)| now.duration_since(*since) >= limits.age) {
            self.remove_oldest();
        }
    }

    fn remove_oldest(&mut self) {
        let Some((_, id)) = self.order.front() else { return };
        let id = id.clone();
        self.remove(&id);
    }

    fn remove(&mut self, id: &str) -> bool {
        let Some(kept) = self.by_id.remove(id) else { return false };
        self.bytes -= kept.bytes();
        // Nearly always the first one: calls that remove a certain response are rare.
        if let Some(place) = self.order.iter().position(|(_, known)| known == id) {
            self.order.remove(place);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::{answer::tests::answer, extension::Opening};
    use serde_json::{Map, Value, json};
    use std::time::Duration;

    fn kept(id: &str, instructions: usize, start: Instant, extension: &Value) -> Arc<Kept> {
        let head = Head {
            id: id.to_owned(),
            item_id: "msg_1".to_owned(),
            stream_id: None,
            created_at: 1,
            model: "m".to_owned(),
            previous_response_id: None,
            instructions: Value::from("x".repeat(instructions)),
            metadata: Map::new(),
            max_output_tokens: None,
            temperature: 1.0,
            top_p: 1.0,
            store: true,
            background: true,
            input_tokens: 4,
        };
        let answer = answer(3, extension);
        let end = answer.end();
        let manner = Manner { opening: Opening::WithFirst, marks: false, start_us: 0 };
        Arc::new(Kept { head, answer: Some((answer, end)), start, manner, cancelling: Cancelling::default() })
    }

    fn found(store: &Store, now: Instant) -> String {
        ["a", "b", "c"].into_iter().filter(|id| store.get(id, now).is_some()).collect()
    }

    #[test]
    fn number_bytes_and_age_are_limited() {
        let limits = StoreLimits { number: 2, bytes: 1 << 20, age: Duration::from_secs(10) };
        let (store, now) = (Store::new(limits), Instant::now());
        ["a", "b", "c"].into_iter().for_each(|id| store.keep(kept(id, 0, now, &json!({})), now));
        assert_eq!(found(&store, now), "bc");
        assert!(store.remove("b", now) && !store.remove("b", now));
        assert_eq!(found(&store, now + Duration::from_secs(9)), "c");
        assert_eq!(found(&store, now + Duration::from_secs(10)), "");

        let store = Store::new(StoreLimits { number: 9, bytes: 5_000, ..limits });
        store.keep(kept("a", 0, now, &json!({})), now);
        store.keep(kept("b", 2_500, now, &json!({})), now);
        assert_eq!(found(&store, now), "ab");
        store.keep(kept("c", 1_000, now, &json!({})), now);
        assert_eq!(found(&store, now), "c");
        store.keep(kept("a", 9_000, now, &json!({})), now);
        assert_eq!((found(&store, now).as_str(), store.kept.lock().bytes), ("", 0));
    }

    #[test]
    fn the_state_follows_the_schedule() {
        let now = Instant::now();
        let object = |kept: &Kept, ms| -> Value {
            serde_json::from_str(&kept.object(now + Duration::from_millis(ms))).unwrap()
        };
        let whole = kept("a", 0, now, &json!({}));
        assert_eq!(object(&whole, 34)["status"], "in_progress");
        let ended = object(&whole, 35);
        assert_eq!(
            (&ended["status"], &ended["output"][0]["content"][0]["text"]),
            (&json!("completed"), &json!("a b c"))
        );
        assert_eq!(whole.context(), 7);
        let failed = kept("a", 0, now, &json!({"faults": [{"kind": "error", "at": 2}]}));
        assert_eq!(
            (&object(&failed, 14)["status"], &object(&failed, 15)["status"]),
            (&json!("in_progress"), &json!("failed"))
        );
        assert_eq!(object(&failed, 15)["error"]["code"], "server_error");
        whole.cancelling.cancel(now);
        assert_eq!(object(&whole, 1)["status"], "cancelled");
        assert!(whole.has_ended(now));
    }
}
