//! The restoration of a session in a broker that may have lost data.

use super::{AcknowledgedRecord, Effect, EffectSink, LogEntry, PAST_QUERIES, Part, Record, Status, merge};
use protocol::Kind;
use std::collections::BTreeMap;

impl Record {
    /// Restores what a server has acknowledged of the session, in a broker that may have lost it. The log's last entry
    /// is published once more: a lane that lacks it reads the log again. The log of a closed session gets no `closed`
    /// entry here, because another server may know of a later query. The server that closed the session closes it again
    /// once all have restored.
    pub fn restore(
        &mut self,
        acknowledged: &AcknowledgedRecord,
        owner: &str,
        logged: bool,
        out: EffectSink<'_>,
    ) {
        self.status =
            Some(if acknowledged.closed { Status::Closed } else { self.status.unwrap_or(Status::Active) });
        self.restore_past(acknowledged);
        self.renew(&Part::ALL);
        if acknowledged.generation > self.generation {
            (self.generation, self.prev) = (acknowledged.generation, acknowledged.prev);
            (self.query, self.answer) = (acknowledged.query.clone(), acknowledged.answer.clone());
            self.running = acknowledged.running.then(|| owner.to_owned());
            self.end_owner = None;
        } else if acknowledged.generation == self.generation
            && !acknowledged.running
            && self.running.as_deref() == Some(owner)
        {
            self.running = None;
        }
        if !logged {
            self.forget_if_over();
            return;
        }
        let before = std::mem::take(&mut self.log);
        let before: Vec<LogEntry> = before.into();
        self.log = merge(&before, acknowledged.entries()).into();
        for LogEntry { prefix, frame } in &self.log {
            let known = || before.binary_search_by_key(&prefix.position, |entry| entry.prefix.position);
            if matches!(prefix.kind, Kind::Gap { .. }) && known().is_err() {
                out(Effect::Publish { prefix: *prefix, frame });
            }
        }
        // The server that closed the session writes the entry that the log lacks, or any other one if none is known.
        if self.lacks_end() && (acknowledged.closed || self.end_owner.is_none()) {
            self.end_owner = Some(owner.to_owned());
        }
        self.forget_if_over();
        if let Some(LogEntry { prefix, frame }) = self.log.back() {
            out(Effect::Publish { prefix: *prefix, frame });
        }
    }

    /// Adds the earlier queries that a server knows, so that a late repeat of one of them does not run it again.
    fn restore_past(&mut self, acknowledged: &AcknowledgedRecord) {
        let newest = self.generation.max(acknowledged.generation);
        let mut past: BTreeMap<u64, String> =
            self.past.drain(..).chain(acknowledged.past.iter().cloned()).collect();
        past.insert(self.generation, self.query.clone());
        past.insert(acknowledged.generation, acknowledged.query.clone());
        past.retain(|&generation, _| generation > 0 && generation < newest);
        self.past = past.into_iter().collect();
        self.past.drain(..self.past.len().saturating_sub(PAST_QUERIES));
    }
}
